"""Requests as they come."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hmt.data.files import lone_surrogate


class _Request(BaseModel):
    # a field that is not known here is for another server, and harmless; one of the wrong kind is a mistake
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, given: Any) -> Any:
        try:
            _check_text(given)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return given


def _check_text(value: Any, name: str = "") -> None:
    """ValueError for half a character (JSON can say one): nothing can write it."""
    if isinstance(value, str):
        if (at := lone_surrogate(value)) is not None:
            raise ValueError(f"{name}: character {at + 1} is no character")
    elif isinstance(value, dict):
        for key, one in value.items():
            _check_text(key, name)
            _check_text(one, name or str(key))
    elif isinstance(value, list):
        for one in value:
            _check_text(one, name)


class Part(_Request):
    """A piece of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: str


Content = str | list[Part]


class Message(_Request):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(_Request):
    """What a stream tells besides."""

    include_usage: bool | None = None


Temperature = Annotated[float, Field(ge=0, le=2)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = Annotated[list[Stop], Field(max_length=16)]
MemoryId = Annotated[
    str, Field(max_length=200, description="A memory that is asked; the answer carries its passages.")
]
Top = Annotated[int, Field(ge=1, le=100, description="Passages that are given with the answer, at most.")]


class Sampling(_Request):
    """How an answer is written, in every kind of request."""

    model: str | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    memory: MemoryId | None = None
    remember: bool = Field(False, description="Keep question and answer in the memory.")
    top: Top = 4


# what changes an answer here would be left out silently: it is refused by name
_UNKNOWN = (
    "tools", "functions", "function_call", "logit_bias", "audio", "prediction", "web_search_options",
    "suffix", "best_of", "previous_response_id", "conversation", "background", "prompt_template",
)  # fmt: skip


class Refusing(Sampling):
    """Refuses what OpenAI's API has and this server does not."""

    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    n: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for name in _UNKNOWN:
                if given.get(name) not in (None, [], {}, False, 1 if name == "best_of" else None):
                    raise ValueError(f"{name} is not supported by this server")
            if given.get("tool_choice") not in (None, "none", "auto"):
                raise ValueError("tool_choice is not supported by this server")
        return given


class ResponseFormat(_Request):
    """Only plain text."""

    type: Literal["text"]


class ChatRequest(Refusing):
    """A conversation that is to be answered."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stop: Stop | Stops | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


class CompletionRequest(Refusing):
    """A text that is to be continued; with a memory, a question to it."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=16)]
    max_tokens: Positive | None = None
    stop: Stop | Stops | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None


class TextConfig(_Request):
    """How a response is formatted."""

    format: ResponseFormat | None = None


class InputMessage(Message):
    """A message of the Responses API."""

    type: Literal["message"] = "message"


class ResponseRequest(Refusing):
    """A request of the Responses API."""

    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=10_000)]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    metadata: dict[str, str] | None = None
    text: TextConfig | None = None
    store: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class ErrorFields(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """What is sent in place of an answer."""

    error: ErrorFields


#: Of every route, for the schema.
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}
#: Of those that answer bit by bit where that is wanted.
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


# -- memories ------------------------------------------------------------------------------------------------

Name = Annotated[str, Field(min_length=1, max_length=200)]


class NewMemory(_Request):
    """A memory to be made."""

    id: Name | None = Field(default=None, description="Exactly this one; 409 where it is taken.")
    name: Annotated[str, Field(max_length=200)] | None = Field(default=None, description="Its id is like it.")
    text: str | None = Field(default=None, description="A first document.")


class Fork(_Request):
    """A copy to be made."""

    id: Name | None = Field(default=None, description="Exactly this one; 409 where it is taken.")
    name: Annotated[str, Field(max_length=200)] | None = Field(default=None, description="Its id is like it.")


class NewDocument(_Request):
    """A text to be read."""

    text: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(max_length=200)] | None = None


class Recall(_Request):
    """What is to be recalled."""

    text: Annotated[str, Field(min_length=1)]
    top: Top = 4
