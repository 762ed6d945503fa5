"""The answers of one reader on one task, in a file that grows by a line per record and survives interruption.

DIR/predictions/<task>/<reader>.jsonl        the first line says what was run, each further one is a record
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from hmt.util.files import check_output, write_atomically

Record = dict[str, Any]
_Fact = str | bool | int | float | None


class _Shape(TypedDict):
    """What every record holds; a task adds more."""

    id: str
    scores: NotRequired[dict[str, float | None]]
    facts: NotRequired[dict[str, _Fact]]
    weights: NotRequired[dict[str, float | None] | None]


_RECORD = TypeAdapter(_Shape)


class Predictions:
    """Records on disk. A last line that was cut short by an interruption is dropped.

    with Predictions(path, header) as predictions:
        predictions.append(record)  # on disk when this returns

    Args:
        header: what was run, as JSON values. ValueError, naming the field, if the file is there with another.
        overwrite: begin anew.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, overwrite: bool = False):
        self.path, self.header = Path(path), plain(header)
        self.records: list[Record] = []
        self._file: IO[bytes] | None = None
        self._end = 0
        check_output(self.path)
        if overwrite:
            self._check_ours()
            self.path.unlink(missing_ok=True)
        elif self.path.exists():
            self._load()

    @property
    def done(self) -> set[str]:
        return {record["id"] for record in self.records}

    def append(self, record: Record) -> None:
        """Add a record, or raise ValueError for an id that is there already."""
        if self._file is None:
            self._file = self._open()
            self._seen = self.done
        record = plain(record)
        if record["id"] in self._seen:
            raise ValueError(f"{self.path}: there already is a record {record['id']!r}")
        self._file.write(_line(record))
        self._file.flush()
        self._seen.add(record["id"])
        self.records.append(record)

    def replace(self, records: list[Record]) -> None:
        """Put other records in the place of these (scores computed anew)."""
        self.close()
        self.records = [plain(record) for record in records]
        data = b"".join(_line(value) for value in (self.header, *self.records))
        write_atomically(self.path, data)
        self._end = len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._end = self.path.stat().st_size
            self._file = None

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> IO[bytes]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("r+b" if self.path.exists() else "w+b")
        file.truncate(self._end)
        file.seek(self._end)
        if not self._end:
            file.write(_line(self.header))
        return file

    def _load(self) -> None:
        found, self.records, self._end = read_predictions(self.path)
        if self._end:
            self._check(found)

    def _check_ours(self) -> None:
        """ValueError for a file that begins with anything but a header: it is nobody's to remove."""
        if not self.path.exists() or not (first := self.path.open("rb").readline()):
            return
        try:
            found = json.loads(first)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.keys() != self.header.keys():
            raise ValueError(
                f"{self.path} is there and holds no answers of hmt eval; remove it, if it can go"
            )

    def _check(self, found: Any) -> None:
        field = difference(found, self.header)
        if field is not None:
            raise ValueError(
                f"{self.path} holds predictions of another run: its {field[0]} is {field[1]}, and now it is "
                f"{field[2]}; choose another --output, or --overwrite what is there"
            )


def read_predictions(path: Path) -> tuple[Any, list[Record], int]:
    """Header (None: there is none yet) and records of a file, and the number of whole bytes.

    ValueError, naming the line, for what no run has written.
    """
    header: Any = None
    records: dict[str, Record] = {}
    end = 0
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line break was cut
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if number == 1:
                header = value
            elif value["id"] in records:
                raise ValueError(f"a second record {value['id']!r}")
            else:
                _RECORD.validate_python(value, strict=True)
                records[value["id"]] = value
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
            raise ValueError(
                f"line {number} of {path} cannot be read ({what}); begin anew with --overwrite"
            ) from None
        end += len(line) + 1
    return header, list(records.values()), end


def difference(old: Any, new: Any, name: str = "") -> tuple[str, str, str] | None:
    """Name and both values of the first field that differs, None if none does."""
    if old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            found = difference(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
            if found is not None:
                return found
    return name or "header", json.dumps(old)[:80], json.dumps(new)[:80]


def slug(name: str) -> str:
    """A reader's name as the name of a file: "window 16 KiB" as "window-16-KiB"."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "reader"


def plain(value: Any) -> Any:
    """JSON values: NaN and infinity as None, tuples and arrays as lists, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist())
    return str(value)


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
