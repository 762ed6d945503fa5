"""Accuracy on the hidden key-value task, by the number of segments that the answer is hidden among."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hmt.backbone import head
from hmt.data import KeyValueDataset, KeyValueTask
from hmt.model.base import SegmentMemoryModel
from hmt.model.segments import make_grid


@dataclass(frozen=True)
class RecallPoint:
    """Results at one number of segments.

    Attributes:
        accuracy: share of samples whose most likely next token is the answer (over the whole vocabulary).
        evidence_weight: mean recall weight on the segment that holds the answer; None where nothing is
        recalled.
        evidence_hits: share of samples whose largest recall weight is on that segment; None likewise.
    """

    accuracy: float
    evidence_weight: float | None
    evidence_hits: float | None


@dataclass(frozen=True)
class RecallResult:
    """Number of segments -> point. `chance` is the accuracy of guessing one of the task's values."""

    points: dict[int, RecallPoint]
    chance: float
    samples: int
    seed: int

    @property
    def segments(self) -> list[int]:
        return sorted(self.points)

    def accuracy(self, segments: int) -> float:
        return self.points[segments].accuracy

    def to_dict(self) -> dict[str, Any]:
        points = {str(n): asdict(point) for n, point in self.points.items()}
        return {"points": points, "chance": self.chance, "samples": self.samples, "seed": self.seed}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RecallResult:
        points = {int(n): RecallPoint(**point) for n, point in values["points"].items()}
        return cls(points, values["chance"], values["samples"], values["seed"])


@torch.no_grad()
def recall_accuracy(
    model: SegmentMemoryModel,
    task: KeyValueTask,
    segments: Sequence[int] = (2, 4, 8, 16, 32, 64, 128, 256),
    samples: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> RecallResult:
    """Ask for one hidden value at the end of each sample, and compare the model's most likely token with it.

    The samples depend on `seed`, the task and the number of segments, not on the model or on `batch_size`.
    Working memory does not grow with the number of segments. progress: called as progress(tokens_done,
    tokens_in_total). ValueError when task and model do not fit together.
    """
    _check(model, task, segments, samples, batch_size)
    total, done = samples * task.segment_length * sum(segments), 0
    training = model.training
    model.eval()
    try:
        points = {}
        for number in segments:
            data = KeyValueDataset(task, samples, number, seed=seed)
            found: list[Tensor] = []
            for start in range(0, samples, batch_size):
                rows = [data[i] for i in range(start, min(start + batch_size, samples))]
                batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
                found.append(_ask(model, batch))
                done += batch["input_ids"].numel()
                if progress is not None:
                    progress(done, total)
            points[number] = _point(torch.cat(found))
    finally:
        model.train(training)
    return RecallResult(points, chance=1 / task.num_values, samples=samples, seed=seed)


def _ask(model: SegmentMemoryModel, batch: dict[str, Tensor]) -> Tensor:
    """[B, 3] float: is the answer right, recall weight on the evidence, is that the largest (or NaN)."""
    memory = model.new_memory(len(batch["input_ids"]))
    batch = {name: value.to(memory.open_ids.device) for name, value in batch.items()}
    # The answer itself is never fed: whatever a system does with the tokens of a segment, it cannot leak.
    ids = batch["input_ids"][:, :-1]
    grid = make_grid(ids, None, memory.open_ids, memory.open_lengths, model.config.segment_length)
    before = memory.state.segments
    for _, output in model.run(grid, memory.state, chunk=8):
        before, last = before + 1, output
    guess = head(model.backbone, last.hidden[:, -1]).argmax(-1)
    right = (guess == batch["answers"]).float()
    slots = None if last.recall is None or model.retrieval is None else model.retrieval.held(before - 1)
    if last.recall is None or slots is None:
        missing = torch.full_like(right, torch.nan)
        return torch.stack([right, missing, missing], dim=1)
    evidence = batch["evidence"][:, None]
    weight = torch.where(slots == evidence, last.recall.float().exp(), 0.0).sum(1)
    hit = (slots.gather(1, last.recall.argmax(1, keepdim=True)) == evidence)[:, 0]
    return torch.stack([right, weight, hit.float()], dim=1)


def _point(found: Tensor) -> RecallPoint:
    accuracy, weight, hits = found.double().mean(0).tolist()
    recalls = weight == weight
    return RecallPoint(accuracy, weight if recalls else None, hits if recalls else None)


def _check(model, task: KeyValueTask, segments: Sequence[int], samples: int, batch_size: int) -> None:
    if model.config.segment_length != task.segment_length:
        raise ValueError(
            f"the task has segments of {task.segment_length} tokens and the model reads segments of "
            f"{model.config.segment_length}; make the task with KeyValueTask(segment_length="
            f"{model.config.segment_length})"
        )
    if model.config.vocab_size < task.vocab_size:
        raise ValueError(
            f"the task uses {task.vocab_size} token ids, the model knows {model.config.vocab_size}; give the "
            "task fewer symbols, values or noise tokens"
        )
    if not segments or min(segments) < 2 or samples < 1 or batch_size < 1:
        raise ValueError("segments are numbers from 2 on, samples and batch_size from 1 on")
