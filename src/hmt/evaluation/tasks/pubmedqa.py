"""PubMedQA: a question about the abstract of a paper, answered yes, no or maybe, and with its conclusion.

Jin et al., "PubMedQA: A Dataset for Biomedical Research Question Answering", EMNLP 2019,
https://github.com/pubmedqa/pubmedqa. To make the text long, the abstracts of several questions are read
one after another, as in the paper on HMT (He et al., 2024, arXiv:2405.06067).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hmt.data.files import read_text
from hmt.evaluation.tasks.base import AnswerTask, Item, Metric, Record, Setting
from hmt.evaluation.tasks.rows import Row, load_rows

_FILE = ("QUESTION", "CONTEXTS", "LONG_ANSWER", "final_decision")
_HUB = ("question", "context", "long_answer", "final_decision")
_TEST_IDS = "test_ground_truth.json"
DECISIONS = ("yes", "no", "maybe")


class _Question(NamedTuple):
    id: str
    text: str
    abstract: str
    conclusion: str
    decision: str


@dataclass(frozen=True, kw_only=True)
class PubMedQA(AnswerTask):
    """One item per question, which asks about one of `fused` abstracts.

    The questions are shuffled with `seed` and cut into sets of `fused`. The abstracts of a set are one
    context, on which each of its questions is asked: each is used once, each place in a context equally
    often. The last set is filled up with abstracts of the first. A context is a group, and `facts` hold the
    number of abstracts (`contexts`) and the place of the asked one (`place`, from 0).

    Args:
        source: `ori_pqal.json` or its folder, or `qiaojin/PubMedQA:pqa_labeled` on the hub (the default).
        split: of the hub data set, which has only "train".
        fused: abstracts in a context.
        test_ids: a JSON object or list of the ids to use. None: `test_ground_truth.json` beside the file,
            with the 500 official test questions, if it is there; else all 1,000.

    Nothing is generated. Scores: `accuracy` of the likeliest of yes, no and maybe, and `nats`, those of the
    paper's conclusion per token.
    """

    name: ClassVar[str] = "pubmedqa"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy"),
        Metric("nats", better="lower", show="perplexity"),
    )

    split: str = "train"
    fused: int = 1
    test_ids: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fused < 1:
            raise ValueError(
                f"{self.name}.fused is {self.fused}; it counts abstracts in a context, 1 or more"
            )

    def items(self, setting: Setting) -> list[Item]:
        questions = self._questions()
        if len(questions) < self.fused:
            raise ValueError(
                f"{self.name}.fused is {self.fused}, but there are only {len(questions)} abstracts to fuse"
            )
        random.Random(self.seed).shuffle(questions)
        items: list[Item] = []
        for start in range(0, len(questions), self.fused):
            asked = questions[start : start + self.fused]
            # in the last set those that only fill it up are not all at its end
            read = asked + questions[: self.fused - len(asked)]
            random.Random(f"{self.seed} {start}").shuffle(read)
            context = "\n\n".join(question.abstract for question in read)
            items += [
                self._item(one, context, f"set-{start // self.fused}", read.index(one)) for one in asked
            ]
        return items[: self.limit]

    def _item(self, question: _Question, context: str, group: str, place: int) -> Item:
        return Item(
            id=question.id,
            group=group,
            facts={"contexts": self.fused, "place": place},
            context=context,
            question=f"\n\nAnswer the question from the abstracts above.\nQuestion: {question.text}\nAnswer:",
            answers=(question.decision,),
            choices=tuple(f" {decision}" for decision in DECISIONS),
            likely=f" {question.conclusion}",
            generate=False,
        )

    def score(self, record: Record) -> dict[str, float | None]:
        nats = record["choice_nats"]
        likeliest = record["choices"][nats.index(min(nats))].strip()
        long = record["likely_nats"]
        return {"accuracy": float(likeliest in record["answers"]), "nats": sum(long) / len(long)}

    def weights(self, record: Record) -> dict[str, float]:
        return {"nats": record["likely_tokens"]}

    def _questions(self) -> list[_Question]:
        source = self.source or "qiaojin/PubMedQA:pqa_labeled"
        rows = load_rows(source, self.split, (_FILE, _HUB), self.name, ("ori_pqal",))
        questions = [_question(row, number) for number, row in enumerate(rows)]
        wanted = self._wanted(Path(source).expanduser())
        if wanted is None:
            return questions
        if missing := wanted - {question.id for question in questions}:
            raise ValueError(
                f"{source} lacks {len(missing)} of the {len(wanted)} test ids, such as {min(missing)}; "
                "choose other test_ids="
            )
        return [question for question in questions if question.id in wanted]

    def _wanted(self, source: Path) -> set[str] | None:
        if self.test_ids is not None:
            path = Path(self.test_ids).expanduser()
        else:
            path = (source if source.is_dir() else source.parent) / _TEST_IDS
            if not (source.exists() and path.exists()):
                return None
        try:
            content: Any = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict | list) or not content:
            raise ValueError(f"{path}: expected an object or a list of ids, with at least one")
        return {str(key) for key in content}


def _question(row: Row, number: int) -> _Question:
    capital = "QUESTION" in row
    contexts = row["CONTEXTS"] if capital else row["context"]
    if isinstance(contexts, dict):
        contexts = contexts.get("contexts")
    if not isinstance(contexts, list) or not contexts:
        raise ValueError(f"{row.where}: there should be a list of the parts of the abstract in its contexts")
    decision = row.text("final_decision").strip().lower()
    if decision not in DECISIONS:
        raise ValueError(f"{row.where}: 'final_decision' is {decision!r}, not one of {', '.join(DECISIONS)}")
    return _Question(
        id=str(row.get("pubid") or row.get("id") or number),
        text=row.text("QUESTION" if capital else "question").strip(),
        abstract="\n".join(part.strip() for part in contexts),
        conclusion=row.text("LONG_ANSWER" if capital else "long_answer").strip(),
        decision=decision,
    )
