"""One file on disk to the documents in it: plain text, JSON, JSON Lines or Parquet, plain or compressed.

Whatever cannot be read as asked is a ValueError that names the file and the place in it; nothing is skipped
here. That is why the builders of `datasets` do not read these files: they name neither file nor place, refuse
files whose other fields differ, turn a text that looks like a date into one, and take two to six times as
long.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import itertools
import json
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
JSON_LINES = {".jsonl", ".ndjson"}
RECORDS = JSON_LINES | {".json", ".parquet"}
# What counts as text when a folder is searched. A file that is named outright may have any suffix, or none.
TEXT = set(
    ".txt .text .md .markdown .rst .adoc .org .tex .html .htm .xml .csv .tsv .log .srt"
    " .py .pyi .ipynb .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .js .jsx .ts .tsx .css"
    " .rb .php .pl .lua .r .jl .sh .sql .hs .ml .swift .m .yaml .yml .toml .cfg .ini".split()
)
# A record's own name, in this order of preference.
NAME_FIELDS = ("name", "title", "id")


class EmptyFileError(ValueError):
    """The file holds no text: an error where the user named it, no surprise where a folder was searched."""


def file_kind(path: Path) -> str:
    """The suffix that says what is in the file, lower case and without compression: `a.JSONL.xz` is
    `.jsonl`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
        return suffixes[-1] if suffixes else ""
    return suffixes[-1] if suffixes else ""


def check_encoding(encoding: str, errors: str) -> None:
    """ValueError when Python knows no such encoding of text, or no such handler of undecodable bytes."""
    try:
        "".encode(encoding)  # unlike the decoder, this refuses codecs that are no encoding of text: base64
        codecs.getincrementaldecoder(encoding)
        if errors != "strict":
            codecs.lookup_error(errors)(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"))
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{error}: encoding= takes a Python codec such as 'utf-8' or 'latin-1', errors= 'strict' "
            "or 'replace'."
        ) from None


def text_pieces(
    path: str | os.PathLike,
    encoding: str = "utf-8",
    errors: str = "strict",
    *,
    size: int = 2**20,
    newlines: bool = True,
) -> Iterator[tuple[str, float | None]]:
    """(text, share of the file read so far) in pieces of some `size` bytes, so that any file can be read.

    Args:
        path: is decompressed if its name ends in .gz, .bz2 or .xz; "-" is stdin, of which no share is known.
        encoding: encoding of text files. A byte order mark is removed.
        errors: what to do with undecodable bytes: strict or replace.
        newlines: make all line ends "\\n".

    ValueError if the file does not exist, is not text in `encoding`, or holds nothing but white space.
    """
    check_encoding(encoding, errors)
    where = "stdin" if str(path) == "-" else path
    text, started, read, data = "", False, 0, b" "
    with _open(path) as (raw, total), _decompressed(raw, Path(path)) as handle:
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(errors), newlines)
        while data:
            data = _read(handle, where, size)
            read += len(data)
            try:
                text += decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = read - len(error.object) + error.start
                raise ValueError(
                    f"{where} is not {encoding}: byte {at} is 0x{error.object[error.start]:02x} "
                    f"({error.reason}). Name its encoding, such as encoding='latin-1', 'cp1252' or 'utf-16' "
                    "(--encoding), or pass errors='replace' (--errors replace) to read every undecodable "
                    "byte as U+FFFD."
                ) from error
            if started or text.strip("\ufeff \t\r\n"):
                yield text if started else text.removeprefix("\ufeff"), raw.tell() / total if total else None
                text, started = "", True
    if not started:
        raise EmptyFileError(f"{where} holds no text.")


