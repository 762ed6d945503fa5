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
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

from hmt.data.formats import refuse_binary
from hmt.util.files import is_url, open_file

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
JSON_LINES = {".jsonl", ".ndjson"}
RECORDS = JSON_LINES | {".json", ".parquet"}
# What counts as text when a folder is searched. A file that is named outright may have any suffix, or none.
TEXT = set(
    ".txt .text .md .markdown .rst .adoc .org .tex .html .htm .xml .csv .tsv .log .srt"
    " .py .pyi .ipynb .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .js .jsx .ts .tsx .css"
    " .rb .php .pl .lua .r .jl .sh .sql .hs .ml .swift .m .yaml .yml .toml .cfg .ini".split()
)
ERRORS = ("strict", "replace")
_HEAD = 4096  # bytes that say what kind of file it is
# A record's own name, in this order of preference.
NAME_FIELDS = ("name", "title", "id")


class EmptyFileError(ValueError):
    """The file holds no text: an error where the user named it, no surprise where a folder was searched."""


def file_kind(path: Path | str) -> str:
    """The suffix that says what is in the file, lower case and without compression: `a.JSONL.xz` is
    `.jsonl`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
        return suffixes[-1] if suffixes else ""
    return suffixes[-1] if suffixes else ""


def check_encoding(encoding: str, errors: str) -> None:
    """ValueError when Python knows no such encoding of text, and for another way to treat errors."""
    try:
        "".encode(encoding)  # unlike the decoder, this refuses codecs that are no encoding of text: base64
        codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{error}: encoding= takes a Python codec such as 'utf-8' or 'latin-1'.") from None
    if errors not in ERRORS:
        raise ValueError(f"errors= takes {' or '.join(map(repr, ERRORS))}, not {errors!r}.")


class _Place(NamedTuple):
    """Where a text goes on: line and column, counted from 1."""

    line: int = 1
    column: int = 1

    def after(self, text: str) -> _Place:
        lines = text.count("\n")
        if lines:
            return _Place(self.line + lines, len(text) - text.rfind("\n"))
        return _Place(self.line, self.column + len(text))


def text_pieces(
    path: str | os.PathLike | bytes,
    encoding: str = "utf-8",
    errors: str = "strict",
    *,
    size: int = 2**20,
    newlines: bool = True,
    where: Any = None,
) -> Iterator[tuple[str, float | None]]:
    """(text, share of the file read so far) in pieces of some `size` bytes, so that any file can be read.

    Args:
        path: a file, a pipe or a URL; is decompressed if its name ends in .gz, .bz2 or .xz; "-" is stdin. Of
            what has no size no share is known. Or the bytes of a file, decompressed.
        encoding: encoding of text files. A byte order mark is removed.
        errors: what to do with undecodable bytes: strict or replace.
        newlines: make all line ends "\\n".
        where: what errors call it; None: by its path.

    ValueError if the file does not exist, is not text in `encoding` (with line, column and byte, or with the
    kind of file that it is), or holds nothing but white space.
    """
    check_encoding(encoding, errors)
    where = where or ("stdin" if str(path) == "-" else path)
    text, started, read, place = "", False, 0, _Place()
    with opened(path) as (raw, total), _decompressed(raw, path) as handle:
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(errors), newlines)
        head = _read(handle, where, max(size, _HEAD))
        refuse_binary(head[:_HEAD], encoding, where)
        begun = (head[start : start + size] for start in range(0, len(head), size))
        rest = iter(lambda: _read(handle, where, size), b"")
        for data in itertools.chain(begun, rest, [b""]):
            before, read = decoder.getstate(), read + len(data)
            try:
                new = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = read - len(error.object) + error.start
                decoder.setstate(before)
                new = decoder.decode(data[: max(0, at - (read - len(data)))])
                ended = newlines and decoder.getstate()[1] & 1  # by a "\r" that is held back for a "\n"
                place = place.after(new + "\n" if ended else new)
                raise _not_text(
                    f"{where}:{place.line}:{place.column} (byte {at})",
                    f"is not {encoding}: 0x{error.object[error.start]:02x}, {error.reason}",
                ) from error
            except UnicodeError as error:  # of a whole text, such as one without its byte order mark
                raise _not_text(where, f"is not {encoding}: {error}") from error
            if place == (1, 1):
                new = new.removeprefix("\ufeff")
            if (half := lone_surrogate(new)) is not None:  # some codecs let them pass
                place = place.after(new[:half])
                raise _half(f"{where}:{place.line}:{place.column}", new[half])
            text, place = text + new, place.after(new)
            if started or text.strip(" \t\r\n"):
                yield text, raw.tell() / total if total else None
                text, started = "", True
    if not started:
        raise EmptyFileError(f"{where} holds no text.")


def _not_text(where: Any, what: str) -> ValueError:
    return ValueError(
        f"{where} {what}. Name its encoding, such as encoding='latin-1', 'cp1252' or 'utf-16' (--encoding), "
        "or pass errors='replace' (--errors replace) to read every undecodable byte as U+FFFD."
    )


def _half(where: str, half: str) -> ValueError:
    return ValueError(
        f"{where} is half a character, {half!r}. Mend it, or pass errors='replace' (--errors replace) to "
        "read every half as U+FFFD."
    )


def lone_surrogate(text: str) -> int | None:
    """Index of the first half of a surrogate pair without the other, which is no character; None without."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def read_text(
    path: str | os.PathLike | bytes, encoding: str = "utf-8", errors: str = "strict", *, where: Any = None
) -> str:
    """The whole text of one file; see `text_pieces`."""
    return "".join(text for text, _ in text_pieces(path, encoding, errors, where=where))


