"""What `hmt chat` does with a line: a question, or one of the commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import typer

from hmt.cli.ask import show
from hmt.cli.errors import one_line
from hmt.cli.progress import TokenProgress
from hmt.cli.streaming import WrittenWords, ctrl_c, is_ctrl_c, printable
from hmt.data.documents import named_texts
from hmt.sessions import Document, Options, Session, Store, export_session
from hmt.sessions.documents import digest_of
from hmt.util.format import byte_text, plural
from hmt.util.tables import print_table


class Conversation:
    """A session and the terminal.

    Args:
        session: what it begins with. store: where every change is saved; None: nowhere.
        options: of answers. top: passages that are shown. remember: see `Session.ask`.
        model: what the user calls it.
    """

    def __init__(
        self, session: Session, store: Store | None, options: Options, *, top: int, remember: bool, model: str
    ):
        self.session, self.store, self.options = session, store, options
        self.top, self.remember, self.model = top, remember, model
        self.typed = sys.stdin is not None and sys.stdin.isatty()
        self.failed = self.ended = False

    # -- lines ----------------------------------------------------------------------------------------------

    def greet(self) -> None:
        """What there is, for somebody who types."""
        info = self.session.info()
        what = "nothing is kept"
        if self.store is not None:
            what = f"session {self.session.name}"
        typer.echo(
            f"{self.model}, {what}: {plural(len(info['documents']), 'document')}, "
            f"{plural(info['tokens'], 'token')}, {plural(info['turns'], 'turn')}. /help lists commands.",
            err=True,
        )

    def run(self) -> None:
        """Take lines until there are no more, or /quit."""
        if self.typed:
            with suppress(ImportError):
                import readline  # noqa: F401 - lines can be edited, and come back
        while not self.ended:
            try:
                line = input("\n? ") if self.typed else sys.stdin.readline()
            except EOFError:
                break
            except KeyboardInterrupt as stop:
                if not self.typed or not is_ctrl_c(stop):
                    raise
                typer.echo("\n(Ctrl-D or /quit ends)", err=True)
                continue
            if not line and not self.typed:
                break
            self.take(line)

    def take(self, line: str) -> None:
        """One line. What a user can put right is told, and the next one may come."""
        line = line.strip()
        if not line:
            return
        try:
            if line.startswith("/") and not line.startswith("//"):
                self._command(line[1:])
            else:
                self._ask(line.removeprefix("/"))
        except (ValueError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            self.failed = True
            typer.secho(one_line(error), fg=typer.colors.RED, err=True)
        except KeyboardInterrupt as stop:
            if not is_ctrl_c(stop):
                raise
            typer.echo("\n(stopped)", err=True)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        found = COMMANDS.get(name)
        if found is None:
            raise ValueError(f"there is no command /{name}; /help lists them")
        usage, _, work = found
        rest = rest.strip()
        if rest and " " not in usage:
            raise ValueError(f"/{name} takes nothing behind it; // begins a question with /")
        if not rest and " " in usage and "[" not in usage:
            raise ValueError(f"something is missing: /{usage}")
        work(self, rest)

    def _keep(self, session: Session) -> None:
        """Go on with a session, saved first where it is kept."""
        self.session = session if self.store is None else self.store.save(session)

    # -- questions ------------------------------------------------------------------------------------------

    def _ask(self, question: str, before: Session | None = None) -> None:
        """Answer as it is written. before: instead of the session as it is."""
        words = WrittenWords(self.session.runner.tokenizer)
        with ctrl_c(lambda: bool(words.ids)) as stopped:

            def heard(token: int) -> bool:
                words.add(token)
                return stopped()

            _, session = (before or self.session).ask(
                question, top=self.top, options=self.options, remember=self.remember, on_token=heard
            )
        typer.echo("")
        if stopped():
            typer.echo("(stopped)", err=True)
        self._keep(session)

    def where(self, rest: str) -> None:
        """The passages of the last answer."""
        if not self.session.turns:
            raise ValueError("nothing was asked yet")
        turn = self.session.turns[-1]
        show(list(turn.passages), turn.question)

    def recall(self, text: str) -> None:
        """The passages that a text would recall."""
        show(self.session.recall(text, self.top), text)

    def history(self, rest: str) -> None:
        """All turns."""
        for number, turn in enumerate(self.session.turns, 1):
            kept = " (remembered)" if turn.remembered else ""
            answer = " ".join(turn.answer.split())
            typer.echo(printable(f"{number:>3}  {turn.question}{kept}\n     {answer}"))
        if not self.session.turns:
            typer.echo("nothing was asked yet")

    def undo(self, rest: str) -> None:
        """Take turns back."""
        number = self._number(rest) if rest else 1
        self._keep(self.session.undo(number))
        typer.echo(f"took back {plural(number, 'turn')}", err=True)

    def edit(self, rest: str) -> None:
        """Ask a turn in other words; it and all behind it are taken back."""
        number, _, question = rest.partition(" ")
        index = self._number(number)
        if not 1 <= index <= len(self.session.turns):
            raise ValueError(f"there are {plural(len(self.session.turns), 'turn')}; /history numbers them")
        if not question.strip():
            raise ValueError("something is missing: /edit N QUESTION")
        self._ask(question, self.session.undo(len(self.session.turns) - index + 1))

    # -- documents ------------------------------------------------------------------------------------------

    def read(self, rest: str) -> None:
        """Read files; each is saved when it is read."""
        for document in self._documents(rest):
            same = [one.name for one in self.session.documents if one.digest == digest_of(document.text)]
            if same:
                typer.echo(f"{document.name} is read already, as {same[0]}", err=True)
                continue
            with self._progress(document.name) as progress:
                session = self.session.append(document, progress=progress.of)
            self._keep(session)
            one = session.documents[-1]
            typer.echo(f"{one.id}  {one.name}: {progress.summary()}", err=True)
        self._tell_lost()

    def replace(self, rest: str) -> None:
        """Read a file in the place of a document."""
        words = _words(rest)
        if len(words) != 2:
            raise ValueError("something is missing: /replace DOC FILE")
        old = self._document(words[0])
        documents = list(self._documents(words[1], whole=True))
        if len(documents) != 1:
            raise ValueError(f"{words[1]} holds {len(documents)} documents; name a file with one")
        with self._progress(documents[0].name) as progress:
            session = self.session.replace(old, documents[0], progress=progress.of)
        self._keep(session)
        typer.echo(f"{old}  {documents[0].name}: {progress.summary()}", err=True)

    def forget(self, rest: str) -> None:
        """Take a document out of the memory."""
        one = self.session.document(self._document(rest))
        self._keep(self.session.forget(one.id))
        typer.echo(f"forgot {one.id}  {one.name}; what was answered from it stays in the history", err=True)

    def memory(self, rest: str) -> None:
        """What is remembered, and what it takes."""
        info = self.session.info()
        rows = [
            [
                f"{one['id']}  {one['name']}",
                f"{one['tokens']:,}",
                f"{one['segments']:,}",
                f"{one['held']:,}" if one["held"] == one["segments"] else f"{one['held']:,} (the last)",
            ]
            for one in info["documents"]
        ]
        rows.append(
            ["all", f"{info['tokens']:,}", f"{info['segments']:,}",
             f"{info['segments_held']:,} of at most {info['segments_most']:,}"]
        )  # fmt: skip
        print_table("Documents", ["document", "tokens", "segments", "recalled"], rows)
        typer.echo(
            f"memory {byte_text(info['memory_bytes'])}, where keys and values of these tokens take "
            f"{byte_text(info['kv_cache_bytes'])}; {plural(info['turns'], 'turn')}"
        )

    def _documents(self, rest: str, whole: bool = False) -> Iterator[Document]:
        for path in [rest] if whole else _words(rest):
            for one in named_texts(path):
                yield Document(*one)

    def _document(self, said: str) -> str:
        """The id of the document of that id or name. ValueError for none, and for several of a name."""
        ids = [one.id for one in self.session.documents if said in (one.id, one.name)]
        if len(ids) > 1:
            raise ValueError(f"several documents are called {said}: {', '.join(ids)}; name one of these")
        return ids[0] if ids else self.session.document(said).id

    def _progress(self, name: str) -> TokenProgress:
        return TokenProgress(f"reading {name}", self.session.runner.model.device)

    def _tell_lost(self) -> None:
        info = self.session.info()
        lost = info["segments"] - info["segments_held"]
        if lost:
            typer.echo(
                f"the memory holds {info['segments_most']:,} segments: {lost:,} of the oldest are no longer "
                "recalled",
                err=True,
            )

    # -- the session ----------------------------------------------------------------------------------------

    def fork(self, name: str) -> None:
        """Go on under another name; what there is stays under the old one."""
        store = self.store or Store()
        self.session, self.store = store.save(self.session.fork(name)), store
        typer.echo(f"going on as session {name}", err=True)

    def save(self, path: str) -> None:
        """Write the session into one file."""
        export_session(self.session, path)
        typer.echo(f"saved {path}; hmt sessions import takes it", err=True)

    def reload(self, rest: str) -> None:
        """What somebody else saved under this name."""
        if self.store is None:
            raise ValueError("nothing is kept: start with --session NAME")
        self.session = self.store.open(self.session.name, self.session.runner)
        self.greet()

    def help(self, rest: str) -> None:
        """All commands."""
        width = max(len(usage) for usage, *_ in COMMANDS.values()) + 3
        for usage, what, _ in COMMANDS.values():
            typer.echo(f"/{usage:<{width}}{what}")

    def quit(self, rest: str) -> None:
        """No more lines."""
        self.ended = True

    def _number(self, text: str) -> int:
        if not text.isdecimal():
            raise ValueError(f"a number is missing where {text!r} stands")
        return int(text)


Work = Callable[[Conversation, str], None]
#: name -> how it is typed, what it does, what does it
COMMANDS: dict[str, tuple[str, str, Work]] = {
    "read": ("read FILE...", "read files, folders or URLs into the memory", Conversation.read),
    "memory": ("memory", "documents, tokens and bytes", Conversation.memory),
    "where": ("where", "passages of the last answer, by weight", Conversation.where),
    "recall": ("recall TEXT", "passages that a text would recall", Conversation.recall),
    "forget": ("forget DOC", "take a document (d1, or its name) out of the memory", Conversation.forget),
    "replace": ("replace DOC FILE", "read a file in the place of a document", Conversation.replace),
    "history": ("history", "questions and answers, numbered", Conversation.history),
    "undo": ("undo [N]", "take the last turn back, or the last N", Conversation.undo),
    "edit": ("edit N QUESTION", "go back to turn N and ask this instead", Conversation.edit),
    "fork": ("fork NAME", "go on under another name, and leave this one as it is", Conversation.fork),
    "save": ("save FILE", "write all of it into one file", Conversation.save),
    "reload": ("reload", "what another process saved under this name", Conversation.reload),
    "help": ("help", "this list", Conversation.help),
    "quit": ("quit", "end", Conversation.quit),
}


def _words(text: str) -> list[str]:
    """As a shell takes them apart: quotes keep blanks. ValueError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{error}: {text}") from None