def read_text(path: str | os.PathLike, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The whole text of one file; see `text_pieces`."""
    return "".join(text for text, _ in text_pieces(path, encoding, errors))


def read_records(path: Path, text_field: str, encoding: str, errors: str) -> Iterator[tuple[str, str]]:
    """(name, text) of every record of a .jsonl, .ndjson, .json or .parquet file.

    The name is the record's `name`, `title` or `id`, else the file and the place: `books.jsonl:3`, counted
    from 1. ValueError where the text is missing, empty or not a string.
    """
    kind = file_kind(path)
    if kind == ".parquet":
        records = _parquet_records(path, text_field)
    elif kind in JSON_LINES:
        records = _json_lines(path, encoding, errors)
    else:
        records = _json_records(path, encoding, errors)
    for number, record in records:
        where = f"{path}:{number}"
        text = record_text(record, text_field, where)
        if not text.strip():
            raise ValueError(f"{where}: the field '{text_field}' is empty; remove the record, or fill it.")
        yield record_name(record, text_field, f"{path.name}:{number}"), text


def record_text(record: Any, text_field: str, where: str) -> str:
    """`record[text_field]`, or a ValueError that lists the fields there are."""
    if not isinstance(record, Mapping):
        raise ValueError(
            f"{where}: expected an object with the field '{text_field}', got {type(record).__name__}."
        )
    if text_field not in record:
        raise missing_field(text_field, record, where)
    if not isinstance(record[text_field], str):
        kind = type(record[text_field]).__name__
        raise ValueError(
            f"{where}: the field '{text_field}' holds {kind}, not a string; choose another text_field=."
        )
    return record[text_field]


def record_name(record: Mapping[str, Any], text_field: str, default: str) -> str:
    """The first of the record's NAME_FIELDS that is not empty, as a string."""
    for field in NAME_FIELDS:
        if field != text_field and record.get(field) not in (None, ""):
            return str(record[field])
    return default


def missing_field(text_field: str, columns: Any, where: str) -> ValueError:
    """The error for a source without the text column."""
    names = ", ".join(map(str, columns)) or "none"
    return ValueError(
        f"{where} has no field '{text_field}'; it has: {names}. Choose one with text_field=, or "
        "list the files to load one by one, without this one."
    )


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes of a file as they are on disk, and their number (0: not known)."""
    if str(path) == "-":
        yield sys.stdin.buffer, 0
        return
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(
            f"{path} is {'a folder, not a file' if path.is_dir() else 'not there'}; name a text file."
        )
    with path.open("rb") as file:
        yield file, path.stat().st_size


def _decompressed(raw: IO[bytes], path: Path) -> Any:
    opener = COMPRESSED.get(path.suffix.lower())
    return nullcontext(raw) if opener is None else opener(raw, "rb")


def _read(handle: IO[bytes], where: Any, size: int = -1) -> bytes:
    try:
        return handle.read(size)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"Cannot read {where}: {error}. Is the file complete, and its suffix right?"
        ) from error


def _json_lines(path: Path, encoding: str, errors: str) -> Iterator[tuple[int, Any]]:
    # Not with str.splitlines: it would also cut at U+2028, which JSON allows inside strings.
    number, rest = 0, ""
    pieces = (text for text, _ in text_pieces(path, encoding, errors, newlines=False))
    for text in itertools.chain(pieces, ["\n"]):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            number += 1
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}:{number} is not JSON: {error}") from error


def _json_records(path: Path, encoding: str, errors: str) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(read_text(path, encoding, errors))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a second value: JSON Lines under the name .json, which is common
            yield from _json_lines(path, encoding, errors)
            return
        raise ValueError(f"{path} is not JSON: {error}") from error
    yield from enumerate(content if isinstance(content, list) else [content], start=1)


def _parquet_records(path: Path, text_field: str) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    with _open(path) as (raw, _), _decompressed(raw, path) as handle:
        # Parquet is read from its end backwards, which a decompressing stream cannot do cheaply.
        seekable = handle if handle is raw else io.BytesIO(_read(handle, path))
        try:
            table = pyarrow.parquet.ParquetFile(seekable)
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path} is not a Parquet file: {error}") from error
        columns = table.schema_arrow.names
        if text_field not in columns:
            raise missing_field(text_field, columns, str(path))
        wanted = [name for name in (text_field, *NAME_FIELDS) if name in columns]
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=list(dict.fromkeys(wanted))):
            for record in batch.to_pylist():
                number += 1
                yield number, record
