"""Memories as tools of an agent: a server of the Model Context Protocol (MCP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, TypeVar

import anyio.from_thread
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from hmt.asking.places import Document
from hmt.serving.answers import Answers, keep
from hmt.serving.errors import ApiError, to_api_error
from hmt.serving.memories import Memories
from hmt.serving.prompts import check_tokens
from hmt.serving.settings import Settings
from hmt.serving.uploads import to_document
from hmt.serving.work import Cancel
from hmt.sessions import Found, Options, Remembered, Step
from hmt.util.environment import version_of

T = TypeVar("T")

INSTRUCTIONS = """\
Long-term memory that outlives this conversation. `read` puts texts or files of any length into a memory with
a name; `recall` finds the passages in it that belong to a text, word for word and with their place; `ask` has
a small language model answer from them. Trust the passages more than that answer, and quote them."""

# `str` and never `str | None`: the mcp package reads JSON texts that are sent for anything but a plain `str`
MemoryName = Annotated[str, Field(description="Name of the memory: lower-case letters, digits, '-', '_'.")]
Top = Annotated[int, Field(ge=1, le=50, description="Passages, at most.")]


class Passage(BaseModel):
    """What a memory has read in one place; weight: how much of the recall fell on it, 0 to 1."""

    text: str | None
    where: str
    document: str | None
    segment: int
    weight: float
    characters: tuple[int, int] | None

    @classmethod
    def of(cls, found: Found) -> Passage:
        """As it is told."""
        weight = round(found.weight, 4)
        return cls(
            text=found.text, where=found.where, document=found.document, segment=found.segment, weight=weight,
            characters=found.characters,
        )  # fmt: skip


class WasRead(BaseModel):
    """What was read; created: the memory did not exist before."""

    memory: str
    document: str
    name: str
    tokens: int
    created: bool


class Recalled(BaseModel):
    """The passages that were recalled, best first."""

    passages: list[Passage]


class Answered(BaseModel):
    """An answer, and the passages it was written from; remembered: it is part of the memory now."""

    answer: str
    passages: list[Passage]
    remembered: bool


class Forgotten(BaseModel):
    """What is gone: one document, or the whole memory (document: None)."""

    memory: str
    document: str | None


class MemoryLine(BaseModel):
    """A memory in a list."""

    name: str
    tokens: int
    documents: int
    updated: str


class DocumentLine(BaseModel):
    """A document of a memory; held: share of it that the memory still has, the oldest text goes first."""

    id: str
    name: str
    tokens: int
    held: float


class Listed(BaseModel):
    """Memories, or the documents of the one that was named."""

    memories: list[MemoryLine]
    documents: list[DocumentLine] | None = None


class Tools:
    """The tools of a server. Each works in a thread and ends when the client cancels it or goes away.

    Args:
        opened: the memories and who answers from them; waits until they are there. What it raises is told to
            whoever calls a tool.
        folders: files in these, and in folders of theirs, may be read by their path.
        settings: limits of texts, files and answers.
    """

    def __init__(
        self,
        opened: Callable[[], tuple[Memories, Answers]],
        folders: Sequence[Path] = (),
        settings: Settings | None = None,
    ):
        self._opened, self._settings = opened, settings or Settings()
        self._folders = [folder.expanduser().resolve() for folder in folders]

    async def read(
        self,
        context: Context,
        memory: MemoryName,
        text: Annotated[str, Field(description="What is to be remembered.")] = "",
        path: Annotated[str, Field(description="A file, in the place of a text.")] = "",
        name: Annotated[str, Field(description="What the text is called where it is quoted.")] = "",
        replaces: Annotated[str, Field(description="Id of a document that this takes the place of.")] = "",
    ) -> WasRead:
        """Read a text or a file into a memory, which is made if there is none of that name. Any length; what
        was read is kept as it goes, also when this is cancelled."""

        def told(step: Step) -> None:
            with suppress(RuntimeError):  # nobody is there any more
                anyio.from_thread.run(context.report_progress, step.tokens, step.total)

        def work(cancel: Cancel) -> WasRead:
            memories, answers = self._opened()
            called = name
            if replaces and not name:
                called = memories.document(memories.open(memory), replaces).name
            document = self._document(text, path, called)
            check_tokens(answers.runner.tokenizer, document.text, self._settings.max_text_tokens)
            if replaces:
                session = memories.replace(memory, replaces, document, cancel)
                return _was_read(session.name, session.document(replaces), False)
            created = _made(memories, memory)
            session = memories.append(memory, document, cancel, told)
            return _was_read(session.name, session.documents[-1], created)

        return await _run(work)

    async def recall(
        self,
        memory: MemoryName,
        text: Annotated[str, Field(description="A question, or words that the passages share.")],
        top: Top = 4,
    ) -> Recalled:
        """The passages of a memory that belong to a text, word for word. Nothing is answered or kept."""

        def work(cancel: Cancel) -> Recalled:
            found = self._opened()[0].recall(memory, text, top)
            return Recalled(passages=[Passage.of(one) for one in found])

        return await _run(work)

    async def ask(
        self,
        memory: MemoryName,
        question: str,
        top: Top = 4,
        max_tokens: Annotated[int, Field(ge=1, le=1024, description="Of the answer, at most.")] = 96,
        remember: Annotated[bool, Field(description="Keep question and answer in the memory.")] = False,
    ) -> Answered:
        """Have the small model of this server answer a question from a memory, with the passages it read."""

        def work(cancel: Cancel) -> Answered:
            memories, answers = self._opened()
            prompt = answers.of_memory(memories.open(memory), question, top)
            (answer,) = answers.write(prompt, Options(max_new_tokens=max_tokens), 1, (), cancel)
            if remember:
                keep(memories, memory, prompt, answer, cancel)
            passages = [Passage.of(one) for one in prompt.passages]
            kept = remember and bool(answer.text.strip())
            return Answered(answer=answer.text, passages=passages, remembered=kept)

        return await _run(work)

    async def forget(
        self,
        memory: MemoryName,
        document: Annotated[str, Field(description="Id of the document, as `list` and `read` say.")] = "",
        everything: Annotated[bool, Field(description="The whole memory, in place of a document.")] = False,
    ) -> Forgotten:
        """Forget one document, as if it had never been read, or delete a whole memory. Cannot be undone."""

        def work(cancel: Cancel) -> Forgotten:
            if bool(document) == everything:
                raise ToolError("name the document to forget, or say everything=true; one of the two")
            memories = self._opened()[0]
            if everything:
                memories.delete(memory, cancel)
            else:
                memories.forget(memory, document, cancel)
            return Forgotten(memory=memory, document=document or None)

        return await _run(work)

    async def list(
        self,
        memory: Annotated[str, Field(description="Show the documents of this one.")] = "",
    ) -> Listed:
        """All memories that there are, or the documents of one."""

        def work(cancel: Cancel) -> Listed:
            memories = self._opened()[0]
            if not memory:
                found = [
                    MemoryLine(
                        name=one.name, tokens=one.tokens, documents=one.documents, updated=_date(one.updated)
                    )
                    for one in memories.all()
                ]
                return Listed(memories=found)
            session = memories.open(memory)
            documents = [
                DocumentLine(id=one["id"], name=one["name"], tokens=one["tokens"], held=_share(one))
                for one in session.info()["documents"]
            ]
            line = MemoryLine(
                name=session.name,
                tokens=sum(one.tokens for one in documents),
                documents=len(documents),
                updated=_date(session.updated),
            )
            return Listed(memories=[line], documents=documents)

        return await _run(work)

    def _document(self, text: str, path: str, name: str) -> Document:
        """What is to be read. ToolError for what may not or cannot be."""
        if bool(text) == bool(path):
            raise ToolError("give a text, or the path of a file; one of the two")
        if path:
            file = self._file(path)
            if (size := file.stat().st_size) > (most := self._settings.max_upload_bytes):
                raise ToolError(f"{path} has {size:,} bytes, and {most:,} are the most that is read")
            return to_document(name or file.name, file.read_bytes())
        if not text.strip():
            raise ToolError("the text is empty; there is nothing to remember")
        return to_document(name, text)

    def _file(self, path: str) -> Path:
        """ToolError for anything but a file in one of the folders, wherever links lead."""
        for folder in self._folders:
            with suppress(OSError, ValueError, RuntimeError):
                file = (folder / path).resolve()
                if file.is_relative_to(folder) and file.is_file():
                    return file
        if not self._folders:
            raise ToolError(
                "this server reads no files: pass the text, or start it with --files FOLDER to let it read "
                "those in there"
            )
        raise ToolError(f"{path} is no file in {' or '.join(map(str, self._folders))}")


def make_server(tools: Tools) -> MCPServer:
    """The server; `run()` of it speaks on standard input and output until the client closes them."""
    server = MCPServer(
        "hmt", title="Long-term memory", instructions=INSTRUCTIONS, version=version_of("hmt-lm") or "",
        log_level="ERROR",
    )  # fmt: skip
    looks = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    adds = ToolAnnotations(destructive_hint=False, open_world_hint=False)
    ends = ToolAnnotations(destructive_hint=True, open_world_hint=False)
    for tool, hints in (
        (tools.read, ends),  # it can replace
        (tools.recall, looks),
        (tools.ask, adds),
        (tools.forget, ends),
        (tools.list, looks),
    ):
        server.tool(annotations=hints)(tool)
    return server


async def _run(work: Callable[[Cancel], T]) -> T:
    """What `work` returns, in a thread that is told when nobody waits any more."""
    cancel = Cancel()
    try:
        return await anyio.to_thread.run_sync(_told, work, cancel, abandon_on_cancel=True)
    finally:
        cancel.set()


def _told(work: Callable[[Cancel], T], cancel: Cancel) -> T:
    """What can be put right is a ToolError, whose words the agent reads; anything else is a bug of ours."""
    try:
        return work(cancel)
    except ToolError:
        raise
    except Exception as error:
        told = to_api_error(error)
        if told.status == 500:
            raise
        raise ToolError(told.message) from error


def _made(memories: Memories, name: str) -> bool:
    """Make the memory if it is not there; whether it was not."""
    try:
        memories.open_name(name)
        return False
    except ApiError as error:
        if error.status != 404:
            raise
    try:
        memories.create(name)
        return True
    except ApiError as error:
        if error.status != 409:  # somebody else has made it just now
            raise
        return False


def _was_read(memory: str, document: Remembered, created: bool) -> WasRead:
    return WasRead(
        memory=memory, document=document.id, name=document.name, tokens=document.tokens, created=created
    )


def _share(document: dict) -> float:
    return round(document["held"] / document["segments"], 3) if document["segments"] else 0.0


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
