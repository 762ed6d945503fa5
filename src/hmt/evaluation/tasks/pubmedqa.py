"""PubMedQA with several abstracts read one after another, as in the paper on HMT (arXiv 2405.06067).

Jin et al., "PubMedQA: A Dataset for Biomedical Research Question Answering", EMNLP 2019,
https://github.com/pubmedqa/pubmedqa. With one abstract it is a task of lm-evaluation-harness, `pubmedqa`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import fsspec

from hmt.evaluation.tasks.base import AnswerTask, Item, Metric, Record, Setting

_HUB = "qiaojin/PubMedQA"
_FILE, _TEST_IDS = "ori_pqal.json", "test_ground_truth.json"
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
        source: the authors' `ori_pqal.json` (.gz, .bz2 and .xz too) or its folder; None: the labelled
            questions of `qiaojin/PubMedQA` on the hub.
        fused: abstracts in a context, 2 or more.
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

    fused: int = 10
    test_ids: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fused < 2:
            raise ValueError(
                f"{self.name}.fused is {self.fused}; it counts abstracts in a context, 2 or more (one is the "
                "task pubmedqa of lm-evaluation-harness)"
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
        if self.source is None:
            import datasets

            rows = datasets.load_dataset(_HUB, "pqa_labeled", split="train")
            found = {str(row["pubid"]): row for row in rows}
            questions = [_question(f"{_HUB}, {key}", key, row) for key, row in found.items()]
            wanted = _ids(self.test_ids)
        else:
            path = Path(self.source).expanduser()
            if path.is_dir():
                path = next(iter(sorted(path.glob(f"{_FILE}*"))), path / _FILE)
            content = _json(path)
            if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
                raise ValueError(f"{path}: expected an object of questions by their ids, as in {_FILE}")
            questions = [_question(f"{path}, {key}", key, row) for key, row in content.items()]
            official = path.parent / _TEST_IDS
            wanted = _ids(self.test_ids or (str(official) if official.exists() else None))
        if missing := (wanted or set()) - {question.id for question in questions}:
            raise ValueError(
                f"{self.source or _HUB} lacks {len(missing)} of the {len(wanted or ())} test ids, such as "
                f"{min(missing)}; choose other test_ids="
            )
        return [question for question in questions if wanted is None or question.id in wanted]


def _ids(path: str | None) -> set[str] | None:
    if path is None:
        return None
    content = _json(Path(path).expanduser())
    if not isinstance(content, dict | list) or not content:
        raise ValueError(f"{path}: expected an object or a list of ids, with at least one")
    return {str(key) for key in content}


def _json(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it is part of https://github.com/pubmedqa/pubmedqa")
    try:
        with fsspec.open(str(path), "rt", encoding="utf-8", compression="infer") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _question(where: str, key: str, row: Mapping[str, Any]) -> _Question:
    """A question from the fields of the authors' file, or of the hub, which has them in lower case."""
    fields = {name.lower(): value for name, value in row.items()}
    contexts = fields.get("contexts", fields.get("context"))
    if isinstance(contexts, dict):
        contexts = contexts.get("contexts")
    if not isinstance(contexts, list) or not contexts:
        raise ValueError(f"{where}: there should be a list of the parts of the abstract in its contexts")
    texts = [fields.get(name) for name in ("question", "long_answer", "final_decision")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where}: 'question', 'long_answer' and 'final_decision' should hold text")
    question, conclusion, decision = (str(text).strip() for text in texts)
    if decision.lower() not in DECISIONS:
        raise ValueError(f"{where}: 'final_decision' is {decision!r}, not one of {', '.join(DECISIONS)}")
    abstract = "\n".join(part.strip() for part in contexts)
    return _Question(key, question, abstract, conclusion, decision.lower())
