"""Text from anywhere to a dataset of whole documents, columns `text` and `name`."""

from __future__ import annotations

import logging
import os
import re
import stat
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hmt.data.extract import EXTRACTED, Unreadable, extract
from hmt.data.files import (
    COMPRESSED,
    RECORDS,
    TEXT,
    EmptyFileError,
    check_encoding,
    file_kind,
    missing_field,
    read_records,
    read_text,
    record_name,
    record_text,
    text_pieces,
)
from hmt.data.marks import Mark
from hmt.util.cache import cache_directory, digest
from hmt.util.files import is_url, size_of, version_of

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["document_pieces", "load_documents", "named_texts", "read_text"]

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"(?P<path>\w[\w.-]*/\w[\w.-]*)(:(?P<config>[^/:\s]+))?")


class _File(NamedTuple):
    path: str
    name: str  # of its document, for a text file
    required: bool  # named by the user, rather than found in a folder
    size: int | None = None  # bytes; None of what can be read once: pipes and stdin


class NamedText(NamedTuple):
    """A document. Attributes: marks, lined: as of `Extracted`."""

    name: str
    text: str
    marks: tuple[Mark, ...] = ()
    lined: bool = True


def load_documents(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    split: str = "train",
    text_field: str = "text",
    encoding: str = "utf-8",
    errors: str = "strict",
    limit: int | None = None,
) -> Dataset:
    """A `datasets.Dataset` with one row per document, whole: columns `text` and `name`, both strings.

    A record is named after its field `name`, `title` or `id`; a text file after its path within the folder.
    Local documents are kept under the cache folder (see `cache_directory`), memory-mapped, so that they need
    not fit in memory and are read only once.

    Args:
        source: a file, or a list of files and folders: `.jsonl`, `.ndjson`, `.json`, `.parquet` hold one
            document per record; any other file is text, and one document. Each may be compressed (.gz .bz2
            .xz), a pipe, "-" for stdin, or a URL that fsspec knows. Of a folder all text, JSON and Parquet
            files under it, sorted by path, hidden ones left out; files of other kinds and text files without
            text are left out with a warning that counts them. Or `org/name` or `org/name:config` on the
            Hugging Face hub, of which rows without text are left out.
        split: of a data set on the hub.
        text_field: field of JSON and Parquet records that holds the text.
        encoding: encoding of text files.
        errors: what to do with undecodable bytes: strict or replace.
        limit: use only the first so many documents.

    ValueError, naming the file and the place, for what does not exist, is not `encoding`, or has no text.
    """
    check_encoding(encoding, errors)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it counts documents and must be at least 1, or None for all.")
    if isinstance(source, str) and (hub := _hub_id(source)):
        return _load_hub(*hub, split=split, text_field=text_field, limit=limit)
    return _load_files(_all_files(source), text_field, encoding, errors, limit)


def document_pieces(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    text_field: str = "text",
    encoding: str = "utf-8",
    errors: str = "strict",
    size: int = 2**20,
) -> Iterator[tuple[str, float | None]]:
    """The documents of files one after another, as one text of any length: (text, share read so far), in
    pieces of some `size` bytes.

    Between two documents stands an empty line. Arguments and errors as of `load_documents`, without the hub:
    what trains a model and what it reads are one. Nothing is kept on disk. The beginnings of all files are
    looked at before the first text comes.
    """
    check_encoding(encoding, errors)
    files = _all_files(source)
    options = (text_field, encoding, errors, size)
    for file in files:
        if file.size is not None:  # what can be opened twice
            with _skipping(file, []):
                next(_pieces_of(file, *options), None)
    total = 0 if any(file.size is None for file in files) else sum(file.size or 0 for file in files)
    before, between, held, empty, done = 0, "", "", list[str](), None
    for file in files:
        with _skipping(file, empty):
            for text, first, share in _pieces_of(file, *options):
                done = None if not total or share is None else (before + share * (file.size or 0)) / total
                held += between + text if first else text
                between = "\n\n"
                if len(held) >= size:  # records may be short
                    yield held, done
                    held = ""
        before += file.size or 0
    _tell_empty(files, empty, bool(between))
    if held:
        yield held, done


