"""Running out of memory: the same error, and behind it what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# Where a plain RuntimeError is raised: the CPU (Linux, Windows), CUDA outside torch's cache, MPS.
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
             "Storage size calculation overflowed")  # fmt: skip
_ADVISED = "_hmt_advised"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory, of any device, has run out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


@contextmanager
def out_of_memory_advice(advice: str | Callable[[], str]) -> Iterator[None]:
    """Raise an out-of-memory error again with `advice` behind its message; other errors pass untouched.

    The class and the beginning of the message stay, so that accelerate's `find_executable_batch_size` and
    others still know the error. Of nested contexts the innermost speaks.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or hasattr(error, _ADVISED):
            raise
        text = advice if isinstance(advice, str) else advice()
        raise _again(error, f"{str(error) or 'out of memory'}\n{text}") from error


def _again(error: BaseException, message: str) -> BaseException:
    try:
        new: BaseException = type(error)(message)
    except TypeError:  # a subclass that is made of something else, such as numpy's of a shape
        new = MemoryError(message) if isinstance(error, MemoryError) else RuntimeError(message)
    setattr(new, _ADVISED, True)
    return new


# -- what to change ---------------------------------------------------------------------------------------


def reading_advice(chunk: int, streams: int, segment_length: int) -> str:
    """chunk: segments prepared in one batch. streams: rows read at once."""
    return _advice(
        "Reading ran out of memory",
        [
            f"a smaller chunk, such as chunk=1 ({chunk} now)" if chunk > 1 else "",
            f"fewer streams at once ({streams} now)" if streams > 1 else "",
            _shorter(segment_length),
        ],
        "The memory that was passed in is untouched: it can be saved, and read on from.",
    )


def training_advice(
    *, replay: bool, batch_size: int, segments: int, segment_length: int, loss_chunk: int | None = None
) -> str:
    """batch_size: samples per device and step. segments: of a sample. loss_chunk: `chunk` of `token_loss`."""
    # bptt_depth is not among them: every segment of a sample stays stored until the one backward pass.
    return _advice(
        "Training ran out of memory",
        [
            "" if replay else "replay=True (--replay): segments are computed again instead of stored",
            f"a smaller batch_size ({batch_size} now) with as much more gradient_accumulation (--accumulate)"
            if batch_size > 1
            else "",
            f"shorter samples, of fewer segments ({segments} now)" if segments > 1 and not replay else "",
            _shorter(segment_length),
            f"a shorter chunk of the loss ({loss_chunk} tokens now)" if loss_chunk and loss_chunk > 1 else "",
            'fewer trained weights: tuning="lora" or "frozen"',
        ],
    )


def generating_advice(streams: int, beams: int, segment_length: int) -> str:
    """streams: prompts answered at once. beams: `num_beams` or `num_return_sequences` for each."""
    return _advice(
        "Generating ran out of memory",
        [
            f"fewer prompts at once ({streams} now)" if streams > 1 else "",
            f"fewer beams or returned sequences ({beams} now)" if beams > 1 else "",
            "reading a long prompt first, with model.read(..., chunk=1), and generating from its memory",
            _shorter(segment_length),
        ],
        "The memory that was passed in is untouched.",
    )


def _shorter(segment_length: int) -> str:
    if segment_length == 1:
        return ""
    return f"a smaller segment_length ({segment_length} now; a model is trained for one)"


def _advice(what: str, ways: list[str], also: str = "") -> str:
    lines = [f"{what}. What takes less:"] + [f"  - {way}" for way in ways if way]
    if len(lines) == 1:
        lines = [f"{what}, with every setting at its smallest: it takes a smaller model or a larger device."]
    return "\n".join([*lines, also] if also else lines)
