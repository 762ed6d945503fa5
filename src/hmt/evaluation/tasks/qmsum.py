"""QMSum: questions about the transcript of a meeting, answered with a short summary.

Zhong et al., "QMSum: A New Benchmark for Query-based Multi-domain Meeting Summarization", NAACL 2021,
https://github.com/Yale-LILY/QMSum. 35 test meetings of about 9,000 words, 281 queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from hmt.evaluation.scores import ROUGE, rouge
from hmt.evaluation.tasks.base import AnswerTask, Item, Metric, Record, Setting
from hmt.evaluation.tasks.rows import Row, iter_rows

# The set's authors publish it as files, not on the Hugging Face hub.
_OFFICIAL = "https://raw.githubusercontent.com/Yale-LILY/QMSum/main/data/ALL/jsonl/{split}.jsonl"
_MEETING = ("meeting_transcripts", "general_query_list", "specific_query_list")
_QUESTION = ("input", "context", "answers")  # one row per query, as in LongBench


@dataclass(frozen=True, kw_only=True)
class QMSum(AnswerTask):
    """One item per query, general queries first; the items of a meeting are one group.

    Args:
        source: rows of meetings (`meeting_transcripts`, `general_query_list`, `specific_query_list`), as
            the authors' files have them (the default), or of queries (`input`, `context`, `answers`), as
            in LongBench; see `iter_rows`.

    The answer ends at a blank line. Scores: F-measures of ROUGE with Porter stems.
    """

    name: ClassVar[str] = "qmsum"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("rougeL"), Metric("rouge1"), Metric("rouge2"))
    stop: ClassVar[tuple[str, ...]] = ("\n\n",)

    max_new_tokens: int = 200

    def items(self, setting: Setting) -> list[Item]:
        return list(islice(self._items(), self.limit))

    def _items(self) -> Iterator[Item]:
        groups: dict[str, str] = {}
        rows = iter_rows(self.source or _OFFICIAL, self.split, (_MEETING, _QUESTION), self.name)
        for number, row in enumerate(rows):
            if "meeting_transcripts" in row:
                yield from _meeting_items(row, number)
            else:
                group = groups.setdefault(row.text("context"), f"meeting-{number}")
                yield _item(f"query-{number}", group, row.text("context"), row, "input", "answers")

    def score(self, record: Record) -> dict[str, float | None]:
        scores = rouge(record["generated"], record["answers"])
        return {name: scores[name] for name in ROUGE}


def _meeting_items(row: Row, number: int) -> Iterator[Item]:
    meeting = str(row.get("meeting_id") or f"meeting-{number}")
    turns = [
        Row(turn, f"{row.where}, turn {n}") for n, turn in enumerate(row["meeting_transcripts"], start=1)
    ]
    # a few turns say nothing, so `text`, which wants some, will not do
    context = "\n".join(f"{turn.text('speaker')}: {turn.get('content') or ''}".rstrip() for turn in turns)
    if not context:
        raise ValueError(f"{row.where}: the transcript 'meeting_transcripts' is empty")
    queries = [*(row["general_query_list"] or ()), *(row["specific_query_list"] or ())]
    for place, query in enumerate(queries):
        where = f"{row.where}, query {place + 1}"
        yield _item(f"{meeting}-{place}", meeting, context, Row(query, where), "query", "answer")


def _item(name: str, group: str, context: str, row: Row, query: str, answer: str) -> Item:
    return Item(
        id=name,
        group=group,
        context=context,
        question="\n\nAnswer the query about the meeting above in a few sentences.\n"
        f"Query: {row.text(query).strip()}\nAnswer:",
        answers=row.answers(answer),
    )