def named_texts(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    text_field: str = "text",
    encoding: str = "utf-8",
    errors: str = "strict",
) -> Iterator[NamedText]:
    """The documents of files, one after another, each whole; PDF, EPUB, DOCX and HTML, too (`extract`).

    Text files are named by their path, records as `load_documents` names them. Arguments and errors as there,
    without the hub. Of a folder, files of these formats that cannot be read are left out with a warning.
    Nothing is kept on disk.
    """
    check_encoding(encoding, errors)
    files, found, empty = _all_files(source, EXTRACTED), False, list[str]()
    for file in files:
        with _skipping(file, empty):
            for one in _marked(file, text_field, encoding, errors):
                found = True
                yield one
    _tell_empty(files, empty, found)


def _marked(file: _File, text_field: str, encoding: str, errors: str) -> Iterator[NamedText]:
    if file_kind(file.path) in RECORDS:
        for name, text in _read_file(file, text_field, encoding, errors):
            yield NamedText(name, text)
        return
    try:
        found = extract(file.path, encoding=encoding, errors=errors)
    except Unreadable as error:
        if file.required:
            raise
        logger.warning("Left out: %s", error)
        return
    yield NamedText(file.path, found.text, found.marks, found.lined)


def _pieces_of(
    file: _File, text_field: str, encoding: str, errors: str, size: int
) -> Iterator[tuple[str, bool, float | None]]:
    """(text, whether a document begins with it, share of the file) in pieces."""
    if file_kind(file.path) in RECORDS:
        for _, text, share in read_records(file.path, text_field, encoding, errors):
            yield text, True, share
        return
    first = True
    for text, share in text_pieces(file.path, encoding, errors, size=size):
        yield text, first, share
        first = False


def _all_files(
    source: str | os.PathLike | Sequence[str | os.PathLike], more: Collection[str] = ()
) -> list[_File]:
    """The files of sources. more: suffixes that are looked for in folders beside those of text."""
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    files = [file for item in sources for file in _find_files(item, more)]
    if not files:
        raise ValueError("There are no files to load: the list of sources is empty.")
    return files


def _hub_id(source: str) -> tuple[str, str | None] | None:
    # "books/moby.txt" has the form of a hub id too: what exists, or ends like a file, is a path.
    match = HUB_ID.fullmatch(source)
    path = Path(source)
    if not match or path.exists() or file_kind(path) in TEXT | RECORDS or path.suffix in COMPRESSED:
        return None
    return match["path"], match["config"]


def _load_hub(path: str, config: str | None, *, split: str, text_field: str, limit: int | None) -> Dataset:
    import datasets

    where = f"{path}:{config}" if config else path
    try:
        rows = datasets.load_dataset(path, config, split=split)
    except (OSError, ValueError) as error:  # not found, no network, no such config or split
        raise ValueError(
            f"'{where}' is not a file or folder here, and could not be loaded from the Hugging Face hub "
            f"(split '{split}'): {error}"
        ) from error
    if text_field not in rows.column_names:
        raise missing_field(text_field, rows.column_names, where)

    def to_document(row: dict, index: int) -> dict[str, str]:
        place = f"{where}:{index + 1}"
        text = row[text_field] and record_text(row, text_field, place)
        return {"text": text or "", "name": record_name(row, text_field, place)}

    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    documents = rows.map(
        to_document,
        with_indices=True,
        remove_columns=rows.column_names,
        features=_features(),
        desc="Reading documents",
    ).filter(lambda text: bool(text.strip()), input_columns="text", desc="Leaving out rows without text")
    if not len(documents):
        raise ValueError(f"{where}, split '{split}': the field '{text_field}' is empty in every row.")
    if len(documents) < len(rows):
        logger.warning(
            "%s: left out %d of %d rows, without text.", where, len(rows) - len(documents), len(rows)
        )
    return documents


def _find_files(source: str | os.PathLike, more: Collection[str]) -> list[_File]:
    if str(source) == "-":
        return [_File("-", "stdin", required=True)]
    if is_url(source):
        return [_File(str(source), Path(str(source)).name, required=True, size=size_of(source))]
    path = Path(source).expanduser()
    if path.is_dir():
        return _find_in_folder(path, more)
    if not path.exists():
        raise ValueError(
            f"{path} does not exist. Name a file or a folder; training and evaluation also take a single "
            "Hugging Face dataset, 'org/name' or 'org/name:config'."
        )
    return [_File(str(path), path.name, required=True, size=_size(path))]


