"""Memory files that say something else than what was read, their checksums right again.

    data = forge(random.Random(0), file.read_bytes())
    outcome = load(model, question, data, path)    # "refused", "equal", "traceback: ..." or "silent: ..."

A file is good if a reading could have left it: `good` says so from the format alone, and knows none of the
library's checks. `tests/conformance/test_forged_files.py` and `benchmarks/fuzz_files.py` use this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from hmt import Memory

Content = tuple[dict[str, str], dict[str, Tensor]]  # metadata and tensors
WHOLE = [-(2**63), -5, -3, -1, 0, 1, 5, 96, 97, 10**9, 2**40, 2**62, 2**63 - 1]
FLOATS = [float("nan"), float("inf"), float("-inf"), 0.0, -1.5, 3e38]
DTYPES = [
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool, torch.float16,
    torch.bfloat16, torch.float32, torch.float64,
]  # fmt: skip
SKETCH = "{}:x:bfloat16:QQ=="  # half a number
WORDS = [
    "",
    "{}",
    "[]",
    "null",
    "[" * 5000,
    "\ud800",
    "\x1b[31m",
    "9" * 5000,
    "hmt",
    "1",
    "2",
    "3",
    '{"a": NaN}',
]


def parse(data: bytes) -> Content:
    """Metadata and tensors. ValueError or SafetensorError for what is no safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]).get("__metadata__", {}), load_tensors(data)


