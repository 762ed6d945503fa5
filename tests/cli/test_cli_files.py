"""What commands read and write: nothing of anybody else's is touched, nothing that was read is lost."""

import errno
import gzip
import io
import json
import os
import shutil
import tempfile
import threading

import fsspec
import pytest
import torch
from transformers import AutoTokenizer

from hmt import Memory, load_model
from hmt.evaluation import write_runs
from hmt.evaluation.report import Run
from hmt.util.files import only_writer, output_file

from .models import TEXT
from .test_cli_read import same, whole

BOOK = TEXT.encode()


@pytest.fixture
def results(workplace):
    """A folder as `hmt eval` leaves it, with nothing in it."""
    (workplace / "results").mkdir()
    (workplace / "results" / "results.json").write_text('{\n "format": 1,\n "readers": {}, "tasks": {}}')
    return "results"


def commands(folders, output):
    """Every command that writes one file, with what it says of a file that is none of its own."""
    model = folders / "rmt"
    return [
        (("read", model, "book.txt", "-m", output, "--limit", 3), "memory file"),
        (("read", model, "book.txt", "-m", output, "--limit", 3, "--append"), "memory file"),
        (("read", model, "book.txt", "-m", output, "--limit", 3, "--overwrite"), "memory file"),
        (("generate", model, "-p", "a", "--max-new-tokens", 1, "--save-memory", output), "memory file"),
        (("generate", model, "-p", "a", "--save-memory", output, "--overwrite"), "memory file"),
        (("report", "results", "-o", output), "report"),
    ]


def test_no_command_overwrites_what_is_not_its_own(error_of, folders, workplace, results):
    for name in ("notes.txt", "report.html"):
        (workplace / name).write_bytes(b"<html>mine</html>")
    (workplace / "folder").mkdir()
    os.mkfifo("pipe")
    (workplace / "link").symlink_to("notes.txt")
    before = sorted(os.listdir())
    for output, says in [
        ("notes.txt", "and is no {}, so it is not overwritten"),
        ("link", "and is no {}, so it is not overwritten"),
        ("folder", "folder is a folder"),
        ("pipe", "a device or a pipe"),
        ("/dev/null", "a device or a pipe"),
        ("notes.txt/deep", "notes.txt/deep"),
        ("n" * 300, "File name too long"),
    ]:
        for command, kind in commands(folders, output):
            assert says.format(kind) in error_of(*command)
    assert sorted(os.listdir()) == before and (workplace / "notes.txt").read_bytes() == b"<html>mine</html>"
    # folders of results
    for name in ("results.json", "bench.json", "bench.png", "a.png"):
        (workplace / "folder" / name).write_bytes(b"mine")
    assert "no result of hmt eval" in error_of("eval", folders / "rmt", "--data", "book.txt", "-o", "folder")
    assert "no result of hmt bench" in error_of("bench", "--shape", "tiny", "--out", "folder")
    assert "not empty and holds no demo" in error_of("demo", "--train", "--smoke", "-o", "folder")
    assert "not empty and holds no demo" in error_of("demo", "-o", "folder")
    assert "not empty and holds no run" in error_of("train", folders / "rmt", "book.txt", "-o", "folder")
    for command in ("eval", "bench", "demo", "train"):
        words = {"eval": ["x", "--data", "book.txt"], "train": ["x", "book.txt"]}.get(command, [])
        option = "--out" if command == "bench" else "-o"
        assert "is a file" in error_of(command, *words, option, "notes.txt")
        assert "is a URL" in error_of(command, *words, option, "s3://bucket/folder")
    assert {path.read_bytes() for path in (workplace / "folder").iterdir()} == {b"mine"}


def test_an_input_is_never_the_output(hmt, error_of, folders, workplace, results):
    hmt("read", folders / "rmt", "book.txt", "-m", "m.hmt", "--limit", 20)
    memory = (workplace / "m.hmt").read_bytes()
    os.link("book.txt", "hard.txt")
    (workplace / "soft.txt").symlink_to("book.txt")
    (workplace / "same.hmt").symlink_to("m.hmt")
    for output in ("book.txt", "hard.txt", "soft.txt", "./book.txt"):
        message = error_of("read", folders / "rmt", "book.txt", "-m", output, "--overwrite")
        assert "is what is read" in message
    for output in ("m.hmt", "same.hmt"):
        words = (
            "generate",
            folders / "rmt",
            "-m",
            "m.hmt",
            "-p",
            "a",
            "--save-memory",
            output,
            "--overwrite",
        )
        assert "is what is read" in error_of(*words)
    assert "is what is read" in error_of("report", "results/results.json", "-o", "results/results.json")
    assert (workplace / "m.hmt").read_bytes() == memory and (workplace / "book.txt").read_bytes() == BOOK


