"""Text that every Python installation has: the interpreter's own library sources."""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Sequence
from pathlib import Path

# Generated tables and tests are long, repetitive and not prose anybody reads.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "encodings", "__pycache__", "idlelib"}
_SHORTEST = 2_000  # characters: shorter files teach nothing about long text
_LONG = 30_000  # characters of a held-out document, so that a long history fits before its targets
_HELD_OUT, _FEWEST = 12, 8  # documents

Document = dict[str, str]  # its name and text


def library_documents() -> list[Document]:
    """Sources of the standard library, and the language reference that `help()` shows: one document each."""
    root = Path(sysconfig.get_paths()["stdlib"])
    documents = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _SKIPPED_FOLDERS & set(name.parts) or name.parts[0].startswith("config-"):
            continue
        try:
            text = path.read_text("utf-8")
        except (UnicodeDecodeError, OSError):  # a few files are meant not to be UTF-8
            continue
        if len(text) >= _SHORTEST:
            documents.append({"name": str(name), "text": text})
    if not documents:
        raise ValueError(f"this Python has no library sources under {root}; give the demo a text with --text")
    return documents


def user_documents(paths: Sequence[str]) -> list[Document]:
    """The user's own files, folders or data sets as documents; a few long ones are cut into parts."""
    from hmt.data import load_documents

    documents = [{"name": row["name"], "text": row["text"]} for row in load_documents(list(paths))]
    return documents if len(documents) >= _FEWEST else [part for one in documents for part in _parts(one, 16)]


def _parts(document: Document, number: int) -> list[Document]:
    text, size = document["text"], max(1, -(-len(document["text"]) // number))
    return [
        {"name": f"{document['name']} [{i // size + 1}]", "text": text[i : i + size]}
        for i in range(0, len(text), size)
    ]


def make_corpus(paths: Sequence[str] = (), seed: int = 0) -> tuple[list[Document], list[Document]]:
    """Documents to train on and held-out ones, drawn at random. paths: a text instead of Python's own."""
    documents = user_documents(paths) if paths else library_documents()
    if len(documents) < 2:
        raise ValueError("the demo needs at least two documents: one to train on and one to hold out")
    random.Random(seed).shuffle(documents)
    candidates = [d for d in documents if len(d["text"]) >= _LONG and not d["name"].startswith("pydoc_data")]
    if not candidates:
        candidates = sorted(documents, key=lambda document: -len(document["text"]))
    held_out = candidates[: max(1, min(_HELD_OUT, len(documents) // 4))]
    names = {document["name"] for document in held_out}
    return [document for document in documents if document["name"] not in names], held_out
