"""What is trained: everything, LoRA adapters and the memory, or the memory alone; and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from hmt.training.recipe import Recipe


def apply_tuning(model, recipe: Recipe) -> None:
    """Set `requires_grad` everywhere as the recipe says, and add LoRA adapters if there are none yet.

    ValueError where nothing is left to train.
    """
    model.requires_grad_(True)
    if recipe.tuning == "frozen":
        model.freeze_backbone()
    elif recipe.tuning == "lora" and not model.has_lora():
        torch.manual_seed(recipe.seed)
        model.add_lora(
            r=recipe.lora_r,
            alpha=recipe.lora_alpha,
            dropout=recipe.lora_dropout,
            target_modules=None if recipe.lora_targets is None else list(recipe.lora_targets),
            from_layer=recipe.lora_from_layer,
        )
    elif recipe.tuning == "lora":
        for name, parameter in model.backbone.named_parameters():
            parameter.requires_grad_("lora_" in name)
    parts = model.memory_modules()
    for name in recipe.keep:
        if name not in parts:
            known = ", ".join(parts)
            raise ValueError(f"keep names {name!r}, which is no part of this memory; parts: {known}")
        parts[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} adds no weights of its own, so tuning='frozen' leaves nothing to train"
        )


@contextlib.contextmanager
def trained_in_float32(model, recipe: Recipe) -> Iterator[None]:
    """Keep the trained weights in float32 meanwhile: half precision would round small updates away.

    A backbone that stays frozen in half precision then needs `bf16=True`; ValueError without it.
    """
    trained = {p: p.dtype for p in model.parameters() if p.requires_grad and p.dtype != torch.float32}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad and p.is_floating_point()}
    if not recipe.bf16 and frozen - {torch.float32}:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in frozen)
        raise ValueError(
            f"the frozen backbone is in {names}: train with bf16=True (--bf16), or load it "
            "with dtype=torch.float32"
        )
    for parameter in trained:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in trained.items():
            parameter.data = parameter.data.to(dtype)
