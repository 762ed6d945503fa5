"""What the routes that answer have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from hmt.serving.answers import Answer, Answers, OnPiece, Prompt, keep
from hmt.serving.errors import ApiError, to_api_error
from hmt.serving.memories import Memories
from hmt.serving.prompts import Turns, last_question
from hmt.serving.routes.models import check_model
from hmt.serving.schema import Sampling
from hmt.serving.services import Services, memories_of, services_of
from hmt.serving.views import annotation, passage_view
from hmt.serving.work import Cancel
from hmt.sessions import Options, Token

_COLDEST = 1e-3  # what is below is greedy


@dataclass
class Job:
    """One request that is answered: what it asks for, and who does it.

    Attributes: wanted: the request as it came. since: when. param: its field with the texts.
    """

    services: Services
    memories: Memories
    answers: Answers
    wanted: Sampling
    options: Options
    n: int
    stop: tuple[str, ...]
    since: float
    param: str

    def prompt(self, turns: Turns, cancel: Cancel) -> Prompt:
        """A conversation, or the last message of it put to a memory."""
        name = self.wanted.memory
        try:
            if name is None:
                return self._counted(self.answers.of_turns(turns, self.wanted.top, cancel))
            session, question = self.memories.open(name), last_question(turns)
            return self._counted(self.answers.of_memory(session, question, self.wanted.top))
        except ValueError as error:  # of the question
            raise to_api_error(error, self.param) from None

    def text_prompt(self, text: str, cancel: Cancel) -> Prompt:
        """A text to be continued, or put to a memory."""
        if self.wanted.memory is not None:
            return self.prompt([("user", text)], cancel)
        return self._counted(self.answers.of_text(text, cancel))

    def _counted(self, prompt: Prompt) -> Prompt:
        self.services.metrics.read.inc(prompt.tokens)
        return prompt

    def write(self, prompt: Prompt, cancel: Cancel, told: OnPiece | None = None) -> list[Answer]:
        """The answers, and the first of them kept where that is wanted."""
        first = False

        def tell(index: int, piece: str, likely: Sequence[Token]) -> None:
            nonlocal first
            if not first:
                first = True
                self.services.metrics.first_token.observe(time.monotonic() - self.since)
            if told is not None:
                told(index, piece, likely)

        answers = self.answers.write(prompt, self.options, self.n, self.stop, cancel, tell)
        self.services.metrics.written.inc(sum(answer.tokens for answer in answers))
        if self.wanted.remember and self.wanted.memory is not None:
            keep(self.memories, self.wanted.memory, prompt, answers[0], cancel)
        return answers

    def memory_view(self, prompt: Prompt) -> dict[str, Any] | None:
        """What a completion says of its memory."""
        if self.wanted.memory is None:
            return None
        assert prompt.question is not None
        passages = [passage_view(one, prompt.question) for one in prompt.passages]
        return {"id": self.wanted.memory, "passages": passages}

    def annotations(self, prompt: Prompt, text: str) -> list[dict[str, Any]]:
        """The passages of a memory, as annotations of an answer."""
        if self.wanted.memory is None:
            return []
        return [annotation(one, len(text)) for one in prompt.passages]


def job_of(
    request: Request,
    wanted: Any,
    most: int | None,
    stop: str | list[str] | None = None,
    logprobs: int | None = None,
    param: str = "max_tokens",
) -> Job:
    """What a request asks for. ApiError 400 or 404 for what cannot be."""
    services = services_of(request)
    settings = services.settings
    check_model(services, wanted.model)
    n = wanted.n or 1
    if n > settings.max_choices:
        raise ApiError(400, f"n is at most {settings.max_choices} here.", param="n")
    if most is not None and most > settings.max_new_tokens:
        raise ApiError(400, f"{param} is at most {settings.max_new_tokens:,} here.", param=param)
    if wanted.remember and wanted.memory is None:
        raise ApiError(400, "remember needs a memory.", param="remember")
    temperature = wanted.temperature or 0.0
    options = Options(
        max_new_tokens=most or settings.max_new_tokens,
        temperature=temperature if temperature >= _COLDEST else 0.0,
        top_p=wanted.top_p or 1.0,
        top_k=wanted.top_k or 0,
        seed=wanted.seed,
        frequency_penalty=wanted.frequency_penalty or 0.0,
        presence_penalty=wanted.presence_penalty or 0.0,
        logprobs=logprobs,
    )
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    answers = Answers(services.runner, settings.max_text_tokens)
    since = request.scope["hmt.since"]
    texts = next(one for one in ("messages", "prompt", "input") if hasattr(wanted, one))
    return Job(services, memories_of(request), answers, wanted, options, n, stops, since, texts)


def usage(prompts: list[Prompt], answers: list[Answer]) -> dict[str, Any]:
    """Tokens that were read and written for a request."""
    read, wrote = sum(one.tokens for one in prompts), sum(answer.tokens for answer in answers)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
