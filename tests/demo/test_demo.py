"""The demo, end to end on a text of a few pages, and the pieces it is made of."""

import json
import subprocess
import sys

import pytest

from hmt.demo import keys
from hmt.demo.corpus import library_documents, make_corpus
from hmt.demo.run import Demo
from hmt.demo.settings import smoke


def test_every_python_has_a_corpus():
    documents = library_documents()
    assert len(documents) > 100
    assert all(name.endswith(".py") and len(text) >= 2_000 for name, text in documents)
    corpus = make_corpus()
    assert len(corpus.held_out) == 12
    assert not {name for name, _ in corpus.held_out} & {name for name, _ in corpus.train}
    assert corpus == make_corpus(seed=0) and corpus != make_corpus(seed=1)


def test_one_long_text_is_cut_into_parts_that_lose_nothing(tmp_path):
    text = "".join(f"Sentence number {i} of a rather long text. " for i in range(2_000))
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    corpus = make_corpus([str(tmp_path / "book.txt")])
    assert sum(len(part) for _, part in corpus.train + corpus.held_out) == len(text)
    assert corpus.held_out


def test_a_corpus_of_one_document_is_refused(tmp_path):
    (tmp_path / "word.txt").write_text("w", encoding="utf-8")
    with pytest.raises(ValueError, match="at least two documents"):
        make_corpus([str(tmp_path / "word.txt")])


def test_smoke_run_leaves_everything(tmp_path):
    words = "memory segment recall prompt bank sensory token summary".split()
    text = " ".join(f"{words[i * i % 7]} {words[i % 8]} {i % 90}." for i in range(9_000))
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "hmt",
        "demo",
        "--smoke",
        "--text",
        str(tmp_path / "book.txt"),
        "-o",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr

    for folder in ("backbone", "hmt", "rmt"):
        assert (out / folder / "config.json").is_file()
        assert (out / folder / "tokenizer.json").is_file()
    assert (out / "document.hmt").is_file()
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert set(results["perplexity"]) == {
        "HMT",
        "RMT",
        "sensory tokens only",
        "backbone, one segment",
        "window of one segment",
    }
    assert results["read"]["continuation"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4


def test_a_job_is_done_again_only_when_its_settings_or_text_changed(tmp_path):
    corpus = make_corpus()
    (tmp_path / "work").mkdir()
    demo = Demo(tmp_path, corpus, smoke())
    demo._key = "settings and text"
    assert demo._kept("backbone") is None
    demo._keep("backbone", {"parameters": 3})
    assert demo._kept("backbone") == {"parameters": 3}
    assert demo._submit("backbone", "pretrain", "unused").result() == {"parameters": 3}
    demo._key = "other settings"
    assert demo._kept("backbone") is None


def test_a_job_begins_afresh_where_an_interrupted_one_left_its_folder(tmp_path):
    run = tmp_path / "work" / "recall-rmt"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}", encoding="utf-8")
    keys.train_recall(str(tmp_path), "rmt", smoke(), lambda done, total, text: None)
    assert (tmp_path / "recall-rmt" / "config.json").is_file()