def seal(metadata: dict[str, str], tensors: dict[str, Tensor]) -> bytes:
    """The file of this content, with the checksum that belongs to it."""
    metadata = {name: text for name, text in metadata.items() if name != "checksum"}
    digest = hashlib.sha256()
    if metadata.get("format_version") != "1":
        digest.update(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    metadata["checksum"] = digest.hexdigest()
    data = save_tensors({n: t.contiguous() for n, t in tensors.items()}, {n: "" for n in metadata})
    return _with_header(data, lambda header: header.update(__metadata__=metadata))


def _with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


# -- content -------------------------------------------------------------------------------------------


def _value(draw: Random, metadata: dict, tensors: dict, fill: bool = False) -> None:
    name = draw.choice(sorted(tensors))
    tensor = tensors[name] = tensors[name].clone()
    value = draw.choice(FLOATS if tensor.is_floating_point() else WHOLE)
    value = bool(value) if tensor.dtype == torch.bool else value
    if not tensor.is_floating_point() and tensor.dtype != torch.bool:
        limits = torch.iinfo(tensor.dtype)
        value = max(limits.min, min(limits.max, value))
    if tensor.numel():
        flat = tensor.view(-1)
        flat[slice(None) if fill else draw.randrange(len(flat))] = value


def _dtype(draw: Random, metadata: dict, tensors: dict) -> None:
    name = draw.choice(sorted(tensors))
    tensors[name] = tensors[name].to(draw.choice(DTYPES))


def _shape(draw: Random, metadata: dict, tensors: dict) -> None:
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    changes = [
        lambda: tensor.unsqueeze(0), lambda: tensor.unsqueeze(-1), tensor.flatten, lambda: tensor[:0],
        lambda: torch.cat([tensor, tensor]), lambda: tensor[..., :1], lambda: tensor[..., 1:],
        lambda: tensor.flatten()[0] if tensor.numel() else tensor,
        lambda: tensor.mT if tensor.dim() > 1 else tensor,
    ]  # fmt: skip
    tensors[name] = draw.choice(changes)().contiguous()


def _names(draw: Random, metadata: dict, tensors: dict) -> None:
    name, other = draw.choice(sorted(tensors)), draw.choice(sorted(tensors))
    match draw.randrange(5):
        case 0:
            del tensors[name]
        case 1:
            tensors[draw.choice(["state.more", "other", "open.more", "state.", ""])] = tensors[name].clone()
        case 2:
            tensors["state.renamed"] = tensors.pop(name)
        case 3:
            tensors[name], tensors[other] = tensors[other], tensors[name]
        case 4:
            tensors.clear()


def _rows(draw: Random, metadata: dict, tensors: dict) -> None:
    """Streams in another order, fewer, more: a memory of others."""
    number = tensors["open.lengths"].shape[0] if tensors.get("open.lengths", torch.zeros(())).dim() else 0
    rows = torch.tensor(
        [draw.randrange(number) for _ in range(draw.randrange(4))] if number else [], dtype=torch.long
    )
    for name, tensor in tensors.items():
        if tensor.dim() and tensor.shape[0] == number:
            tensors[name] = tensor[rows].contiguous()


def _words(draw: Random, metadata: dict, tensors: dict) -> None:
    name = draw.choice(sorted(metadata))
    match draw.randrange(5):
        case 0:
            del metadata[name]
        case 1:
            metadata[name] = draw.choice(WORDS)
        case 2:
            metadata["note"] = draw.choice(WORDS)
        case 3:
            metadata["fields"] = metadata.get("fields", "").replace("8", "9")
        case 4:
            metadata["fingerprint"] = SKETCH.format(metadata.get("fingerprint", "")[:16])


CONTENT = [_value, _value, lambda *a: _value(*a, fill=True), _dtype, _shape, _names, _rows, _words]


# -- bytes ---------------------------------------------------------------------------------------------


def _bytes(draw: Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    match draw.randrange(9):
        case 0:
            return data[:at]
        case 1:
            return data + bytes(draw.randrange(1, 20))
        case 2:
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        case 3:
            return draw.choice([2**63 - 1, 10**8, 10**6, 7, 0]).to_bytes(8, "little") + data[8:]
        case 4:  # the same, said otherwise
            return _with_header(
                data, lambda header: header.update(dict(sorted(header.items(), reverse=True)))
            )
        case 5:
            return _with_header(
                data, lambda header: draw.choice(_entries(header)).update(data_offsets=[0, 8])
            )
        case 6:
            return _with_header(
                data,
                lambda header: draw.choice(_entries(header)).update(
                    dtype=draw.choice(["F8_E4M3", "F4", "I3", 7])
                ),
            )
        case 7:
            return _with_header(
                data,
                lambda header: draw.choice(_entries(header)).update(
                    shape=draw.choice([[2**62, 2**62], [-1], ["1"], None])
                ),
            )
        case _:
            empty = {"dtype": "F32", "shape": [1, 0], "data_offsets": [0, 0]}
            return _with_header(
                data,
                lambda header: header.update({f"state.{i}": empty for i in range(draw.choice([10, 5000]))}),
            )


def _entries(header: dict) -> list[dict]:
    return [entry for name, entry in header.items() if name != "__metadata__"] or [{}]


def forge(draw: Random, data: bytes) -> bytes:
    """Another file than this one, by up to three changes."""
    metadata, tensors = parse(data)
    for _ in range(draw.randrange(4)):
        if tensors and metadata:
            draw.choice(CONTENT)(draw, metadata, tensors)
    sealed = seal(metadata, tensors)
    return _bytes(draw, sealed) if draw.random() < 0.25 else sealed


# -- what becomes of it --------------------------------------------------------------------------------


def good(data: bytes, true: bytes, model: Any) -> Content | None:
    """The content of `data` if a reading by `model`, which wrote `true`, could have left it; else None."""
    try:
        metadata, tensors = parse(data)
        if (
            seal(metadata, tensors) != seal(dict(metadata), tensors)
            or metadata.get("checksum") != parse(seal(metadata, tensors))[0]["checksum"]
        ):
            return None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError):
        return None
    right, shapes = parse(true)
    if metadata.get("format_version") not in ("1", "2"):
        return None
    same = all(metadata.get(name) == right[name] for name in ("format", "fingerprint", "system", "fields"))
    if not same or "model" not in metadata or tensors.keys() != shapes.keys():
        return None
    streams, length = (
        len(tensors["open.lengths"]) if tensors["open.lengths"].dim() else 0,
        model.segment_length,
    )
    for name, tensor in tensors.items():
        kinds = (
            {torch.float16, torch.bfloat16, torch.float32, torch.float64}
            if shapes[name].is_floating_point()
            else {torch.int64}
        )
        if (
            tensor.dtype not in kinds
            or list(tensor.shape) != [streams, *shapes[name].shape[1:]]
            or not streams
        ):
            return None
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all() or not torch.isfinite(tensor.float()).all():
                return None
            continue
        top = {"open.lengths": length - 1, "state.segments": 2**40}.get(name, model.config.vocab_size - 1)
        if tensor.numel() and (tensor.min() < 0 or tensor.max() > top):
            return None
    return metadata, tensors


@torch.no_grad()
def load(model: Any, question: Tensor, data: bytes, true: bytes, path: Path) -> str:
    """ "refused" in one line, "equal" to what the file says and good to go on from, or what went wrong."""
    path.write_bytes(data)
    content = good(data, true, model)
    try:
        memory = Memory.load(path, model=model)
    except ValueError as error:
        if content is not None:
            return f"silent: a good file is refused: {error}"
        return (
            "refused"
            if str(error).startswith(str(path)) and "\n" not in str(error)
            else f"traceback: {error}"
        )
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    if content is None:
        return "silent: loaded, and no reading leaves such a memory"
    _, tensors = content
    loaded = {f"state.{name}": tensor for name, tensor in memory.state.tensors.items()}
    loaded |= {"open.ids": memory.open_ids, "open.lengths": memory.open_lengths}
    if not all(torch.equal(loaded[name], tensors[name].to(loaded[name].dtype)) for name in tensors):
        return "silent: loaded something else than the file says"
    try:
        logits = model(question.repeat(memory.batch_size, 1), past_key_values=memory).logits
    except Exception as error:
        return f"traceback: {type(error).__name__} in use: {str(error)[:200]}"
    return "equal" if logits.shape[0] == len(tensors["open.lengths"]) else "silent: other streams"
