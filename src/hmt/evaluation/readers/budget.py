"""The rows of a table: a model and the baselines, each with the same number of bytes to carry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from hmt.evaluation.readers.base import Reader
from hmt.evaluation.readers.memory import MemoryReader
from hmt.evaluation.readers.retrieval import BM25Reader
from hmt.evaluation.readers.rolling import RollingReader
from hmt.evaluation.readers.window import FullReader, WindowIdsReader
from hmt.model.checkpoint import BackboneWrapper
from hmt.util.format import byte_text

BASELINES = ("alone", "sensory", "window", "sinks", "window-ids", "bm25", "full")
SIZED = ("window", "sinks", "window-ids", "bm25")  # those with a row per budget
SINKS = 4  # StreamingLLM's first tokens
_UNITS = {"": 1, "b": 1} | {
    unit: base**power
    for power, letter in enumerate("kmg", start=1)
    for unit, base in ((f"{letter}ib", 1024), (f"{letter}b", 1000))
}


def parse_bytes(text: str | int) -> int:
    """A number of bytes: "64KiB", "1.5 MiB" (1,024), "100 KB" (1,000), "512 B" or a plain number.

    Upper and lower case are the same. ValueError for anything else, and for less than one byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no number of bytes; write for instance 65536, 64KiB or 1.5MiB")
    size = float(match[1]) * _UNITS[match[2]]
    if size < 1:
        raise ValueError(f"{text!r} is less than one byte")
    return int(size)


def baseline(
    kind: str,
    backbone: PreTrainedModel,
    budget: int | None = None,
    tokenizer: Any = None,
    *,
    chunk: int = 64,
    sensory: int = 0,
    limit: int | None = None,
    name: str | None = None,
) -> Reader:
    """One of `BASELINES` on a backbone.

    Args:
        budget: bytes per stream, for those of `SIZED`. tokenizer: for "bm25".
        chunk: tokens that a rolling cache reads before it forgets; see `RollingReader`.
        sensory: raw tokens of "sensory".
        limit: longest input of the backbone. None means what its config says; a backbone that was trained on
            shorter texts does worse beyond them, and then a shorter one is fair.
    ValueError for another kind, and for what a kind lacks.
    """
    if kind not in BASELINES:
        raise ValueError(f"there is no baseline {kind!r}; choose from {', '.join(BASELINES)}")
    if kind in SIZED and budget is None:
        raise ValueError(f"the baseline {kind} needs a number of bytes, such as 64KiB")
    if kind == "bm25" and tokenizer is None:
        raise ValueError("the baseline bm25 works on words and needs the tokenizer")
    name = name or kind
    if kind == "full":
        return FullReader(backbone, limit, name=name)
    if kind == "bm25":
        return BM25Reader(backbone, tokenizer, budget or 0, name=name, positions=limit)
    if kind == "window-ids":
        return WindowIdsReader(backbone, budget, name=name, positions=limit)
    if kind in ("alone", "sensory"):
        tokens = sensory if kind == "sensory" else 0
        return WindowIdsReader(backbone, tokens=tokens, name=name, positions=limit)
    sinks = SINKS if kind == "sinks" else 0
    return RollingReader(backbone, budget, sinks=sinks, chunk=chunk, name=name, positions=limit)


def rows_at(
    model: BackboneWrapper,
    budgets: Sequence[int],
    tokenizer: Any = None,
    baselines: Sequence[str] = ("sensory", "window", "bm25", "full"),
    *,
    backbone: PreTrainedModel | None = None,
    sensory: int | None = None,
    limit: int | None = None,
    name: str | None = None,
) -> list[Reader]:
    """The model and the baselines at every budget.

    Args:
        model: with a memory bank (`memory_size`) it gives one row per budget, whose bank holds as many
            embeddings as fit after the rest of its state; else one row with the bytes that it has.
        budgets: bytes per stream; none means what the model carries as it is.
        tokenizer: for "bm25".
        baselines: at each budget "window" (a rolling KV cache), "sinks" (one with attention sinks),
            "window-ids" (ids that are read again) and "bm25"; once "alone" (no memory), "sensory" (only the
            raw tokens that the model reads again) and "full".
        backbone: of the baselines; None takes the model's own, as it is now: trained with the memory, if it
            was.
        sensory: raw tokens of the row "sensory"; None means as many as the model has. With 0 there is no such
            row: it would be "alone".
        limit: longest input of the backbone in the baselines; see `baseline`.
        name: of the model; None takes the name of its system.
    ValueError for an unknown baseline and for budgets that are too small for the model.
    """
    plain = backbone if backbone is not None else model.backbone
    sensory = model.tokens_read_again if sensory is None else sensory
    name = name or model.config.model_type
    budgets = sorted(set(budgets)) or [model.new_memory(1).nbytes]
    texts = _texts(budgets)

    def plainly(kind: str, budget: int | None = None, called: str | None = None) -> Reader:
        return baseline(
            kind, plain, budget, tokenizer, chunk=model.config.segment_length, sensory=sensory, limit=limit,
            name=called,
        )  # fmt: skip

    others: list[Reader] = []
    for kind in sorted(set(baselines), key=lambda kind: (*BASELINES, kind).index(kind)):
        if kind in SIZED:
            others += [plainly(kind, b, f"{kind} {text}") for b, text in zip(budgets, texts, strict=True)]
        elif kind != "sensory" or sensory:
            others.append(plainly(kind))
    sized = [model.at_budget(budget) for budget in budgets]
    if all(twin is model for twin in sized):
        return [MemoryReader(model, name), *others]
    own = [MemoryReader(twin, f"{name} {text}") for twin, text in zip(sized, texts, strict=True)]
    return [*own, *others]


def _texts(budgets: Sequence[int]) -> list[str]:
    """Budgets as they are shown; in bytes where two would look the same."""
    texts = [byte_text(budget) for budget in budgets]
    return texts if len(set(texts)) == len(texts) else [f"{budget} B" for budget in budgets]
