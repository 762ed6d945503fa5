"""What a benchmark measures. Plain data, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PARTS = ("reading", "decode", "training", "memory")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All options of a run; `resolve` fills in the ones whose default depends on the device.

    Args:
        backbone: folder, GGUF file, hub id or short name of trained weights (a plain model, or one with
            memory whose backbone is taken); None builds `shape` with random weights.
        shape: random weights of this shape: tiny, small (default on a CPU), qwen3-0.6b (on a GPU),
            llama-3.2-1b.
        systems: such as hmt-segment,rmt,full; empty means all.
        lengths: tokens of text, multiples of `segment_length`.
        segment_length: new tokens per segment.
        sensory_length: raw tokens that are read again, HMT.
        memory_size: memory embeddings kept, HMT.
        batch: streams side by side.
        chunk: segments whose summaries run in one batch.
        parts: what to measure.
        decode_after: segments read before decoding starts.
        decode_read: of those, how many are really read; the rest is absorbed as random vectors, without
            running the backbone. None: 16 on a CPU, all on a GPU.
        train_segments: BPTT depths, in segments.
        full_attention_max: longest text, in tokens, that full attention is asked to hold. None: 32k on a CPU,
            128k on a GPU.
        question: tokens of the question asked to a memory that is there already.
        dtype: precision, float32 (default on a CPU), bfloat16 (on a GPU) or float16.
        device: where to compute: cpu, cuda, cuda:1. None: a GPU if there is one.
        attn: attention of transformers: sdpa, eager, flash_attention_2.
        threads: threads of PyTorch on a CPU.
        seed: seed of weights and text.
        repeats: rounds; every case runs once in each.
        compile: compile the steps of the systems, and the plain backbone.
        peak_tflops: peak of the device in this precision; None: known for A100, H100 and H200 in 16 bits.
    ValueError, naming the option of the command line, for values that cannot work.
    """

    backbone: str | None = None
    shape: str | None = None
    systems: tuple[str, ...] = ()
    lengths: tuple[int, ...] = (2048, 8192, 32768)
    segment_length: int = 512
    sensory_length: int = 32
    memory_size: int = 300
    batch: int = 1
    chunk: int = 8
    parts: tuple[str, ...] = PARTS
    decode_after: tuple[int, ...] = (1, 1000)
    decode_read: int | None = None
    train_segments: tuple[int, ...] = (8, 64)
    full_attention_max: int | None = None
    question: int = 16
    dtype: str | None = None
    device: str | None = None
    attn: str | None = None
    threads: int | None = None
    seed: int = 0
    repeats: int = 3
    compile: bool = False
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        for name in ("segment_length", "memory_size", "batch", "chunk", "repeats", "question"):
            _at_least(1, name, getattr(self, name))
        for name in ("sensory_length", "decode_read"):
            _at_least(0, name, getattr(self, name))
        for name in ("threads", "full_attention_max"):
            _at_least(1, name, getattr(self, name))
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ValueError(f"--peak-tflops must be above 0, got {self.peak_tflops}")
        for name in ("lengths", "decode_after", "train_segments"):
            _increasing(name, getattr(self, name))
        _known("parts", self.parts, PARTS)
        if not self.parts:
            raise ValueError(f"--parts names nothing to measure; choose among {', '.join(PARTS)}")
        if self.dtype is not None:
            _known("dtype", (self.dtype,), DTYPES)
        if self.backbone is not None and self.shape is not None:
            raise ValueError("--backbone and --shape contradict each other: trained weights have their shape")
        odd = [length for length in self.lengths if length % self.segment_length]
        if odd and {"reading", "memory"} & set(self.parts):
            raise ValueError(
                f"--lengths: {odd[0]} tokens are no multiple of --segment-length {self.segment_length}; only "
                "whole segments are read into memory, so a rest would be counted as read and cost nothing"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; tuples stay tuples."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """What `to_dict` gave, also after it was JSON. ValueError as for `Settings`."""
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)

    def published(self) -> dict[str, Any]:
        """As in the results: a folder by its last name, so that no path of this machine is told."""
        values = self.to_dict()
        if self.backbone is not None and Path(self.backbone).exists():
            values["backbone"] = Path(self.backbone).resolve().name
        return values


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _at_least(low: int, name: str, value: int | None) -> None:
    if value is not None and value < low:
        raise ValueError(f"{_option(name)} must be at least {low}, got {value}")


def _increasing(name: str, values: tuple[int, ...]) -> None:
    rising = all(a < b for a, b in zip(values, values[1:], strict=False))
    if not values or values[0] < 1 or not rising:
        given = ",".join(map(str, values))
        raise ValueError(f"{_option(name)} takes numbers of 1 or more, from small to large; got {given!r}")


def _known(name: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    for one in chosen:
        if one not in known:
            raise ValueError(f"{_option(name)}: there is no {one!r}; choose among {', '.join(known)}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{_option(name)} names something twice: {','.join(chosen)}")
