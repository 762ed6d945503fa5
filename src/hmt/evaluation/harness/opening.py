"""A reader from what `--model_args` say."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from hmt.backbone import locate
from hmt.evaluation.readers.base import Reader
from hmt.evaluation.readers.budget import BASELINES, baseline, parse_bytes
from hmt.evaluation.readers.memory import MemoryReader
from hmt.model.checkpoint import BackboneWrapper
from hmt.systems import load_model, load_tokenizer, register


def open_reader(
    path: str,
    kind: str,
    budget: str | int | None,
    tokenizer: Any,
    device: str | None,
    dtype: str | torch.dtype | None,
    context: int | None,
    chunk: int | None,
) -> tuple[Reader, Any]:
    """The reader and its tokenizer; see `HarnessLM` for the arguments. ValueError for what does not fit."""
    if kind not in ("memory", *BASELINES):
        raise ValueError(f"there is no reader {kind!r}; choose from memory, {', '.join(BASELINES)}")
    size = None if budget is None else parse_bytes(budget)
    place = _device(device)
    register()
    options = {} if dtype is None else {"dtype": dtype}
    try:
        load = load_model if kind == "memory" else AutoModelForCausalLM.from_pretrained
        model = load(locate(path), **options).eval().to(place)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no folder with a model, nor one on the hub: {reason}") from error
    if tokenizer is None or isinstance(tokenizer, str):
        base = None if tokenizer else getattr(model.config, "base_model_name_or_path", None)
        tokenizer = load_tokenizer(tokenizer or model.config.name_or_path, base)
    if kind == "memory":
        return MemoryReader(model if size is None else model.at_budget(size)), tokenizer
    sensory = 0
    if isinstance(model, BackboneWrapper):
        size = size or model.new_memory(1).nbytes
        chunk, sensory = chunk or model.config.segment_length, model.tokens_read_again
        model = model.backbone
    reader = baseline(kind, model, size, tokenizer, chunk=chunk or 64, sensory=sensory, limit=context)
    return reader, tokenizer


def _device(name: str | None) -> torch.device:
    try:
        place = torch.device(name or "cuda")
    except RuntimeError as error:
        raise ValueError(f"there is no device {name!r}: {error}") from error
    # the harness asks for cuda:0 by default
    return torch.device("cpu") if place.type == "cuda" and not torch.cuda.is_available() else place
