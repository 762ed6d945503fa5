"""The hidden key-value task: token ids instead of words, so that models of any size can learn it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hmt.evaluation.tasks.base import Metric, Progress, Record, Setting, Task

if TYPE_CHECKING:
    from hmt.data import KeyValueTask
    from hmt.evaluation.readers.base import Reader

_BINS = 4  # depths are shown in quarters
_PARTS = 16  # of the text, in the recall map


@dataclass(frozen=True, kw_only=True)
class KeyValue(Task):
    """Accuracy of asking for one of the values that `hmt.data.KeyValueTask` hides, one per segment.

    Its samples are token ids from 0 on: for a model that was trained on that task.

    Args:
        lengths: segments of a sample, the asking one included. samples: per length.
        symbols, values, noise: the task's `num_symbols`, `num_values`, `num_noise`.
        batch_size: samples that are read side by side.

    Scores: "accuracy" (the most likely token of the whole vocabulary is the answer), "answer" (its nats);
        where the reader recalls, "evidence" (recall weight on the segment that holds the answer) and
        "evidence_first" (how often that weight is the largest).

    A record's depth is the place of the asked-for segment, rounded to a quarter: 0 is the beginning of the
    text, 1 the segment before the question. `extras` has a map of the longest samples: where the answer
    stood (rows) and where the recall weight lay (columns), in at most 16 parts of the text.
    """

    name: ClassVar[str] = "key_value"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy"),
        Metric("answer", "lower", "perplexity"),
        Metric("evidence"),
        Metric("evidence_first"),
    )
    axes: ClassVar[tuple[str, ...]] = ("segments", "depth")

    lengths: tuple[int, ...] = (4, 16, 64, 256, 1000)
    samples: int = 50
    symbols: int = 32
    values: int = 32
    noise: int = 16
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lengths or min(self.lengths) < 2 or min(self.samples, self.batch_size) < 1:
            raise ValueError(
                f"{self.name}.lengths are numbers of segments, 2 or more, and samples and batch_size 1 or "
                f"more; got {list(self.lengths)}, {self.samples} and {self.batch_size}"
            )

    def task(self, segment_length: int) -> KeyValueTask:
        from hmt.data import KeyValueTask

        return KeyValueTask(
            segment_length=segment_length,
            num_symbols=self.symbols,
            num_values=self.values,
            num_noise=self.noise,
        )

    def chance(self) -> dict[str, float]:
        return {"accuracy": 1 / self.values}

    def prepare(self, setting: Setting) -> KeyValueTask:
        task = self.task(setting.segment_length)
        if task.vocab_size > len(setting.tokenizer):
            raise ValueError(
                f"{self.name} uses {task.vocab_size} token ids, and the tokenizer has "
                f"{len(setting.tokenizer)}; set fewer symbols, values or noise"
            )
        return task

    def run(
        self,
        reader: Reader,
        setting: Setting,
        done: Collection[str] = (),
        progress: Progress | None = None,
        shared: Any = None,
    ) -> Iterator[Record]:
        from hmt.data import KeyValueDataset

        task = self.prepare(setting) if shared is None else shared
        number = self.samples if self.limit is None else min(self.limit, self.samples)
        total, finished = number * len(self.lengths), 0
        for length in self.lengths:
            samples = KeyValueDataset(task, number, length, seed=self.seed)
            wanted = [index for index in range(number) if f"{length}/{index}" not in done]
            finished += number - len(wanted)
            for start in range(0, len(wanted), self.batch_size):
                indices = wanted[start : start + self.batch_size]
                rows = [samples[index] for index in indices]
                ids = [row["input_ids"].tolist() for row in rows]
                contexts = [one[: -task.segment_length] for one in ids]
                for place, memory in reader.read_many(contexts, self.batch_size):
                    question = ids[place][-task.segment_length : -1]  # the answer itself is never read
                    facts = (ids[place][-1], int(rows[place]["evidence"]), length)
                    identity = f"{length}/{indices[place]}"
                    finished += 1
                    asked = _ask(reader, memory, question, *facts)
                    yield self.rescore({"id": identity, "group": identity, **asked})
                    if progress is not None:
                        progress(finished, total)

    def rescore(self, record: Record) -> Record:
        scores = {
            "accuracy": float(record["generated"] == [record["answer"]]),
            "answer": record["nats"],
            "evidence": None,
            "evidence_first": None,
        }
        if (recall := record.get("recall")) is not None:
            weight = recall[record["evidence"]]
            scores |= {"evidence": weight, "evidence_first": float(weight > 0 and weight == max(recall))}
        return {**record, "scores": scores, "weights": {}}

    def extras(self, records: Sequence[Record]) -> dict[str, Any]:
        recalled = [record for record in records if record.get("recall") is not None]
        if not recalled:
            return {}
        longest = max(record["facts"]["segments"] for record in recalled) - 1  # without the asking segment
        parts = min(_PARTS, longest)
        sums, counts = np.zeros((parts, parts)), np.zeros(parts)
        for record in recalled:
            if len(record["recall"]) == longest:
                row = record["evidence"] * parts // longest
                counts[row] += 1
                places = np.arange(longest) * parts // longest
                sums[row] += np.bincount(places, record["recall"], minlength=parts)
        rows = [
            (row / n).round(5).tolist() if n else [None] * parts for row, n in zip(sums, counts, strict=True)
        ]
        return {"recall_map": {"segments": longest, "rows": rows}}


def _ask(reader: Reader, memory: Any, question: list[int], answer: int, evidence: int, length: int) -> Record:
    depth = round(evidence / max(1, length - 2) * _BINS) / _BINS
    recall = reader.recalled(memory, question)
    ((logits, goal),) = reader.logits(memory, question, [answer])
    return {
        "facts": {"segments": length, "depth": depth},
        "evidence": evidence,
        "answer": answer,
        "generated": logits.argmax(-1).tolist(),
        "nats": -float(logits.log_softmax(-1)[0, int(goal[0])]),
        **({} if recall is None else {"recall": [round(weight, 5) for weight in recall]}),
    }
