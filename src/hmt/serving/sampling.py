"""How the next token of one answer is chosen; nothing of it depends on the answers beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hmt.sessions.likely import Penalties, likely

if TYPE_CHECKING:
    from hmt.sessions import Options


class Sampler:
    """Writes one answer token by token.

    Args:
        options: how. tokenizer: for stop texts.
        ends: ids that end an answer.

    Attributes:
        written: the tokens so far, the one that ends the answer included.
        ended: None, "stop" (an end token or a stop text) or "length".
    """

    def __init__(self, options: Options, tokenizer: Any, ends: Sequence[int]):
        self.options, self.tokenizer, self.ends = options, tokenizer, frozenset(ends)
        self.written: list[int] = []
        self.ended: str | None = None
        self._warpers = LogitsProcessorList(Penalties.of(options))
        self._draws: torch.Generator | None = None
        if options.temperature:
            self._draws = torch.Generator()
            if options.seed is None:
                self._draws.seed()
            else:
                self._draws.manual_seed(options.seed)
            if options.temperature != 1:
                self._warpers.append(TemperatureLogitsWarper(options.temperature))
            if options.top_k:
                self._warpers.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1:
                self._warpers.append(TopPLogitsWarper(options.top_p))

    def choose(self, logits: Tensor) -> int:
        """The next token, of logits [V]; notes whether the answer ends with it."""
        scores = logits
        if self._warpers:
            history = torch.tensor([self.written], dtype=torch.long)
            scores = self._warpers(history, logits.float().cpu()[None])[0]  # type: ignore[arg-type]
        if self._draws is None:
            token = int(scores.argmax())
        else:
            weights = scores.float().cpu().softmax(-1)
            token = int(torch.multinomial(weights, 1, generator=self._draws))
        if self.options.logprobs is not None:
            token = likely(token, logits, self.options.logprobs)
        self.written.append(token)
        if token in self.ends or self._stopped():
            self.ended = "stop"
        elif len(self.written) >= self.options.max_new_tokens:
            self.ended = "length"
        return token

    def _stopped(self) -> bool:
        """Whether a stop text ends within the last token."""
        if not self.options.stop:
            return False
        # every token but an empty one adds a byte at least, and some pieces of a character wait for the rest
        longest = max(len(text.encode()) for text in self.options.stop)
        text = self.tokenizer.decode(self.written[-(longest + 8) :])
        return any(stop in text for stop in self.options.stop)


def end_tokens(model: Any) -> list[int]:
    """Ids that end an answer of a model."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
