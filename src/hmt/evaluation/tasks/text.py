"""Language modelling: what history is worth, on the same tokens for every reader and every amount of it.

Target segments are chosen once (`hmt.evaluation.targets`). For each history h a reader reads the h segments
before a target and scores the target from its token `skip` on, so that only what was read before changes,
never what is scored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hmt.evaluation.targets import Target, choose_targets, gather_windows
from hmt.evaluation.tasks.base import Metric, Progress, Record, Setting, Task
from hmt.evaluation.tasks.distant import distant_tokens

if TYPE_CHECKING:
    from datasets import Dataset

    from hmt.evaluation.readers.base import Reader


# " = Homarus gammarus = ", and not " = = Section = = "
_ARTICLE = re.compile(r"^ ?= [^=\n]+ = ?$", re.MULTILINE)


@dataclass(frozen=True)
class Chosen:
    """What is scored.

    Attributes:
        names: of the documents. windows: [targets, (longest history + 1) L], a target and what stands before
            it.
        facts: by target, filled when first needed: what is the same for all readers and all histories.
    """

    names: Sequence[str]
    targets: list[Target]
    windows: Any
    facts: dict[int, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Text(Task):
    """Perplexity of held-out text against the amount of history.

    Args:
        source: anything `hmt.data.load_documents` reads; `text_field` names the field of records with the
            text.
        histories: segments read before a target.
        skip: tokens at the head of a target that are not scored; None is half a segment. A reader whose
            prompt has seen more of its own predictions than that is refused.
        targets_per_document, max_targets: how many segments are scored.
        interleave: tokens. Documents are taken in pairs and read in turns of so many tokens (256 in the
            paper, App. H).
        dilate: tokens. After every so many tokens stand as many of `filler` (256 "$" in the paper, App. H).
            Filler is read and not scored.
        batch_size: targets side by side.

    Scores: "perplexity" (nats per token), "bits_per_byte" (so that tokenizers can be compared) and "distant"
        (nats per token of names and numbers that occurred more than one segment back, and not since; see
        `distant.py`).
    """

    name: ClassVar[str] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("perplexity", "lower", "perplexity"),
        Metric("bits_per_byte", "lower", "bits"),
        Metric("distant", "lower", "perplexity"),
    )
    axes: ClassVar[tuple[str, ...]] = ("history",)

    text_field: str = "text"
    histories: tuple[int, ...] = (0, 1, 4, 16, 64)
    skip: int | None = None
    targets_per_document: int = 4
    max_targets: int = 256
    interleave: int = 0
    dilate: int = 0
    filler: str = "$"
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = sorted(self.histories)
        if not ordered or ordered[0] < 0 or any(a == b for a, b in pairwise(ordered)):
            raise ValueError(
                f"{self.name}.histories are different numbers of segments, 0 or more, such as 0,1,4,16; got "
                f"{list(self.histories)}"
            )
        if self.interleave and self.dilate:
            raise ValueError(f"{self.name}: interleave or dilate, not both")

    def documents(self, setting: Setting) -> Dataset:
        """Tokenized documents, with columns `name` and `input_ids`."""
        from hmt.data import dilate_documents, interleave_documents, tokenize_documents

        end = setting.tokenizer.eos_token_id is not None
        tokenized = tokenize_documents(self.load(), setting.tokenizer, append_eos=end)
        if self.interleave:
            tokenized = interleave_documents(tokenized, self.interleave)
        if self.dilate:
            tokenized = dilate_documents(tokenized, self.dilate, self._filler(setting), self.dilate)
        return tokenized

    def load(self) -> Dataset:
        """Documents, with columns `name` and `text`."""
        from hmt.data import load_documents

        if self.source is None:
            raise ValueError(f"{self.name} needs text: name a file, folder or data set as {self.name}.source")
        return load_documents(self.source, split=self.split, text_field=self.text_field, limit=self.limit)

    def _filler(self, setting: Setting) -> int:
        ids = setting.tokenizer(self.filler, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(
                f"{self.name}.filler is {self.filler!r}, {len(ids)} tokens; choose a text of one token"
            )
        return ids[0]

    def prepare(self, setting: Setting) -> Chosen:
        length, longest = setting.segment_length, max(self.histories)
        documents = self.documents(setting)
        ids = documents.with_format("numpy")["input_ids"]
        targets = choose_targets(
            [len(row) for row in ids],
            longest,
            segment_length=length,
            targets_per_document=self.targets_per_document,
            max_targets=self.max_targets,
            seed=self.seed,
        )
        if self.dilate:
            own = gather_windows(ids, targets, 0, length) == self._filler(setting)
            targets = [
                target for target, filler in zip(targets, own, strict=True) if filler.sum() * 2 < length
            ]
        return Chosen(documents["name"], targets, gather_windows(ids, targets, longest, length), {})

    def run(
        self,
        reader: Reader,
        setting: Setting,
        done: Collection[str] = (),
        progress: Progress | None = None,
        shared: Any = None,
    ) -> Iterator[Record]:
        length, histories = setting.segment_length, sorted(self.histories)
        skip = self._skip(reader, length)
        chosen: Chosen = self.prepare(setting) if shared is None else shared
        targets, windows, facts = chosen.targets, chosen.windows, chosen.facts
        work = [(h, n) for h in histories for n, t in enumerate(targets) if _id(t, h) not in done]
        total = len(histories) * len(targets)
        finished = total - len(work)
        for start in range(0, len(work), self.batch_size):
            batch = work[start : start + self.batch_size]
            for history in sorted({h for h, _ in batch}):
                rows = [n for h, n in batch if h == history]
                before = windows[rows, windows.shape[1] - (history + 1) * length : -length]
                nats = reader.target_nats(before, windows[rows, -length:])
                for row, found in zip(rows, nats.tolist(), strict=True):
                    target = targets[row]
                    if row not in facts:
                        facts[row] = self._facts(setting.tokenizer, windows[row].tolist(), length, skip)
                    finished += 1
                    yield self.rescore(
                        {
                            "id": _id(target, history),
                            "group": chosen.names[target.document],
                            "facts": {"history": history},
                            "segment": target.segment,
                            **facts[row],
                            "nats": [None if math.isnan(n) else round(n, 5) for n in found],
                        }
                    )
                    if progress is not None:
                        progress(finished, total)

    def _skip(self, reader: Reader, length: int) -> int:
        skip = length // 2 if self.skip is None else self.skip
        if not 1 <= skip < length:
            raise ValueError(
                f"{self.name}.skip is {skip}; of {length} tokens per segment skip 1 to {length - 1}"
            )
        if reader.unscored_head > skip:
            raise ValueError(
                f"{self.name}.skip is {skip}, and the prompt of {reader.name} sees the first "
                f"{reader.unscored_head} tokens of a segment: skip at least {reader.unscored_head}"
            )
        return skip

    @staticmethod
    def _facts(tokenizer, window: list[int], length: int, skip: int) -> dict[str, Any]:
        """What does not depend on the reader: bytes of the scored text, and which of its tokens are
        distant."""
        history, target = window[:-length], window[-length:]
        return {
            "skip": skip,
            "bytes": len(tokenizer.decode(target[skip:]).encode()),
            "distant": [p for p in distant_tokens(tokenizer, history, target, length) if p >= skip],
        }

    def rescore(self, record: Record) -> Record:
        scored = record["nats"][record["skip"] :]
        distant = [record["nats"][position] for position in record["distant"]]
        return {
            **record,
            "scores": {
                "perplexity": math.fsum(scored) / len(scored),
                "bits_per_byte": math.fsum(scored) / math.log(2) / record["bytes"]
                if record["bytes"]
                else None,
                "distant": math.fsum(distant) / len(distant) if distant else None,
            },
            "weights": {"perplexity": len(scored), "bits_per_byte": record["bytes"], "distant": len(distant)},
        }

    def extras(self, records: Sequence[Record]) -> dict[str, Any]:
        """`by_position`: mean nats at each position of the segment, per history."""
        rows: dict[int, list[list[float]]] = {}
        for record in records:
            nats = [math.nan if n is None else n for n in record["nats"]]
            rows.setdefault(record["facts"]["history"], []).append(nats)
        return {"by_position": {str(h): _means(nats) for h, nats in sorted(rows.items())}}


def _id(target: Target, history: int) -> str:
    return f"{target.document}/{target.segment}/{history}"


def _means(rows: list[list[float]]) -> list[float | None]:
    columns = np.array(rows).T
    return [float(column.mean()) if np.isfinite(column).all() else None for column in columns]


@dataclass(frozen=True, kw_only=True)
class Books(Text):
    """Whole books, as in PG-19: one record or file per book."""

    name: ClassVar[str] = "books"


@dataclass(frozen=True, kw_only=True)
class Wikipedia(Text):
    """Encyclopedia articles, one record each."""

    name: ClassVar[str] = "wikipedia"


@dataclass(frozen=True, kw_only=True)
class WikiText(Text):
    """WikiText-103: `wiki.test.tokens`, or the hub's data set, whose records are lines. Cut into articles."""

    name: ClassVar[str] = "wikitext"
    source: str | None = "Salesforce/wikitext:wikitext-103-raw-v1"

    def load(self) -> Dataset:
        import datasets

        # a limit counts articles, and the records here are lines
        lines = replace(self, limit=None)
        text = "\n".join(row.rstrip("\n") for row in Text.load(lines)["text"])
        begins = [m.start() for m in _ARTICLE.finditer(text)]
        if not begins:
            raise ValueError(f"{self.source} has no line such as ' = Title = ': no article begins there")
        parts = [text[a:b] for a, b in pairwise([*begins, len(text)])][: self.limit]
        titles = [part.split("\n", 1)[0].strip(" =") for part in parts]
        return datasets.Dataset.from_dict({"text": parts, "name": titles})
