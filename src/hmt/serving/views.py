"""Memories, documents and passages as they are sent."""

from __future__ import annotations

from typing import Any

from hmt.sessions import Found, Session, Stored, Turn


def passage_view(found: Found, question: str | None = None) -> dict[str, Any]:
    """A passage. question: what it was recalled for; None: nothing."""
    return {
        "segment": found.segment,
        "weight": None if question is None else round(found.weight, 6),
        "read_again": found.read_again,
        "document": found.file,
        "document_id": found.document,
        "page": found.section,
        "line": found.line,
        "characters": list(found.characters) if found.characters else None,
        "tokens": list(found.tokens),
        "text": found.text,
        "context": found.context(question) if question is not None and found.text is not None else None,
    }


def annotation(found: Found, index: int) -> dict[str, Any]:
    """A passage as an annotation of an answer. index: where in it, the end."""
    return {
        "type": "file_citation",
        "file_id": found.document,
        "filename": found.file,
        "index": index,
        "segment": found.segment,
        "weight": round(found.weight, 6),
    }


def sizes(session: Session) -> dict[str, int]:
    """Tokens that were read, bytes of the memory, and bytes that full attention would keep of them."""
    return {
        "tokens": session.tokens,
        "bytes": session.memory.nbytes,
        "kv_cache_bytes": session.kv_cache_bytes,
    }


def memory_view(session: Session, turns: bool = False) -> dict[str, Any]:
    """A memory. turns: with what it was asked and is to remember."""
    held = [session.held(one) for one in session.documents]
    documents = []
    for one, there in zip(session.documents, held, strict=True):
        documents.append(
            {
                "id": one.id,
                "object": "memory.document",
                "name": one.name,
                "kind": one.kind,
                "tokens": one.tokens,
                "segments": [there.start, there.stop] if there else [0, 0],
                "characters": None if one.text is None else len(one.text),
            }
        )
    view = {
        "id": session.name,
        "object": "memory",
        "name": session.name,
        "created_at": int(session.created),
        "updated_at": int(session.updated),
        "version": session.version,
        **sizes(session),
        "segments": sum(one.segments for one in session.documents),
        "segments_held": sum(map(len, held)),
        "capacity": session.capacity,
        "documents": documents,
    }
    if turns:
        view["turns"] = [_turn(turn) for turn in session.turns]
    return view


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "question": turn.question,
        "answer": turn.answer,
        "document_id": turn.remembered,
        "created_at": int(turn.created),
        "passages": [passage_view(one, turn.question) for one in turn.passages],
    }


def stored_view(stored: Stored) -> dict[str, Any]:
    """A memory in a list."""
    return {
        "id": stored.name,
        "object": "memory",
        "name": stored.name,
        "created_at": int(stored.created),
        "updated_at": int(stored.updated),
        "version": stored.version,
        "tokens": stored.tokens,
        "documents": stored.documents,
        "stored_bytes": stored.bytes,
        "damaged": stored.damaged is not None,
    }
