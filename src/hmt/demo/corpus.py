"""Text that every Python installation has: the interpreter's own library sources and documentation."""

from __future__ import annotations

import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# Generated tables and tests are long, repetitive and not prose anybody reads.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "encodings", "__pycache__", "idlelib"}
_SHORTEST = 2_000  # characters: shorter files teach nothing about long text


@dataclass(frozen=True)
class Corpus:
    """Documents as (name, text) pairs; the held-out ones are never trained on."""

    train: list[tuple[str, str]]
    held_out: list[tuple[str, str]]

    @property
    def longest(self) -> tuple[str, str]:
        """The longest held-out document: the one the demo reads into a memory file."""
        return max(self.held_out, key=lambda pair: len(pair[1]))


def library_documents() -> list[tuple[str, str]]:
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
            documents.append((str(name), text))
    if not documents:
        raise ValueError(f"this Python has no library sources under {root}; give the demo a text with --text")
    return documents


def user_documents(paths: list[str]) -> list[tuple[str, str]]:
    """The user's own files, folders or data sets as documents; a single long one is cut into parts."""
    from hmt.data import load_documents

    rows = load_documents(paths)
    documents = [(row["name"], row["text"]) for row in rows]
    if len(documents) < 8:
        documents = [part for name, text in documents for part in _parts(name, text, 16)]
    return documents


def _parts(name: str, text: str, number: int) -> list[tuple[str, str]]:
    size = max(1, -(-len(text) // number))
    return [(f"{name} [{i // size + 1}]", text[i : i + size]) for i in range(0, len(text), size)]


def make_corpus(
    paths: list[str] | None = None, *, seed: int = 0, held_out: int = 12, long_enough: int = 30_000
) -> Corpus:
    """Split documents at random into training and held-out ones.

    Args:
        paths: the user's text; None means the interpreter's own.
        held_out: number of held-out documents, fewer where the corpus is small.
        long_enough: characters a held-out document should have, so that a long history fits before its
            targets.
    """
    documents = user_documents(paths) if paths else library_documents()
    if len(documents) < 2:
        raise ValueError("the demo needs at least two documents: one to train on and one to hold out")
    random.Random(seed).shuffle(documents)
    candidates = [d for d in documents if len(d[1]) >= long_enough and not d[0].startswith("pydoc_data")]
    if not candidates:
        candidates = sorted(documents, key=lambda d: -len(d[1]))
    chosen = candidates[: max(1, min(held_out, len(documents) // 4))]
    names = {name for name, _ in chosen}
    return Corpus([d for d in documents if d[0] not in names], chosen)
