"""What is no text, by what it begins with, and what to do with it instead."""

from __future__ import annotations

import codecs
import re
from typing import Any

_SAVE_AS_TEXT = "save it as text first"
_UNPACK = "unpack it, and name the files in it"
# first bytes (regular expression) -> what it is, what to do
_FORMATS = {
    rb"%PDF-": ("a PDF", "take its text out first, such as with pdftotext"),
    rb"PK(\x03\x04|\x05\x06)": (
        "a zip archive, as .docx, .xlsx, .odt and .epub are too",
        "unpack it, or save the document as text",
    ),
    rb"\x1f\x8b": ("compressed with gzip", "let its name end in .gz, or hand it over unpacked: zcat FILE"),
    rb"BZh[1-9]1AY&SY": ("compressed with bzip2", "let its name end in .bz2"),
    rb"\xfd7zXZ\x00": ("compressed with xz", "let its name end in .xz"),
    rb"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it first: zstd -d FILE"),
    rb"7z\xbc\xaf|Rar!\x1a": ("an archive", _UNPACK),
    rb".{257}ustar[\x00 ]": ("a tar archive", _UNPACK),
    rb"\x89PNG\r|\xff\xd8\xff|GIF8[79]a(.[\x00-\x1f]){2}|BM.{4}\x00{4}|RIFF.{4}WEBP|II\*\x00|MM\x00\*": (
        "an image",
        "only text can be read; recognise its letters first (OCR)",
    ),
    rb"RIFF.{4}(WAVE|AVI )|OggS\x00|ID3[\x02-\x04]|fLaC\x00|\x00{3}.ftyp|\x1a\x45\xdf\xa3": (
        "sound or a film",
        "only text can be read; transcribe it first",
    ),
    rb"PAR1[\x00-\x1f]": ("a Parquet file", "let its name end in .parquet"),
    rb"ARROW1\x00": ("an Arrow file", "save it as Parquet or JSON Lines"),
    rb"\xd0\xcf\x11\xe0": ("an Office document", _SAVE_AS_TEXT),
    rb"\x7fELF": ("a program", "only text can be read"),
    rb"SQLite format 3\x00": ("a database", "save its texts as JSON Lines"),
    rb"\x93NUMPY|\x89HDF\r|.{6}\x00\x00\{\"": ("a file of numbers", "only text can be read"),
}
_UNICODE = {
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": "utf-32",
    rb"\xff\xfe|\xfe\xff": "utf-16",
    # Latin letters take one byte of two, or of four, and nothing the others
    rb"([^\x00]\x00){4}|([^\x00]\x00){2,3}\Z": "utf-16-le",
    rb"(\x00[^\x00]){4}|(\x00[^\x00]){2,3}\Z": "utf-16-be",
    rb"([^\x00]\x00{3}){2}": "utf-32-le",
    rb"(\x00{3}[^\x00]){2}": "utf-32-be",
}


def refuse_binary(head: bytes, encoding: str, where: Any) -> None:
    """ValueError, with what it is and what to do, for a file with these first bytes that is not text in
    `encoding`."""
    for pattern, (what, advice) in _FORMATS.items():
        if re.match(pattern, head, re.DOTALL):
            raise ValueError(f"{where} is {what}; {advice}.")
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return
    for pattern, name in _UNICODE.items():
        if re.match(pattern, head, re.DOTALL):
            raise ValueError(
                f"{where} is {name} and not {encoding}: pass encoding='{name}' (--encoding {name})."
            )
    if b"\x00" in head:
        raise ValueError(f"{where} is not text: there are zero bytes in its first lines.")
