"""POST /v1/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from hmt.serving.answers import Answer, Prompt
from hmt.serving.errors import ApiError
from hmt.serving.likely import completion_tokens
from hmt.serving.routes.asking import Job, job_of, usage
from hmt.serving.schema import EVENTS, CompletionRequest
from hmt.serving.services import services_of
from hmt.serving.sse import event_stream
from hmt.serving.work import Cancel, Emit
from hmt.sessions import Token

router = APIRouter(tags=["answers"])
_USUAL = 16  # tokens where none are named, as of OpenAI


@router.post("/v1/completions", responses=EVENTS)
async def completions(request: Request, body: CompletionRequest) -> Any:
    """Continue a text; with a memory, answer a question from it."""
    services = services_of(request)
    most = body.max_tokens or min(_USUAL, services.settings.max_new_tokens)
    # 0 is asked for by some clients and means the likelihood of what was written alone
    job = job_of(request, body, most, body.stop, body.logprobs)
    if body.echo and body.logprobs is not None:
        raise ApiError(
            400, "logprobs are told of what is written, not of a prompt: leave out echo.", param="echo"
        )
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if len(texts) * job.n > services.settings.max_choices:
        raise ApiError(400, f"At most {services.settings.max_choices} answers a request.", param="n")
    head = {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": services.model_id,
    }
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    echo = bool(body.echo)
    if body.stream:
        return await event_stream(
            request,
            services.model,
            lambda cancel, emit: _stream(job, texts, head, echo, with_usage, cancel, emit),
        )
    return await services.model.answer(request, lambda cancel: _whole(job, texts, head, echo, cancel))


def _choice(
    index: int, text: str, reason: str | None, likely: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": likely, "finish_reason": reason}


def _likely(job: Job, tokens: Sequence[Token], offset: int = 0) -> dict[str, Any] | None:
    """`logprobs` of a choice whose text begins at `offset`; None where they are not asked for."""
    if job.options.logprobs is None:
        return None
    return completion_tokens(job.services.runner.tokenizer, tokens, offset)


def _whole(job: Job, texts: list[str], head: dict[str, Any], echo: bool, cancel: Cancel) -> dict[str, Any]:
    prompts: list[Prompt] = []
    answers: list[Answer] = []
    choices: list[dict[str, Any]] = []
    for text in texts:
        prompts.append(job.text_prompt(text, cancel))
        for answer in job.write(prompts[-1], cancel):
            said = (text if echo else "") + answer.text
            choices.append(_choice(len(answers), said, answer.reason, _likely(job, answer.likely)))
            answers.append(answer)
    told = {**head, "choices": choices, "usage": usage(prompts, answers)}
    return {**told, "memory": job.memory_view(prompts[0])}


def _stream(
    job: Job,
    texts: list[str],
    head: dict[str, Any],
    echo: bool,
    with_usage: bool,
    cancel: Cancel,
    emit: Emit,
) -> None:
    prompts: list[Prompt] = []
    answers: list[Answer] = []
    for text in texts:
        first = len(answers)
        prompts.append(job.text_prompt(text, cancel))
        for index in range(job.n):
            told = {**head, "choices": [_choice(first + index, text if echo else "", None)]}
            emit({**told, "memory": job.memory_view(prompts[0])} if not first + index else told)

        lengths = [0] * job.n

        def tell(
            index: int, piece: str, likely: Sequence[Token], first: int = first, lengths: list[int] = lengths
        ) -> None:
            told = _likely(job, likely, lengths[index])
            lengths[index] += sum(map(len, told["tokens"])) if told else 0
            emit({**head, "choices": [_choice(first + index, piece, None, told)]})

        for answer in job.write(prompts[-1], cancel, tell):
            emit({**head, "choices": [_choice(len(answers), "", answer.reason)]})
            answers.append(answer)
    if with_usage:
        emit({**head, "choices": [], "usage": usage(prompts, answers)})
