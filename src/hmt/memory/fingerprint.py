"""A short name for a model, so that a memory can tell whose it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re

import torch
from transformers import PreTrainedConfig, PreTrainedModel

_SAMPLES = 64  # values taken from each tensor, evenly spread: training moves every tensor it touches

# Fields of a config that say where a model came from or how it is run and trained, not what it computes.
_NOT_ARCHITECTURE = re.compile(
    r".*(name_or_path|dtype|implementation|_token_id|dropout|_pdrop|layerdrop)|(id2label|label2id|num_labels)"
    r"|output_(attentions|hidden_states|router_logits)|architectures|auto_map|transformers_version|use_cache"
    r"|return_dict|problem_type|pretraining_tp|quantization_config|summary_.*"
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
def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 (16 hex digits) over the backbone's architecture, and names, shapes and samples of parameters.

    Values are rounded to bfloat16 first, so that a checkpoint has one fingerprint in fp32 and in bf16.
    """
    backbone = model.get_submodule("backbone")
    assert isinstance(backbone, PreTrainedModel)
    fields = architecture(backbone.config.get_text_config())
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, value in sorted(model.named_parameters()):
        flat = value.detach().flatten()
        stride = max(1, flat.numel() // _SAMPLES)
        sample = flat[::stride][:_SAMPLES].to(torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