def read_records(
    path: Path | str, text_field: str, encoding: str, errors: str
) -> Iterator[tuple[str, str, float | None]]:
    """(name, text, share of the file read so far) of every record of a .jsonl, .ndjson, .json or .parquet
    file.

    The name is the record's `name`, `title` or `id`, else the file and the place: `books.jsonl:3`, counted
    from 1. ValueError where the text is missing, empty, not a string, or no text in Unicode.
    """
    kind = file_kind(path)
    for number, record, share, source in raw_records(path, text_field, encoding, errors):
        where = f"{path}:{number}"
        text = record_text(record, text_field, where)
        if not text.strip():
            raise ValueError(f"{where}: the field '{text_field}' is empty; remove the record, or fill it.")
        name = record_name(record, text_field, f"{Path(path).name}:{number}")
        for part in (text, name):
            if errors == "strict" and (at := lone_surrogate(part)) is not None:
                place = _escape_of(part[at], source)
                line = number if kind in JSON_LINES else place.line
                raise _half(f"{path}:{line}:{place.column}", part[at])
        yield _whole(name), _whole(text), share


def raw_records(
    path: Path | str, text_field: str = "text", encoding: str = "utf-8", errors: str = "strict"
) -> _Records:
    """(number, record, share of the file read so far, its source text) of every record, whatever its fields;
    of a .parquet file only `text_field` and what names a record."""
    kind = file_kind(path)
    if kind == ".parquet":
        return _parquet_records(path, text_field)
    return (_json_lines if kind in JSON_LINES else _json_records)(path, encoding, errors)


def _whole(text: str) -> str:
    """Halves of characters as U+FFFD."""
    return text if lone_surrogate(text) is None else re.sub("[\ud800-\udfff]", "\ufffd", text)


def _escape_of(half: str, source: str) -> _Place:
    """Where the escape of a lone half of a surrogate pair stands in JSON."""
    pair = r"\\u[dD][89abAB]..\\u[dD][c-fC-F].."
    for found in re.finditer(rf"{pair}|\\u([0-9a-fA-F]{{4}})|\\.", source):
        if found[1] and int(found[1], 16) == ord(half):
            return _Place().after(source[: found.start()])
    return _Place()


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
            f"{where}: the field '{text_field}' holds {kind}, not a string; choose another with text_field= "
            "(--text-field)."
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
        f"{where} has no field '{text_field}'; it has: {names}. Choose one with text_field= "
        "(--text-field), or list the files to load one by one, without this one."
    )


