"""`hmt read` that is interrupted: what was read is kept, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest
from transformers import AutoTokenizer

from hmt import HMTForCausalLM, Memory, load_model
from hmt.cli import read

from .models import TEXT
from .test_cli_read import same, whole

BOOK = TEXT[: len(TEXT) // 2]


@pytest.fixture
def stop_after(monkeypatch, workplace):
    """Interrupts reading in its so-manieth step. Each is one batch of segments, and every one is kept."""
    (workplace / "book.txt").write_text(BOOK, encoding="utf-8")
    monkeypatch.setattr(read, "_STEP", 0.0)
    monkeypatch.setattr(read, "_PIECE", 3000)
    real = HMTForCausalLM.read

    def after(steps: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        left = [steps]

        def stopping(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise error("no")
            return real(*arguments, **options)

        monkeypatch.setattr(HMTForCausalLM, "read", stopping)

    yield after


def test_the_same_command_goes_on(hmt, folders, workplace, stop_after):
    command = ("read", folders / "hmt", "book.txt", "-m", "m.hmt", "--chunk", 4)
    stop_after(5)
    error = hmt(*command, code=130).stderr
    kept = "320 tokens of the text are kept in m.hmt.part; the same command goes on from there"
    assert error.splitlines()[-1] == f"interrupted: {kept}"  # a slow machine tells its progress, too
    assert not (workplace / "m.hmt").exists() and Memory.load("m.hmt.part").tokens_read.item() == 320
    stop_after(2, MemoryError)
    error = hmt(*command, code=2).stderr.splitlines()
    assert error[0] == "going on after 320 tokens, from m.hmt.part" and "448 tokens" in error[1]
    assert error[2] == "error: out of memory, something has to be smaller: no"
    stop_after(10**6)
    told = hmt(*command).stdout
    want = whole(folders / "hmt", BOOK)
    assert same(Memory.load("m.hmt"), want) and not (workplace / "m.hmt.part").exists()
    assert f"read {want.tokens_read.item() - 448:,} tokens" in told


def test_another_text_is_not_gone_on_with(hmt, error_of, folders, workplace, stop_after):
    command = ("read", folders / "hmt", "book.txt", "-m", "m.hmt")
    stop_after(2)
    hmt(*command, code=130)
    stop_after(10**6)
    (workplace / "book.txt").write_text(BOOK.replace("whale", "squid", 1), encoding="utf-8")
    message = error_of(*command)
    assert "m.hmt.part is an interrupted reading of another text" in message and "--overwrite" in message
    (workplace / "book.txt").write_text(TEXT[:90], encoding="utf-8")  # shorter than what was read
    assert "another text" in error_of(*command)
    (workplace / "book.txt").write_text(BOOK, encoding="utf-8")
    assert "more than --limit 20" in hmt(*command, "--limit", 20, code=2).stderr
    assert "this is rmt" in error_of("read", folders / "rmt", "book.txt", "-m", "m.hmt")
    (workplace / "m.hmt.part").write_bytes(b"damaged")
    assert "m.hmt.part is" in error_of(*command)
    hmt(*command, "--overwrite")
    assert (
        same(Memory.load("m.hmt"), whole(folders / "hmt", BOOK)) and not (workplace / "m.hmt.part").exists()
    )


def test_appending_goes_on_behind_the_same_memory(hmt, error_of, folders, workplace, stop_after):
    (workplace / "a.txt").write_text(TEXT, encoding="utf-8")
    hmt("read", folders / "hmt", "a.txt", "-m", "m.hmt", "--limit", 100)
    before = (workplace / "m.hmt").read_bytes()
    command = ("read", folders / "hmt", "book.txt", "-m", "m.hmt", "--append")
    stop_after(2)
    hmt(*command, code=130)
    assert (workplace / "m.hmt").read_bytes() == before  # until all of the text is read
    stop_after(10**6)
    part = (workplace / "m.hmt.part").read_bytes()
    hmt("read", folders / "hmt", "a.txt", "-m", "m.hmt", "--limit", 50, "--overwrite")
    assert not (workplace / "m.hmt.part").exists()
    (workplace / "m.hmt.part").write_bytes(part)
    assert "behind another memory than m.hmt" in error_of(*command)
    (workplace / "m.hmt").write_bytes(before)
    hmt(*command)
    hmt("read", folders / "hmt", "a.txt", "-m", "whole.hmt", "--limit", 100)
    hmt("read", folders / "hmt", "book.txt", "-m", "whole.hmt", "--append")
    assert same(Memory.load("m.hmt"), Memory.load("whole.hmt"))


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_minutes_that_are_none(error_of, folders, minutes):
    assert "--checkpoint-every takes minutes" in error_of(
        "read", folders / "rmt", "book.txt", "-m", "m.hmt", "--checkpoint-every", minutes
    )


def test_a_killed_read_loses_no_more_than_the_interval(hmt, folders, workplace):
    (workplace / "book.txt").write_text(BOOK * 40, encoding="utf-8")
    command = (
        "read",
        folders / "hmt",
        "book.txt",
        "-m",
        "m.hmt",
        "--checkpoint-every",
        "0.0001",
        "--chunk",
        "1",
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-m", "hmt", *map(str, command)], env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (workplace / "m.hmt.part").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert "Traceback" not in process.communicate(timeout=60)[1]
    kept = Memory.load("m.hmt.part").tokens_read.item()
    assert kept > 0 and not (workplace / "m.hmt").exists()
    limit = kept + 40  # not all of it: it is only about where it goes on
    told = hmt(*command, "--limit", limit)
    assert f"going on after {kept:,} token" in told.stderr and "read 40 tokens" in told.stdout
    ids = AutoTokenizer.from_pretrained(folders / "hmt")(BOOK * 40).input_ids[:limit]
    assert same(Memory.load("m.hmt"), load_model(folders / "hmt").read(ids))
