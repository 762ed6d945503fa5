"""`hmt ask` and `hmt recall`: what is printed, and mistakes in one line."""

import errno
import json

import pytest

import hmt as library
from hmt import HMTForCausalLM

from .models import TEXT, make_tokenizer, save_asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_asked(tmp_path_factory)


@pytest.fixture
def told(hmt, folder):
    def run(*words, **options):
        return hmt(*words, "--model", folder, "--device", "cpu", **options)

    return run


def test_an_answer_and_where_it_was_read(told, folder):
    words = ("ask", "book.txt", "Who saw the whale?", "--max-new-tokens", 6, "--top", 3)
    first = told(*words)
    assert first.stderr.startswith("read ") and "tokens/s" in first.stderr
    again = told(*words)
    assert again.stdout == first.stdout and not again.stderr  # it was kept
    want = library.ask("book.txt", "Who saw the whale?", model=folder, max_new_tokens=6, top=3)
    answer, _, passages = first.stdout.rstrip("\n").rpartition("\n\n")
    assert answer.strip() == want.answer
    lines = passages.splitlines()
    assert len(lines) == 6
    for line, shown, one in zip(lines[::2], lines[1::2], want.passages, strict=True):
        assert (
            line == f"{one.weight:>4.0%}  book.txt:{one.line}, tokens {one.tokens[0]:,}-{one.tokens[1] - 1:,}"
        )
        assert shown.strip() == one.context("Who saw the whale?")
    facts = json.loads(told(*words, "--json").stdout)
    assert facts["answer"] == want.answer and facts["question"] == "Who saw the whale?"
    assert facts["passages"] == json.loads(json.dumps([one.facts() for one in want.passages]))
    assert told("recall", *words[1:3], "--top", 3).stdout.rstrip("\n") == passages
    found = json.loads(told("recall", *words[1:3], "--top", 3, "--json").stdout)
    assert found == {"question": "Who saw the whale?", "passages": facts["passages"]}


def test_sampling_is_seeded(told):
    words = ("ask", "book.txt", "Who?", "--max-new-tokens", 8, "--json")

    def answers(*options):
        return json.loads(told(*words, *options).stdout)["answer"]

    assert answers("--temperature", 2.0, "--seed", 1) == answers("--temperature", 2.0, "--seed", 1)
    assert answers("--temperature", 2.0, "--seed", 1) != answers("--temperature", 2.0, "--seed", 2)


def test_a_conversation_on_the_terminal(told):
    lines = f"Who saw the whale?\n\n{'long ' * 60}\nWhen was it?\n"
    result = told("ask", "book.txt", "-", "--json", "--max-new-tokens", 4, input=lines)
    facts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["question"] for one in facts] == ["Who saw the whale?", "When was it?"]
    assert "error: the question has" in result.stderr and "48 are the most" in result.stderr
    alone = told("ask", "book.txt", "When was it?", "--json", "--max-new-tokens", 4).stdout
    assert facts[1] == json.loads(alone)  # each is asked of the book


def test_a_memory_file_and_a_text_from_stdin(hmt, told, folder):
    hmt("read", folder, "book.txt", "--memory", "book.hmt")
    of_memory = json.loads(told("recall", "book.hmt", "the boat", "--json").stdout)["passages"]
    of_text = json.loads(told("recall", "-", "the boat", "--json", input=TEXT).stdout)["passages"]
    assert [one["tokens"] for one in of_memory] == [one["tokens"] for one in of_text]
    assert of_memory[0]["file"] is None and of_text[0]["file"] == "-"
    assert "tokens " in told("recall", "book.hmt", "the boat").stdout


def test_mistakes_are_one_line(hmt, error_of, folder, folders, workplace, monkeypatch):
    def error(*words, model=folder):
        return error_of(*words, "--model", model, "--device", "cpu")

    assert 'hmt ask book.txt "..."' in error("ask", "book.txt")
    assert "the question is empty" in error("ask", "book.txt", " ")
    assert "not both" in error("ask", "-", "-")
    assert "48 are the most" in error("recall", "book.txt", "long " * 60)
    assert "nope.txt does not exist" in error("ask", "nope.txt", "Who?")
    (workplace / "blank.txt").write_text("\n \n")
    assert "holds no text" in error("ask", "blank.txt", "Who?")
    assert "--temperature must be" in error("ask", "book.txt", "Who?", "--temperature", "0")
    assert "nope is not there" in error("ask", "book.txt", "Who?", model="./nope")
    assert "keeps no passages and cannot be asked" in error("ask", "book.txt", "Who?", model=folders / "hmt")
    hmt("read", folders / "hmt", "book.txt", "--memory", "plain.hmt")
    assert "made with another configuration" in error("recall", "plain.hmt", "Who?")
    assert "keeps no passages" in error("recall", "plain.hmt", "Who?", model=folders / "hmt")
    (workplace / "file").write_text("")
    monkeypatch.setenv("HMT_CACHE", str(workplace / "file"))
    assert "HMT_CACHE" in error("ask", "book.txt", "Who?")


def test_a_full_disk_is_told_and_the_answer_comes(told, monkeypatch, caplog):
    def full(self, path, notes=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(library.Memory, "save", full)
    assert told("recall", "book.txt", "the boat").stdout
    assert "is not kept" in caplog.text and "No space left on device" in caplog.text


def test_ctrl_c_while_reading(told, monkeypatch):
    """What was read is kept, the exit code is the signal's, and the same command goes on."""
    real, calls = HMTForCausalLM.read, []

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(HMTForCausalLM, "read", stopping)
    stopped = told("recall", "book.txt", "whale", code=130)
    assert stopped.stderr == "interrupted: 768 tokens are kept; the same again goes on from there\n"
    assert (
        f"read {len(make_tokenizer()(TEXT).input_ids) - 768:,} tokens"
        in told("recall", "book.txt", "whale").stderr
    )
