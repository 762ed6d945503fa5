"""`hmt chat` and `hmt sessions`: lines from a pipe, from a terminal, and what is kept."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hmt import load_model
from hmt.cli.streaming import WrittenWords, printable
from hmt.sessions import DirectRunner, Options, Session, Store

from .models import TEXT, save_asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_asked(tmp_path_factory)


@pytest.fixture(autouse=True)
def home(workplace, monkeypatch):
    monkeypatch.setenv("HMT_HOME", str(workplace / "home"))
    (workplace / "two.md").write_text("# Lights\nA lighthouse stood there.\n" * 3)
    return workplace / "home"


@pytest.fixture
def chat(hmt, folder):
    def run(*lines, code=0, options=()):
        return hmt("chat", folder, "--device", "cpu", *options, code=code, input="\n".join(lines) + "\n")

    return run


KEEP = ("--session", "whales", "--max-new-tokens", 5)


def test_lines_from_a_pipe(chat, folder):
    done = chat(
        "/read book.txt", "", "Who saw the whale?", "/where", "/recall the boat", "/memory", options=KEEP
    )
    runner = DirectRunner(load_model(folder))
    session = Session.new("x", runner).append(TEXT, name="book.txt")
    answer, _ = session.ask("Who saw the whale?", options=Options(max_new_tokens=5))
    assert done.stdout.startswith(printable(answer.answer))
    for one in (*answer.passages, *session.recall("the boat")):
        assert f"{one.weight:>4.0%}  {one.where}\n" in done.stdout
        assert one.context("Who saw the whale?") in done.stdout or one.context("the boat") in done.stdout
    assert "d1  book.txt" in done.stdout and "where keys and values of these tokens take" in done.stdout
    assert "session whales: 0 documents" in done.stderr and "d1  book.txt: 2,493 tokens" in done.stderr
    again = chat("/where", "/history", options=KEEP)
    assert "session whales: 1 document, 2,493 tokens, 1 turn." in again.stderr
    assert "  1  Who saw the whale?" in again.stdout and answer.passages[0].where in again.stdout
    stored = Store().open("whales", runner)
    assert stored.turns[0].answer == answer.answer and stored.documents[0].text == TEXT


def test_documents_are_replaced_and_forgotten(chat, hmt):
    chat("/read book.txt two.md", "/read two.md", "/forget two.md", "/replace d1 two.md", options=KEEP)
    facts = json.loads(hmt("sessions", "show", "whales", "--json").stdout)
    assert [(one["id"], one["name"]) for one in facts["documents"]] == [("d1", "two.md")]
    told = chat("/read two.md", "/recall lighthouse", options=KEEP)
    assert "two.md is read already, as two.md" in told.stderr
    assert "two.md:1, section: Lights, tokens 0-" in told.stdout


def test_turns_are_taken_back_and_asked_in_other_words(chat):
    told = chat(
        "/read two.md",
        "One?",
        "Two?",
        "Three?",
        "/undo",
        "/edit 1 Uno?",
        "//slash?",
        "/history",
        options=KEEP,
    )
    history = told.stdout[told.stdout.index("  1  Uno?") :]
    asked = [line[5:] for line in history.splitlines() if line[:3].strip().isdecimal()]
    assert asked == ["Uno?", "/slash?"]
    assert "took back 1 turn" in told.stderr


def test_forks_and_files(chat, hmt, workplace):
    chat("/read two.md", "/fork boats", "Who?", "/save boats.session", options=KEEP)
    stored = {one["name"]: one for one in json.loads(hmt("sessions", "list", "--json").stdout)}
    assert {name: one["turns"] for name, one in stored.items()} == {"boats": 1, "whales": 0}
    hmt("sessions", "import", "boats.session", "--name", "third")
    hmt("sessions", "fork", "third", "fourth")
    hmt("sessions", "export", "fourth", "fourth.session")
    assert (workplace / "fourth.session").stat().st_size > 1000
    for name in ("boats", "whales", "third"):
        hmt("sessions", "delete", name)
    listed = hmt("sessions", "list").stdout
    assert "fourth" in listed and "whales" not in listed
    shown = hmt("sessions", "show", "fourth").stdout
    assert "d1  two.md: " in shown and "1. Who?" in shown


def test_a_document_is_forgotten_without_a_conversation(chat, hmt, error_of, folder):
    chat("/read two.md book.txt", options=KEEP)
    forget = ("sessions", "forget", "whales", "d2", "--model", folder)
    hmt(*forget)
    left = json.loads(hmt("sessions", "show", "whales", "--json").stdout)["documents"]
    assert [one["id"] for one in left] == ["d1"]
    assert "has no document d2; it has d1" in error_of(*forget)


def test_mistakes_are_one_line_each_and_the_next_line_comes(chat):
    lines = {
        "/nothing": "there is no command /nothing; /help lists them",
        "/read": "something is missing: /read FILE...",
        "/read nowhere.txt": "nowhere.txt does not exist",
        "/read 'open": "No closing quotation: 'open",
        "/where": "nothing was asked yet",
        "/memory now": "/memory takes nothing behind it",
        "/forget d9": "has no document 'd9'; it has none",
        "/replace d1": "something is missing: /replace DOC FILE",
        "/undo": "there are 0 turns",
        "/undo x": "a number is missing where 'x' stands",
        "/edit 3 Who?": "there are 0 turns; /history numbers them",
        "/fork ../x": "cannot be the name of a session",
        "/save book.txt": "is there and is no session file",
        "/reload": "nothing is kept: start with --session NAME",
        "whale " * 99: "ask a shorter one",
    }
    told = chat(*lines, "/read two.md", "/help", code=2)
    errors = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(lines)
    for line, message in zip(errors, lines.values(), strict=True):
        assert message in line
    assert "/quit" in told.stdout and "two.md: " in told.stderr


def test_without_a_session_nothing_is_kept(chat, home, error_of, folder):
    told = chat("/read two.md", "Who?", options=("--max-new-tokens", 3))
    assert "nothing is kept" in told.stderr and not home.exists()
    assert "needs a name: --session NAME" in error_of("chat", folder, "--store", "x")
    assert "cannot be the name of a session" in error_of("chat", folder, "--session", "A/b")
    assert "there is no session whales" in error_of("sessions", "show", "whales")
    assert "there is no session whales" in error_of("sessions", "delete", "whales")
    assert "book.txt is no session file" in error_of("sessions", "import", "book.txt")
    assert "--top-p must be above 0" in error_of("chat", folder, "--top-p", "7")


def test_quit_ends_and_sampling_is_seeded(chat):
    wild = ("--temperature", 5, "--seed", 1, "--max-new-tokens", 9)
    first = chat("/read two.md", "Who?", "/quit", "/nothing", options=wild).stdout
    assert first.strip() and first == chat("/read two.md", "Who?", options=wild).stdout


def test_what_somebody_else_saved_is_told_and_reloaded(chat, folder, monkeypatch):
    chat("/read two.md", options=KEEP)
    from hmt.cli import conversation

    other, done = DirectRunner(load_model(folder)), []

    class Meanwhile(conversation.Conversation):
        def _keep(self, session):
            if not done:
                done.append(Store().save(Store().open("whales", other).append("Theirs.", name="theirs")))
            super()._keep(session)

    monkeypatch.setattr(conversation, "Conversation", Meanwhile)
    told = chat("Who?", "/reload", "Who?", "/memory", code=2, options=KEEP)
    assert "error: session whales: it was saved by somebody else" in told.stderr
    assert "2 documents" in told.stderr and "theirs" in told.stdout
    assert len(Store().open("whales", other).turns) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of Unix")
def test_a_terminal_and_ctrl_c(folder, workplace):
    """Ctrl-C stops the answer, not the program, and never what is kept; twice at the prompt neither."""
    import pty

    code = "from hmt.__main__ import main; main()"
    arguments = ["chat", str(folder), "--session", "whales", "--max-new-tokens", "100000", "--device", "cpu"]
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=slave, stdout=slave, stderr=slave, close_fds=True,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    seen = b""

    def until(text, since=0):
        """Where a text ends that comes after the first `since` bytes."""
        nonlocal seen
        deadline = time.monotonic() + 120
        while text not in seen[since:]:
            assert time.monotonic() < deadline and process.poll() is None, seen
            try:
                seen += os.read(master, 65536)
            except OSError:
                break
        return seen.index(text, since) + len(text)

    def type_in(text):
        os.write(master, text + b"\n")

    try:
        at = until(b"\n? ")
        os.kill(process.pid, signal.SIGINT)  # at the prompt
        at = until(b"/quit ends)", at)
        at = until(b"? ", at)
        type_in(b"/read two.md")
        at = until(b"d1  two.md", at)
        at = until(b"? ", at)
        type_in(b"Who stood there?")
        at = until(b"there?", at)
        while len(seen) < at + 60:  # some of the answer
            seen += os.read(master, 65536)
        os.kill(process.pid, signal.SIGINT)
        at = until(b"(stopped)", at)
        at = until(b"\n? ", at)
        type_in(b"/history")
        at = until(b"1  Who stood there?", at)
        at = until(b"\n? ", at)
        os.write(master, b"\x04")  # Ctrl-D
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    session = Store().open("whales", DirectRunner(load_model(folder)))
    assert [turn.question for turn in session.turns] == ["Who stood there?"] and session.turns[0].answer


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of Unix")
def test_a_signal_that_ends_ends(folder, workplace):
    code = "from hmt.__main__ import main; main()"
    arguments = ["chat", str(folder), "--session", "whales", "--max-new-tokens", "100000", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdin.write(b"/read two.md\nWho?\n")
    process.stdin.flush()
    assert process.stdout.read(5)  # it is answering
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    session = Store().open("whales", DirectRunner(load_model(folder)))
    assert session.turns == () and len(session.documents) == 1


def test_words_are_put_out_when_they_are_whole_and_no_terminal_obeys_them(capsys, folder):
    tokenizer = DirectRunner(load_model(folder)).tokenizer
    words, seen = WrittenWords(tokenizer), []
    for token in tokenizer("\n Café 😀\x1b[31m red\n", add_special_tokens=False).input_ids:
        words.add(token)
        seen.append(capsys.readouterr().out)
    assert "".join(seen).strip() == "Café 😀\ufffd[31m red"
    assert "" in seen  # a letter of several tokens waited for its last
