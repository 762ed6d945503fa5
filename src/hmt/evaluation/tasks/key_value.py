"""The hidden key-value task: token ids instead of words, so that models of any size can learn it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hmt.evaluation.tasks.base import Metric, Progress, Record, Setting, Task

if TYPE_CHECKING:
    from hmt.data import KeyValueTask
    from hmt.evaluation.readers.base import Reader

_BINS = 4  # depths are shown in quarters


@dataclass(frozen=True, kw_only=True)
class KeyValue(Task):
    """Accuracy of asking for one of the values that `hmt.data.KeyValueTask` hides, one per segment.

    Its samples are token ids from 0 on: for a model that was trained on that task.

    Args:
        lengths: segments of a sample, the asking one included. samples: per length.
        symbols, values, noise: the task's `num_symbols`, `num_values`, `num_noise`.

    A record's depth is the place of the asked-for segment, rounded to a quarter: 0 is the beginning of the
    text, 1 the segment before the question.
    """

    name: ClassVar[str] = "key_value"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy"), Metric("answer", "lower", "perplexity"))
    axes: ClassVar[tuple[str, ...]] = ("segments", "depth")

    lengths: tuple[int, ...] = (4, 16, 64, 256, 1000)
    samples: int = 50
    symbols: int = 32
    values: int = 32
    noise: int = 16

    def task(self, segment_length: int) -> KeyValueTask:
        from hmt.data import KeyValueTask

        return KeyValueTask(
            segment_length=segment_length,
            num_symbols=self.symbols,
            num_values=self.values,
            num_noise=self.noise,
        )

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
        for row, length in enumerate(self.lengths):
            samples = KeyValueDataset(task, number, length, seed=self.seed)
            for index in range(number):
                identity = f"{length}/{index}"
                if identity not in done:
                    yield self.rescore(
                        {"id": identity, "group": identity, **self._ask(reader, samples[index], length, task)}
                    )
                if progress is not None:
                    progress(row * number + index + 1, len(self.lengths) * number)

    def _ask(self, reader: Reader, sample: dict, length: int, task: KeyValueTask) -> Record:
        ids, evidence = sample["input_ids"].tolist(), int(sample["evidence"])
        split = len(ids) - task.segment_length
        memory, question = reader.read(ids[:split]), ids[split:-1]
        depth = round(evidence / max(1, length - 2) * _BINS) / _BINS
        return {
            "facts": {"segments": length, "depth": depth},
            "evidence": evidence,
            "answer": ids[-1],
            "generated": reader.generate(memory, question, 1),
            "nats": reader.nats(memory, question, ids[-1:])[0],
        }

    def rescore(self, record: Record) -> Record:
        right = record["generated"] == [record["answer"]]
        scores = {"accuracy": float(right), "answer": record["nats"]}
        return {**record, "scores": scores, "weights": {}}
