"""Tables whose cells are whole at any width, and in one piece where there is no terminal."""

import io

import pytest
from rich.console import Console

from hmt.util import tables
from hmt.util.tables import print_table, stdout

HEADER = ["reader", "bytes", "extra parameters", *(f"needles: exact match {n}" for n in range(6))]
ROWS = [
    [
        f"a model with the long name {n} at 64 KiB",
        "64 KiB",
        "1.2 M",
        *(f"{n}{i}.345 ± 0.678" for i in range(6)),
    ]
    for n in range(3)
]


def printed(width: int, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace")
    print_table("Scores [bold]", HEADER, ROWS, Console(file=file, width=width, color_system=None))
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 10_000])
def test_cells_are_whole(width):
    text = printed(width)
    assert "…" not in text and all(len(line) <= width for line in text.splitlines())
    assert text.startswith("Scores [bold]\n")
    for row in ROWS:
        assert all(cell in text for cell in row[1:])
    if width >= 60:
        assert (text.count("reader") == 1) == (width > 1000)
        assert all(word in text for words in HEADER for word in words.split())


def test_ascii():
    assert "64 KiB" in printed(80, "ascii") and "00.345 ? 0.678" in printed(80, "ascii")


def test_a_pipe_is_wide(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    assert stdout().width == tables._PIPE
    monkeypatch.setenv("COLUMNS", "90")
    assert stdout().width == 90
