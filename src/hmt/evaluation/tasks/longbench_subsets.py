"""LongBench's tasks one by one: how each is asked, how long its answers are, and how they are scored.

Bai et al., ACL 2024, https://github.com/THUDM/LongBench. The words around text and question are our own and
fewer. `split_prompt` takes LongBench's own words off again, for data sets of whole prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from hmt.evaluation.scores import classification, code_similarity, numbers, rouge, token_f1
from hmt.evaluation.tasks.base import Record


class Marks(NamedTuple):
    """Where the parts of LongBench's own prompt are: begin, context, end, ..., open, input, close.

    `open` None: there is no input. In few-shot tasks `end` is the beginning of the input, `open` is empty.
    """

    begin: str
    end: str
    open: str | None = None
    close: str = ""


class Subset(NamedTuple):
    """One of LongBench's tasks.

    kind: which score. length: of the longest answer in tokens. ask: what follows the text, `{}` being the
    row's `input`. line: whether the answer is one line; else it ends only at its longest.
    """

    kind: str
    length: int
    ask: str
    marks: Marks | None  # None: there are no prompts of it to split
    line: bool = True


_SHORT = "\n\nAnswer the question from the text above in a few words.\nQuestion: {}\nAnswer:"
_PASSAGES = Marks(
    "are given passages.\n", "\n\nAnswer the question based on the given", "\n\nQuestion: ", "\nAnswer:"
)
_STORY = Marks("\n\nStory: ", "\n\nNow, answer the question based on", "\n\nQuestion: ", "\n\nAnswer:")
_FIELDS = Marks("answer briefly.\n\n", "\n\nNow, answer the following", "\n\nQuestion: ", "\nAnswer:")
_MEETING = Marks("\n\nTranscript:\n", "\n\nNow, answer the query", "\n\nQuery: ", "\nAnswer:")
_ABSTRACT = Marks("abstract is from.\n\n", "\n\nThe following is an abstract.", ".\n\n", "\n\nPlease enter")
_CODE = Marks("code given below. \n", "Next line of code:")

SUBSETS: Mapping[str, Subset] = {
    "narrativeqa": Subset("f1", 128, _SHORT, _STORY),
    "qasper": Subset(
        "f1",
        128,
        "\n\nAnswer the question from the article above in a few words: yes or no where it asks for that, "
        '"unanswerable" where the article does not tell.\nQuestion: {}\nAnswer:',
        _PASSAGES,
    ),
    "multifieldqa_en": Subset("f1", 64, _SHORT, _FIELDS),
    "hotpotqa": Subset("f1", 32, _SHORT, _PASSAGES),
    "2wikimqa": Subset("f1", 32, _SHORT, _PASSAGES),
    "musique": Subset("f1", 32, _SHORT, _PASSAGES),
    "gov_report": Subset(
        "rouge",
        512,
        "\n\nSummarise the report above on one page.\nSummary:",
        Marks("\n\nReport:\n", "\n\nNow, write a one-page"),
        line=False,
    ),
    "qmsum": Subset(
        "rouge",
        512,
        "\n\nAnswer the query about the meeting above in a few sentences.\nQuery: {}\nAnswer:",
        _MEETING,
        line=False,
    ),
    "multi_news": Subset(
        "rouge",
        512,
        "\n\nSummarise all the news above on one page.\nSummary:",
        Marks("\n\nNews:\n", "\n\nNow, write a one-page"),
        line=False,
    ),
    "trec": Subset("classes", 64, "\n{}", Marks("examples of questions.\n\n", "\nQuestion: ", "")),
    "triviaqa": Subset("f1", 32, "\n\n{}", Marks("some examples.\n\n", "\nPassage:\n", "")),
    "samsum": Subset("rouge", 128, "\n\n{}", Marks("some examples.\n\n", "\nDialogue: ", "")),
    "lsht": Subset("classes", 64, "\n{}", None),
    "passage_count": Subset(
        "numbers",
        32,
        "\n\nHow many different paragraphs are there above, when repeats are not counted?\nNumber:",
        Marks("in total?\n\n", "\n\nPlease enter the final count"),
    ),
    "passage_retrieval_en": Subset(
        "numbers",
        32,
        "\n\nAbstract: {}\n\nWhich paragraph above is this an abstract of?\nAnswer: Paragraph",
        _ABSTRACT,
    ),
    "lcc": Subset("code", 64, "{}Next line of code:\n", _CODE, line=False),
    "repobench-p": Subset("code", 64, "{}Next line of code:\n", _CODE, line=False),
}
SCORES: Mapping[str, Callable[[str, Record], float]] = {
    "f1": lambda written, record: token_f1(written, record["answers"]),
    "rouge": lambda written, record: rouge(written, record["answers"], stem=False)["rougeL"],
    "classes": lambda written, record: classification(written, record["answers"], record["classes"]),
    "numbers": lambda written, record: numbers(written, record["answers"]),
    "code": lambda written, record: code_similarity(written, record["answers"]),
}


def ask(spec: Subset, given: str) -> str:
    """What follows the text: LongBench's `input` in our words. Code keeps its white space."""
    return spec.ask.replace("{}", given if spec.kind == "code" else given.strip())


def trim(context: str, spec: Subset) -> str:
    """The text without blank lines at its end, as `ask` begins with some. Code keeps its white space."""
    return context if spec.kind == "code" else context.rstrip()


def split_prompt(prompt: str, marks: Marks | None) -> tuple[str, str] | None:
    """(text, input) of one of LongBench's prompts, or None for a prompt of another form."""
    if marks is None:
        return None
    begin, end = prompt.find(marks.begin), prompt.rfind(marks.end)
    if begin < 0 or end < begin + len(marks.begin):
        return None
    context, rest = prompt[begin + len(marks.begin) : end], prompt[end:]
    if marks.open is None:
        return context, ""
    start = rest.find(marks.open)
    stop = rest.rfind(marks.close) if marks.close else len(rest)
    return (context, rest[start + len(marks.open) : stop]) if 0 <= start < stop else None


def divide(prompt: str, spec: Subset) -> tuple[str, str]:
    """Text and question of a prompt; of one of unknown form the last paragraph is the question, as it is."""
    if parts := split_prompt(prompt, spec.marks):
        return trim(parts[0], spec), ask(spec, parts[1])
    prompt = prompt.rstrip()
    cut = max(prompt.rfind("\n\n"), 0)
    return prompt[:cut], prompt[cut:]
