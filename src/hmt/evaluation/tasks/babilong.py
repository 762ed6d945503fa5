"""BABILong (Kuratov et al. 2024): facts of a bAbI story scattered over a long text, and a question on them.

bAbI: Weston et al. 2015. Its lines are numbered, from 1 in each story; questions hold tabs.

    1 John travelled to the hallway.
    2 Mary journeyed to the bathroom.
    3 Where is John? <tab> hallway <tab> 1
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hmt.evaluation.tasks.base import Item, Metric, Record, Setting, encode
from hmt.evaluation.tasks.haystack import Cell, HaystackTask, Hidden, grid, make_items

_SUBSETS = tuple(f"qa{number}" for number in range(1, 21))


@dataclass(frozen=True)
class Question:
    """A question of bAbI and the facts before it; `story` counts the stories of its file from 1."""

    story: int
    facts: tuple[str, ...]
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class BABILong(HaystackTask):
    """The same questions at every length, their facts in order at drawn depths of the filler.

    accuracy: of all answers that occur in the file, the right one is the likeliest, by nats per token.
    generated: the right answer, and nothing else, was written (letter case, an article and punctuation
    around it aside).

    Args:
        babi: the file of a task of bAbI, or the folder that holds `qa1_..._test.txt` and the others.
        subset: qa1 to qa20.
        split: which file of the folder; of a `source` on the hub too.
        source: the text to hide the facts in (BABILong: the books of PG-19).
        lengths: in segments; 0 is the facts alone.
        samples: questions of each length, drawn from those whose facts fit the shortest length other than 0.
    """

    name = "babilong"
    metrics = (Metric("accuracy"), Metric("generated"))
    axes = ("segments",)
    stop = ("\n", ".")

    babi: str | None = None
    subset: str = "qa1"
    lengths: tuple[int, ...] = (0, 4, 16, 64, 256, 1000)
    samples: int = 100
    max_new_tokens: int = 16

    shortest = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset not in _SUBSETS:
            raise ValueError(
                f"babilong.subset is {self.subset!r}; it must be one of {_SUBSETS[0]} to {_SUBSETS[-1]}"
            )

    def items(self, setting: Setting) -> Sequence[Item]:
        path = find_file(self.babi, self.subset, self.split)
        questions = read_questions(path)
        choices = tuple(f" {answer}" for answer in sorted({question.answer for question in questions}))
        Random(f"{self.name}/{self.seed}/{self.subset}").shuffle(questions)
        room = min((length for length in self.lengths if length), default=0) * setting.segment_length
        chosen = [q for q in questions if not room or _tokens(setting.tokenizer, q) <= room][: self.samples]
        if not chosen:
            raise ValueError(
                f"no question of {path} has facts that fit {room} tokens, the shortest of babilong.lengths; "
                "choose greater lengths"
            )

        def hide(cell: Cell, draw: Random) -> Hidden:
            question = chosen[cell.sample]
            depths = sorted(draw.random() for _ in question.facts)
            return Hidden(
                needles=list(zip(depths, question.facts, strict=True)),
                question=_prompt(question),
                answers=(question.answer,),
                choices=choices,
                group=f"{self.subset}-{question.story}",
                absent=question.facts,
            )

        return make_items(self, setting, grid(len(chosen), self.lengths), hide)

    def score(self, record: Record) -> dict[str, float | None]:
        right = record["answers"][0]
        means = [nats / n for nats, n in zip(record["choice_nats"], record["choice_tokens"], strict=True)]
        likeliest = record["choices"][means.index(min(means))].strip()
        return {
            "accuracy": float(likeliest == right),
            "generated": float(_plain(record["generated"]) == _plain(right)),
        }


def find_file(babi: str | None, subset: str, split: str) -> Path:
    """The file of a subset. ValueError where there is none, or several."""
    if babi is None:
        raise ValueError(
            "babilong.babi is not set: name the folder of bAbI that holds qa1_..._test.txt and the others"
        )
    path = Path(babi).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(
            f"babilong.babi: {babi} is no file or folder here. It is read from its own text files "
            "(tasks_1-20_v1-2, folder en or en-10k): facebook/babi_qa on the hub is a script, which "
            "`datasets` no longer runs."
        )
    found = sorted(path.glob(f"{subset}_*{split}.txt"))
    if len(found) != 1:
        raise ValueError(
            f"babilong.babi: {path} holds {len(found)} files {subset}_*{split}.txt; it must hold one"
        )
    return found[0]


def read_questions(path: Path) -> list[Question]:
    """All questions of a file. ValueError, naming the line, for one that is not bAbI."""
    from hmt.data import read_text

    questions: list[Question] = []
    facts: list[str] = []
    story = 0
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(\d+) ([^\t]+)(?:\t([^\t]+)(?:\t.*)?)?", line.strip())
        if match is None or (match[1] != "1" and not story):
            raise ValueError(
                f"{path}:{number} is no line of bAbI ('1 A fact.', then '2 A question?<tab>answer<tab>1')"
            )
        if match[1] == "1":
            story, facts = story + 1, []
        if match[3] is None:
            facts.append(match[2].strip())
        else:
            questions.append(Question(story, tuple(facts), match[2].strip(), match[3].strip()))
    if not questions:
        raise ValueError(f"{path} holds no questions of bAbI")
    return questions


def _prompt(question: Question) -> str:
    return f"\n\nQuestion: {question.question}\nAnswer:"


def _tokens(tokenizer, question: Question) -> int:
    return len(encode(tokenizer, " ".join(question.facts))) + len(encode(tokenizer, _prompt(question)))


def _plain(text: str) -> str:
    text = re.sub(r"\s*,\s*", ",", text.lower()).strip(" \t\"'.,;:!?")
    return re.sub(r"^(the|an?) ", "", text)
