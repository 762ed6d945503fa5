"""Identity: which model a memory belongs to, and how that is checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedConfig, PreTrainedModel

_SAMPLES = 64  # values taken from each tensor, evenly spread: training moves every tensor it touches

# Fields of a config that say where a model came from or how it is run and trained, not what it computes.
_NOT_ARCHITECTURE = re.compile(
    r".*(name_or_path|dtype|implementation|_token_id|dropout|_pdrop|layerdrop)|(id2label|label2id|num_labels)"
    r"|output_(attentions|hidden_states|router_logits)|architectures|auto_map|transformers_version|use_cache"
    r"|return_dict|problem_type|pretraining_tp|quantization_config|summary_.*"
)
_STEPS = "_hmt_optimizer_steps"


@dataclass(frozen=True)
class Identity:
    """What a memory file says of the model that wrote it.

    fingerprint: of its weights (see `fingerprint`). system: its `model_type`. model: where it came from.
    fields: `MemoryConfig.memory_fields`.
    """

    fingerprint: str
    system: str
    model: str
    fields: dict = field(default_factory=dict)


class LiveIdentity:
    """The identity of a memory whose model is at hand: nothing is hashed until a file needs it."""

    def __init__(self, owner: PreTrainedModel):
        self.owner = owner
        self._version = weights_version(owner)

    def __deepcopy__(self, memo: Any) -> LiveIdentity:
        return self  # a copied memory belongs to the same model, which is not copied

    def __reduce__(self) -> Any:
        return Identity, (self.fingerprint, self.system, self.model, self.fields)  # nor pickled

    @property
    def outdated(self) -> bool:
        """Whether the weights were written to since: they are no longer those that made the memory."""
        return weights_version(self.owner) != self._version

    @property
    def fingerprint(self) -> str:
        """That of the weights, see `fingerprint`. ValueError when the model has been trained since."""
        if self.outdated:
            raise ValueError(
                "the model was trained (or loaded other weights) after this memory was read, and no model "
                "has the weights it belongs to; read the text again"
            )
        return fingerprint(self.owner)

    @property
    def system(self) -> str:
        """`model_type` of the model's config."""
        return self.owner.config.model_type

    @property
    def model(self) -> str:
        """Where the model, or else its backbone, came from; "" where neither has a name."""
        config = self.owner.config
        return config.name_or_path or config.base_model_name_or_path or ""

    @property
    def fields(self) -> dict:
        """`MemoryConfig.memory_fields` of the model, as they are now."""
        return self.owner.config.memory_fields()


def check_same(theirs: Identity | LiveIdentity, mine: LiveIdentity, source: Any) -> None:
    """ValueError that says in what two models differ."""
    if theirs.system != mine.system:
        raise ValueError(f"{source} belongs to a {theirs.system} model, this is {mine.system}")
    here = mine.fields
    if theirs.fields != here:
        names = sorted(theirs.fields.keys() | here.keys())
        pairs = ((name, theirs.fields.get(name), here.get(name)) for name in names)
        text = ", ".join(f"{name}={value!r} (here {ours!r})" for name, value, ours in pairs if value != ours)
        raise ValueError(f"{source} was made with another configuration: {text}")
    if theirs.fingerprint != mine.fingerprint:
        raise ValueError(
            f"{source} was made by a model with other weights or another architecture "
            f"({theirs.model or 'unnamed'}); a memory only means something to the model that wrote it, so "
            "read the text again with this one"
        )


def weights_version(model: nn.Module) -> tuple[int, int]:
    """Changes whenever a parameter is written to, added or removed. Waits for no device."""
    parameters = [p for p in model.parameters() if not p.is_inference()]
    for parameter in parameters:
        if not hasattr(parameter, _STEPS):
            setattr(parameter, _STEPS, 0)  # from here on `_count_step` counts for it
    return len(parameters), sum(p._version + getattr(p, _STEPS) for p in parameters)


def _count_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Fused optimizers (the Trainer's default) write to parameters without raising their version.

    Only parameters of models that have made a memory are counted, and nothing of autograd's own is touched.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and hasattr(parameter, _STEPS):
                setattr(parameter, _STEPS, getattr(parameter, _STEPS) + 1)


register_optimizer_step_post_hook(_count_step)


# -- the fingerprint ---------------------------------------------------------------------------------------


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
def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 (16 hex digits) over the backbone's architecture, and names, shapes and samples of parameters.

    Values are rounded to bfloat16 first, so that a checkpoint has one fingerprint in fp32 and in bf16.
    """
    backbone = getattr(model, "backbone", model)
    fields = architecture(backbone.config.get_text_config())
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, value in sorted(model.named_parameters()):
        flat = value.detach().flatten()
        stride = max(1, flat.numel() // _SAMPLES)
        sample = flat[::stride][:_SAMPLES].to(torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
