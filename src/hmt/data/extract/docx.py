"""DOCX: paragraphs, and tables row by row; headings as sections."""

from __future__ import annotations

import io
from typing import Any

from hmt.data.extract.limits import Limits, Unreadable
from hmt.data.extract.packed import Packed
from hmt.data.marks import Mark


def read(data: bytes, where: str, limits: Limits) -> tuple[str, list[Mark]]:
    """Text, and a mark at each heading."""
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable(f"{where} is encrypted, or of an older Word; save it as .docx without a password")
    Packed(data, where, limits)
    import docx

    document = docx.Document(io.BytesIO(data))
    pieces: list[str] = []
    marks, at = [], 0
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            text = "\n".join("\t".join(_cells(row)) for row in block.rows)
        else:
            text = block.text.strip()
            name = (block.style.name if block.style is not None else "") or ""
            if text and (name.startswith("Heading") or name == "Title"):
                marks.append(Mark(at, f"section: {' '.join(text.split())[:80]}"))
        if not text.strip():
            continue
        pieces.append(text + "\n\n")
        at += len(pieces[-1])
    return "".join(pieces), marks


def _cells(row: Any) -> list[str]:
    """The texts of a row; a cell that spans several columns counts once."""
    texts, before = [], None
    for cell in row.cells:
        if cell._tc is not before:
            texts.append(" ".join(cell.text.split()))
        before = cell._tc
    return texts
