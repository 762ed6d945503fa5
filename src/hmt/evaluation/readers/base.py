"""What is compared: something that reads a text, keeps a number of bytes of it, and answers.

A memory model, the backbone with a window, retrieval of raw text and full attention all are readers, so that
a task is written once and every row of a table is made by the same code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

Stop = Callable[[Sequence[int]], bool]


class Reader(ABC):
    """Base of all readers.

    Attributes:
        name: what its row is called.
        model: what is asked: a model with memory, or a backbone.
        bytes_carried: bytes that one stream keeps of what it has read, however long; None where it grows with
            the text.
        extra_parameters: parameters beside those of the backbone.
        limit: the longest text it can read in tokens; None where there is no limit. Of a longer one it reads
            the last tokens: it never fails.
        unscored_head: leading tokens of a segment that an input to their own prediction has seen (at least 1:
            the first token of a text has no prediction).
    """

    name: str
    model: PreTrainedModel
    bytes_carried: int | None
    extra_parameters: int = 0
    limit: int | None = None
    unscored_head: int = 1

    @abstractmethod
    def flops_per_token(self, segment_length: int) -> float:
        """Floating-point operations to read and score one token of a long text, by `hmt.backbone.flops`.

        Where they grow with the text, the mean over a text of `limit` tokens.
        """

    @abstractmethod
    def read(self, ids: Sequence[int]) -> Any:
        """What it keeps of a text (token ids, any length, may be empty). Never changed by what is asked of
        it."""

    def read_many(self, texts: Sequence[Sequence[int]], batch_size: int = 1) -> Iterator[tuple[int, Any]]:
        """(number, what it keeps) of every text, in any order; readers that can read so many side by side."""
        for number, ids in enumerate(texts):
            yield number, self.read(ids)

    @abstractmethod
    def generate(
        self,
        memory: Any,
        prompt: Sequence[int],
        max_new_tokens: int,
        stop: Stop | None = None,
        **settings: Any,
    ) -> list[int]:
        """Continuation of text and prompt: new ids, up to `max_new_tokens`, the end-of-text token (left out),
        or the first at which `stop(new ids)` is true. The prompt may be empty where there is a text.

        settings: of transformers' `generate` (`do_sample`, `top_p`, `eos_token_id`, ...). Without, the
            likeliest token is taken each time. ValueError from readers that cannot sample.
        """

    @abstractmethod
    def logits(
        self, memory: Any, prompt: Sequence[int], continuation: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits float32 [n, V] and the tokens [n] that they predict, part after part of `continuation`.

        They stand behind text and prompt, and no input to a prediction contains the token.

        ValueError for an empty continuation, and where neither text nor prompt has a token to predict the
        first from.
        """

    def nats(self, memory: Any, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """-log p of each token of `continuation`; see `logits`."""
        found: list[float] = []
        for logits, goal in self.logits(memory, prompt, continuation):
            found += torch.nn.functional.cross_entropy(logits, goal, reduction="none").tolist()
        return found

    @abstractmethod
    def target_nats(self, history: Tensor, target: Tensor) -> Tensor:
        """-log p of the tokens of whole segments, batched: float32 [B, L].

        history: int64 [B, H], whole segments (H a multiple of L; 0 allowed). target: int64 [B, L], the
        segment after them. The first `unscored_head` entries of a row mean nothing (NaN).
        """

    def recalled(self, memory: Any, prompt: Sequence[int]) -> list[float] | None:
        """Recall weight of every segment of the text while the last token of text and prompt is read: [S].

        0 where a segment is no longer kept. None of a reader that does not choose among segments.
        """
        return None
