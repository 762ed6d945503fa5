"""Answers that are written side by side: every step is one token of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hmt.memory.memory import Memory
from hmt.serving.jobs import Answering


class Batch:
    """Answers on one cache, and the memory that they are written into, a stream each.

    Attributes:
        joins: whether others may join; not those that are run alone after an error.
    """

    def __init__(self, jobs: list[Answering], memory: Memory, joins: bool = True):
        self.jobs, self.memory, self.joins = jobs, memory, joins

    @classmethod
    def begin(cls, model: Any, job: Answering) -> Batch:
        """An answer with its first token."""
        memory = job.memory.copy()
        logits = model(job.header, past_key_values=memory, logits_to_keep=1).logits
        batch = cls([job], memory)
        batch._choose(logits)
        return batch

    def with_(self, other: Batch) -> Batch | None:
        """Both in one; None where what has been run would have to be run again for that."""
        together = Memory.cat([self.memory, other.memory])
        if together.open is None and self.memory.open is not None:
            return None
        return Batch(self.jobs + other.jobs, together)

    def step(self, model: Any) -> None:
        """One more token of each. Where an error comes out, nothing has been changed."""
        device = self.memory.open_ids.device
        ids = torch.tensor([[job.sampler.written[-1]] for job in self.jobs], device=device)
        self._choose(model(ids, past_key_values=self.memory, logits_to_keep=1).logits)

    def alone(self) -> list[Batch]:
        """Each answer by itself."""
        return [Batch([job], self.memory.select([row]), joins=False) for row, job in enumerate(self.jobs)]

    def _choose(self, logits: torch.Tensor) -> None:
        for job, row in zip(self.jobs, logits[:, -1], strict=True):
            job.tell(job.sampler.choose(row))

    def leave(self) -> list[Answering]:
        """Takes out, and returns, the answers that have ended or that nobody waits for."""
        gone = [job for job in self.jobs if job.sampler.ended or job.cancelled]
        if gone:
            staying = [row for row, job in enumerate(self.jobs) if job not in gone]
            self.jobs = [self.jobs[row] for row in staying]
            if staying:  # in place: a copy would have to run its open segments again
                device = self.memory.open_ids.device
                self.memory.batch_select_indices(torch.tensor(staying, device=device))
        return gone


def join(model: Any, batches: Sequence[Batch], new: Batch, most: int) -> list[Batch]:
    """`batches` with one more, in one of them where that can be."""
    for place, batch in enumerate(batches if model.caching.plain else ()):
        if batch.joins and len(batch.jobs) + len(new.jobs) <= most:
            together = batch.with_(new)
            if together is not None:
                return [*batches[:place], together, *batches[place + 1 :]]
    return [*batches, new]
