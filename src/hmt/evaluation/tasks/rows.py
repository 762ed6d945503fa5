"""The rows of a data set of questions: from a file, a folder, a web address or the Hugging Face hub.

A row is a dict that knows where it is from, so that whatever is wrong with it can be named.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hmt.data.documents import HUB_ID
from hmt.data.files import COMPRESSED, JSON_LINES, RECORDS, file_kind, read_text

# the names that one and the same split goes by in the files of data sets
_SAME_SPLIT = ({"validation", "val", "valid", "dev"}, {"test"}, {"train"})


class Row(dict[str, Any]):
    """A row; `where` is `file:line`, or data set, split and number of the row."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where

    def text(self, field: str) -> str:
        """The text in a field. ValueError if it is none, or empty."""
        value = self.get(field)
        if not isinstance(value, str):
            raise ValueError(f"{self.where}: the field '{field}' holds {type(value).__name__}, not text")
        if not value.strip():
            raise ValueError(f"{self.where}: the field '{field}' is empty")
        return value

    def answers(self, field: str, *more: str) -> tuple[str, ...]:
        """The texts in a field (a text, or a list) and in the fields `more`, if there, without repeats.

        ValueError if there is none: the test splits of many data sets keep their answers secret.
        """
        found: list[str] = []
        for name in (field, *more):
            value = self.get(name)
            for text in [value] if isinstance(value, str) else value or ():
                if not isinstance(text, str):
                    raise ValueError(
                        f"{self.where}: '{name}' holds {type(text).__name__} where an answer should be"
                    )
                found += [text] if text.strip() else []
        if not found:
            raise ValueError(
                f"{self.where}: the field '{field}' has no answer; choose a split whose answers are public"
            )
        return tuple(dict.fromkeys(found))


def load_rows(
    source: str,
    split: str,
    fields: Sequence[str] | Sequence[Sequence[str]],
    what: str,
    names: Sequence[str] = (),
    limit: int | None = None,
) -> list[Row]:
    """All rows, or the first `limit`. See `iter_rows`."""
    return list(islice(iter_rows(source, split, fields, what, names), limit))


def iter_rows(
    source: str,
    split: str,
    fields: Sequence[str] | Sequence[Sequence[str]],
    what: str,
    names: Sequence[str] = (),
) -> Iterator[Row]:
    """The rows of `source` one by one, each with the fields that are asked for.

    Args:
        source: a file (.jsonl, .ndjson, .json, .parquet, also with .gz, .bz2 or .xz), of which a .json file
            holds a list of rows, or one object of rows by their ids (which become their `id`); a folder with
            a file called like one of `names` or like the split; the address of a JSON file, with `{split}`
            for the split's name; or `org/name` or `org/name:config` on the Hugging Face hub.
        split: of a folder, an address or a hub data set; a file is taken whole.
        fields: names that every row must have; or several such lists, of which a row must have one.
        what: what needs the rows, for messages.
        names: names of files to look for in a folder, without suffixes.

    ValueError, naming file and line, for what is not there, cannot be read, has no rows, or lacks a field.
    """
    layouts: list[Sequence[str]] = []
    for layout in fields:
        if isinstance(layout, str):
            layouts = [[str(name) for name in fields]]
            break
        layouts.append(layout)
    empty = True
    for where, values in _read(source, split, layouts, what, names):
        check_fields(values, layouts, where, what)
        empty = False
        yield Row(values, where)
    if empty:
        raise ValueError(
            f"{source} has no rows for {what}" + ("" if Path(source).exists() else f" in the split '{split}'")
        )


