"""Files are whole or untouched, nothing of anybody else's is overwritten, one process writes at a time."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

import hmt
from hmt.util import files
from hmt.util.files import (
    check_folder,
    check_output,
    check_own_folder,
    disk_errors,
    exists,
    local_folder,
    only_writer,
    open_file,
    output_file,
    save_or_keep,
    size_of,
    write_atomically,
)

OURS = {
    "memory file": b'\x40\0\0\0\0\0\0\0{"__metadata__":{"a":"b","format":"hmt-memory"}}',
    "report": b'<!DOCTYPE html>\n<meta charset="utf-8">\n<meta name="generator" content="hmt">\n',
    "figure": b"\x89PNG\r\n\x1a\n....tEXtSoftware\0hmt....",
    "result of hmt eval": b'{\n "format": 1,\n "readers": {}}',
    "result of hmt bench": b'{\n "setup": {\n  "command": "hmt bench"}}',
    "recipe": b'{\n  "stages": []}',
    "task of the harness": b'include: "a.yaml"\ncustom_dataset: !function hmt.evaluation.harness.local.load',
}  # fmt: skip
BOOK = b"Call me Ishmael. Some years ago - never mind how long precisely - having little or no money"


def run(code: str, *arguments, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(hmt.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, **options)


# -- what may be written -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OURS)
def test_only_what_is_ours_is_overwritten(kind, tmp_path):
    path = tmp_path / "file"
    for there in (None, b"", OURS[kind]):
        path.unlink(missing_ok=True)
        if there is not None:
            path.write_bytes(there)
        write_atomically(path, b"new", kind)
        assert path.read_bytes() == b"new"
    for other in [BOOK, *(data for name, data in OURS.items() if name != kind)]:
        path.write_bytes(other)
        with pytest.raises(ValueError, match=f"is no {kind}, so it is not overwritten"):
            write_atomically(path, b"new", kind)
        assert path.read_bytes() == other
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_file_is_no_output(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path, message in [
        (tmp_path, "is a folder"),
        ("/dev/null", "a device or a pipe"),
        (tmp_path / "pipe", "a device or a pipe"),
        (tmp_path / "link", "a device or a pipe"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_atomically(path, b"new")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode) and stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "deep").mkdir()
    target, link, twin = tmp_path / "deep" / "target", tmp_path / "link", tmp_path / "twin"
    target.write_bytes(OURS["memory file"])
    target.chmod(0o600)
    link.symlink_to(Path("deep") / "target")
    os.link(target, twin)
    write_atomically(link, b"new", "memory file")
    assert link.is_symlink() and target.read_bytes() == b"new" and os.listdir(tmp_path / "deep") == ["target"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600  # what was private stays so
    assert twin.read_bytes() == OURS["memory file"]
    target.unlink()
    write_atomically(link, b"again")
    assert target.read_bytes() == b"again"
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "round", b"new")


def test_an_input_is_no_output_under_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = tmp_path / "book.hmt"
    book.write_bytes(OURS["memory file"])
    (tmp_path / "soft").symlink_to(book)
    os.link(book, tmp_path / "hard")
    for name in ("book.hmt", "./book.hmt", str(book), "soft", "hard", f"file://{book}"):
        for output, read in ((name, book), (book, name)):
            with pytest.raises(ValueError, match="is what is read"):
                check_output(output, "memory file", ["-", "other.txt", read])
    with pytest.raises(ValueError, match="is what is read"):
        check_output("memory://b/book.hmt", None, ["memory://b/book.hmt"])
    check_output("other.hmt", "memory file", ["book.hmt", "-", tmp_path])


def test_what_cannot_be_written_is_found_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(BOOK)
    for path in (tmp_path / "file" / "deep" / "m.hmt", tmp_path / ("n" * 300), "/proc/nothing/m.hmt"):
        with pytest.raises(OSError) as error:
            check_output(path)
        assert error.value.filename == str(path)
    for path in (tmp_path / "file", "s3://bucket/run", Path("s3://bucket/run")):
        with pytest.raises(ValueError, match="is a file|is a URL"):
            check_folder(path)
    check_output(tmp_path / "new" / "deeper" / "m.hmt")
    assert os.listdir(tmp_path) == ["file"]  # nothing is left of the trial
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # nobody refuses the superuser
    with pytest.raises(PermissionError, match="file"):
        check_output(tmp_path / "file")


def test_a_folder_is_empty_or_ours(tmp_path):
    folder = tmp_path / "run"
    assert check_own_folder(folder, "run.json", "run") == folder and not folder.exists()
    folder.mkdir()
    for left in (".lock", ".run.json.planted", ".run.json.k2j4h1g0.hmt-part"):
        (folder / left).write_bytes(b"{")
        check_own_folder(folder, "run.json", "run")
    (folder / "notes.txt").write_bytes(BOOK)
    with pytest.raises(ValueError, match="not empty and holds no run"):
        check_own_folder(folder, "run.json", "run")
    (folder / "run.json").write_bytes(b"{}")
    check_own_folder(folder, "run.json", "run")


# -- writing -------------------------------------------------------------------------------------------


KILLED = """
import os, sys
from hmt.util import files
os.fsync = lambda handle: os.kill(os.getpid(), 9)
files.write_atomically(sys.argv[1], b"half")
"""


def test_what_killed_writers_leave_is_removed_and_nothing_else(tmp_path):
    target = tmp_path / f"{'long' * 20}.hmt"
    target.write_bytes(b"old")
    assert run(KILLED, target).wait(60) == -9
    assert target.read_bytes() == b"old" and len(os.listdir(tmp_path)) == 2
    handle, alive = files._make_part(target)  # of a writer that is at work
    others = [f".{target.name}.12345678", f".{target.name[:40]}.hmt-part", ".other.12345678.hmt-part"]
    for name in others:
        (tmp_path / name).write_bytes(BOOK)
    (tmp_path / f".{target.name[:40]}.abcdefgh.hmt-part").mkdir()
    write_atomically(target, b"new")
    left = {target.name, Path(alive).name, *others, f".{target.name[:40]}.abcdefgh.hmt-part"}
    assert set(os.listdir(tmp_path)) == left and target.read_bytes() == b"new"
    os.close(handle)
    write_atomically(target, b"newer")
    assert set(os.listdir(tmp_path)) == left - {Path(alive).name}


def test_what_cannot_be_saved_is_kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    (tmp_path / "spare").mkdir()
    replace = os.replace

    def full(source, target):
        if "spare" not in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        ValueError, match=r"m.hmt could not be written \(No space left.*it is in (.*), move"
    ) as told:
        save_or_keep(tmp_path / "m.hmt", lambda path: write_atomically(path, b"much work"))
    (kept,) = (tmp_path / "spare").rglob("m.hmt")
    assert kept.read_bytes() == b"much work" and str(kept) in str(told.value)
    monkeypatch.setattr(os, "replace", lambda source, target: full(source, "anywhere"))
    with pytest.raises(OSError, match="No space left"):
        save_or_keep(tmp_path / "m.hmt", lambda path: write_atomically(path, b"much work"))
    assert sorted(os.listdir(tmp_path)) == ["spare"] and len(os.listdir(tmp_path / "spare")) == 1


def test_a_full_disk_is_an_os_error_whoever_says_it(tmp_path):
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ):
        with pytest.raises(OSError, match="run cannot be written to: .*; go on"), disk_errors("run", "go on"):
            raise error
    for error in (RuntimeError("a bug"), ValueError("I/O error"), FileNotFoundError(2, "none", "x")):
        with pytest.raises(type(error)) as raised, disk_errors("run", "go on"):
            raise error
        assert raised.value is error


# -- URLs ----------------------------------------------------------------------------------------------


def test_urls_go_through_fsspec(tmp_path):
    url = "memory://files/book.hmt"
    write_atomically(url, OURS["memory file"], "memory file")
    assert exists(url) and size_of(url) == len(OURS["memory file"]) and not exists("memory://files/none")
    with open_file(url) as file:
        assert file.read() == OURS["memory file"]
    with fsspec.open(url, "wb") as file:
        file.write(BOOK)
    with pytest.raises(ValueError, match="is no memory file"):
        write_atomically(url, b"new", "memory file")
    write_atomically(f"file://{tmp_path}/local.txt", b"local")
    assert (tmp_path / "local.txt").read_bytes() == b"local"
    for path, message in [
        ("memory://files/none", "memory://files/none: there is no such file"),
        ("nothing://a/b", "nothing://a/b: Protocol not known"),
        (Path("s3://bucket/m.hmt"), "was a URL before it became a Path"),
    ]:
        with pytest.raises(ValueError, match=message), open_file(path):
            pass
    with pytest.raises(ValueError, match="name a local folder"):
        local_folder("memory://files")


def test_what_a_store_raises_is_one_of_two_errors(monkeypatch):
    class Refused(Exception):
        pass

    def refuse(*_, **__):
        raise Refused("no credentials")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "_open", refuse)
    with pytest.raises(ValueError, match="memory://files/x: no credentials"):
        write_atomically("memory://files/x", b"new")


# -- one writer ----------------------------------------------------------------------------------------

HOLD = """
import sys
from hmt.util.files import only_writer, output_file
with only_writer(sys.argv[2]) if sys.argv[1] == "folder" else output_file(sys.argv[2], "memory file"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_second_writer_is_refused_until_the_first_is_gone(kind, tmp_path):
    path = tmp_path / "results"

    def claim():
        return only_writer(path, "name another") if kind == "folder" else output_file(path, "memory file")

    other = run(HOLD, kind, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match="another run is writing to .*results; wait for it, or name another"
        ):
            with claim():
                pytest.fail("two writers")
    finally:
        other.kill()
        other.communicate()
    with claim():
        pass
    left = [] if kind == "file" else ["results"]  # the folder was another's, and it is dead
    assert os.listdir(tmp_path) == left and not (path.is_dir() and os.listdir(path))


def test_errors_inside_pass(tmp_path):
    for folder in (tmp_path, tmp_path, tmp_path / "new"):
        with pytest.raises(ValueError, match="mine"), only_writer(folder):
            raise ValueError("mine")
    assert os.listdir(tmp_path) == []  # no folder for nothing


def test_a_file_that_is_there_is_only_replaced_when_asked(tmp_path):
    path = tmp_path / "m.hmt"
    path.write_bytes(OURS["memory file"])
    with pytest.raises(ValueError, match="m.hmt is already there; --overwrite replaces it"):
        with output_file(path, "memory file", taken="--overwrite replaces it"):
            pytest.fail("taken")
    with output_file(path, "memory file"):
        write_atomically(path, b"new")
    with pytest.raises(ValueError, match="no memory file, so it is not overwritten"):  # before all else
        with output_file(path, "memory file", taken="--overwrite replaces it"):
            pytest.fail("another's")
