"""Where LoRA adapters go in a backbone, of any family."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hmt.backbone.checks import plain_ids
from hmt.backbone.run import body, embed, evaluating, input_device, run

_LINEAR = (nn.Linear, Conv1D)
# In a backbone with experts peft takes these last words of any name for parts of the experts
_OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def lora_targets(backbone: PreTrainedModel) -> list[str]:
    """`target_modules` of a LoraConfig: those of peft for the family, or `linear_layers`."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    return list(KNOWN.get(backbone.config.model_type) or linear_layers(backbone))


@torch.no_grad()
def linear_layers(backbone: PreTrainedModel) -> list[str]:
    """Names of the linear layers in the backbone's layers that an adapter is put on: those that are called.

    Families also read the weight of a linear layer themselves, past any adapter, or give it a forward of
    their own (routers), so two passes over a few vectors, in training and in eval mode, decide. Left out too
    are weights that stand in several places (Zamba), projections behind the convolution of a state-space
    layer, whose weight kernels read that are not installed everywhere, and blocks of experts, as in peft's
    own choices for such families: their weights are stacked, and adapters on them are a multiple of all the
    others together.
    """
    modules = dict(backbone.named_modules())
    inside = {id(module) for module in body(backbone).modules()}
    # the child of a layer that has experts in it is left out of all layers, dense ones too
    shared = Counter(id(module.weight) for module in modules.values() if isinstance(module, _LINEAR))
    experts = {_of_layers(name.split(".experts")[0]) for name in modules if ".experts" in name}
    names = []
    for name, module in modules.items():
        parent, _, own = name.rpartition(".")
        fused = own == "out_proj" and hasattr(modules[parent], "conv1d")
        beside = any(_of_layers(name).startswith(f"{block}.") for block in experts)
        beside = beside or bool(experts and own in _OF_EXPERTS)
        if not isinstance(module, _LINEAR) or id(module) not in inside or shared[id(module.weight)] > 1:
            continue
        if not (fused or beside):
            names.append(name)
    for training in (True, False):
        called = _called(backbone, {name: modules[name] for name in names}, training)
        names = [name for name in names if name in called]
    return names


def _called(backbone: PreTrainedModel, modules: dict[str, nn.Module], training: bool) -> set[str]:
    """Names of the modules that a pass calls and that give one tensor; all of a backbone without weights."""
    if input_device(backbone).type == "meta":
        return set(modules)
    called: set[str] = set()

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            called.add(name)

    handles = [
        module.register_forward_hook(lambda m, args, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    try:
        with evaluating(backbone):
            backbone.train(training)
            run(backbone, embed(backbone, plain_ids(backbone, 4))[None])
    finally:
        for handle in handles:
            handle.remove()
    return called


def _of_layers(name: str) -> str:
    """The name of a module without the numbers of layers."""
    return ".".join(part for part in name.split(".") if not part.isdigit())
