"""Who runs the model for sessions: here and now, or a server's batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hmt.memory.memory import Memory
    from hmt.model.recalling import Passage

Progress = Callable[[int], None]
OnToken = Callable[[int], bool | None]

_COLDEST = 1e-3  # logits that are divided by less grow beyond what a float16 holds


@dataclass(frozen=True)
class Options:
    """How an answer is written.

    Attributes:
        max_new_tokens: at most so many.
        temperature: 0 is greedy: always the most likely token.
        top_p, top_k: of sampling: among the likeliest tokens of this mass, of this number (0: of all).
        seed: of sampling; None: another one every time.
        stop: texts behind which nothing more is written.
        frequency_penalty, presence_penalty: what a token loses of its logit for each time that it stands in
            the answer, and once it does; -2 to 2, 0: nothing.
        logprobs: `on_token` hears `Token`s, with so many of the likeliest ones; None: plain ids.
    ValueError for numbers that make no sense.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature and not _COLDEST <= self.temperature <= 100:
            raise ValueError(f"temperature must be 0 or {_COLDEST:g} to 100, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not all(self.stop):
            raise ValueError("a stop text must not be empty")
        for name in ("frequency_penalty", "presence_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ValueError(f"{name} must be -2 to 2, got {getattr(self, name)}")
        if self.logprobs is not None and not 0 <= self.logprobs <= 20:
            raise ValueError(f"logprobs must be 0 to 20, got {self.logprobs}")


class Runner(Protocol):
    """All that sessions ask to be computed. Every call blocks; memories are of one stream and never changed.

    Attributes:
        model: asked for what it declares and what costs no pass (`segment_length`, `without`, ...).
        tokenizer: of the model.
    """

    model: Any
    tokenizer: Any

    def read(self, memory: Memory | None, ids: Sequence[int], progress: Progress | None = None) -> Memory:
        """The memory after more tokens; None: of a new stream. progress: called as progress(tokens done)."""
        ...

    def close(self, memory: Memory) -> Memory:
        """The memory with its open segment closed (`StreamingLM.flush`)."""
        ...

    def recalled(self, memory: Memory, top: int) -> list[Passage]:
        """What is recalled now, by weight, at most `top` (`StreamingLM.recalled`)."""
        ...

    def generate(
        self, memory: Memory, header_ids: Sequence[int], options: Options, on_token: OnToken | None = None
    ) -> list[int]:
        """The tokens written behind `header_ids`, a token that ends the answer included.

        on_token: called with each token as it is written; True ends the answer there, and what it raises
        comes out here.
        """
        ...


class DirectRunner:
    """Runs the model in the caller's thread.

    Args: model: with memory. tokenizer: None takes that of the model's folder or backbone.
    """

    def __init__(self, model: Any, tokenizer: Any = None):
        if tokenizer is None:
            from hmt.backbone import tokenizer_of

            tokenizer = tokenizer_of(model)
        self.model, self.tokenizer = model, tokenizer

    def read(self, memory: Memory | None, ids: Sequence[int], progress: Progress | None = None) -> Memory:
        """See `Runner.read`."""
        return self.model.read(list(ids), memory=memory, progress=progress)

    def close(self, memory: Memory) -> Memory:
        """See `Runner.close`."""
        return self.model.flush(memory)

    def recalled(self, memory: Memory, top: int) -> list[Passage]:
        """See `Runner.recalled`."""
        return self.model.recalled(memory, top)[0]

    def generate(
        self, memory: Memory, header_ids: Sequence[int], options: Options, on_token: OnToken | None = None
    ) -> list[int]:
        """See `Runner.generate`."""
        import torch

        header = torch.tensor([list(header_ids)], device=self.model.input_device)
        from hmt.sessions.likely import Likely, Penalties

        told = Likely() if options.logprobs is not None else None
        heard = None if on_token is None else _Heard(on_token, told, options.logprobs or 0)
        processors = [*([] if told is None else [told]), *Penalties.of(options, header.shape[1])]
        with torch.random.fork_rng(enabled=options.seed is not None):
            if options.seed is not None:
                torch.manual_seed(options.seed)
            written = self.model.generate(
                header,
                attention_mask=torch.ones_like(header),
                past_key_values=memory,
                stopping_criteria=None if heard is None else [heard],
                logits_processor=processors or None,
                tokenizer=self.tokenizer,
                **settings(self.model, self.tokenizer, options),
            )
        return written[0, header.shape[1] :].tolist()


def settings(model: Any, tokenizer: Any, options: Options) -> dict[str, Any]:
    """`options` as arguments of `generate`."""
    pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, model.generation_config.eos_token_id, 0)
    pad = next(token for token in pads if token is not None)
    # None silences settings of the model that only sampling reads
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if options.temperature:
        sampling = {
            "do_sample": True,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
        }
    return {
        "max_new_tokens": options.max_new_tokens,
        "pad_token_id": pad if isinstance(pad, int) else pad[0],
        "stop_strings": list(options.stop) or None,
        **sampling,
    }


class _Heard:
    """A stopping criterion of `generate` that hears every token."""

    def __init__(self, on_token: OnToken, told: Any, top: int):
        self.on_token, self.told, self.top = on_token, told, top

    def __call__(self, ids: Any, scores: Any, **options: Any) -> Any:
        """Whether each row is to end here, bool [B]."""
        import torch

        token = int(ids[0, -1])
        if self.told is not None:
            from hmt.sessions.likely import likely

            token = likely(token, self.told.logits, self.top)
        return torch.full((len(ids),), bool(self.on_token(token)), device=ids.device)
