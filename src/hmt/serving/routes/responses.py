"""POST /v1/responses: what the official client's `responses.create` needs."""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request

from hmt.serving.answers import Answer, Prompt
from hmt.serving.errors import ApiError
from hmt.serving.prompts import Turns
from hmt.serving.routes.asking import Job, job_of, usage
from hmt.serving.schema import EVENTS, Message, ResponseRequest
from hmt.serving.services import services_of
from hmt.serving.sse import event_stream
from hmt.serving.work import Cancel, Emit

router = APIRouter(tags=["answers"])


@router.post("/v1/responses", responses=EVENTS)
async def responses(request: Request, body: ResponseRequest) -> Any:
    """Answer an input, from a memory or from the messages before it."""
    if body.top_logprobs:
        raise ApiError(400, "top_logprobs is not supported by /v1/responses.", param="top_logprobs")
    job = job_of(request, body, body.max_output_tokens, param="max_output_tokens")
    if job.n > 1:
        raise ApiError(400, "n is not supported by /v1/responses.", param="n")
    given = [Message(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    turns = [(one.role, one.text) for one in given]
    if body.instructions:
        turns = [("system", body.instructions), *turns]
    answering = _Response(job, turns, body)
    work = services_of(request).model
    if body.stream:
        return await event_stream(request, work, answering.stream, done=False)
    return await work.answer(request, answering.whole)


class _Response:
    """One response, while it is made."""

    def __init__(self, job: Job, turns: Turns, body: ResponseRequest):
        self.job, self.turns, self.body = job, turns, body
        self.id, self.item = f"resp_{secrets.token_hex(16)}", f"msg_{secrets.token_hex(16)}"
        self.created = int(time.time())
        self.number = -1

    def whole(self, cancel: Cancel) -> dict[str, Any]:
        """Answered at once."""
        prompt = self.job.prompt(self.turns, cancel)
        return self._done(prompt, self.job.write(prompt, cancel)[0])

    def stream(self, cancel: Cancel, emit: Emit) -> None:
        """Answered event by event."""

        def tell(kind: str, **fields: Any) -> None:
            self.number += 1
            emit({"type": f"response.{kind}", "sequence_number": self.number, **fields})

        prompt = self.job.prompt(self.turns, cancel)
        begun = self._view("in_progress", [], None, prompt)
        tell("created", response=begun)
        tell("in_progress", response=begun)
        place = {"item_id": self.item, "output_index": 0, "content_index": 0}
        tell("output_item.added", output_index=0, item=self._message("in_progress", []))
        tell("content_part.added", **place, part=_part("", []))
        answer = self.job.write(
            prompt,
            cancel,
            lambda _, piece, likely: tell("output_text.delta", **place, delta=piece, logprobs=[]),
        )[0]
        part = _part(answer.text, self.job.annotations(prompt, answer.text))
        for number, one in enumerate(part["annotations"]):
            tell("output_text.annotation.added", **place, annotation_index=number, annotation=one)
        tell("output_text.done", **place, text=answer.text, logprobs=[])
        tell("content_part.done", **place, part=part)
        done = self._done(prompt, answer)
        tell("output_item.done", output_index=0, item=done["output"][0])
        tell("completed" if done["status"] == "completed" else "incomplete", response=done)

    def _done(self, prompt: Prompt, answer: Answer) -> dict[str, Any]:
        status = "completed" if answer.reason == "stop" else "incomplete"
        part = _part(answer.text, self.job.annotations(prompt, answer.text))
        told = usage([prompt], [answer])
        counted = {
            "input_tokens": told["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": told["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": told["total_tokens"],
        }
        return self._view(status, [self._message(status, [part])], counted, prompt)

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _view(
        self, status: str, output: list[dict[str, Any]], counted: dict[str, Any] | None, prompt: Prompt
    ) -> dict[str, Any]:
        options = self.job.options
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.job.services.model_id,
            "output": output,
            "usage": counted,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self.body.instructions,
            "metadata": self.body.metadata or {},
            "max_output_tokens": self.body.max_output_tokens,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "memory": self.job.memory_view(prompt),
        }


def _part(text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}
