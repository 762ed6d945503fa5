"""Where a memory looks: recall weight against distance (paper, App. H, Figs. 13 to 15).

Two books interleaved should make it periodic, and filler should be recalled less than text. Only readers
whose memory model recalls have records here; the others have none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hmt.evaluation.tasks.base import Metric, Progress, Record, Setting
from hmt.evaluation.tasks.text import Text

if TYPE_CHECKING:
    from datasets import Dataset

    from hmt.evaluation.readers.base import Reader


@dataclass(frozen=True, kw_only=True)
class RecallDistance(Text):
    """Share of the recall weight that falls on the segment so many segments back.

    Args:
        segments: read of each document, from its beginning. distances: the farthest one that is looked at;
            every segment that has so many before it counts once at each distance.

    Scores: "recall", "recall_text" and "recall_filler" (of a segment that is text, and of one that is filler,
        where `dilate` is set), each as a share of all weight; "lift", the weight divided by an even share.
    """

    name: ClassVar[str] = "recall_distance"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("recall", "neither"),
        Metric("lift", "neither", show="plain"),
        Metric("recall_text", "neither"),
        Metric("recall_filler", "neither"),
    )
    axes: ClassVar[tuple[str, ...]] = ("distance",)

    segments: int = 128
    distances: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.distances < self.segments:
            raise ValueError(
                f"{self.name}.distances is {self.distances} and segments {self.segments}; look at distances "
                "from 1 to less than the segments that are read"
            )

    def prepare(self, setting: Setting) -> tuple[Dataset, list[int]]:  # type: ignore[override]
        """Tokenized documents, and those of them that are long enough."""
        documents = self.documents(setting)
        need = (self.distances + 1) * setting.segment_length
        rows = [
            row for row, ids in enumerate(documents.with_format("numpy")["input_ids"]) if len(ids) >= need
        ]
        if not rows:
            raise ValueError(
                f"{self.name}: no document has the {need:,} tokens that distances up to {self.distances} "
                "take; set fewer distances"
            )
        return documents, rows

    def run(
        self,
        reader: Reader,
        setting: Setting,
        done: Collection[str] = (),
        progress: Progress | None = None,
        shared: Any = None,
    ) -> Iterator[Record]:
        documents, rows = self.prepare(setting) if shared is None else shared
        length = setting.segment_length
        first = documents[rows[0]]["input_ids"]
        if reader.recalled(reader.read(first[:length]), first[length : length + 1]) is None:
            return
        filler = self._filler(setting) if self.dilate else None
        for number, row in enumerate(rows, start=1):
            name, wanted = documents[row]["name"], [_id(row, d) for d in range(1, self.distances + 1)]
            if not all(one in done for one in wanted):
                ids = np.array(documents[row]["input_ids"][: self.segments * length])
                ids = ids[: len(ids) // length * length]
                for record in self._of(reader.model, ids, filler, length):
                    identity = _id(row, record["facts"]["distance"])
                    if identity not in done:
                        yield self.rescore({"id": identity, "group": name, **record})
            if progress is not None:
                progress(number, len(rows))

    def _of(self, model, ids: np.ndarray, filler: int | None, length: int) -> Iterator[Record]:
        from hmt.evaluation.recall_weights import recall_map

        weights = recall_map(model, ids, max_segments=self.segments)
        grid = ids.reshape(-1, length)
        empty = np.zeros(len(grid), bool) if filler is None else (grid == filler).mean(1) > 0.5
        asking = np.flatnonzero(
            ~empty & (np.arange(len(grid)) >= self.distances)
        )  # filler has nothing to ask for
        held = np.isfinite(weights).sum(1)
        for distance in range(1, self.distances + 1):
            seen = [n for n in asking.tolist() if np.isfinite(weights[n, n - distance])]
            yield {
                "facts": {"distance": distance},
                "weight": [round(float(weights[n, n - distance]), 6) for n in seen],
                "even": [round(1 / int(held[n]), 6) for n in seen],
                "filler": [bool(empty[n - distance]) for n in seen],
            }

    def rescore(self, record: Record) -> Record:
        weight, filler = np.array(record["weight"]), np.array(record["filler"], bool)
        parts = {
            "recall": weight,
            "lift": weight / np.array(record["even"]),
            "recall_text": weight[~filler],
            "recall_filler": weight[filler],
        }
        scores = {name: float(part.mean()) if len(part) else None for name, part in parts.items()}
        return {**record, "scores": scores, "weights": {name: len(part) for name, part in parts.items()}}

    def extras(self, records: Sequence[Record]) -> dict[str, Any]:
        return {}


def _id(document: int, distance: int) -> str:
    return f"{document}/{distance}"
