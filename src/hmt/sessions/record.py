"""A session as bytes: a record that says what there is, and parts that hold it. Nothing here needs a model.

The record is JSON with the SHA-256 of every part, and of itself; it is written in one way only, so that any
changed byte is found. Parts are the memory file, and the texts that are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

from hmt.asking.found import Found
from hmt.sessions.documents import Remembered, Turn, digest_of
from hmt.sessions.names import check_name
from hmt.sessions.runner import Runner
from hmt.sessions.session import Session

FORMAT = "hmt-session"
FORMAT_VERSION = 1
MEMORY = "memory"
_TEXT = "text-"


class Damaged(ValueError):
    """What is stored is not what was written."""


@dataclass(frozen=True)
class Part:
    """file: where it is. size: bytes. sha256: of them, in hex."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What a manifest says. Attributes as of `Session`; parts: by what they are."""

    name: str
    uid: str
    version: int
    created: float
    updated: float
    made: int
    model: str
    documents: tuple[Remembered, ...]
    turns: tuple[Turn, ...]
    parts: dict[str, Part] = field(default_factory=dict)
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    @property
    def tokens(self) -> int:
        """Of all documents together."""
        return sum(one.tokens for one in self.documents)


class Snapshot(NamedTuple):
    """A record and its parts."""

    record: Record
    parts: Mapping[str, bytes]


# -- sessions ------------------------------------------------------------------------------------------------


def to_snapshot(session: Session) -> Snapshot:
    """The session as it is now; ValueError where its model was trained since."""
    texts = {_TEXT + one.digest: one.text.encode() for one in session.documents if one.text is not None}
    kept = {one.id for one in session.documents if one.text is not None}
    parts = {MEMORY: session.memory.to_bytes(verify=False), **texts}
    record = Record(
        name=session.name,
        uid=session.uid,
        version=session.version,
        created=session.created,
        updated=session.updated,
        made=session.made,
        model=session.memory.identity.model,
        documents=tuple(replace(one, text=None) for one in session.documents),
        turns=tuple(_without_texts(turn, kept) for turn in session.turns),
        parts={label: Part("", len(data), sha256(data)) for label, data in parts.items()},
    )
    return Snapshot(record, parts)


def to_session(snapshot: Snapshot, runner: Runner, reread: bool = False) -> Session:
    """The session on a runner.

    reread: read its texts again where its memory is of another model. ValueError for a memory of another
    model, and `Damaged` for what does not fit together.
    """
    from hmt.memory.memory import Memory

    record, parts = snapshot
    where = f"the memory of session {record.name}"
    documents = _documents(record, parts)
    texts = {one.id: one.text for one in documents if one.text is not None}
    turns = tuple(_with_texts(turn, texts) for turn in record.turns)
    fields = (record.version, record.uid, record.created, record.updated, record.made)
    try:
        memory = Memory.from_bytes(parts[MEMORY], model=runner.model, source=where)
    except ValueError:
        if not reread:
            raise
        empty = runner.model.new_memory(1)
        return Session(record.name, empty, runner, documents, turns, *fields).reread()
    check_fits(record, memory, runner.model.segment_length)
    return Session(record.name, memory, runner, documents, turns, *fields)


def check_fits(record: Record, memory: Any, length: int) -> None:
    """`Damaged` unless the documents are what the memory holds. length: tokens of a whole segment."""
    segments, place = int(memory.segments_read[0]), 0
    ids = [one.id for one in record.documents]
    whole = memory.batch_size == 1 and not int(memory.open_lengths[0]) and len(set(ids)) == len(ids)
    for one in record.documents:
        whole = whole and 0 < one.tokens and one.segments == -(-one.tokens // length)
        if one.first + one.segments > 0:  # else the memory has lost all of it
            whole = whole and max(one.first, 0) == place
            place = one.first + one.segments
    known = {None, *ids}
    whole = whole and all(turn.remembered in known for turn in record.turns)
    if not whole or place != segments:
        raise Damaged(f"session {record.name} is damaged: its documents are not those of its memory")


def _documents(record: Record, parts: Mapping[str, bytes]) -> tuple[Remembered, ...]:
    documents = []
    for one in record.documents:
        text = None
        if one.keep == "text":
            data = parts.get(_TEXT + one.digest)
            try:
                text = None if data is None else data.decode()
            except UnicodeDecodeError:
                text = None
            if text is None or digest_of(text) != one.digest:
                raise Damaged(f"session {record.name} is damaged: the text of {one.name} is not there")
        marks = [at for at in one.read.begins if at is not None]
        if marks != sorted(marks) or (marks and (marks[0] < 0 or marks[-1] > len(text or "") and text)):
            raise Damaged(f"session {record.name} is damaged: {one.name} has no such places")
        documents.append(replace(one, text=text))
    return tuple(documents)


def _without_texts(turn: Turn, kept: set[str]) -> Turn:
    """A turn whose passages leave out what stands in documents whose text is kept."""
    return replace(
        turn,
        passages=tuple(
            replace(one, text=None) if one.document in kept and one.characters else one
            for one in turn.passages
        ),
    )


def _with_texts(turn: Turn, texts: Mapping[str, str]) -> Turn:
    passages: list[Found] = []
    for one in turn.passages:
        text = texts.get(one.document or "")
        if one.text is None and text is not None and one.characters:
            one = replace(one, text=text[slice(*one.characters)])
        passages.append(one)
    return replace(turn, passages=tuple(passages))


# -- bytes ---------------------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()


def record_bytes(record: Record) -> bytes:
    """The manifest: JSON in one way only."""
    body = json.loads(_dumped(asdict(record)))
    return _dumped({"body": body, "sha256": sha256(_dumped(body))})


def parse_record(data: bytes, where: Any) -> Record:
    """What `record_bytes` wrote. `Damaged` for anything else; ValueError for another version's."""
    from pydantic import ValidationError

    try:
        found = json.loads(data)
        body = found["body"]
        if _dumped(found) != data or found["sha256"] != sha256(_dumped(body)):
            raise ValueError("it is not what was written")
        if body.get("format") != FORMAT:
            raise ValueError("it is none")
        if body.get("format_version") != FORMAT_VERSION:
            version = body.get("format_version")
            raise _Newer(
                f"{where} has session format version {version!r}, this library reads {FORMAT_VERSION}"
            )
        record: Record = _adapter().validate_python(body, strict=False)
        check_name(record.name)
        if MEMORY not in record.parts:
            raise ValueError("it names no memory")
    except _Newer:
        raise
    except ValidationError as error:
        raise Damaged(f"{where} is no manifest of a session: {error.errors()[0]['msg']}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where} is damaged: {str(error)[:80]}") from None
    return record


class _Newer(ValueError):
    """Of another version."""


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Record)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
