"""One style of progress: totals and time left, whole in 80 columns, lines where there is no terminal."""

import io

import pytest
from rich.console import Console

from hmt.util.progress import Bars, progress_bars


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("hmt.util.progress.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_lines_now_and_then(clock, capsys, no_terminal):
    with Bars(every=30) as bars:
        for second in range(70):
            clock[0] = 100.0 + second
            bars("books", 10 * second, 1000, "fine")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "books: 10/1,000 (1%), 0:01:39 left, fine",
        "books: 310/1,000 (31%), 0:01:09 left, fine",
        "books: 610/1,000 (61%), 0:00:39 left, fine",
    ]


def test_nothing_in_the_first_second_and_no_total(clock, capsys, no_terminal):
    with Bars() as bars:
        bars("stdin", 5)
        clock[0] += 2
        bars("stdin", 7000)
    assert capsys.readouterr().err == "stdin: 7,000\n"


def test_every_line_where_that_is_wanted(clock, capsys, no_terminal):
    with Bars(every=0) as bars:
        for step in (1, 2):
            bars("stage 1", step, 2, "loss 1.0")
    assert capsys.readouterr().err == "stage 1: 1/2 (50%), loss 1.0\nstage 1: 2/2 (100%), loss 1.0\n"


@pytest.mark.parametrize("term, live", [("dumb", False), ("xterm", True)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch, term, live):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Bars().live is live


@pytest.mark.parametrize("width", [80, 60])
def test_nothing_is_cut_off(width):
    name = "perplexity of books, hmt at 64 KiB and a long name"
    detail = "12,345,678 tokens, 2,000 tokens/s, peak memory 900 MiB, and whatever else there is to say of it"
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    bars = progress_bars(console)
    bars.add_task(name, total=100, completed=25, detail=detail)
    console.print(bars.get_renderable())
    text = console.file.getvalue()
    assert "…" not in text and all(len(line) <= width for line in text.splitlines())
    squeezed = "".join(text.split())
    assert "25%" in text and "left" in text and "".join(detail.split()) in squeezed
    assert all(word in text for word in ("perplexity", "hmt", "KiB"))


def test_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    bars = progress_bars(console)
    bars.add_task("reading", total=100, completed=25, detail="fast")
    console.print(bars.get_renderable())
    assert "\x1b[3" not in console.file.getvalue() and "reading" in console.file.getvalue()
