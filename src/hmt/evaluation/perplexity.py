"""Perplexity at given amounts of history, on tokens that stay the same.

Target segments are chosen once. For each history h a fresh stream reads the h segments just before a target,
and the target is then scored from its token `skip` on. Only what was read before changes, never what is
scored, so the curve shows what history is worth and not how hard the text at some place is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hmt.data import check_ids
from hmt.evaluation.readers.plain import token_nats
from hmt.evaluation.results import HistoryResult
from hmt.evaluation.targets import choose_targets, gather_windows
from hmt.memory.state import MemoryState
from hmt.model.base import SegmentMemoryModel
from hmt.systems.window.model import WindowForCausalLM

Progress = Callable[[int, int], None]

_CHUNK = 8  # segments whose summaries run in one batch


@torch.no_grad()
def history_perplexity(
    models: Mapping[str, SegmentMemoryModel],
    documents: Sequence[Sequence[int]],
    histories: Sequence[int] = (0, 1, 4, 16, 64),
    *,
    segment_length: int | None = None,
    skip: int | None = None,
    targets_per_document: int = 4,
    max_targets: int = 256,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> HistoryResult:
    """Score every model on the same tokens, after reading 0, 1, 4, ... segments.

    Args:
        models: name -> model. All have the same `segment_length` L and read the same token ids.
        documents: token ids per document (lists or arrays). Histories never cross from one to the next.
        histories: segments read before the target. A target has at least `max(histories)` before it.
        segment_length: L, to check against the models; None takes theirs.
        skip: tokens at the head of a target that are not scored, 1 .. L-1. The output at position p predicts
            token p + 1, so token 0 has no prediction when there is no history. None is L // 2, or more where
            a model needs it: a recall prompt made from the first j tokens of a segment may only be scored
            from j on.
        targets_per_document, max_targets, seed: see `choose_targets`.
        batch_size: targets read side by side.
        progress: called as progress(tokens_done, tokens_in_total).
    ValueError for settings that do not go together, and when no document is long enough.
    """
    histories = _check_histories(histories)
    length = _check_segment_length(models, segment_length)
    skip = _check_skip(models, length, skip)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    sizes = [len(document) for document in documents]
    targets = choose_targets(
        sizes,
        histories[-1],
        segment_length=length,
        targets_per_document=targets_per_document,
        max_targets=max_targets,
        seed=seed,
    )
    windows = gather_windows(documents, targets, histories[-1], length)
    check_ids(windows.flatten().numpy(), min(model.config.vocab_size for model in models.values()))

    work = {name: sum(h + 1 for h in _reads(model, histories)) for name, model in models.items()}
    counter = _Counter(len(targets) * length * sum(work.values()), length, progress)
    nll = {}
    for name, model in models.items():
        training = model.training
        model.eval()
        try:
            nll[name] = score(model, windows, histories, skip, batch_size, counter)
        finally:
            model.train(training)
    return HistoryResult(
        nll=nll,
        targets=targets,
        segment_length=length,
        skip=skip,
        documents=len(sizes),
        long_enough=sum(size >= (histories[-1] + 1) * length for size in sizes),
        seed=seed,
    )


def score(
    model: SegmentMemoryModel,
    windows: Tensor,
    histories: Sequence[int],
    skip: int,
    batch_size: int,
    counter: Callable[[int], None],
) -> dict[int, list[float]]:
    """History -> nats per target. windows: int64 [T, (H + 1) * L], whose last segments are the targets."""
    nll: dict[int, list[float]] = {h: [] for h in histories}
    device = model.get_input_embeddings().weight.device
    for rows in windows.split(batch_size):
        segments = rows.to(device).view(len(rows), -1, model.config.segment_length)
        prepared = prepare_segments(model, segments)
        reads = {}
        for read in _reads(model, histories):
            hidden = target_outputs(model, segments, prepared, read, counter)
            nats = token_nats(model.backbone, hidden[:, skip - 1 : -1], segments[:, -1, skip:])
            reads[read] = nats.double().sum(1).tolist()
        for history in histories:
            nll[history] += reads[reach(model, history)]
    return nll


def target_outputs(
    model: SegmentMemoryModel,
    segments: Tensor,
    prepared: list[Tensor | None],
    read: int,
    counter: Callable[[int], None] | None = None,
) -> Tensor:
    """Outputs [B, L, d] at the last of `segments` [B, S, L], after a new stream read the `read` before it."""
    state: MemoryState = model.initial_state(segments.shape[0])
    for index in range(segments.shape[1] - 1 - read, segments.shape[1]):
        output = model.step(segments[:, index], state, prepared=prepared[index])
        state = output.state
        if counter is not None:
            counter(segments.shape[0])
    return output.hidden


def prepare_segments(model: SegmentMemoryModel, segments: Tensor) -> list[Tensor | None]:
    """What `step` wants prepared, per segment of [B, S, L]: computed once and shared by all histories."""
    prepared: list[Tensor | None] = []
    for part in segments.split(_CHUNK, dim=1):
        lengths = torch.full(part.shape[:2], part.shape[2], device=part.device)
        result = model.prepare(part, lengths)
        prepared += [None] * part.shape[1] if result is None else list(result.unbind(1))
    return prepared


def reach(model: SegmentMemoryModel, history: int) -> int:
    """How many of `history` segments matter: a window forgets the rest, so they need not be read."""
    if isinstance(model, WindowForCausalLM):
        return min(history, -(-model.config.window_length // model.config.segment_length))
    return history


def _reads(model: SegmentMemoryModel, histories: Sequence[int]) -> list[int]:
    return sorted({reach(model, history) for history in histories})


class _Counter:
    """Counts tokens of steps taken and tells `progress`."""

    def __init__(self, total: int, segment_length: int, progress: Progress | None):
        self.done, self.total, self.segment_length, self.progress = 0, total, segment_length, progress

    def __call__(self, rows: int) -> None:
        self.done += rows * self.segment_length
        if self.progress is not None:
            self.progress(self.done, self.total)


def _check_histories(histories: Sequence[int]) -> list[int]:
    ordered = sorted(histories)
    if not ordered or ordered[0] < 0 or any(a == b for a, b in pairwise(ordered)):
        raise ValueError(
            f"histories are different numbers of segments, 0 or more, such as 0,1,4,16; got {list(histories)}"
        )
    return ordered


def _check_segment_length(models: Mapping[str, SegmentMemoryModel], wanted: int | None) -> int:
    if not models:
        raise ValueError("there are no models to score")
    lengths = {name: model.config.segment_length for name, model in models.items()}
    if len({*lengths.values(), *([wanted] if wanted is not None else [])}) > 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        asked = "" if wanted is None else f", asked for: {wanted}"
        raise ValueError(f"models are compared at one segment_length, and theirs differ ({found}{asked})")
    return next(iter(lengths.values()))


def unscored_head(model: SegmentMemoryModel) -> int:
    """Leading tokens of a segment that its own prompt may have seen, so that they cannot be scored."""
    return max(1, model.lookahead)


def _check_skip(models: Mapping[str, SegmentMemoryModel], length: int, skip: int | None) -> int:
    least = {name: unscored_head(model) for name, model in models.items()}
    name = max(least, key=lambda key: least[key])
    if skip is None:
        skip = max(length // 2, least[name])
    if skip < least[name]:
        raise ValueError(
            f"skip is {skip}, and the recall prompt of {name} sees the first {least[name]} tokens of a "
            f"segment: skip at least {least[name]}"
            if least[name] > 1
            else f"skip must be at least 1, got {skip}: the first token of a target has no prediction"
        )
    if skip >= length:
        raise ValueError(
            f"skipping {skip} of the {length} tokens of a segment leaves nothing to score"
            + (f" (the recall prompt of {name} sees {least[name]} of them)" if least[name] >= length else "")
        )
    return skip
