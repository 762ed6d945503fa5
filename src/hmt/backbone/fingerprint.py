"""Fingerprints: which weights these are, in whatever precision and wherever they lie."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

# Fields of a config that say where a model came from or how it is run and trained, not what it computes.
_NOT_ARCHITECTURE = re.compile(
    r".*(name_or_path|dtype|implementation|_token_id|dropout|_pdrop|layerdrop)|(id2label|label2id|num_labels)"
    r"|output_(attentions|hidden_states|router_logits)|architectures|auto_map|transformers_version|use_cache"
    r"|return_dict|problem_type|pretraining_tp|quantization_config|summary_.*"
)
_SAMPLES = 4096  # values of a tensor that its entry in the sketch is made of
_CLOSE = 0.02  # between sketches: rounding to 8 bits of mantissa moves them by 0.001, other weights by 1
_PLAIN = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
_COUNTERS = {torch.int64, torch.int32, torch.bool}  # of buffers: not a precision


@dataclass(frozen=True)
class Fingerprint:
    """Which weights: every byte of them, and what they would be in another floating-point format.

    Attributes:
        structure: hash over the architecture, and over names and shapes of the tensors.
        values: hash (xxh3, 128 bits) over the bytes of all tensors.
        precision: their formats, such as "float32" or "bfloat16+float32".
        sketch: one number per tensor, a projection of samples of it; float16, base64. Weights that were
            rounded have nearly the same, other weights do not.
    """

    structure: str
    values: str
    precision: str = ""
    sketch: str = ""

    def same(self, other: Fingerprint) -> bool:
        """Whether these are the same weights, byte for byte or rounded to another floating-point format.

        Between formats a small change (a few steps of training) is no larger than the rounding, and passes.
        """
        if self.structure != other.structure:
            return False
        if self.precision == other.precision or self.quantised or other.quantised:
            return self.values == other.values
        ours, theirs = self._numbers(), other._numbers()
        return len(ours) == len(theirs) and bool(np.allclose(ours, theirs, rtol=0, atol=_CLOSE))

    @property
    def quantised(self) -> bool:
        """Whether some weights are in fewer bits than a half-precision number."""
        return not {part for part in self.precision.split("+") if part} <= {str(d)[6:] for d in _PLAIN}

    def _numbers(self) -> np.ndarray:
        return np.frombuffer(base64.b64decode(self.sketch), dtype=np.float16).astype(np.float32)

    def __str__(self) -> str:
        """As `parse` reads it."""
        parts = (self.structure, self.values, self.precision, self.sketch)
        return ":".join(parts) if self.structure else self.values

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """From `str`. ValueError for anything else.

        Memory files of format version 1 hold `sampled` alone, which becomes `values` without a structure.
        """
        if re.fullmatch("[0-9a-f]{16}", text):
            return cls("", text)
        parts = text.split(":")
        if len(parts) != 4 or not re.fullmatch("[0-9a-f]{16}", parts[0]):
            raise ValueError(f"{text[:40]!r} is no fingerprint of weights")
        if len(base64.b64decode(parts[3], validate=True)) % 2:
            raise ValueError(f"{text[:40]!r} is no fingerprint of weights: half a number is at its end")
        return cls(*parts)


@torch.no_grad()
def fingerprint(config: PreTrainedConfig, tensors: Iterable[tuple[str, Tensor]]) -> Fingerprint:
    """The fingerprint of weights by name, read once each (about 0.1 s for 135 M parameters on one core).

    Args:
        config: of the backbone. tensors: see `tensors`; none is kept.
    """
    from xxhash import xxh3_128

    found: dict[str, tuple[tuple, bytes, float]] = {}
    kinds: set[torch.dtype] = set()
    for name, tensor in tensors:
        leaves = list(_leaves(tensor))
        kinds |= {leaf.dtype for leaf in leaves} - _COUNTERS
        digest = b"".join(xxh3_128(_bytes(leaf)).digest() for leaf in leaves)
        found[name] = tuple(tensor.shape), digest, _project(tensor)
    names = sorted(found)
    shapes = [(name, found[name][0]) for name in names]
    about = json.dumps([architecture(config), shapes], sort_keys=True, default=str)
    return Fingerprint(
        hashlib.sha256(about.encode()).hexdigest()[:16],
        xxh3_128(b"".join(found[name][1] for name in names)).hexdigest(),
        "+".join(sorted(str(kind).removeprefix("torch.") for kind in kinds)),
        base64.b64encode(np.array([found[name][2] for name in names], dtype=np.float16).tobytes()).decode(),
    )


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers by name, one module after the other: also those that are offloaded.

    ValueError for a model without weights (on the meta device).
    """
    from accelerate.utils import align_module_device

    persistent = model.state_dict().keys()
    for path, module in model.named_modules():
        offloaded = any(p.is_meta for p in module.parameters(recurse=False))
        offloaded |= any(b.is_meta for b in module.buffers(recurse=False))
        if offloaded and not hasattr(module, "_hf_hook"):
            raise ValueError(f"{path or 'the model'} has no weights yet (it is on the meta device)")
        with align_module_device(module, torch.device("cpu") if offloaded else None):
            for kind in (module.named_parameters, module.named_buffers):
                for name, tensor in kind(recurse=False, remove_duplicate=False):
                    whole = f"{path}.{name}" if path else name
                    if whole in persistent:
                        yield whole, tensor.detach()


def is_quantised(model: nn.Module) -> bool:
    """Whether some weights are kept in fewer bits than a half-precision number, or in a form of their own."""
    return any(
        hasattr(p, "__tensor_flatten__") or not p.dtype.is_floating_point or p.dtype.itemsize < 2
        for p in model.parameters()
    )


def architecture(config: PreTrainedConfig) -> dict:
    """The fields of a backbone's config that decide what its weights compute, where they are not defaults.

    Defaults are left out, so that a field that a later transformers adds does not change the answer.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return {
        name: value
        for name, value in config.to_diff_dict().items()
        if not _NOT_ARCHITECTURE.fullmatch(name) and (name not in defaults or value != defaults[name])
    }


@torch.no_grad()
def sampled(model: PreTrainedModel) -> str:
    """What memory files of format version 1 hold instead: of 64 values of each parameter, in bfloat16."""
    backbone = getattr(model, "backbone", model)
    fields = architecture(backbone.config.get_text_config())
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, value in sorted(model.named_parameters()):
        flat = value.detach().flatten()
        stride = max(1, flat.numel() // 64)
        sample = flat[::stride][:64].to(torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a quantised or sharded one is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _leaves(getattr(tensor, name))
    else:
        yield tensor.detach()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _project(tensor: Tensor) -> float:
    """The samples of a tensor along a fixed direction, over their norm; 0 for what is no plain number."""
    if hasattr(tensor, "__tensor_flatten__") or tensor.dtype not in _PLAIN or not tensor.numel():
        return 0.0
    flat = tensor.reshape(-1)
    samples = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES].float().cpu()
    norm = samples.norm()
    # squares of the place in radians: as good as random, and the same everywhere
    direction = torch.arange(len(samples), dtype=torch.float64).square().cos().float() * 2**0.5
    return float(samples @ direction / norm) if norm > 0 and norm.isfinite() else 0.0
