"""What is too large to be read, and the error of a file that cannot be."""

from __future__ import annotations

from dataclasses import dataclass

from hmt.util.format import byte_text


class Unreadable(ValueError):
    """A file that is damaged, encrypted or too large."""


@dataclass(frozen=True)
class Limits:
    """Attributes:
    bytes: of a file, decompressed.
    unpacked: bytes of what is packed in it (EPUB, DOCX).
    entries: files that are packed in it.
    pages: of a PDF.
    characters: of its text.
    """

    bytes: int = 256 * 2**20
    unpacked: int = 512 * 2**20
    entries: int = 20_000
    pages: int = 20_000
    characters: int = 100_000_000

    def too_large(self, where: str, size: int | None = None) -> Unreadable:
        """The error of a file with too many bytes."""
        told = "more" if size is None else byte_text(size)
        return Unreadable(f"{where} has {told}, and {byte_text(self.bytes)} are the most here")