@contextmanager
def opened(path: str | os.PathLike | bytes) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes of a file, a pipe or a URL as they are, and their number (0: not known)."""
    if isinstance(path, bytes):
        yield io.BytesIO(path), len(path)
        return
    if str(path) == "-":
        if sys.stdin is None:
            raise ValueError("stdin is closed; name a file, or send a text: hmt ... - < FILE")
        yield sys.stdin.buffer, 0
        return
    if is_url(path):
        with open_file(path) as file:
            yield file, getattr(file, "size", 0) or 0
        return
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file; name a text file.")
    try:
        local = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} is not there; name a text file.") from None
    with local:
        found = os.fstat(local.fileno())
        yield local, found.st_size if stat.S_ISREG(found.st_mode) else 0


def _decompressed(raw: IO[bytes], path: str | os.PathLike | bytes) -> Any:
    opener = None if isinstance(path, bytes) else COMPRESSED.get(Path(path).suffix.lower())
    return nullcontext(raw) if opener is None else opener(raw, "rb")


def _read(handle: IO[bytes], where: Any, size: int = -1) -> bytes:
    try:
        return handle.read(size)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"Cannot read {where}: {error}. Is the file complete, and its suffix right?"
        ) from error


# (number, record, share of the file read so far, its JSON)
_Records = Iterator[tuple[int, Any, float | None, str]]


def _json_lines(path: Path | str, encoding: str, errors: str) -> _Records:
    # Not with str.splitlines: it would also cut at U+2028, which JSON allows inside strings.
    number, rest, share = 0, "", None
    pieces = text_pieces(path, encoding, errors, newlines=False)
    for text, share in itertools.chain(pieces, [("\n", 1.0)]):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            number += 1
            if line.strip():
                yield number, _parse(line, f"{path}:{number}"), share, line


def _json_records(path: Path | str, encoding: str, errors: str) -> _Records:
    text = read_text(path, encoding, errors)
    try:
        content = _parse(text, path)
    except ValueError as error:
        if "Extra data" in str(error):  # a second value: JSON Lines under the name .json, which is common
            yield from _json_lines(path, encoding, errors)
            return
        raise
    records = content if isinstance(content, list) else [content]
    for number, record in enumerate(records, start=1):
        yield number, record, number / len(records), text


def _parse(text: str, where: Any) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply") from None


def _parquet_records(path: Path | str, text_field: str) -> _Records:
    import pyarrow
    import pyarrow.parquet

    with opened(path) as (raw, _), _decompressed(raw, path) as handle:
        # Parquet is read from its end backwards, which a decompressing stream cannot do cheaply.
        whole = handle if handle is raw and handle.seekable() else io.BytesIO(_read(handle, path))
        try:
            table = pyarrow.parquet.ParquetFile(whole)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a Parquet file: {error}") from error
        names = table.schema_arrow.names
        if text_field not in names:
            raise missing_field(text_field, names, str(path))
        wanted = [name for name in (text_field, *NAME_FIELDS) if name in names]
        number, total = 0, table.metadata.num_rows
        batches = table.iter_batches(batch_size=64, columns=list(dict.fromkeys(wanted)))
        try:
            for batch in batches:
                for row in range(len(batch)):
                    number += 1
                    columns = zip(batch.schema.names, batch.columns, strict=True)
                    record = {name: column[row].as_py() for name, column in columns}
                    yield number, record, number / total, ""
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(
                f"{path}:{number} is not utf-8: byte {error.start} of a field is 0x{byte:02x}, {error.reason}"
            ) from error
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged behind record {number}: {error}") from error