def _size(path: Path) -> int | None:
    found = path.stat()
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _find_in_folder(folder: Path, more: Collection[str]) -> list[_File]:
    found: list[_File] = []
    skipped: Counter[str] = Counter()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        if file_kind(path) in TEXT | RECORDS | set(more):
            found.append(_File(str(path), relative.as_posix(), required=False, size=_size(path)))
        else:
            skipped[path.suffix or path.name] += 1
    if skipped:
        counts = ", ".join(f"{suffix} ({count})" for suffix, count in skipped.most_common(8))
        logger.warning(
            "%s: left out %d files that do not look like text: %s. Name a file itself to load it as text.",
            folder,
            skipped.total(),
            counts,
        )
    if not found:
        raise ValueError(f"The folder {folder} holds no text, .jsonl, .json or .parquet files.")
    return found


def _load_files(
    files: list[_File], text_field: str, encoding: str, errors: str, limit: int | None
) -> Dataset:
    import datasets
    from datasets.exceptions import DatasetGenerationError

    # The fingerprint names the cached copy: an edited file is another one.
    fingerprint = digest(
        [
            *(_version(file) for file in files),
            *(f"{file.name} {file.required}" for file in files),
            *(text_field, encoding, errors, str(limit)),
        ]
    )
    options = {"text_field": text_field, "encoding": encoding, "errors": errors, "limit": limit}
    try:
        return datasets.Dataset.from_generator(
            _read_documents,
            features=_features(),
            cache_dir=str(cache_directory() / "documents"),
            gen_kwargs={"files": tuple(files), **options},
            fingerprint=fingerprint,
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, (ValueError, OSError)):  # ours, which says what to do; a full disk
            raise error.__cause__ from None
        raise


def _version(file: _File) -> str:
    """Changes with the content of a file; never the same of what can be read once."""
    if file.size is None:
        return uuid.uuid4().hex
    if is_url(file.path):
        return f"{file.path} {version_of(file.path)}"
    found = os.stat(file.path)
    return f"{os.path.abspath(file.path)} {found.st_size} {found.st_mtime_ns}"


def _features():
    import datasets

    # large_string: one batch of long books can pass the 2 GB that a plain Arrow string column holds.
    return datasets.Features({"text": datasets.Value("large_string"), "name": datasets.Value("string")})


def _read_documents(
    files: tuple[_File, ...], text_field: str, encoding: str, errors: str, limit: int | None
) -> Iterator[dict[str, str]]:
    texts = _texts(files, text_field, encoding, errors)
    for _, name, text in islice(texts, limit):
        yield {"text": text, "name": name}


def _texts(
    files: Sequence[_File], text_field: str, encoding: str, errors: str
) -> Iterator[tuple[_File, str, str]]:
    """(file, name, text) of every document."""
    found, empty = False, list[str]()
    for file in files:
        with _skipping(file, empty):
            for name, text in _read_file(file, text_field, encoding, errors):
                found = True
                yield file, name, text
    _tell_empty(files, empty, found)


@contextmanager
def _skipping(file: _File, empty: list[str]) -> Iterator[None]:
    """Add a file without text to `empty`, unless the user named it."""
    try:
        yield
    except EmptyFileError:
        # Folders of source code are full of empty files (__init__.py); that is no mistake of the user.
        if file.required:
            raise
        empty.append(file.name)


def _tell_empty(files: Sequence[_File], empty: list[str], found: bool) -> None:
    """Warn of files without text. ValueError where there was none at all."""
    if not found:
        raise ValueError(f"There is no text in {files[0].path}{' and the other files' if files[1:] else ''}.")
    if empty:
        names = ", ".join(empty[:5]) + (", ..." if empty[5:] else "")
        logger.warning("Left out, without text: %d (%s)", len(empty), names)


def _read_file(file: _File, text_field: str, encoding: str, errors: str) -> Iterator[tuple[str, str]]:
    if file_kind(file.path) in RECORDS:
        for name, text, _ in read_records(file.path, text_field, encoding, errors):
            yield name, text
    else:
        yield file.name, read_text(file.path, encoding, errors)
