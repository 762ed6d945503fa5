"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from hmt.serving.errors import ApiError
from hmt.serving.likely import chat_token
from hmt.serving.prompts import Turns
from hmt.serving.routes.asking import Job, job_of, usage
from hmt.serving.schema import EVENTS, ChatRequest
from hmt.serving.services import services_of
from hmt.serving.sse import event_stream
from hmt.serving.work import Cancel, Emit
from hmt.sessions import Token

router = APIRouter(tags=["answers"])


@router.post("/v1/chat/completions", responses=EVENTS)
async def chat(request: Request, body: ChatRequest) -> Any:
    """Answer the last message, from a memory or from the messages before it."""
    most = body.max_completion_tokens or body.max_tokens
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
    job = job_of(request, body, most, body.stop, (body.top_logprobs or 0) if body.logprobs else None)
    turns = [(one.role, one.text) for one in body.messages]
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": job.services.model_id,
    }
    work = services_of(request).model
    if body.stream:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return await event_stream(
            request, work, lambda cancel, emit: _stream(job, turns, head, with_usage, cancel, emit)
        )
    return await work.answer(request, lambda cancel: _whole(job, turns, head, cancel))


def _whole(job: Job, turns: Turns, head: dict[str, Any], cancel: Cancel) -> dict[str, Any]:
    prompt = job.prompt(turns, cancel)
    answers = job.write(prompt, cancel)
    choices = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": answer.text,
                "refusal": None,
                "annotations": job.annotations(prompt, answer.text),
            },
            "logprobs": _likely(job, answer.likely),
            "finish_reason": answer.reason,
        }
        for index, answer in enumerate(answers)
    ]
    told = {**head, "object": "chat.completion", "choices": choices, "usage": usage([prompt], answers)}
    return {**told, "memory": job.memory_view(prompt)}


def _likely(job: Job, tokens: Sequence[Token]) -> dict[str, Any] | None:
    """`logprobs` of a choice; None where they are not asked for."""
    if job.options.logprobs is None:
        return None
    tokenizer = job.services.runner.tokenizer
    return {"content": [chat_token(tokenizer, one) for one in tokens], "refusal": None}


def _stream(
    job: Job,
    turns: Turns,
    head: dict[str, Any],
    with_usage: bool,
    cancel: Cancel,
    emit: Emit,
) -> None:
    head = {**head, "object": "chat.completion.chunk"}
    rest: dict[str, Any] = {"usage": None} if with_usage else {}

    def chunk(
        index: int, delta: dict[str, Any], reason: str | None = None, likely: Sequence[Token] = ()
    ) -> dict[str, Any]:
        logprobs = _likely(job, likely) if likely else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**head, "choices": [choice], **rest}

    def tell(index: int, piece: str, likely: Sequence[Token]) -> None:
        emit(chunk(index, {"content": piece}, likely=likely))

    prompt = job.prompt(turns, cancel)
    for index in range(job.n):
        first = chunk(index, {"role": "assistant", "content": ""})
        emit({**first, "memory": job.memory_view(prompt)} if not index else first)
    answers = job.write(prompt, cancel, tell)
    for index, answer in enumerate(answers):
        found = job.annotations(prompt, answer.text)
        emit(chunk(index, {"annotations": found} if found else {}, answer.reason))
    if with_usage:
        emit({**head, "choices": [], "usage": usage([prompt], answers)})
