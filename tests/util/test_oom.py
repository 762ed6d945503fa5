"""An error for want of memory keeps its class and message, and says what to change."""

import numpy as np
import pytest
import torch
from accelerate.utils.memory import find_executable_batch_size, should_reduce_batch_size

from hmt.util.oom import generating_advice, out_of_memory_advice, reading_advice, training_advice

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"


def on_a_cpu():
    torch.empty(2**60, dtype=torch.uint8)


def on_windows():
    raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")


def on_a_gpu():
    raise torch.OutOfMemoryError(CUDA)


def beside_torch():
    raise torch.AcceleratorError("CUDA error: out of memory")


def in_python():
    bytearray(2**62)


def in_numpy():
    np.zeros(2**58, dtype=np.uint8)


@pytest.mark.parametrize("fails", [on_a_cpu, on_windows, on_a_gpu, beside_torch, in_python, in_numpy])
def test_same_error_with_advice(fails):
    with pytest.raises((RuntimeError, MemoryError)) as plain:
        fails()
    with pytest.raises((RuntimeError, MemoryError)) as advised, out_of_memory_advice("read less"):
        fails()
    expected = MemoryError if fails is in_numpy else plain.type  # numpy's class is made of a shape
    assert advised.type is expected
    assert str(advised.value) == f"{str(plain.value) or 'out of memory'}\nread less"
    assert type(advised.value.__cause__) is plain.type
    assert should_reduce_batch_size(advised.value) == should_reduce_batch_size(plain.value)


@pytest.mark.parametrize("fails", [on_a_cpu, on_a_gpu])
def test_accelerate_still_tries_a_smaller_batch(fails):
    tried = []

    @find_executable_batch_size(starting_batch_size=4, reduce_batch_size_fn=lambda: 2)
    def work(batch_size):
        tried.append(batch_size)
        with out_of_memory_advice("read less"):
            if batch_size > 2:
                fails()

    work()
    assert tried == [4, 2]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),
        RuntimeError("shapes do not fit"),
        KeyError("chunk"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass_untouched(error):
    with pytest.raises(type(error)) as seen, out_of_memory_advice("read less"):
        raise error
    assert seen.value is error and error.__cause__ is None


def test_advice_is_made_only_when_it_is_needed():
    with out_of_memory_advice(lambda: pytest.fail("nobody asked")):
        pass
    with pytest.raises(torch.OutOfMemoryError, match="made now"), out_of_memory_advice(lambda: "made now"):
        on_a_gpu()


def test_innermost_speaks():
    with pytest.raises(torch.OutOfMemoryError) as error:
        with out_of_memory_advice("outer"), out_of_memory_advice("inner"):
            on_a_gpu()
    assert str(error.value) == f"{CUDA}\ninner"


def test_reading():
    text = reading_advice(chunk=8, streams=4, segment_length=512)
    assert "chunk=1 (8 now)" in text and "streams at once (4 now)" in text and "(512 now" in text
    assert text.endswith("it can be saved, and read on from.")
    text = reading_advice(chunk=1, streams=1, segment_length=512)
    assert "chunk" not in text and "streams" not in text and "untouched" in text


def test_training():
    text = training_advice(replay=False, batch_size=2, segments=8, segment_length=512, loss_chunk=128)
    for words in ("replay=True", "(2 now) with as much more", "(8 now)", "(512 now", "(128 tokens now)"):
        assert words in text
    text = training_advice(replay=True, batch_size=1, segments=8, segment_length=512)
    assert "replay" not in text and "batch_size" not in text and "chunk" not in text and "(512 now" in text


def test_generating():
    text = generating_advice(streams=2, beams=4, segment_length=512)
    assert "prompts at once (2 now)" in text and "(4 now)" in text and "untouched" in text
    assert "beams" not in generating_advice(streams=1, beams=1, segment_length=512)


def test_nothing_left_to_make_smaller():
    assert "larger device" in reading_advice(chunk=1, streams=1, segment_length=1)
