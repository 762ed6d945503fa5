"""Questions whose answer takes several paragraphs together, among paragraphs that only look alike.

HotpotQA: Yang et al., EMNLP 2018, https://hotpotqa.github.io. 2WikiMultihopQA: Ho et al., COLING 2020,
https://github.com/Alab-NII/2wikimultihop. MuSiQue: Trivedi et al., TACL 2022,
https://github.com/StonyBrookNLP/musique.
"""

from __future__ import annotations

import json
import logging
import random
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from hmt.evaluation.scores import exact_match, token_f1
from hmt.evaluation.tasks.base import AnswerTask, Item, Metric, Record, Setting
from hmt.evaluation.tasks.rows import Row, iter_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MultiHop(AnswerTask):
    """One item per question; its context is all paragraphs, those needed and those not, under their titles.

    Args:
        source: see the data sets; in a folder, the file called like the task is read.
        split: "validation": the answers of the test splits are secret.
        shuffle: put the paragraphs into an order drawn with `seed` for each question; else it is that of
            the data set.

    Rows without any paragraphs cannot be asked; they are left out with a warning. Scores: F1 of words and
    exact match, normalised as in SQuAD.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("f1"), Metric("em"))
    hub: ClassVar[str]
    field: ClassVar[str]  # of the paragraphs

    split: str = "validation"
    shuffle: bool = False

    def items(self, setting: Setting) -> list[Item]:
        return list(islice(self._items(), self.limit))

    def _items(self) -> Iterator[Item]:
        source = self.source or self.hub
        without = number = 0
        for number, row in enumerate(
            iter_rows(source, self.split, ("question", "answer"), self.name, (self.name,)), start=1
        ):
            if row.get("answerable") is False:
                continue
            if not row.get(self.field):
                without += 1
                continue
            key = str(row.get("_id") or row.get("id") or number)
            passages = [f"{title}\n{text}" for title, text in self.paragraphs(row)]
            if self.shuffle:
                random.Random(f"{self.seed} {key}").shuffle(passages)
            yield Item(
                id=key,
                context="\n\n".join(passages),
                question="\n\nAnswer the question from the passages above in a few words.\n"
                f"Question: {row.text('question').strip()}\nAnswer:",
                answers=row.answers("answer", "answer_aliases"),
                facts={"paragraphs": len(passages)},
            )
        if without == number:
            raise ValueError(
                f"{source}: no row has paragraphs in the field '{self.field}', which {self.name} reads"
            )
        if without:
            logger.warning("%s: left out %d of %d rows, without paragraphs", source, without, number)

    @abstractmethod
    def paragraphs(self, row: Row) -> list[tuple[str, str]]:
        """(title, text) of every paragraph, in the order of the data set."""

    def score(self, record: Record) -> dict[str, float | None]:
        written, answers = record["generated"], record["answers"]
        return {"f1": token_f1(written, answers), "em": exact_match(written, answers)}


@dataclass(frozen=True, kw_only=True)
class _Sentences(MultiHop):
    """`context` holds pairs of a title and its sentences; on the hub, lists `title` and `sentences`."""

    field: ClassVar[str] = "context"

    def paragraphs(self, row: Row) -> list[tuple[str, str]]:
        context: Any = row["context"]
        if isinstance(context, str):  # some copies of 2WikiMultihopQA keep the pairs as JSON
            context = json.loads(context)
        try:
            if isinstance(context, dict):
                sentences = context["sentences"] if "sentences" in context else context["content"]
                context = zip(context["title"], sentences, strict=True)
            return [(title, " ".join(text.strip() for text in sentences)) for title, sentences in context]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{row.where}: 'context' should hold titles, each with a list of sentences ({error!r})"
            ) from error


@dataclass(frozen=True, kw_only=True)
class HotpotQA(_Sentences):
    """Two paragraphs of Wikipedia are needed, ten given. 7,405 validation questions."""

    name: ClassVar[str] = "hotpotqa"
    hub: ClassVar[str] = "hotpotqa/hotpot_qa:distractor"


@dataclass(frozen=True, kw_only=True)
class TwoWikiMultihopQA(_Sentences):
    """Two to four paragraphs of Wikipedia are needed, ten given. 12,576 validation questions."""

    name: ClassVar[str] = "2wikimultihopqa"
    hub: ClassVar[str] = "framolfese/2WikiMultihopQA"


@dataclass(frozen=True, kw_only=True)
class MuSiQue(MultiHop):
    """Two to four paragraphs of Wikipedia are needed, twenty given. 2,417 validation questions.

    `paragraphs` are objects with `title` and `paragraph_text`; `answer_aliases` are accepted too. Questions
    that are marked as not `answerable` (in the set's "full" form) are left out.
    """

    name: ClassVar[str] = "musique"
    hub: ClassVar[str] = "dgslibisey/MuSiQue"
    field: ClassVar[str] = "paragraphs"

    def paragraphs(self, row: Row) -> list[tuple[str, str]]:
        try:
            return [(part["title"], part["paragraph_text"].strip()) for part in row["paragraphs"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{row.where}: 'paragraphs' should hold objects with 'title' and 'paragraph_text' ({error!r})"
            ) from error