def check_fields(values: Any, layouts: Sequence[Sequence[str]], where: str, what: str) -> None:
    """ValueError unless a row is an object with all the fields of one of the layouts."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected an object with fields, got {type(values).__name__}")
    if not _fits(values, layouts):
        wanted = "; or ".join(", ".join(f"'{name}'" for name in layout) for layout in layouts)
        there = ", ".join(map(str, values)) or "none"
        raise ValueError(f"{where}: {what} needs the fields {wanted}; the row has: {there}")


def text_rows(
    text: str, where: str, layouts: Sequence[Sequence[str]], lines: bool = True
) -> Iterator[tuple[str, Any]]:
    """(place, value) of every row in JSON Lines, or in one JSON value (`lines=False`)."""
    if not lines:
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # a second value: JSON Lines under the name .json, which is common
                raise ValueError(f"{where} is not JSON: {error}") from error
        else:
            yield from _json_rows(content, where, layouts)
            return
    # not str.splitlines: it would also cut at U+2028, which JSON allows inside strings
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{where}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}:{number} is not JSON: {error}") from error


def _fits(values: Mapping, layouts: Sequence[Sequence[str]]) -> bool:
    return any(all(name in values for name in layout) for layout in layouts)


def _json_rows(content: Any, where: str, layouts: Sequence[Sequence[str]]) -> Iterator[tuple[str, Any]]:
    if isinstance(content, list):
        for number, row in enumerate(content, start=1):
            yield f"{where}:{number}", row
    elif (
        isinstance(content, dict)
        and not _fits(content, layouts)
        and all(isinstance(v, dict) for v in content.values())
    ):
        for key, row in content.items():
            yield f"{where}:{key}", {"id": key, **row}
    else:
        yield f"{where}:1", content


def _read(
    source: str, split: str, layouts: Sequence[Sequence[str]], what: str, names: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    if source.startswith(("https://", "http://")):
        return _web_rows(source.replace("{split}", split), layouts)
    path = Path(source).expanduser()
    if path.is_dir():
        path = _file_in(path, split, names, what)
    if path.is_file():
        return _file_rows(path, layouts)
    if (
        (match := HUB_ID.fullmatch(source))
        and file_kind(path) not in RECORDS
        and path.suffix not in COMPRESSED
    ):
        return _hub_rows(match["path"], match["config"], split, what)
    raise ValueError(
        f"{what}: {source} does not exist; name a file, a folder, or a data set on the Hugging Face hub as "
        "'org/name' or 'org/name:config'"
    )


def _file_in(folder: Path, split: str, names: Sequence[str], what: str) -> Path:
    files = sorted(path for path in folder.iterdir() if path.is_file() and file_kind(path) in RECORDS)
    splits = next((group for group in _SAME_SPLIT if split in group), {split})
    for name in (*names, split, *sorted(splits)):
        for path in files:
            if path.name.split(".")[0] == name:
                return path
    wanted = " or ".join(f"'{name}'" for name in dict.fromkeys((*names, split)))
    there = ", ".join(path.name for path in files) or "no .jsonl, .json or .parquet file"
    raise ValueError(f"{what}: the folder {folder} has no file called {wanted}; it has {there}")


def _file_rows(path: Path, layouts: Sequence[Sequence[str]]) -> Iterator[tuple[str, Any]]:
    kind = file_kind(path)
    if kind not in RECORDS:
        raise ValueError(
            f"{path}: rows are read from .jsonl, .json and .parquet files (.gz, .bz2, .xz), not '{kind}'"
        )
    if kind == ".parquet":
        return _parquet_rows(path)
    return text_rows(read_text(path), str(path), layouts, lines=kind in JSON_LINES)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with COMPRESSED.get(path.suffix.lower(), open)(path, "rb") as handle:
            table = pyarrow.parquet.ParquetFile(io.BytesIO(handle.read()))
        number = 0
        for batch in table.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", row
    except (OSError, EOFError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {error}") from error


def _web_rows(url: str, layouts: Sequence[Sequence[str]]) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        # kept in the cache of `datasets`, under a name without suffix and without compression
        path = datasets.DownloadManager().download_and_extract(url)
    except (OSError, ValueError) as error:
        raise ValueError(f"{url} could not be loaded: {error}; get the file and name it as source") from error
    lines = file_kind(Path(url)) in JSON_LINES
    return text_rows(read_text(path), url, layouts, lines)


def _hub_rows(path: str, config: str | None, split: str, what: str) -> Iterator[tuple[str, Any]]:
    import datasets

    where = f"{path}:{config}" if config else path
    try:
        rows = datasets.load_dataset(path, config, split=split)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # not found, no network, no such config, split or format
        raise ValueError(
            f"{what}: '{where}' is not a file or folder here, and could not be loaded from the Hugging Face "
            f"hub (split '{split}'): {error}"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{where}, {split} {number}", row
