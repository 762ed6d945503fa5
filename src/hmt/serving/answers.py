"""Questions to a memory, kept or fresh, and how they are answered. Everything here blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from hmt.asking.places import Document
from hmt.model.asking import answer_header, question_ids
from hmt.serving.errors import ApiError
from hmt.serving.memories import Memories
from hmt.serving.prompts import Turns, check_tokens, last_question, split_question, written
from hmt.serving.sampling import end_tokens
from hmt.serving.text import Writer
from hmt.serving.work import Cancel
from hmt.sessions import Found, Options, Runner, Session, Token

OnPiece = Callable[[int, str, Sequence[Token]], None]


@dataclass(frozen=True)
class Prompt:
    """What an answer is written behind.

    Attributes:
        memory: after all that is read. header: tokens that the answer follows.
        question: as it was put; None where a text is continued.
        passages: what was recalled. tokens: that were read for this request.
    """

    memory: Any
    header: list[int]
    question: str | None
    passages: list[Found]
    tokens: int


@dataclass(frozen=True)
class Answer:
    """One that was written. reason: "stop" or "length". tokens: so many, the one that ended it included.

    likely: the tokens of the text with their likelihood, where that is asked for.
    """

    text: str
    reason: str
    tokens: int
    likely: tuple[Token, ...] = ()


class Answers:
    """Args: most: tokens of a text, see `Settings.max_text_tokens`."""

    def __init__(self, runner: Runner, most: int):
        self.runner, self.most = runner, most
        model = runner.model
        self._question = min(model.segment_length, model.tokens_before)
        self._ends = {runner.tokenizer.eos_token_id, *end_tokens(model)}

    def of_memory(self, session: Session, question: str, top: int) -> Prompt:
        """A question to a memory. ValueError as of `Session.ask`."""
        memory, found = session.asked(question, top)
        return self._prompt(memory, question, found, 0)

    def of_turns(self, turns: Turns, top: int, cancel: Cancel) -> Prompt:
        """A conversation, read into a fresh memory; its last message is asked of the others. What is longer
        than a question can be is read, too, and its end is asked."""
        tokenizer = self.runner.tokenizer
        question = last_question(turns)
        if not question.strip():
            raise ApiError(400, "The last message is empty; ask something.", param="messages")
        before, question = split_question(tokenizer, question, self._question)
        history = [*turns[:-1], *([("user", before)] if before else [])]
        session = Session.new("fresh", self.runner)
        text = written(tokenizer, history) if history else ""
        if text.strip():
            check_tokens(tokenizer, text, self.most, "messages")
            session = session.append(Document("messages", text), keep="nothing", progress=cancel.check)
        tokens = sum(one.tokens for one in session.documents)
        memory, found = session.asked(question, top)
        return self._prompt(memory, question, found, tokens)

    def of_text(self, text: str, cancel: Cancel) -> Prompt:
        """A text that is to be continued."""
        runner = self.runner
        check_tokens(runner.tokenizer, text, self.most, "prompt")
        ids = runner.tokenizer(text).input_ids
        if not ids:
            raise ApiError(400, "The prompt is empty; write something.", param="prompt")
        memory = runner.model.new_memory(1)
        step = 8 * runner.model.segment_length
        for at in range(0, len(ids) - 1, step):
            cancel.check()
            memory = runner.read(memory, ids[at : min(at + step, len(ids) - 1)])
        return Prompt(memory, ids[-1:], None, [], len(ids))

    def write(
        self,
        prompt: Prompt,
        options: Options,
        n: int,
        stop: tuple[str, ...],
        cancel: Cancel,
        told: OnPiece | None = None,
    ) -> list[Answer]:
        """`n` answers, with seeds from that of `options` on. told: called with the number of an answer, a
        piece of it, and the `Token`s since the piece before, from several threads in turn."""
        lock = threading.Lock()

        def one(index: int) -> Answer:
            mine = options if options.seed is None else replace(options, seed=_seed(options.seed + index))
            return self._write(prompt, mine, stop, cancel, lambda piece, likely: tell(index, piece, likely))

        def tell(index: int, piece: str, likely: Sequence[Token]) -> None:
            if told is not None:
                with lock:
                    told(index, piece, likely)

        if n == 1:
            return [one(0)]
        with ThreadPoolExecutor(n) as threads:
            try:
                return list(threads.map(one, range(n)))
            except BaseException:
                cancel.set()  # the others end, too
                raise

    def _write(
        self,
        prompt: Prompt,
        options: Options,
        stop: tuple[str, ...],
        cancel: Cancel,
        tell: Callable[[str, Sequence[Token]], None],
    ) -> Answer:
        writer = Writer(self.runner.tokenizer, stop, strip=prompt.question is not None)
        likely: list[Token] = []
        told = 0

        def tell_new(piece: str, last: bool = False) -> None:
            nonlocal told
            if piece or (last and told < len(likely)):
                tell(piece, likely[told:])
                told = len(likely)

        def on_token(token: int) -> bool:
            cancel.check()
            if token not in self._ends:
                piece = writer.add(token)
                if isinstance(token, Token) and not (writer.stopped and not piece):
                    likely.append(token)
                tell_new(piece)
            return writer.stopped

        ids = self.runner.generate(prompt.memory, prompt.header, options, on_token)
        cancel.check()
        tell_new(writer.end(), last=True)
        ended = writer.stopped or (bool(ids) and ids[-1] in self._ends)
        return Answer(writer.text, "stop" if ended else "length", len(ids), tuple(likely))

    def _prompt(self, memory: Any, question: str, found: list[Found], read: int) -> Prompt:
        tokenizer = self.runner.tokenizer
        header = answer_header(tokenizer)
        tokens = read + len(question_ids(tokenizer, question)) + len(header)
        return Prompt(memory, header, question, found, tokens)


def keep(memories: Memories, name: str, prompt: Prompt, answer: Answer, cancel: Cancel) -> None:
    """Keep the turn in the memory that was asked, when it was answered."""
    assert prompt.question is not None
    if answer.text.strip():
        memories.keep_turn(name, prompt.question, answer.text, prompt.passages, cancel)


def _seed(seed: int) -> int:
    """Within 64 bits with sign."""
    return (seed + 2**63) % 2**64 - 2**63
