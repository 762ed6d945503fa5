"""NarrativeQA: questions about a whole book or film script.

Kočiský et al., "The NarrativeQA Reading Comprehension Challenge", TACL 2018,
https://github.com/google-deepmind/narrativeqa. 355 test stories of about 60,000 words, 10,557 questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from hmt.evaluation.scores import exact_match, rouge, token_f1
from hmt.evaluation.tasks.base import AnswerTask, Item, Metric, Record, Setting
from hmt.evaluation.tasks.longbench_subsets import SUBSETS, split_prompt
from hmt.evaluation.tasks.rows import Row, iter_rows

_HUB = ("document", "question", "answers")
_LONGBENCH = ("input", "context", "answers")
_PROMPT = ("prompt", "gold")


@dataclass(frozen=True, kw_only=True)
class NarrativeQA(AnswerTask):
    """One item per question; the items of a story are one group.

    Args:
        source: rows as on the hub (`document.text`, `question.text`, `answers[].text`; None is
            `deepmind/narrativeqa`), as in LongBench (`input`, `context`, `answers`), or as in MiniLongBench
            (`prompt`, `gold`). The story is read whole.

    Scores: F1 of words and exact match, normalised as in SQuAD, and ROUGE-L, each the best over the answers.
    """

    name: ClassVar[str] = "narrativeqa"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("f1"), Metric("em"), Metric("rougeL"))

    def items(self, setting: Setting) -> list[Item]:
        return list(islice(self._items(), self.limit))

    def _items(self) -> Iterator[Item]:
        # about 30 rows repeat one story: each is held once, not 10,557 times
        stories: dict[str, tuple[str, str]] = {}
        source = self.source or "deepmind/narrativeqa"
        rows = iter_rows(source, self.split, (_HUB, _LONGBENCH, _PROMPT), self.name, (self.name,))
        for number, row in enumerate(rows):
            key, text, question, answers = _parts(row)
            group, context = stories.setdefault(key, (f"story-{len(stories)}", text))
            yield Item(
                id=f"question-{number}",
                group=group,
                context=context,
                question="\n\nAnswer the question about the story above in a few words.\n"
                f"Question: {question.strip()}\nAnswer:",
                answers=answers,
            )

    def score(self, record: Record) -> dict[str, float | None]:
        written, answers = record["generated"], record["answers"]
        return {
            "f1": token_f1(written, answers),
            "em": exact_match(written, answers),
            "rougeL": rouge(written, answers)["rougeL"],
        }


def _parts(row: Row) -> tuple[str, str, str, tuple[str, ...]]:
    """(what names the story, story, question, answers)."""
    if "document" in row:
        document = Row(_object(row, "document"), row.where)
        question = Row(_object(row, "question"), row.where)
        answers = [answer.get("text") for answer in row["answers"] if isinstance(answer, Mapping)]
        text = document.text("text")
        texts = Row({"answers": answers}, row.where).answers("answers")
        return str(document.get("id") or text), text, question.text("text"), texts
    if "context" in row:
        return row.text("context"), row.text("context"), row.text("input"), row.answers("answers")
    parts = split_prompt(row.text("prompt"), SUBSETS["narrativeqa"].marks)
    if parts is None:
        raise ValueError(f"{row.where}: 'prompt' is not one of LongBench's for NarrativeQA")
    return parts[0], parts[0], parts[1], row.answers("gold")


def _object(row: Row, field: str) -> Mapping:
    value = row[field]
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{row.where}: the field '{field}' holds {type(value).__name__}, not an object with 'text'"
        )
    return value
