"""`hmt demo`: from beginning to end with a tiny model on a few pages, and the pieces it is made of."""

import json
from dataclasses import replace

import pytest
import torch
from cli.models import TEXT, make_tokenizer, save_asked, save_model
from typer.testing import CliRunner

from ask_python import run
from ask_python.compare import BM25, EXACT, FULL, WINDOW, Ways, words_alone
from ask_python.document import QUESTIONS, Question, known, places, python_reference
from ask_python.show import recall_map
from hmt import Books, RMTForCausalLM
from hmt.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_asked(tmp_path_factory, segment_length=128, sensory_length=128)


@pytest.fixture(scope="module")
def pages():
    """The reference around the answers, but for the last question."""
    text = python_reference()
    parts = [places(question.evidence, text)[0] for question in QUESTIONS[:-1]]
    return "\n".join(text[max(0, at - 300) : at + 300] for at in parts)


@pytest.fixture
def demo(tmp_path, monkeypatch, folder, pages):
    """Runs `hmt demo` with these words on a few pages; its result."""
    monkeypatch.setenv("HMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "python_reference", lambda: pages)
    monkeypatch.setattr(run, "LONGEST", 4)
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")

    def call(*words, code=0, model=folder):
        where = ["--model", str(model), "--device", "cpu"] if "--train" not in words else []
        done = CliRunner().invoke(app, ["demo", *words, *where])
        assert done.exit_code == code, done.output
        return done

    return call


def test_every_answer_stands_in_the_reference_of_this_python():
    text = python_reference()
    here, lacking = known(QUESTIONS, text)
    assert here == QUESTIONS and not lacking and len(text) > 400_000
    for question in here:
        assert places(question.answer, question.evidence) and question.is_given(f"It is {question.answer}.")
        assert len(places(question.evidence, text)) <= 6


def test_words_are_found_across_lines_and_not_inside_others():
    assert places("raymond hettinger", "to Raymond\n  Hettinger, and RaymondHettinger") == [3]
    assert places("C3", "C3 AC3 C33 (c3)") == [0, 12] and places(".pdbrc", 'a ".pdbrc" file') == [3]
    assert Question("Who?").is_given("him") is None
    assert known([Question("Who?"), Question("a", "b", "c")], "d") == (
        [Question("Who?")],
        [Question("a", "b", "c")],
    )


def test_the_whole_demo(demo, tmp_path, pages):
    done = demo("-o", "out")
    out = tmp_path / "out"
    assert (out / "document.txt").read_text(encoding="utf-8") == pages
    assert QUESTIONS[-1].text in done.stdout.splitlines()[0] and "left out" in done.stdout.splitlines()[0]
    found = json.loads((out / "answers.json").read_text(encoding="utf-8"))
    assert [one["question"] for one in found["answers"]] == [one.text for one in QUESTIONS[:-1]]
    assert list(found["ways"]) == [EXACT, BM25, WINDOW, FULL]
    assert all(len(replies) == len(QUESTIONS) - 1 for replies in found["ways"].values())
    for one in found["answers"]:
        assert f". {one['question']}\n" in done.stdout and len(one["passages"]) == 2
        assert one["passages"][0]["file"] == "out/document.txt"
    assert "full attention would take" in done.stdout and "tokens/s" in done.stdout
    html = (out / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 1 and "http" not in html and "last tokens" in html
    assert (out / "recall-map.png").read_bytes().startswith(b"\x89PNG")
    # its own folder may be written again, and the text is not read twice
    again = demo("-o", "out", "--ask", "Who?")
    assert "Reading: kept by an earlier run" in again.stdout


def test_a_text_and_questions_of_ones_own(demo, tmp_path):
    done = demo(
        "--text", "book.txt", "--ask", "Who saw the whale?", "--ask", "When?", "--top", "1", "-o", "own"
    )
    assert "1. Who saw the whale?" in done.stdout and "2. When?" in done.stdout
    assert done.stdout.count("book.txt:") == 2 and "is given" not in done.stdout
    assert not (tmp_path / "own" / "document.txt").exists()
    assert json.loads((tmp_path / "own" / "answers.json").read_text())["ways"] == {}


def test_mistakes_are_one_line(demo, tmp_path):
    def error(*words, **options):
        (line,) = demo(*words, code=2, **options).stderr.strip().splitlines()
        return line

    assert "--text needs a question" in error("--text", "book.txt")
    assert "128 are the most" in error("--ask", "long " * 150)
    assert "the question is empty" in error("--ask", " ")
    assert "--smoke is for the demo with --train" in error("--smoke")
    assert "--ask is for the demo without --train" in error("--train", "--ask", "Who?")
    (tmp_path / "blank.txt").write_text(" \n")
    assert "holds no text" in error("--text", "blank.txt", "--ask", "Who?")
    assert "nope.txt does not exist" in error("--text", "nope.txt", "--ask", "Who?")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "not empty and holds no demo" in error("-o", "mine")
    save_model(tmp_path / "rmt", RMTForCausalLM, make_tokenizer())
    assert "keeps no passages" in error("-o", "other", model=tmp_path / "rmt")


# -- the ways ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ways(folder, tmp_path_factory):
    text = "".join(f"The {i}th lamp was lit by number {i}.\n" for i in range(200))
    text = text.replace("number 77.", "a keeper of bees.") + "The end of it."
    path = tmp_path_factory.mktemp("text") / "lamps.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HMT_CACHE", str(path.parent))
        books = Books.open(path, folder)
    model = books.model
    return Ways(books, text, 5, lambda: (model.backbone, 300))


BEES = Question("Which lamp did a keeper of bees light?", "bees", "a keeper of bees")


def test_a_segment_is_found_by_its_words(ways):
    (segment,) = ways.segments(BEES)
    held = ways.books.recall("lamp", top=200)
    assert "keeper" in next(one for one in held if one.segment == segment).text + "".join(
        one.text for one in held if one.segment == segment + 1
    )
    reply = ways.bm25(BEES)
    assert reply.held and reply.passages[0].segment == segment
    assert ways.bm25(replace(BEES, answer=None, evidence=None)).held is None


def test_words_alone_leaves_the_model_as_it_was(ways):
    model = ways.books.model
    before, first = model.recall.key.weight.clone(), ways.exact(BEES).passages
    with pytest.raises(RuntimeError), words_alone(model):
        assert not model.recall.key.weight.any()
        raise RuntimeError
    assert torch.equal(model.recall.key.weight, before) and ways.exact(BEES).passages == first


def test_the_window_reads_the_end_and_nothing_else(ways):
    reply = ways.window(replace(BEES, evidence="The end of it"))
    assert reply.held and reply.read == 2 * 128
    assert not ways.window(BEES).held


def test_full_attention_reads_what_lies_around_the_answer(ways):
    reply = ways.full(BEES)
    assert reply.held and 100 < reply.read < 300
    everything, number = ways.around(BEES, 10**6)
    assert everything == ways.text and number == len(ways.begins)
    part, number = ways.around(BEES, 50)
    assert number == 50 and "bees" in part and part in ways.text
    assert ways.around(replace(BEES, evidence="The end of it"), 50)[0].endswith("The end of it.")


def test_the_map_marks_what_was_recalled_and_where_the_answer_stands():
    assert recall_map([[0, 9], [5]], [[9, 3], []], 10, 80) == [" 1 +..o.....#", " 2 .....+...."]
    assert recall_map([[0, 999]], [[500]], 1000, 10) == [" 1 +....o...+"]
