"""Session: a memory, the documents it has read, and the questions it was asked. A value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hmt.asking.books import Answer
from hmt.asking.found import Found
from hmt.asking.places import Document, ReadDocument
from hmt.asking.reading import Progress, batches
from hmt.data.files import lone_surrogate
from hmt.model.asking import answer_header, check_question, question_ids
from hmt.sessions.documents import KEEPS, Keep, Kind, Remembered, Turn, digest_of
from hmt.sessions.names import check_name
from hmt.sessions.runner import OnToken, Options, Runner
from hmt.util.kv_cache import kv_cache_bytes

if TYPE_CHECKING:
    from hmt.memory.memory import Memory


@dataclass(frozen=True, eq=False)
class Session:
    """What a model has read and was asked under one name. Nothing changes it: operations return a new one.

    All work of the model is done by `runner`, one call at a time, so an operation blocks; several sessions,
    or several operations on one, may run in threads of their own.

    Attributes:
        name: see `check_name`.
        memory: of one stream, without an open segment.
        runner: who runs the model; never saved, see `on`.
        documents: what it has read, in the order of the memory.
        turns: what it was asked, oldest first.
        version: of what was saved; 0: never. uid: of the session it was saved as.
        created, updated: seconds since 1970.
        made: documents that were ever read, so that no id is given twice.
    """

    name: str
    memory: Memory
    runner: Runner = field(repr=False)
    documents: tuple[Remembered, ...] = ()
    turns: tuple[Turn, ...] = ()
    version: int = 0
    uid: str = ""
    created: float = 0.0
    updated: float = 0.0
    made: int = 0

    @classmethod
    def new(cls, name: str, runner: Runner) -> Session:
        """One that has read nothing. ValueError for a bad name, and for a model that cannot be asked."""
        check_question(runner.model, [])
        now = time.time()
        return cls(check_name(name), runner.model.new_memory(1), runner, created=now, updated=now)

    def on(self, runner: Runner) -> Session:
        """The same session on another runner of the same model."""
        return replace(self, runner=runner, memory=runner.model.adopt(self.memory, f"session {self.name}"))

    # -- documents ------------------------------------------------------------------------------------------

    def append(
        self,
        document: str | Document,
        name: str | None = None,
        *,
        keep: Keep = "text",
        progress: Progress | None = None,
    ) -> Session:
        """With one more document, which is the last of `documents` then.

        Args:
            document: a text, or a `Document` with the marks of its pages.
            name: what its passages are shown under; None: that of the `Document`, or its id.
            keep: what stays beside the memory: the text (so that passages are shown as they stand there, with
                lines, and can be read again where memory alone cannot forget), the offsets of its segments,
                or nothing. The memory itself holds the tokens of its segments in any case.
            progress: called as progress(tokens read, of so many or None).
        ValueError for what holds no text.
        """
        return self._read(document, name, keep, "document", progress=progress)

    def replace(
        self,
        document_id: str,
        document: str | Document,
        name: str | None = None,
        *,
        keep: Keep = "text",
        progress: Progress | None = None,
    ) -> Session:
        """With a document forgotten and another one read under its id.

        It stands where the newest stands: when the memory is full, what was read last is kept longest. name:
        None keeps the old one. Other arguments and errors as of `append` and `forget`.
        """
        before = self.document(document_id)
        if name is None and isinstance(document, str):
            name = before.name
        return self.forget(document_id)._read(document, name, keep, before.kind, document_id, progress)

    def forget(self, document_id: str, progress: Progress | None = None) -> Session:
        """Without a document: its memory is as if the document had never been read.

        Of a model that `forgets` its segments are taken out of the memory. (Where the memory was too small
        for all that was read, segments of other documents that it had lost do not come back; `reread` reads
        them again.) Of any other model the other documents are read again. Its passages leave the turns that
        quote them; what was answered stays, so this takes back a text, not what was said about it. ValueError
        where others would have to be read again and their text was not kept.
        """
        gone = self.document(document_id)
        model = self.runner.model
        others = tuple(one for one in self.documents if one is not gone)
        turns = tuple(
            replace(turn.without(gone.id), remembered=None if turn.remembered == gone.id else turn.remembered)
            for turn in self.turns
        )
        left = replace(self, documents=others, turns=turns, updated=time.time())
        if not model.forgets:
            return left.reread(progress)
        begin = self._oldest
        out = list(self.held(gone))
        memory = model.without(self.memory, out) if out else self.memory
        if not out:
            return replace(left, memory=memory)
        # the segments that stay are numbered from 0 now
        moved = []
        for one in others:
            held = one.held(begin)
            first = -one.segments
            if held:
                number = one.first + held.start
                first = number - begin - sum(segment < number for segment in out) - held.start
            moved.append(replace(one, first=first))
        return replace(left, memory=memory, documents=tuple(moved))

    def reread(self, progress: Progress | None = None, runner: Runner | None = None) -> Session:
        """With all documents read again from their texts, in their order, into a new memory.

        runner: of another model, to which the session is taken so. ValueError, naming the first, where a text
        was not kept.
        """
        runner = runner or self.runner
        for one in self.documents:
            if one.text is None:
                raise ValueError(
                    f"{one.name} ({one.id}) would have to be read again, and its text was not kept: read it "
                    'anew with keep="text"'
                )
        now = replace(self, memory=runner.model.new_memory(1), runner=runner, documents=())
        for one in self.documents:
            assert one.text is not None
            document = Document(one.name, one.text, one.marks, one.lined)
            now = now._read(document, None, one.keep, one.kind, one.id, progress)
        return replace(now, made=self.made)

    def document(self, document_id: str) -> Remembered:
        """The document of that id. ValueError, with the ids there are, where there is none."""
        for one in self.documents:
            if one.id == document_id:
                return one
        known = ", ".join(f"{one.id} ({one.name})" for one in self.documents) or "none"
        raise ValueError(f"session {self.name} has no document {document_id!r}; it has {known}")

    def _read(
        self,
        document: str | Document,
        name: str | None,
        keep: Keep,
        kind: Kind,
        document_id: str | None = None,
        progress: Progress | None = None,
    ) -> Session:
        given = document if isinstance(document, Document) else Document("", document)
        if keep not in KEEPS:
            raise ValueError(f"keep is one of {', '.join(KEEPS)}, not {keep!r}")
        made = self.made + (document_id is None)
        document_id = document_id or f"d{made}"
        shown = (given.name if name is None else name).strip() or document_id
        text = given.text
        for what, part in (("the name", shown), (shown, text)):
            if (at := lone_surrogate(part)) is not None:
                raise ValueError(f"{what} is not text: its character {at + 1} is {part[at]!r}")
        if not text.strip():
            raise ValueError(f"{shown} holds no text")
        memory, read = self._read_text(text, progress)
        if not read.tokens:
            raise ValueError(f"the tokenizer makes no tokens of {shown}")
        marks = given.marks
        if keep == "nothing":
            read, marks = ReadDocument(read.tokens, (None,) * len(read.begins)), ()
        one = Remembered(
            document_id, shown, kind, read, int(self.memory.segments_read), digest_of(text),
            text if keep == "text" else None, marks, given.lined, keep,
        )  # fmt: skip
        documents = (*self.documents, one)
        return replace(self, memory=memory, documents=documents, made=made, updated=time.time())

    def _read_text(self, text: str, progress: Progress | None) -> tuple[Memory, ReadDocument]:
        """The memory behind a text, from a segment of its own, and where its segments begin."""
        runner, memory, read = self.runner, self.memory, ReadDocument()
        for ids, begins, ahead, share in batches(runner.tokenizer, text, False, read, self._length):
            done, total = read.tokens, (read.tokens + ahead) * len(text) / share if share else None
            memory = runner.read(memory, ids, _telling(progress, done, total))
            read = read.then(begins, self._length)
            if progress is not None:  # the last tokens are no whole segment
                progress(read.tokens, total)
        return runner.close(memory), read

    # -- asking ---------------------------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        *,
        top: int = 4,
        options: Options | None = None,
        remember: bool = False,
        on_passages: Callable[[list[Found]], None] | None = None,
        on_token: OnToken | None = None,
    ) -> tuple[Answer, Session]:
        """The answer to a question, and the session with this turn in its history.

        The question is asked of what was read, not of the turns before it.

        Args:
            top: passages to give with the answer, at most.
            options: how it is written; None: greedily.
            remember: read question and answer into the memory, too, as a document of kind "turn". By default
                they are not: nothing shares more words with a question than the last one about the same
                thing, so it would be recalled in place of the book.
            on_passages: called with what was recalled before the first token is written.
            on_token: see `Runner.generate`; what it raises leaves no turn behind.
        ValueError for a question that is empty or too long.
        """
        asked, passages = self.asked(question, top)
        if on_passages is not None:
            on_passages(passages)
        tokenizer = self.runner.tokenizer
        ids = self.runner.generate(asked, answer_header(tokenizer), options or Options(), on_token)
        answer = tokenizer.decode(ids, skip_special_tokens=True).strip()
        after = self.with_turn(question, answer, tuple(passages), remember)
        return Answer(question, answer, passages, tuple(ids)), after

    def recall(self, text: str, top: int = 4) -> list[Found]:
        """What is recalled for a text, by weight, at most `top` passages. ValueError as of `ask`."""
        return self.asked(text, top)[1]

    def asked(self, question: str, top: int = 4) -> tuple[Memory, list[Found]]:
        """The memory that a question was put to, to be answered behind `answer_header`, and what is recalled
        for it, by weight, at most `top` passages. ValueError as of `ask`."""
        ids = question_ids(self.runner.tokenizer, question)
        check_question(self.runner.model, ids)
        memory = self.runner.close(self.runner.read(self.memory, ids))
        return memory, self._found(self.runner.recalled(memory, top)) if self.documents else []

    def with_turn(
        self, question: str, answer: str, passages: tuple[Found, ...] = (), remember: bool = True
    ) -> Session:
        """With a turn in its history that was answered elsewhere, or from an earlier version.

        remember: read it into the memory, too, as `ask` does.
        """
        after, remembered = self, None
        if remember:
            after = self._read(turn_text(question, answer), f"turn {len(self.turns) + 1}", "text", "turn")
            remembered = after.documents[-1].id
        turn = Turn(question.strip(), answer, passages, remembered, time.time())
        return replace(after, turns=(*self.turns, turn), updated=turn.created)

    def _found(self, passages: Iterable[Any]) -> list[Found]:
        found = []
        for passage in passages:
            decoded = None
            if passage.ids is not None:
                decoded = self.runner.tokenizer.decode(passage.ids, skip_special_tokens=True)
            one = next(
                one for one in self.documents if one.first <= passage.segment < one.first + one.segments
            )
            found.append(one.found(passage, decoded, self._length))
        return found

    # -- history --------------------------------------------------------------------------------------------

    def undo(self, turns: int = 1) -> Session:
        """Without the last turns; those that were remembered are forgotten. ValueError for more than there
        are."""
        if not 1 <= turns <= len(self.turns):
            raise ValueError(f"there are {len(self.turns)} turns, so {turns} of them cannot be taken back")
        left = self
        for turn in reversed(self.turns[len(self.turns) - turns :]):
            if turn.remembered is not None:
                left = left.forget(turn.remembered)
        return replace(left, turns=left.turns[: len(self.turns) - turns], updated=time.time())

    def edit_turn(self, index: int, *, question: str | None = None, answer: str | None = None) -> Session:
        """With other words in a turn, counted from 0; one that was remembered is remembered so. ValueError
        for a turn that there is not, and for an empty question."""
        if not 0 <= index < len(self.turns):
            raise ValueError(f"there are {len(self.turns)} turns, and none with the number {index}")
        turn = self.turns[index]
        new = replace(
            turn,
            question=turn.question if question is None else question.strip(),
            answer=turn.answer if answer is None else answer.strip(),
        )
        if not new.question:
            raise ValueError("the question is empty; ask something")
        left = self
        if turn.remembered is not None:
            left = self.replace(turn.remembered, turn_text(new.question, new.answer))
        turns = (
            replace(one, question=new.question, answer=new.answer, remembered=turn.remembered)
            if place == index
            else one
            for place, one in enumerate(left.turns)
        )
        return replace(left, turns=tuple(turns), updated=time.time())

    # -- the whole ------------------------------------------------------------------------------------------

    def fork(self, name: str) -> Session:
        """The same under another name, never saved."""
        now = time.time()
        return replace(self, name=check_name(name), version=0, uid="", created=now, updated=now)

    def info(self) -> dict[str, Any]:
        """Plain values: documents, turns, tokens, segments held and lost, and bytes."""
        memory = self.memory
        documents = [
            {
                "id": one.id,
                "name": one.name,
                "kind": one.kind,
                "tokens": one.tokens,
                "segments": one.segments,
                "held": len(self.held(one)),
                "keep": one.keep,
            }
            for one in self.documents
        ]
        return {
            "name": self.name,
            "version": self.version,
            "created": self.created,
            "updated": self.updated,
            "documents": documents,
            "turns": len(self.turns),
            "tokens": self.tokens,
            "segments": sum(one.segments for one in self.documents),
            "segments_held": sum(one["held"] for one in documents),
            "segments_most": self.capacity,
            "memory_bytes": memory.nbytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "model": memory.identity.model,
            "system": memory.identity.system,
            "fingerprint": memory.identity.fingerprint.values[:16],
        }

    @property
    def tokens(self) -> int:
        """Read, of all documents."""
        return sum(one.tokens for one in self.documents)

    @property
    def kv_cache_bytes(self) -> int:
        """What full attention would keep of these tokens."""
        model = self.runner.model
        config = model.config.text_config.get_text_config()
        return kv_cache_bytes(config, self.tokens, model.dtype.itemsize)

    def held(self, document: Remembered) -> range:
        """The segments of a document that the memory still holds, by their numbers in it."""
        inside = document.held(self._oldest)
        return range(document.first + inside.start, document.first + inside.stop)

    @property
    def capacity(self) -> int:
        """Segments that the memory can hold."""
        return self.runner.model.retrieval.held(self.memory.segments_read).shape[1]

    @property
    def _oldest(self) -> int:
        """The first segment that the memory still holds."""
        return max(0, int(self.memory.segments_read) - self.capacity)

    @property
    def _length(self) -> int:
        return self.runner.model.segment_length


def turn_text(question: str, answer: str) -> str:
    """A turn as it is remembered."""
    return f"{question.strip()}\n{answer}\n"


def _telling(progress: Progress | None, done: int, total: float | None) -> Callable[[int], None] | None:
    return None if progress is None else lambda more: progress(done + more, total)
