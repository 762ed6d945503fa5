"""The demo, end to end on a text of a few pages, and the pieces it is made of."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from demo.corpus import library_documents, make_corpus
from demo.run import Demo
from demo.settings import Settings, smoke
from demo.train import key_memory
from hmt.cli import app


def test_every_python_has_a_corpus():
    documents = library_documents()
    assert len(documents) > 100
    assert all(one["name"].endswith(".py") and len(one["text"]) >= 2_000 for one in documents)
    train, held_out = make_corpus()
    assert len(held_out) == 12
    assert not {one["name"] for one in held_out} & {one["name"] for one in train}
    assert (train, held_out) == make_corpus(seed=0) and (train, held_out) != make_corpus(seed=1)


def test_one_long_text_is_cut_into_parts_that_lose_nothing(tmp_path):
    text = "".join(f"Sentence number {i} of a rather long text. " for i in range(2_000))
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    train, held_out = make_corpus([str(tmp_path / "book.txt")])
    assert sum(len(one["text"]) for one in train + held_out) == len(text)
    assert held_out


def test_a_corpus_of_one_document_is_refused(tmp_path):
    (tmp_path / "word.txt").write_text("w", encoding="utf-8")
    with pytest.raises(ValueError, match="at least two documents"):
        make_corpus([str(tmp_path / "word.txt")])


@pytest.fixture
def book(tmp_path):
    words = "memory segment recall prompt bank sensory token summary".split()
    text = " ".join(f"{words[i * i % 7]} {words[i % 8]} {i % 90}." for i in range(9_000))
    path = tmp_path / "book.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_smoke_run_leaves_everything(tmp_path, book):
    out, page = tmp_path / "out", tmp_path / "page.html"
    command = [sys.executable, "-m", "hmt", "demo", "--train", "--smoke", "--text", str(book), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr

    for folder in ("backbone", "hmt", "rmt"):
        assert (out / folder / "config.json").is_file()
        assert (out / folder / "tokenizer.json").is_file()
    assert (out / "document.hmt").is_file()
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["read"]["continuation"] and results["read"]["kv_bytes"] > results["read"]["file_bytes"]
    text = json.loads((out / "text" / "results.json").read_text(encoding="utf-8"))
    names = ["HMT", "RMT", "sensory tokens only", "window of one segment", "backbone, one segment"]
    assert list(text["readers"]) == names and all(name in done.stdout for name in names)
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "does it remember?" in html and "HMT (keys)" in html and "http" not in html
    assert html.count("data:image/png;base64,") >= 8

    done = CliRunner().invoke(app, ["report", str(out), "-o", str(page), "--baseline", "sensory tokens only"])
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8") == html


def test_ctrl_c_leaves_no_worker(tmp_path, book):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hmt", "demo", "--train", "--smoke", "--text", str(book), "-o", str(out)]
    demo = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (out / "work" / "recall-hmt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)  # until a worker is at work
    os.killpg(demo.pid, signal.SIGINT)
    error = demo.communicate(timeout=100)[1]  # ends when the last process has closed its end of the pipe
    said = [line for line in error.splitlines() if not line.startswith(("backbone: ", "keys, "))]
    assert (demo.returncode, said) == (130, ["interrupted"])


@pytest.mark.parametrize(
    ("systems", "said"),
    [("hmt,nope", "there is no system 'nope'; choose among armt, hmt, rmt"), ("hmt,hmt", "once")],
)
def test_systems_come_from_the_registry(systems, said):
    done = CliRunner().invoke(app, ["demo", "--train", "--systems", systems])
    assert done.exit_code == 2 and said in done.stderr


def test_a_job_is_done_again_only_when_its_settings_or_text_changed(tmp_path):
    train, held_out = [{"name": "a", "text": "b"}], [{"name": "c", "text": "d"}]
    demo = Demo(tmp_path, train, held_out, smoke(Settings()))
    demo.prepare()
    assert not demo.kept("backbone")
    demo.keep("backbone", {"parameters": 3})
    again = Demo(tmp_path, train, held_out, demo.settings)
    again.prepare()
    assert again.kept("backbone") and again.results == {"backbone": {"parameters": 3}}
    for other in (
        Demo(tmp_path, train, held_out, Settings()),
        Demo(tmp_path, held_out, train, demo.settings),
    ):
        other.prepare()
        assert not other.kept("backbone")


def test_a_job_begins_afresh_where_an_interrupted_one_left_its_folder(tmp_path):
    run = tmp_path / "work" / "recall-rmt"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}", encoding="utf-8")
    key_memory(tmp_path, smoke(Settings()), "rmt", lambda done, total, text: None)
    assert (tmp_path / "recall-rmt" / "config.json").is_file()
