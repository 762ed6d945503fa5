"""The demo from beginning to end: read, ask, compare, write down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ask_python.compare import BM25, EXACT, FULL, WINDOW, Reply, Ways, compared
from ask_python.document import QUESTIONS, Question, known, python_reference
from ask_python.show import show_map, show_reply
from hmt.asking.books import Books, Texts
from hmt.asking.places import Document
from hmt.cli.ask import read_texts
from hmt.cli.read import open_model
from hmt.evaluation.readers.plain import longest_input
from hmt.model.asking import check_question, question_ids
from hmt.util.environment import run_facts
from hmt.util.files import check_own_folder, only_writer, write_atomically
from hmt.util.format import byte_text, plural
from hmt.util.kv_cache import kv_cache_bytes
from hmt.util.progress import Bars
from hmt.util.tables import print_table

FIRST = "hmt-ask-demo.json"  # what it writes first: its folder is known by it
LONGEST = 32  # tokens of an answer
HEADER = ("", "tokens read for an answer", "answer among them", "answer given", "seconds an answer")


def main(
    output: Path, text: Sequence[str], asked: Sequence[str], model: str, device: str | None, shown: int | None
) -> None:
    """What `hmt demo` runs.

    Args:
        text: files to read, with questions of the user's own; none for Python's reference.
        asked: questions, in place of those that are here.
        model: of `hmt.load_model`. shown: passages of each answer; None: those that are read again.
    ValueError for a text without tokens, without questions, and for a question longer than a segment.
    """
    if text and not asked:
        raise ValueError("--text needs a question about it: --ask '...', as often as you like")
    check_own_folder(output, FIRST, "demo of this kind")
    reference = "" if text else python_reference()
    questions, lacking = known([Question(one) for one in asked] or QUESTIONS, reference)
    for one in lacking:
        print(f"left out, as the reference of this Python does not say it: {one.text}")
    if not questions:
        raise ValueError("the reference of this Python answers none of the questions; name some with --ask")
    sources = list(text) or [str(output / "document.txt")]
    with only_writer(output):
        texts = Texts.of(sources) if text else Texts([[Document(sources[0], reference)]])
        reader, tokenizer = open_model(model, device)
        for one in questions:  # refused before anything is read
            check_question(reader, question_ids(tokenizer, one.text))
        write_atomically(output / FIRST, (json.dumps({"model": model, "text": sources}) + "\n").encode())
        if not text:
            write_atomically(output / "document.txt", reference.encode())
        AskDemo(output, reader, tokenizer, questions, shown).run(texts, reference)


class AskDemo:
    """Args: as of `main`; model, tokenizer: of each other."""

    def __init__(
        self, output: Path, model: Any, tokenizer: Any, questions: Sequence[Question], shown: int | None
    ):
        self.output, self.model, self.tokenizer = output, model, tokenizer
        self.questions, self.shown = questions, shown or model.config.passages
        # tokens the backbone was made for; where it does not say, more than any text has
        self.limit = longest_input(model.backbone) or 10**12

    def run(self, texts: Texts, reference: str) -> None:
        """Do everything; leaves `report.html`, `recall-map.png` and `answers.json`.

        reference: the text, where answers in it are known.
        """
        books, progress = read_texts(texts, self.model, self.tokenizer)
        facts = self._sizes(books)
        facts["Reading"] = "kept by an earlier run" if progress is None else progress.summary()
        for name, value in facts.items():
            print(f"{name}: {value}")
        ways = Ways(books, reference, LONGEST, self._backbone)
        asked = []
        for number, question in enumerate(self.questions, 1):
            asked.append(ways.exact(question))
            show_reply(number, question, asked[-1], self.shown)
        right = [ways.segments(question) for question in self.questions]
        show_map(asked, right, int(books.memory.segments_read[0]), ways.passages)
        replies: dict[str, list[Reply]] = {}
        if all(question.answer for question in self.questions):
            replies = self._compare(ways, asked)
            print()
            print_table("Beside other ways", HEADER, compared(replies))
            print(self._note(len(ways.begins)))
        self._write(facts, asked, right, replies, len(ways.begins))

    def _sizes(self, books: Books) -> dict[str, str]:
        memory, config = books.memory, self.model.config
        tokens, segments = int(memory.tokens_read[0]), int(memory.segments_read[0])
        cache = kv_cache_bytes(config.text_config, tokens, self.model.dtype.itemsize)
        names = books.documents[0].name
        if len(books.documents) > 1:
            names = f"{len(books.documents)} documents"
        parameters = plural(self.model.num_parameters(), "parameter")
        return {
            "Document": f"{names}, {plural(tokens, 'token')}, {plural(segments, 'segment')}",
            "Model": f"{config.name_or_path}, {parameters}",
            "Memory": f"{byte_text(memory.nbytes)}, however long the text; keys and values of full attention "
            f"would take {byte_text(cache)}, {cache / memory.nbytes:,.0f} times as much",
        }

    @cached_property
    def _plain(self) -> Any:
        """The model without memory."""
        from hmt.backbone import load_backbone

        name = self.model.config.base_model_name_or_path
        backbone = load_backbone(name) if name else self.model.backbone
        return backbone.to(self.model.device).eval()

    def _backbone(self) -> tuple[Any, int]:
        return self._plain, self.limit

    def _compare(self, ways: Ways, exact: list[Reply]) -> dict[str, list[Reply]]:
        """The replies of every way."""
        replies = {EXACT: exact}
        number = len(self.questions)
        with Bars() as bars:
            for name, way in ((BM25, ways.bm25), (WINDOW, ways.window), (FULL, ways.full)):
                replies[name] = []
                for question in self.questions:
                    bars(name, len(replies[name]), number)
                    replies[name].append(way(question))
                bars(name, number, number)
        return replies

    def _note(self, tokens: int) -> str:
        """What is to be said of the ways."""
        told = f"reads all {tokens:,} tokens."
        if tokens > self.limit:
            told = (
                f"was made for {self.limit:,} tokens. The document's {tokens:,} do not fit, so it is told "
                "where the answer stands and reads what lies around it."
            )
        return (
            f"{EXACT}, {BM25} and {WINDOW} are one model. {FULL} is its backbone without memory, which {told}"
        )

    def _write(
        self,
        facts: dict[str, str],
        asked: list[Reply],
        right: list[list[int]],
        replies: dict[str, list[Reply]],
        tokens: int,
    ) -> None:
        from ask_python import page

        config = self.model.config
        pairs = list(zip(self.questions, asked, strict=True))
        results = {
            "run": run_facts(0),
            "facts": facts,
            "answers": [
                {"question": question.text, "answer": question.answer, **reply.facts(self.shown)}
                for question, reply in pairs
            ],
            "ways": {name: [one.facts(0) for one in found] for name, found in replies.items()},
        }
        write_atomically(self.output / "answers.json", (json.dumps(results, indent=1) + "\n").encode())
        figure = page.map_plot(self.questions, asked, right, config.segment_length, config.passages)
        beside = (HEADER, compared(replies), self._note(tokens)) if replies else None
        written = page.write(self.output, facts, pairs, figure, beside, self.shown)
        print(f"\nreport: {written}")
