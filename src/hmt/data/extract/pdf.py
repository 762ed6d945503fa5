"""PDF: the text of its pages."""

from __future__ import annotations

import io
import logging

from hmt.data.extract.limits import Limits, Unreadable
from hmt.data.marks import Mark


def read(data: bytes, where: str, limits: Limits) -> tuple[str, list[Mark]]:
    """Text, and a mark at each page that has some."""
    from pypdf import PasswordType, PdfReader
    from pypdf.errors import DependencyError

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of every oddity of a file
    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        try:
            opens = reader.decrypt("") != PasswordType.NOT_DECRYPTED
        except DependencyError:
            opens = False
        if not opens:
            raise Unreadable(f"{where} is encrypted; save it without a password first")
    number = len(reader.pages)
    if number > limits.pages:
        raise Unreadable(f"{where} has {number:,} pages, and {limits.pages:,} are the most here")
    pieces: list[str] = []
    marks, at = [], 0
    for index in range(number):
        text = reader.pages[index].extract_text().strip()
        if not text:
            continue
        marks.append(Mark(at, f"page {index + 1}"))
        pieces.append(text + "\n\n")
        at += len(pieces[-1])
        if at > limits.characters:
            break  # the caller says so
    return "".join(pieces), marks
