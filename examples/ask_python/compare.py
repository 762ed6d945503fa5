"""Ways to answer a question about a long text: exact recall, BM25 alone, the last tokens, full attention."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ask_python.document import Question, places
from hmt import Books
from hmt.asking import Found
from hmt.model.asking import answer_header, question_ids

EXACT, BM25, WINDOW, FULL = "exact recall", "BM25 alone", "last tokens", "full attention"


@dataclass(frozen=True)
class Reply:
    """What one way made of a question.

    Attributes:
        said: the answer.
        read: tokens of the text that stood before the answer.
        held: whether the evidence stands in them; None where it is not known.
        given: whether the right words stand in the answer; None where they are not known.
        seconds: from the question to the end of the answer.
        passages: every segment that recall weighed: those that were read again, then the others, each by
            weight; none of full attention.
    """

    said: str
    read: int
    held: bool | None
    given: bool | None
    seconds: float
    passages: list[Found] = field(default_factory=list)

    def facts(self, shown: int) -> dict[str, Any]:
        """Plain values, with the first `shown` passages."""
        passages = [passage.facts() for passage in self.passages[:shown]]
        return asdict(self) | {"passages": passages}


class Ways:
    """Every way of answering, over one text.

    Args:
        books: the text, read by a model with passages. text: it, as it was read.
        longest: tokens of an answer, at most.
        backbone: gives the model without memory and how many tokens it was made for, when it is needed.
    """

    def __init__(self, books: Books, text: str, longest: int, backbone: Callable[[], tuple[Any, int]]):
        self.books, self.text, self.longest, self._backbone = books, text, longest, backbone
        self.passages = books.model.config.passages
        encoded = books.tokenizer(text, return_offsets_mapping=True, verbose=False)
        self.begins = [begin for begin, _ in encoded.offset_mapping]  # of every token, in characters

    def segments(self, question: Question) -> list[int]:
        """Those in which the evidence begins, ascending."""
        length = self.books.model.segment_length
        at = [] if question.evidence is None else places(question.evidence, self.text)
        return sorted({(bisect_right(self.begins, one) - 1) // length for one in at})

    def exact(self, question: Question) -> Reply:
        """As `hmt ask` answers: the learned score and BM25 together."""
        return self._asked(self.books, question)

    def bm25(self, question: Question) -> Reply:
        """The same model and memory; passages are chosen by the words they share with the question alone."""
        with words_alone(self.books.model):
            return self._asked(self.books, question)

    def window(self, question: Question) -> Reply:
        """The same model with a memory of the last tokens only, as many as it reads again of passages."""
        model, tokenizer = self.books.model, self.books.tokenizer
        number = self.passages * model.segment_length
        tail = self.text[-16 * number :]  # characters, more than so many tokens have
        ids = tokenizer(tail, add_special_tokens=False, verbose=False).input_ids[-number:]
        return self._asked(Books(model, tokenizer, model.read(ids)), question)

    def full(self, question: Question) -> Reply:
        """The backbone without memory, which reads as much of the text as it was made for.

        Where that is not all of it, what it reads lies around the answer: it is told where to look.
        """
        backbone, limit = self._backbone()
        tokenizer = self.books.tokenizer
        header = answer_header(tokenizer)
        room = limit - self.longest - len(header) - len(question_ids(tokenizer, question.text)) - 16
        part, number = self.around(question, room)
        began = time.perf_counter()
        ids = torch.tensor([question_ids(tokenizer, f"{part}\n\n{question.text}") + header])
        ids = ids.to(backbone.device)
        written = backbone.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.longest,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )[0, ids.shape[1] :]
        said = tokenizer.decode(written, skip_special_tokens=True).strip()
        seconds = time.perf_counter() - began
        return Reply(said, number, _stands(question, part), question.is_given(said), seconds)

    def around(self, question: Question, room: int) -> tuple[str, int]:
        """At most `room` tokens of the text with the evidence in their middle, and how many they are."""
        at = places(question.evidence, self.text)[0] if question.evidence else 0
        token = bisect_right(self.begins, at) - 1
        first = max(0, min(token - room // 2, len(self.begins) - room))
        last = min(first + room, len(self.begins))
        end = self.begins[last] if last < len(self.begins) else len(self.text)
        return self.text[self.begins[first] : end], last - first

    def _asked(self, books: Books, question: Question) -> Reply:
        began = time.perf_counter()
        answer = books.ask(question.text, top=books.model.config.memory_size, max_new_tokens=self.longest)
        seconds = time.perf_counter() - began
        read = answer.passages[: self.passages]
        held = _stands(question, *(passage.text or "" for passage in read))
        if held is False:  # it may end in the segment behind
            where = self.segments(question)
            held = books is self.books and any(passage.segment in where for passage in read)
        tokens = sum(end - begin for begin, end in (passage.tokens for passage in read))
        return Reply(answer.answer, tokens, held, question.is_given(answer.answer), seconds, answer.passages)


@contextmanager
def words_alone(model: Any) -> Iterator[None]:
    """The learned score of recall is 0 for every segment meanwhile, and BM25 decides."""
    key, lexical = model.recall.key.weight, model.config.lexical
    kept = key.detach().clone()
    try:
        model.config.lexical = lexical or 1.0
        with torch.no_grad():
            key.zero_()
        yield
    finally:
        model.config.lexical = lexical
        with torch.no_grad():
            key.copy_(kept)


def _stands(question: Question, *texts: str) -> bool | None:
    if question.evidence is None:
        return None
    return any(bool(places(question.evidence, text)) for text in texts)


def compared(replies: Mapping[str, Sequence[Reply]]) -> list[tuple[str, str, str, str, str]]:
    """A row for each way: its name, tokens read, evidence among them, answers given, seconds an answer."""
    rows = []
    for name, found in replies.items():
        number = len(found)
        rows.append(
            (
                name,
                f"{round(sum(one.read for one in found) / number):,}",
                f"{sum(bool(one.held) for one in found)}/{number}",
                f"{sum(bool(one.given) for one in found)}/{number}",
                f"{sum(one.seconds for one in found) / number:.1f}",
            )
        )
    return rows