def test_what_is_ours_is_replaced_when_asked(hmt, error_of, folders, workplace):
    words = ("generate", folders / "rmt", "-p", "The whale", "--max-new-tokens", 3, "--greedy")
    hmt(*words, "--save-memory", "m.hmt")
    assert "--overwrite replaces it" in error_of(*words, "--save-memory", "m.hmt")
    first = (workplace / "m.hmt").read_bytes()
    (workplace / "link.hmt").symlink_to("m.hmt")
    hmt(*words, "--save-memory", "link.hmt", "--overwrite")
    assert (workplace / "link.hmt").is_symlink() and (workplace / "m.hmt").read_bytes() == first
    for _ in range(2):  # a page is made of results that stay: it is replaced unasked
        write_runs([Run("a", {"readers": {}, "tasks": {}})], workplace / "report.html")
    assert sorted(os.listdir()) == ["book.txt", "link.hmt", "m.hmt", "report.html"]


def test_one_command_at_a_time_writes_a_file_or_a_folder(error_of, folders, workplace):
    (workplace / "link.hmt").symlink_to("m.hmt")
    with output_file("m.hmt", "memory file"):
        for output in ("m.hmt", "link.hmt", workplace / "m.hmt"):
            for words in (["--append"], ["--overwrite"], []):
                message = error_of("read", folders / "rmt", "book.txt", "-m", output, *words)
                assert "another run is writing to" in message
        words = ("generate", folders / "rmt", "-p", "a", "--save-memory", "m.hmt")
        assert "another run is writing to m.hmt" in error_of(*words)
    with only_writer("out"):
        assert "another run" in error_of("bench", "--shape", "tiny", "--parts", "decode", "--out", "out")
    assert "m.hmt" not in os.listdir()


def test_two_reads_one_after_the_other_lose_nothing(hmt, folders, workplace):
    """What the lock is for: the second one starts from what the first has saved."""
    for _ in range(2):
        hmt("read", folders / "rmt", "book.txt", "-m", "m.hmt", "--limit", 20, "--append")
    assert Memory.load("m.hmt").tokens_read.item() == 40 and sorted(os.listdir()) == ["book.txt", "m.hmt"]


def test_what_was_read_survives_a_full_disk(hmt, folders, workplace, monkeypatch):
    spare = workplace / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    replace = os.replace

    def full(source, target):
        if "spare" not in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    for *words, least in [
        ("read", folders / "rmt", "book.txt", "-m", "m.hmt", "--limit", 20, 20),
        ("generate", folders / "rmt", "-p", "The whale", "--max-new-tokens", 1, "--save-memory", "m.hmt", 3),
    ]:
        message = hmt(*words, code=2).stderr.splitlines()[-1]
        (kept,) = (path for path in spare.rglob("m.hmt") if str(path) in message)
        assert "m.hmt could not be written (No space left on device)" in message
        assert Memory.load(kept).tokens_read.item() >= least
    assert "m.hmt" not in os.listdir()


def test_urls_are_files_as_in_python(hmt, error_of, folders, workplace):
    model, base = folders / "hmt", f"memory://{workplace.name}"
    with fsspec.open(f"{base}/book.txt", "wb") as file:
        file.write(BOOK)
    result = hmt("read", model, f"{base}/book.txt", "-m", f"{base}/m.hmt", "--limit", 40)
    assert f"{base}/m.hmt: 2 segments, 40 tokens" in result.stdout
    assert "is already there" in error_of("read", model, "book.txt", "-m", f"{base}/m.hmt")
    hmt("read", model, "book.txt", "-m", f"{base}/m.hmt", "--limit", 8, "--append")
    assert json.loads(hmt("memory", "info", f"{base}/m.hmt", "--json").stdout)["tokens_read"] == [48]
    words = ("--greedy", "--max-new-tokens", 2, "--save-memory", f"{base}/n.hmt")
    hmt("generate", model, "-m", f"{base}/m.hmt", "-p", "The", *words)
    assert Memory.load(f"{base}/n.hmt").tokens_read.item() > 48
    hmt("read", model, "book.txt", "-m", f"file://{workplace}/local.hmt", "--limit", 8)
    assert "is no memory file" in error_of("read", model, "book.txt", "-m", f"{base}/book.txt", "--overwrite")
    assert "is what is read" in error_of("read", model, f"{base}/book.txt", "-m", f"{base}/book.txt")
    assert "Protocol not known: nowhere" in error_of("read", model, "book.txt", "-m", "nowhere://b/m.hmt")
    assert sorted(os.listdir()) == ["book.txt", "local.hmt"]


