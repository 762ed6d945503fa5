"""Readers that are a backbone without new parameters; those that keep tokens and put some before a question.

What they choose is all that differs between a window, retrieval and full attention.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hmt import backbone as bb
from hmt.backbone.flops import BackboneFlops, causal_pairs
from hmt.evaluation.readers.asking import (
    check_continuation,
    check_segments,
    check_start,
    continued,
    predictions,
    token_nats,
)
from hmt.evaluation.readers.base import Reader, Stop


class BackboneReader(Reader):
    """Base of the readers that are the backbone itself.

    Attributes:
        positions: the longest input in tokens, that of the backbone if no shorter one was given.
        count: operations of the backbone.
    """

    def __init__(self, backbone: PreTrainedModel, name: str, positions: int | None = None):
        bb.check_backbone(backbone)
        bb.check_head(backbone)
        self.model, self.name = backbone, name
        most = longest_input(backbone) or sys.maxsize
        if positions is not None and not 2 <= positions <= most:
            raise ValueError(f"positions are 2 to {most}, as many as the backbone has; got {positions}")
        self.positions = positions or most
        self.count = BackboneFlops.of(backbone)


class PlainReader(BackboneReader):
    """Base of the readers that are a backbone and a choice of tokens.

    Context is left out where it does not fit in front of what is asked, then the beginning of the question: a
    reader never fails for length.
    """

    @abstractmethod
    def chosen(self, memory: Any, query: Sequence[int], room: int) -> list[int]:
        """The tokens of the text to put before `query`, at most `room` (0 or more) of them."""

    @abstractmethod
    def last(self, memory: Any) -> list[int]:
        """The last token of the text, none of an empty one.

        Where nothing is chosen and nothing asked, it is what the first token is predicted from.
        """

    def target_query(self, past: Sequence[int], target: Sequence[int]) -> list[int]:
        """What stands for the question where a segment `target` is scored after `past`."""
        return []

    @torch.no_grad()
    def generate(
        self,
        memory: Any,
        prompt: Sequence[int],
        max_new_tokens: int,
        stop: Stop | None = None,
        **settings: Any,
    ) -> list[int]:
        new = min(max_new_tokens, self.positions - 1)
        return continued(self.model, self._before(memory, prompt, new), new, stop, settings)

    @torch.no_grad()
    def logits(
        self, memory: Any, prompt: Sequence[int], continuation: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        prompt, goal = list(prompt), list(continuation)
        check_continuation(goal)
        # what is too long for one pass is scored in blocks, each after the tokens before it that fit
        block = len(goal) if len(goal) <= self.positions else max(1, self.positions // 2)
        for start in range(0, len(goal), block):
            part = goal[start : start + block]
            before = self._before(memory, prompt + goal[:start], len(part) - 1)
            hidden = self._outputs([before + part[:-1]])[0, len(before) - 1 :]
            yield from predictions(self.model, hidden, torch.tensor(part))

    @torch.no_grad()
    def target_nats(self, history: Tensor, target: Tensor) -> Tensor:
        check_segments(history, target)
        length, head = target.shape[1], self.unscored_head
        room = self.positions - (length - 1)
        if room < 0:
            raise ValueError(
                f"segments of {length} tokens are longer than the {self.positions} positions of the "
                "backbone; use shorter segments"
            )
        contexts, goals = [], target.tolist()
        for past, goal in zip(history.tolist(), goals, strict=True):
            contexts.append(self.chosen(self.read(past), self.target_query(past, goal), room))
        hidden = self._outputs([c + goal[:-1] for c, goal in zip(contexts, goals, strict=True)])
        first = torch.tensor([len(context) for context in contexts])[:, None] + head - 1
        at = (first + torch.arange(length - head)).to(hidden.device)
        hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        nats = torch.full(target.shape, torch.nan)
        nats[:, head:] = token_nats(self.model, hidden, target[:, head:])
        return nats

    def _before(self, memory: Any, prompt: Sequence[int], after: int) -> list[int]:
        """Context and prompt, the last of them that leave room for `after` more tokens; at least one."""
        room = max(1, self.positions - after)
        prompt = list(prompt)[-room:]
        before = self.chosen(memory, prompt, room - len(prompt)) + prompt or self.last(memory)
        check_start(before)
        return before

    def _outputs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The backbone's outputs [B, T, d] of rows of ids; beyond a row's end they mean nothing.

        Padding stands behind, where causal attention never looks: no mask is needed.
        """
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long)
        ids = ids.to(bb.embedding_table(self.model).weight.device)
        with bb.evaluating(self.model):
            return bb.run(self.model, bb.embed(self.model, ids)).hidden

    def read_again(self, context: int, segment_length: int) -> float:
        """Operations per token where `context` tokens pass through the backbone again with every segment."""
        row = min(context, max(0, self.positions - segment_length)) + segment_length
        return self.count.forward(row, causal_pairs(row)) / segment_length + self.count.logits(1)


def longest_input(backbone: PreTrainedModel) -> int | None:
    """Positions that the backbone was made for, where its config says."""
    return getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
