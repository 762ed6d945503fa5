"""/v1/memories: what is read, kept, shown, copied and deleted."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from hmt.asking.places import Document
from hmt.serving.errors import ApiError
from hmt.serving.prompts import check_tokens
from hmt.serving.schema import EVENTS, Fork, NewMemory, Recall
from hmt.serving.services import Services, memories_of, services_of
from hmt.serving.sse import event_stream
from hmt.serving.uploads import (
    DOCUMENT_BODY,
    FILE_BODY,
    sent_document,
    sent_file,
    to_document,
)
from hmt.serving.views import memory_view, passage_view, sizes, stored_view
from hmt.serving.work import Cancel, Emit
from hmt.sessions import Step

router = APIRouter(prefix="/v1/memories", tags=["memories"])

FILE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}
_MOST = 1_000_000  # characters of a text that are sent at once
_BIG = 2**53
Limit = Annotated[int, Query(ge=1, le=1000)]
Place = Annotated[int, Query(ge=0, lt=_BIG)]


@router.get("")
async def memories(request: Request, limit: Limit = 100, after: str | None = None) -> dict[str, Any]:
    """All memories by name, `limit` at a time. after: the last id of the page before."""
    mine = memories_of(request)

    def work(cancel: Cancel) -> dict[str, Any]:
        found = [one for one in mine.all() if after is None or one.name > after]
        data = [stored_view(one) for one in found[:limit]]
        return {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(found) > limit,
        }

    return await services_of(request).light.answer(request, work)


@router.post("", status_code=201)
async def create(request: Request, body: NewMemory | None = None) -> dict[str, Any]:
    """A new memory, that has read nothing, or a first text."""
    services, mine = services_of(request), memories_of(request)
    wanted = body or NewMemory()

    def work(cancel: Cancel) -> dict[str, Any]:
        document = None if wanted.text is None else Document(wanted.name or "", wanted.text)
        if document is not None:
            _check(services, document)
        session = mine.create(wanted.id, wanted.name)
        if document is not None:
            session = mine.append(session.name, document, cancel, _counting(services))
        return memory_view(session)

    pool = services.light if wanted.text is None else services.model
    return await pool.answer(request, work)


@router.get("/{id}")
async def memory(request: Request, id: str, turns: bool = False) -> dict[str, Any]:
    """A memory and its documents. turns: what was remembered, too."""
    mine = memories_of(request)
    return await services_of(request).light.answer(request, lambda _: memory_view(mine.open(id), turns))


@router.delete("/{id}")
async def delete(request: Request, id: str) -> dict[str, Any]:
    """A memory is gone, with all it has read."""
    mine = memories_of(request)
    await services_of(request).light.answer(request, lambda cancel: mine.delete(id, cancel))
    return {"id": id, "object": "memory.deleted", "deleted": True}


@router.post("/{id}/fork", status_code=201)
async def fork(request: Request, id: str, body: Fork | None = None) -> dict[str, Any]:
    """A copy, that goes its own way from here."""
    mine, wanted = memories_of(request), body or Fork()
    return await services_of(request).light.answer(
        request, lambda _: memory_view(mine.fork(id, wanted.id, wanted.name))
    )


@router.post("/{id}/recall")
async def recall(request: Request, id: str, body: Recall) -> dict[str, Any]:
    """The passages that are recalled for a text; nothing is answered."""
    mine = memories_of(request)

    def work(cancel: Cancel) -> dict[str, Any]:
        found = mine.recall(id, body.text, body.top)
        return {"object": "list", "memory": id, "data": [passage_view(one, body.text) for one in found]}

    return await services_of(request).model.answer(request, work)


# -- documents -----------------------------------------------------------------------------------------------


@router.post("/{id}/documents", status_code=201, openapi_extra=DOCUMENT_BODY, responses=EVENTS)
async def append(request: Request, id: str) -> Any:
    """Read a document more. With `Accept: text/event-stream` its progress is told, of what is saved."""
    services, mine = services_of(request), memories_of(request)
    name, content = await sent_document(request)
    await services.light.answer(request, lambda _: mine.open_name(id))  # a stream has begun with its 200

    def document() -> Document:
        found = to_document(name, content)
        _check(services, found)
        return found

    if _wants_events(request):

        def stream(cancel: Cancel, emit: Emit) -> None:
            tell = _Progress(services, emit)
            session = mine.append(id, document(), cancel, tell.step)
            emit({**tell.last, "document_id": session.documents[-1].id, "done": True})

        return await event_stream(request, services.model, stream)

    def work(cancel: Cancel) -> dict[str, Any]:
        return memory_view(mine.append(id, document(), cancel, _counting(services)))

    return await services.model.answer(request, work)


@router.put("/{id}/documents/{document}", openapi_extra=DOCUMENT_BODY)
async def replace(request: Request, id: str, document: str) -> dict[str, Any]:
    """Read another text in the place of a document: all of it, or nothing changes."""
    services, mine = services_of(request), memories_of(request)
    name, content = await sent_document(request)

    def work(cancel: Cancel) -> dict[str, Any]:
        found = to_document(name, content)
        _check(services, found)
        return memory_view(mine.replace(id, document, found, cancel))

    return await services.model.answer(request, work)


@router.delete("/{id}/documents/{document}")
async def forget(request: Request, id: str, document: str) -> dict[str, Any]:
    """The memory without a document, as if it had never read it."""
    mine = memories_of(request)
    return await services_of(request).model.answer(
        request, lambda cancel: memory_view(mine.forget(id, document, cancel))
    )


@router.get("/{id}/documents/{document}/text")
async def text(
    request: Request, id: str, document: str, start: Place = 0, end: Place | None = None
) -> dict[str, Any]:
    """Characters of a document from `start` up to `end`, a million at most."""
    mine = memories_of(request)

    def work(cancel: Cancel) -> dict[str, Any]:
        one = mine.document(mine.open(id), document)
        if one.text is None:
            raise ApiError(404, "The text of this document was not kept.", code="text_not_kept")
        last = min(len(one.text) if end is None else end, start + _MOST)
        said = one.text[start:last]
        return {"text": said, "start": start, "end": start + len(said), "characters": len(one.text)}

    return await services_of(request).light.answer(request, work)


@router.get("/{id}/segments/{segment}")
async def segment(request: Request, id: str, segment: int) -> dict[str, Any]:
    """A segment that the memory holds."""
    mine = memories_of(request)
    return await services_of(request).light.answer(
        request, lambda _: passage_view(mine.passage(mine.open(id), segment))
    )


# -- the whole -----------------------------------------------------------------------------------------------


@router.get("/{id}/file", response_class=Response, responses=FILE)
async def download(request: Request, id: str) -> Response:
    """All of a memory in one file."""
    mine = memories_of(request)
    data = await services_of(request).light.answer(request, lambda _: mine.export(id))
    headers = {"Content-Disposition": f'attachment; filename="{id}.hmt-session"'}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.put("/{id}/file", status_code=201, openapi_extra=FILE_BODY)
async def upload(request: Request, id: str) -> dict[str, Any]:
    """A memory from such a file, under a name that is free."""
    mine, data = memories_of(request), await sent_file(request)

    def work(cancel: Cancel) -> dict[str, Any]:
        mine.import_(id, data)
        return memory_view(mine.open(id))

    return await services_of(request).light.answer(request, work)


class _Progress:
    """Tells what was read and saved."""

    def __init__(self, services: Services, emit: Emit):
        self.services, self.emit = services, emit
        self.since, self.read = time.monotonic(), 0
        self.last: dict[str, Any] = {}

    def step(self, step: Step) -> None:
        """After each step that was saved."""
        self.services.metrics.read.inc(step.tokens - self.read)
        self.read = step.tokens
        numbers = sizes(step.session)
        total = step.tokens if step.done or step.total is None else max(step.tokens, round(step.total))
        seconds = max(1e-6, time.monotonic() - self.since)
        self.last = {
            "tokens": step.tokens,
            "total_tokens": total,
            "tokens_per_second": round(step.tokens / seconds, 1),
            "bytes": numbers["bytes"],
            "kv_cache_bytes": numbers["kv_cache_bytes"],
            "memory_tokens": numbers["tokens"],
        }
        self.emit(self.last)


def _counting(services: Services) -> Any:
    return _Progress(services, lambda value: None).step


def _check(services: Services, document: Document) -> None:
    check_tokens(services.runner.tokenizer, document.text, services.settings.max_text_tokens, "text")


def _wants_events(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")