# -- what is read --------------------------------------------------------------------------------------


def test_records_folders_and_several_files(hmt, error_of, folders, workplace):
    texts = ["The whale turned.", "Nobody on board had seen the like.\n", "A smile besides."]
    (workplace / "d").mkdir()
    (workplace / "d" / "a.jsonl").write_text(
        "".join(json.dumps({"story": t, "n": 1}) + "\n" for t in texts[:2])
    )
    (workplace / "d" / "b.txt.gz").write_bytes(gzip.compress(texts[2].encode()))
    (workplace / "c.parquet").write_bytes(parquet(texts))
    want = whole(folders / "hmt", "\n\n".join(texts))
    assert "no field 'text'; it has: story, n" in error_of("read", folders / "hmt", "d", "-m", "m.hmt")
    shutil.copy(workplace / "d" / "b.txt.gz", workplace / "d" / "c.md.gz")
    os.remove(workplace / "d" / "b.txt.gz")
    for name, sources in [
        ("files", ["d/a.jsonl", "d/c.md.gz"]), ("folder", ["d"]), ("parquet", ["c.parquet"]),
    ]:  # fmt: skip
        hmt("read", folders / "hmt", *sources, "-m", f"{name}.hmt", "--text-field", "story")
        assert same(Memory.load(f"{name}.hmt"), want), name


def parquet(texts) -> bytes:
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"story": texts}), stream)
    return stream.getvalue()


def test_pipes_and_stdin(hmt, error_of, folders, workplace, monkeypatch):
    want = whole(folders / "hmt")
    read, write = os.pipe()

    def fill():
        with os.fdopen(write, "wb") as pipe:
            pipe.write(BOOK)

    writer = threading.Thread(target=fill)
    writer.start()  # what `<(cmd)` and /dev/stdin are
    hmt("read", folders / "hmt", f"/dev/fd/{read}", "-m", "pipe.hmt")
    writer.join()
    os.close(read)
    assert same(Memory.load("pipe.hmt"), want)
    assert "stdin holds no text" in error_of("read", folders / "hmt", "-", "-m", "m.hmt", input=b"")
    assert "stdin is a PDF" in error_of("read", folders / "hmt", "-", "-m", "m.hmt", input=b"%PDF-1.7")
    (workplace / "book.pdf").write_bytes(b"%PDF-1.7 ")
    message = error_of("read", folders / "hmt", "book.txt", "book.pdf", "-m", "m.hmt")
    assert "book.pdf is a PDF" in message and "pdftotext" in message
    assert not (workplace / "m.hmt").exists()


def test_the_prompt_from_stdin(hmt, error_of, folders):
    words = ("generate", folders / "hmt", "--greedy", "--max-new-tokens", 5, "-p")
    said = hmt(*words, "The whale\nturned").stdout
    assert hmt(*words, "-", input="The whale\nturned\n").stdout == said
    assert "stdin holds no text" in error_of(*words, "-", input="")
    assert "stdin:1:4 (byte 3) is not utf-8" in error_of(*words, "-", input=b"The\xff")
    assert "its character 4 is '\\udcff'" in error_of(*words, "The\udcff")


def test_names_cannot_speak_to_the_terminal(error_of, workplace):
    (workplace / "a.jsonl").write_text('{"\\u001b[31mred\\u001b[0m": 1}')
    message = error_of("read", "x", "a.jsonl", "-m", "m.hmt")
    assert "it has: \ufffd[31mred\ufffd[0m" in message
    assert "\ufffd" in error_of("memory", "info", "no\udcff.hmt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.uint16])
def test_saved_memories_take_ids_of_any_width(folders, dtype):
    model, tokenizer = load_model(folders / "rmt"), AutoTokenizer.from_pretrained(folders / "rmt")
    ids = torch.tensor([id for id in tokenizer(TEXT).input_ids if id < 120])
    assert same(model.read(ids.to(dtype)), model.read(ids))
