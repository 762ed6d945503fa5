"""Long work on a session in steps that can each be saved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hmt.asking.places import Document, ReadDocument
from hmt.asking.reading import batches
from hmt.data.files import lone_surrogate
from hmt.sessions.documents import Remembered, digest_of
from hmt.sessions.session import Session


@dataclass(frozen=True)
class Step:
    """A document that is read, so far.

    Attributes:
        session: with what was read of it, and its text up to there, as if that were all of it.
        tokens: read of it. total: about what there is; None where that is not known.
        done: it is read to its end.
    """

    session: Session
    tokens: int
    total: float | None
    done: bool


def append_steps(session: Session, document: Document) -> Iterator[Step]:
    """`session.append(document)` in steps of a few segments; the session of the last one is what it returns.

    What is cut off after any step is whole: a shorter document. ValueError as of `append`.
    """
    for part in (document.name, document.text):
        if (at := lone_surrogate(part)) is not None:
            raise ValueError(f"the text is no text: its character {at + 1} is {part[at]!r}")
    name, text = document.name.strip(), document.text
    if not text.strip():
        raise ValueError(f"{name or 'the document'} holds no text")
    runner, memory, read = session.runner, session.memory, ReadDocument()
    length, number = runner.model.segment_length, f"d{session.made + 1}"
    first = int(memory.segments_read)
    steps = batches(runner.tokenizer, text, False, read, length)
    now = next(steps, None)
    if now is None:
        raise ValueError(f"the tokenizer makes no tokens of {name or 'the document'}")
    while now is not None:
        ids, begins, ahead, share = now
        total = (read.tokens + ahead) * len(text) / share if share else None
        memory = runner.read(memory, ids)
        read = read.then(begins, length)
        now = next(steps, None)
        end = len(text) if now is None else now[1][0]
        memory = runner.close(memory) if now is None else memory
        kept = text if end is None else text[:end]
        one = Remembered(
            number, name or number, "document", read, first, digest_of(kept), kept,
            tuple(mark for mark in document.marks if mark.at <= len(kept)), document.lined,
        )  # fmt: skip
        so_far = replace(
            session,
            memory=memory if now is None else runner.close(memory),
            documents=(*session.documents, one),
            made=session.made + 1,
            updated=time.time(),
        )
        yield Step(so_far, read.tokens, total, now is None)
