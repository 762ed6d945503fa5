"""Server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from hmt.serving.errors import Gone, to_api_error
from hmt.serving.work import Cancel, Emit, Work

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def event_stream(
    request: Request, work: Work, function: Callable[[Cancel, Emit], None], done: bool = True
) -> StreamingResponse:
    """What `function` emits, as events. Errors before the first are those of any response, later ones an
    event of their own. done: with [DONE] at the end."""
    first, rest = await work.stream(request, function)

    async def lines() -> AsyncIterator[bytes]:
        yield event(first)
        try:
            async for value in rest:
                yield event(value)
        except Gone as error:
            yield event(to_api_error(error).body())
        except Exception as error:
            yield event(to_api_error(error).body())
        else:
            if done:
                yield b"data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers=HEADERS)


def event(value: Any) -> bytes:
    """One event; one with a `type` is named after it."""
    name = value.get("type") if isinstance(value, dict) else None
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data}\n\n".encode("utf-8", "replace")
