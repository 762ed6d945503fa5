"""LoRA adapters inside a backbone: putting them in, telling them from its own weights, merging them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def has_adapters(backbone: PreTrainedModel) -> bool:
    """Whether there are adapters in the backbone, put there by `add_adapters` or by peft."""
    return bool(getattr(backbone, "peft_config", None))


def add_adapters(backbone: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Put fresh adapters into the backbone and freeze the rest.

    settings: what `adapter_settings` gives, or the arguments of peft's LoraConfig.
    """
    from peft import LoraConfig, PeftConfig

    settings = dict(settings)
    kind = settings.pop("peft_type", None)
    config = LoraConfig(**settings) if kind is None else PeftConfig.from_peft_type(peft_type=kind, **settings)
    config.inference_mode = False
    backbone.requires_grad_(False)
    backbone.add_adapter(config)


def adapter_settings(backbone: PreTrainedModel) -> dict[str, Any] | None:
    """What `add_adapters` needs to put the same adapters into the same backbone; None where there are none.

    ValueError for more than one set of adapters: a checkpoint holds one.
    """
    from peft import PeftConfig

    if not has_adapters(backbone):
        return None
    if len(backbone.peft_config) > 1:
        raise ValueError(
            f"the backbone has the adapters {sorted(backbone.peft_config)}, and a checkpoint holds one: "
            "merge them with `model.merge_adapters()`, or delete some with `backbone.delete_adapter(name)`"
        )
    (config,) = backbone.peft_config.values()
    assert isinstance(config, PeftConfig)
    fields = {name: value for name, value in config.to_dict().items() if value is not None}
    for name in ("base_model_name_or_path", "inference_mode", "revision", "auto_mapping"):
        fields.pop(name, None)  # the checkpoint says these itself
    return json.loads(json.dumps(fields, default=_plain, sort_keys=True))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(getattr(value, "value", value))


def base_name(backbone: nn.Module) -> Callable[[str], str | None]:
    """From the name of a tensor to that which it had before adapters came in; None: it is theirs."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kept = {}
    for path, module in backbone.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            kept[f"{path}."] = "base_layer." if isinstance(module, BaseTunerLayer) else "original_module."

    def base(name: str) -> str | None:
        inside = [path for path in kept if name.startswith(path)]
        if not all(name.startswith(path + kept[path]) for path in inside):
            return None
        for path in sorted(inside, key=len, reverse=True):
            name = path + name[len(path + kept[path]) :]
        return name

    return base


def merge_adapters(backbone: PreTrainedModel) -> None:
    """Add the adapters to the weights they stand beside, and take them out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)  # ValueError where the result is not finite
            backbone.set_submodule(path, module.get_base_layer())
    backbone.delete_adapter(list(backbone.peft_config))
