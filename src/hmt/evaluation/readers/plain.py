"""Readers that keep tokens of the text and put some of them before what is asked.

What they choose is all that differs between a window, retrieval and full attention. Questions are asked of
the backbone itself, without new parameters. The functions at the end are shared with `memory`.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from hmt import backbone as bb
from hmt.backbone.flops import BackboneFlops, causal_pairs
from hmt.evaluation.readers.base import Reader, Stop

_LOGITS = 2**25  # logits made at a time (128 MiB in float32)


class PlainReader(Reader):
    """Base of the readers that are a backbone and a choice of tokens.

    Attributes:
        positions: the longest input in tokens, that of the backbone if no shorter one was given. Context is
            left out where it does not fit in front of what is asked, then the beginning of the question: a
            reader never fails for length.
        count: operations of the backbone.
    """

    def __init__(self, backbone: PreTrainedModel, name: str, positions: int | None = None):
        bb.check_backbone(backbone)
        bb.check_head(backbone)
        self.backbone, self.name = backbone, name
        most = longest_input(backbone) or sys.maxsize
        if positions is not None and not 2 <= positions <= most:
            raise ValueError(f"positions are 2 to {most}, as many as the backbone has; got {positions}")
        self.positions = positions or most
        self.count = BackboneFlops.of(backbone)

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
        self, memory: Any, prompt: Sequence[int], max_new_tokens: int, stop: Stop | None = None
    ) -> list[int]:
        new = min(max_new_tokens, self.positions - 1)
        return greedy(self.backbone, self._before(memory, prompt, new), new, stop)

    @torch.no_grad()
    def nats(self, memory: Any, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        prompt, goal = list(prompt), list(continuation)
        check_continuation(goal)
        # what is too long for one pass is scored in blocks, each after the tokens before it that fit
        block = len(goal) if len(goal) <= self.positions else max(1, self.positions // 2)
        found: list[float] = []
        for start in range(0, len(goal), block):
            part = goal[start : start + block]
            before = self._before(memory, prompt + goal[:start], len(part) - 1)
            hidden = self._outputs([before + part[:-1]])[:, len(before) - 1 :]
            found += token_nats(self.backbone, hidden, torch.tensor([part]))[0].tolist()
        return found

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
        nats[:, head:] = token_nats(self.backbone, hidden, target[:, head:])
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
        embed = self.backbone.get_input_embeddings()
        with bb.evaluating(self.backbone):
            return bb.run(
                self.backbone, embed(ids.to(bb.embedding_table(self.backbone).weight.device))
            ).hidden

    def read_again(self, context: int, segment_length: int) -> float:
        """Operations per token where `context` tokens pass through the backbone again with every segment."""
        row = min(context, max(0, self.positions - segment_length)) + segment_length
        return self.count.forward(row, causal_pairs(row)) / segment_length + self.count.logits(1)


def longest_input(backbone: PreTrainedModel) -> int | None:
    """Positions that the backbone was made for, where its config says."""
    return getattr(backbone.config.get_text_config(), "max_position_embeddings", None)


def check_continuation(continuation: Sequence[int]) -> None:
    if not continuation:
        raise ValueError("the continuation has no tokens; there is nothing to score")


def check_start(before: Sequence[int]) -> None:
    if not before:
        raise ValueError("neither the text nor the prompt has a token to continue from")


def check_segments(history: Tensor, target: Tensor) -> None:
    """ValueError unless history [B, H] is whole segments as long as target [B, L]."""
    batch, length = target.shape
    if length < 1 or history.dim() != 2 or history.shape[0] != batch or history.shape[1] % length:
        raise ValueError(
            "history is [B, H] with H a multiple of L, and target [B, L]; "
            f"got {tuple(history.shape)} and {tuple(target.shape)}"
        )


def token_nats(backbone: PreTrainedModel, hidden: Tensor, goal: Tensor) -> Tensor:
    """-log p of goal [B, n] given outputs [B, n, d]: float32 [B, n] on the CPU, some logits at a time."""
    flat, labels = hidden.flatten(0, 1), goal.flatten().to(hidden.device)
    size = max(1, _LOGITS // backbone.config.get_text_config().vocab_size)
    parts = [
        torch.nn.functional.cross_entropy(bb.head(backbone, h).float(), y, reduction="none")
        for h, y in zip(flat.split(size), labels.split(size), strict=True)
    ]
    return torch.cat(parts).view(goal.shape).cpu()


class StopWhen(StoppingCriteria):
    """Ends generation at the first new ids of which `stop` says so."""

    def __init__(self, stop: Stop, prompt: int):
        self.stop, self.prompt = stop, prompt

    def __call__(self, input_ids, scores, **kwargs):
        ended = [bool(self.stop(row)) for row in input_ids[:, self.prompt :].tolist()]
        return torch.tensor(ended, device=input_ids.device)


def greedy(
    model: PreTrainedModel, before: Sequence[int], max_new_tokens: int, stop: Stop | None, **kwargs: Any
) -> list[int]:
    """New ids after `before` by `model.generate`: always the likeliest, whatever its generation config says.

    kwargs: for `generate` (`past_key_values`).
    """
    check_start(before)
    if max_new_tokens < 1:
        return []
    ids = torch.tensor([list(before)], device=model.device)
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    criteria = StoppingCriteriaList([] if stop is None else [StopWhen(stop, ids.shape[1])])
    with bb.evaluating(model):
        out = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            pad_token_id=ends[0] if ends else 0,
            stopping_criteria=criteria,
            **kwargs,
        )
    return new_ids(out, ids.shape[1], ends)


def new_ids(out: Tensor, prompt: int, ends: Sequence[int]) -> list[int]:
    """What `generate` wrote behind a prompt [1, `prompt`], without the id that ended it."""
    new = out[0, prompt:].tolist()
    return new[:-1] if new and new[-1] in ends else new
