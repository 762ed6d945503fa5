"""What a task is: items that readers answer, and scores that can be computed again from what was saved.

A task is one dataclass in one file of this folder, and one line in `TASKS` (`__init__.py`). Its fields are
the settings that a user may change (`--set books.limit=20`).

Running a task on a reader yields *records*: plain JSON values, one per line of a predictions file.

    {"id": "hotpotqa-17", "group": "hotpotqa-17",    unique in the task; what confidence intervals resample (a
    document)
     "facts": {"segments": 64, "depth": 0.5},        where it belongs in curves and heat maps
     "scores": {"f1": 0.4, "nats": null},            per metric, null where it has none
     "weights": {"nats": 37},                        what a score counts in a mean, 1 where it is not named
     ...}                                            what was predicted and what was right, raw

The mean of a metric is sum(weight x score) / sum(weight): a score in nats per token, weighted by tokens, is
the nats per token of everything together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from hmt.evaluation.readers.base import Reader

Record = dict[str, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Metric:
    """How a score is shown.

    name: key in `scores`. better: which way is good. show: "percent" of a fraction, "perplexity" of nats per
        token (the mean is taken before the exponential), "bits" (per byte), or "plain".
    """

    name: str
    better: Literal["higher", "lower", "neither"] = "higher"
    show: Literal["percent", "perplexity", "bits", "plain"] = "percent"


@dataclass(frozen=True)
class Setting:
    """What all readers of a run share: the tokenizer, and the length of a segment in tokens."""

    tokenizer: Any
    segment_length: int


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Base of all tasks.

    Args:
        source: file, folder or `org/name[:config]` on the Hugging Face hub; what each task reads is in its
            docstring.
        split: of a hub data set.
        limit: use the first so many items (documents, questions); None means all.
        seed: of whatever is drawn.
    """

    name: ClassVar[str]
    # the first is the headline
    metrics: ClassVar[tuple[Metric, ...]]
    # keys of `facts` that results are laid out by: none: a number; one: a curve; two: a heat map
    axes: ClassVar[tuple[str, ...]] = ()

    source: str | None = None
    split: str = "test"
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"{self.name}.limit is {self.limit}; it counts items, 1 or more")

    def prepare(self, setting: Setting) -> Any:
        """What all readers share: texts that are loaded, tokenized and chosen from once per run."""
        return None

    @abstractmethod
    def run(
        self,
        reader: Reader,
        setting: Setting,
        done: Collection[str] = (),
        progress: Progress | None = None,
        shared: Any = None,
    ) -> Iterator[Record]:
        """The records of one reader, without those whose id is in `done`. progress(items_done,
        items_in_total).

        shared: what `prepare` returned; it is called where this is None. The same items in the same order for
        every reader, and for a fixed seed.
        """

    @abstractmethod
    def rescore(self, record: Record) -> Record:
        """The record with `scores` and `weights` computed anew from what it holds raw."""

    def extras(self, records: Sequence[Record]) -> dict[str, Any]:
        """What else a task makes of all records of one reader, as plain JSON values: stands in the results.

        The report draws two of them: `by_position` (value of the axis -> nats at each token of a segment) and
        `recall_map` (rows of recall weights by part of the text, None where nothing is known).
        """
        return {}

    def chance(self) -> dict[str, float]:
        """Scores of guessing, per metric, where they are known."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something to read and something to answer.

    Args:
        id, group, facts: as in a record.
        context: what is read into memory.
        question: what follows it, and ends where the answer begins. Neither holds the answer.
        answers: accepted answers, or all parts of one, as the task has it. Where `generate` is set, they are
            compared with what the reader writes.
        choices: where given (beginning with the blank space that the question does not end with), how likely
            each one is as the continuation of the question is measured.
        likely: a long text whose likelihood as the continuation of the question is measured.
        stop, max_new_tokens: where an item's differ from the task's.
        raw: what scoring needs beside these; stands in the record.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    likely: str = ""
    generate: bool = True
    group: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] | None = None
    max_new_tokens: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AnswerTask(Task):
    """A task of items that are read, asked and scored one by one.

    Args:
        max_new_tokens: longest generated answer; it also ends at `stop`.
    """

    # the answer ends before the first of these
    stop: ClassVar[tuple[str, ...]] = ("\n",)

    max_new_tokens: int = 32

    @abstractmethod
    def items(self, setting: Setting) -> Sequence[Item]:
        """All items. ValueError for a source that cannot be used (missing fields, an empty split), naming
        place and remedy."""

    @abstractmethod
    def score(self, record: Record) -> dict[str, float | None]:
        """Scores of a record that holds what `_ask` put there; see there."""

    def weights(self, record: Record) -> dict[str, float]:
        return {}

    def rescore(self, record: Record) -> Record:
        return {**record, "scores": self.score(record), "weights": self.weights(record)}

    def prepare(self, setting: Setting) -> tuple[Sequence[Item], list[str]]:
        """The items, and their ids."""
        items = self.items(setting)
        return items, check_items(self.name, items)

    def run(
        self,
        reader: Reader,
        setting: Setting,
        done: Collection[str] = (),
        progress: Progress | None = None,
        shared: Any = None,
    ) -> Iterator[Record]:
        items, ids = self.prepare(setting) if shared is None else shared
        last: tuple[str, Any] = ("", None)
        for number, name in enumerate(ids, start=1):
            if name not in done:
                item = items[number - 1]
                if last[1] is None or last[0] != item.context:  # several questions on one text: read once
                    last = (item.context, reader.read(encode(setting.tokenizer, item.context)))
                yield self.rescore(self._ask(reader, setting.tokenizer, item, last[1]))
            if progress is not None:
                progress(number, len(ids))

    def _ask(self, reader: Reader, tokenizer, item: Item, memory: Any) -> Record:
        """`generated` (text), `choice_nats` and `choice_tokens` (one per choice), `likely_nats` and
        `likely_tokens`."""
        question = encode(tokenizer, item.question)
        record: Record = {
            "id": item.id,
            "group": item.group or item.id,
            "facts": dict(item.facts),
            "question": item.question,
            "answers": list(item.answers),
            **item.raw,
        }
        if item.generate:
            stop = self.stop if item.stop is None else item.stop
            length = self.max_new_tokens if item.max_new_tokens is None else item.max_new_tokens
            ids = reader.generate(memory, question, length, lambda new: ends(tokenizer, new, stop))
            text = tokenizer.decode(ids, skip_special_tokens=True)
            record["generated"] = before(text, stop).strip()
        if item.choices:
            options = [encode(tokenizer, choice) for choice in item.choices]
            nats = [sum(reader.nats(memory, question, ids)) for ids in options]
            record |= {"choices": list(item.choices), "choice_nats": nats}
            record["choice_tokens"] = [len(ids) for ids in options]
        if item.likely:
            ids = encode(tokenizer, item.likely)
            record |= {"likely": item.likely, "likely_tokens": len(ids)}
            record["likely_nats"] = reader.nats(memory, question, ids)
        return record


def encode(tokenizer, text: str) -> list[int]:
    """Token ids without special tokens, of a text of any length."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def ends(tokenizer, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether generated ids hold a whole answer."""
    text = tokenizer.decode(ids, skip_special_tokens=True).lstrip()
    return any(mark in text for mark in stop)


def before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the marks; blank space at the beginning ends nothing."""
    text = text.lstrip()
    return text[: min((place for mark in stop if (place := text.find(mark)) >= 0), default=len(text))]


def check_items(name: str, items: Sequence[Item]) -> list[str]:
    """The ids of items. ValueError unless there are some, each with an id of its own.

    Items that are built on access know their ids beforehand, as `items.ids`.
    """
    if not items:
        raise ValueError(f"the task {name} has no items: its source is empty, or its settings leave nothing")
    ids = list(items.ids) if hasattr(items, "ids") else [item.id for item in items]
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise ValueError(f"the task {name} has two items with the id {one!r}")
        seen.add(one)
    return ids
