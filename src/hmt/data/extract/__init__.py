"""The text of files of many formats, and which of its characters are of which page or section.

    extract("book.pdf").text
    extract(upload, "notes.md").marks

PDF, EPUB, DOCX and HTML take the extra `files`. Whatever a file holds, what comes out is its text or a
ValueError of one line.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hmt.data.extract.limits import Limits, Unreadable
from hmt.data.files import COMPRESSED, EmptyFileError, file_kind, lone_surrogate, opened, read_text
from hmt.data.marks import Mark

__all__ = ["EXTRACTED", "Extracted", "Limits", "Unreadable", "extract"]

_HTML = (".html", ".htm", ".xhtml")
_MARKDOWN = (".md", ".markdown")
#: Suffixes of files that are no plain text, and are taken apart here.
EXTRACTED = {".pdf", ".epub", ".docx", *_HTML}
_EPUB = rb"PK\x03\x04.{26}mimetypeapplication/epub\+zip"
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True)
class Extracted:
    """A text and its pages or sections.

    Attributes:
        text: line ends are one character.
        marks: where they begin, in order; empty where there are none.
        lined: whether lines of the text are lines of the file.
    """

    text: str
    marks: tuple[Mark, ...] = ()
    lined: bool = True


def extract(
    source: str | os.PathLike | bytes,
    name: str | None = None,
    *,
    encoding: str = "utf-8",
    errors: str = "strict",
    limits: Limits | None = None,
) -> Extracted:
    """The text of one file: PDF, EPUB, DOCX, HTML, Markdown, or any other text.

    Args:
        source: a path, a URL that fsspec knows, "-" for stdin, or the bytes of a file.
        name: of the file, whose suffix says what it is, and which errors speak of; None: that of the path.
            PDF and EPUB are known by how they begin, too. Compressed as .gz, .bz2 and .xz are.
        encoding, errors: of text files, as of `load_documents`; HTML says its own.
        limits: what is too large to be read.
    ValueError for what is damaged, encrypted, too large, of another format, or holds no text; `Unreadable` of
    the formats that are no plain text.
    """
    limits = limits or Limits()
    where = name or ("the file" if isinstance(source, bytes) else "stdin" if source == "-" else str(source))
    data = _bytes(source, where, limits)
    kind = file_kind(where)
    if data.startswith(b"%PDF-"):
        kind = ".pdf"
    elif re.match(_EPUB, data[:80], re.DOTALL):
        kind = ".epub"
    if kind in EXTRACTED:
        text, marks = _in_words(_reader(kind), data, where, limits)
        if not text.strip():
            raise _without_text(kind, where)
        return Extracted(text, tuple(marks), lined=False)
    text = read_text(data, encoding, errors, where=where)
    return Extracted(text, tuple(_headings(text)) if kind in _MARKDOWN else ())


def _bytes(source: str | os.PathLike | bytes, where: str, limits: Limits) -> bytes:
    """All of a file, decompressed. `Unreadable` beyond the limit."""
    with opened(source) as (raw, size):
        packed = Path(where).suffix.lower() in COMPRESSED
        if size > limits.bytes and not packed:
            raise limits.too_large(where, size)
        handle = COMPRESSED[Path(where).suffix.lower()](raw, "rb") if packed else raw
        try:
            data = handle.read(limits.bytes + 1)
        except Exception as error:  # each packer has errors of its own
            raise Unreadable(f"{where} is damaged, or not what its name says: {_line(error)}") from None
    if len(data) > limits.bytes:
        raise limits.too_large(where)
    return data


def _reader(kind: str) -> Callable[..., tuple[str, list[Mark]]]:
    from importlib import import_module

    module = "html" if kind in _HTML else kind[1:]
    return import_module(f"hmt.data.extract.{module}").read


def _in_words(
    read: Callable[..., tuple[str, list[Mark]]], data: bytes, where: str, limits: Limits
) -> tuple[str, list[Mark]]:
    try:
        text, marks = read(data, where, limits)
    except Unreadable:
        raise
    except ImportError as error:
        raise ValueError(
            f'{where} takes a reader that is not installed ({error}): pip install "hmt-lm[files]"'
        ) from None
    except Exception as error:  # readers of files that anybody may have made raise anything
        raise Unreadable(f"{where} is damaged: {_line(error)}") from None
    if len(text) > limits.characters:
        raise Unreadable(f"{where} has more than {limits.characters:,} characters of text, the most here")
    if lone_surrogate(text) is not None:
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text, marks


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _without_text(kind: str, where: str) -> ValueError:
    if kind == ".pdf":
        return EmptyFileError(
            f"{where} has no text: its pages are images. Recognise their letters first (OCR), such as with "
            "ocrmypdf"
        )
    return EmptyFileError(f"{where} has no text")


def _headings(text: str) -> list[Mark]:
    """Where the sections of Markdown begin."""
    marks, at, fence = [], 0, ""
    for line in io.StringIO(text):
        if found := _FENCE.match(line):
            mark = found[1]
            if not fence:
                fence = mark
            elif mark[0] == fence[0] and len(mark) >= len(fence) and not line.strip().strip(mark[0]):
                fence = ""
        elif not fence and (heading := _HEADING.match(line.rstrip("\n"))) and heading[2]:
            marks.append(Mark(at, f"section: {heading[2][:80]}"))
        at += len(line)
    return marks
