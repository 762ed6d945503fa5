"""What readers share when they are asked: checks, losses from hidden states, and `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from hmt import backbone as bb
from hmt.evaluation.readers.base import Stop

_LOGITS = 2**25  # logits made at a time (128 MiB in float32)


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


def predictions(backbone: PreTrainedModel, hidden: Tensor, goal: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits float32 [n, V] and tokens [n], some at a time, of outputs [..., d] that predict goal [...]."""
    flat, labels = hidden.flatten(0, -2), goal.flatten().to(hidden.device)
    size = max(1, _LOGITS // backbone.config.get_text_config().vocab_size)
    for h, y in zip(flat.split(size), labels.split(size), strict=True):
        yield bb.head(backbone, h).float(), y


def token_nats(backbone: PreTrainedModel, hidden: Tensor, goal: Tensor) -> Tensor:
    """-log p of goal [B, n] given outputs [B, n, d]: float32 [B, n] on the CPU."""
    parts = [
        torch.nn.functional.cross_entropy(logits, y, reduction="none")
        for logits, y in predictions(backbone, hidden, goal)
    ]
    return torch.cat(parts).view(goal.shape).cpu()


class StopWhen(StoppingCriteria):
    """Ends generation at the first new ids of which `stop` says so."""

    def __init__(self, stop: Stop, prompt: int):
        self.stop, self.prompt = stop, prompt

    def __call__(self, input_ids, scores, **kwargs):
        ended = [bool(self.stop(row)) for row in input_ids[:, self.prompt :].tolist()]
        return torch.tensor(ended, device=input_ids.device)


def end_tokens(model: PreTrainedModel, given: Any = None) -> list[int]:
    """Ids that end a text: those that are given, or else the generation config's."""
    if given is None and model.generation_config is not None:
        given = model.generation_config.eos_token_id
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]


def continued(
    model: PreTrainedModel,
    before: Sequence[int],
    max_new_tokens: int,
    stop: Stop | None,
    settings: dict[str, Any],
    **kwargs: Any,
) -> list[int]:
    """New ids after `before` by `model.generate`, without the id that ended them.

    settings: of `generate`; without, always the likeliest token, whatever the generation config says.
    kwargs: for `generate` (`past_key_values`).
    """
    check_start(before)
    if max_new_tokens < 1:
        return []
    ids = torch.tensor([list(before)], device=model.device)
    ends = end_tokens(model, settings.get("eos_token_id"))
    greedy = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
    fixed = {"pad_token_id": ends[0] if ends else 0, "max_new_tokens": max_new_tokens}
    criteria = StoppingCriteriaList([] if stop is None else [StopWhen(stop, ids.shape[1])])
    with bb.evaluating(model):
        out = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            stopping_criteria=criteria,
            **greedy | settings | fixed,
            **kwargs,
        )
    new = out[0, ids.shape[1] :].tolist()
    return new[:-1] if new and new[-1] in ends else new
