"""One style of progress: totals and time left, whole at any width, lines where there is no terminal."""

import io
import re
import time

import pytest
from rich.console import Console

from hmt.util.progress import Bars

NAME = "perplexity of books, hmt at 64 KiB and a long name"
DETAIL = "12,345,678 tokens, 2,000 tokens/s, peak memory 900 MiB, and whatever else there is to say of it"


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
    assert capsys.readouterr().err.splitlines() == [
        "books: 10/1,000 (1%), 0:00:01, 0:01:39 left, fine",
        "books: 310/1,000 (31%), 0:00:31, 0:01:09 left, fine",
        "books: 610/1,000 (61%), 0:01:01, 0:00:39 left, fine",
    ]


def test_what_an_earlier_run_has_done_took_no_time(clock, capsys, no_terminal):
    with Bars(every=1) as bars:
        bars("books", 500, 1000)
        clock[0] += 10
        bars("books", 600, 1000)
    assert capsys.readouterr().err == "books: 600/1,000 (60%), 0:00:10, 0:00:40 left\n"


def test_nothing_in_the_first_second_and_no_total(clock, capsys, no_terminal):
    with Bars() as bars:
        bars("stdin", 5)
        clock[0] += 2
        bars("stdin", 7000)
    assert capsys.readouterr().err == "stdin: 7,000, 0:00:02\n"


def test_every_line_where_that_is_wanted(clock, capsys, no_terminal):
    with Bars(every=0) as bars:
        for step in (1, 2):
            bars("stage 1", step, 2, "loss 1.0")
    told = ["stage 1: 1/2 (50%), 0:00:00, loss 1.0", "stage 1: 2/2 (100%), 0:00:00, loss 1.0"]
    assert capsys.readouterr().err.splitlines() == told


def test_long_work_is_not_silent(capsys, no_terminal):
    said = ""
    with Bars(every=0.05) as bars:
        bars("one item", 0, 3)
        deadline = time.monotonic() + 60
        while said.count("\n") < 3 and time.monotonic() < deadline:
            said += capsys.readouterr().err
            time.sleep(0.01)
    assert set(said.splitlines()) <= {f"one item: 0/3 (0%), 0:00:{second:02}" for second in range(60)}


@pytest.mark.parametrize("term, live", [("dumb", False), ("xterm", True)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch, term, live):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Bars().live is live


def drawn(clock, width: int, height: int = 25, works: int = 1, encoding: str = "utf-8") -> str:
    """What a terminal of that size shows of works that are a quarter done after half a minute."""
    file = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace")
    bars = Bars()
    bars.live = True
    bars.console = Console(file=file, force_terminal=True, width=width, height=height, color_system=None)
    bars.started = 1e9  # draw by hand
    for number in range(works):
        name = NAME if works == 1 else f"work {number}"
        bars(name, 0, 100)
        clock[0] += 30
        bars(name, 25 if number % 2 else 100, 100, "" if number else DETAIL)
    bars.console.print(bars.render())
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_is_cut_off(clock, width, encoding):
    text = drawn(clock, width, encoding=encoding)
    assert "…" not in text and all(len(line) <= width for line in text.splitlines())
    squeezed = "".join(text.split())
    assert "".join(DETAIL.split()) in squeezed and "".join(NAME.split()) in squeezed
    assert "100% 0:00:30" in text and "\x1b[3" not in text  # with NO_COLOR there is none either


def test_the_time_that_is_left_is_shown_and_stays(clock):
    for works in (2, 4):
        text = drawn(clock, 80, works=works)
        assert len(re.findall(r" 25% 0:0\d:\d\d, 0:0\d:\d\d left", text)) == works // 2


def test_what_is_at_work_stays_on_the_screen(clock):
    text = drawn(clock, 80, height=12, works=20)
    shown = re.findall(r"work (\d+)", text)
    assert len(text.splitlines()) <= 10 and {int(n) % 2 for n in shown} == {1}
