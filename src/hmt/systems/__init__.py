"""The systems: one published method, one file. A new one is a file and a line in `SYSTEMS`."""

from __future__ import annotations

from importlib import import_module

# model_type -> (module, config class, model class)
SYSTEMS = {
    "hmt": ("hmt.systems.hmt", "HMTConfig", "HMTForCausalLM"),
    "rmt": ("hmt.systems.rmt", "RMTConfig", "RMTForCausalLM"),
    "memory_window": ("hmt.systems.window", "WindowConfig", "WindowForCausalLM"),
}

_registered = False


def register() -> None:
    """Tell transformers' Auto classes about every system, so that `AutoModelForCausalLM.from_pretrained` works."""
    global _registered
    if _registered:
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    for name, (module, config, model) in SYSTEMS.items():
        config_class = getattr(import_module(module), config)
        AutoConfig.register(name, config_class, exist_ok=True)
        AutoModelForCausalLM.register(config_class, getattr(import_module(module), model), exist_ok=True)
    _registered = True


def load_model(path, **kwargs):
    """A trained system from a folder or hub id, in eval mode; ValueError when it is a plain backbone."""
    register()
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    if config.model_type not in SYSTEMS:
        raise ValueError(
            f"{path} holds a plain {config.model_type} model without memory; "
            "train one on it with `hmt train`, or wrap it with HMTForCausalLM.from_backbone"
        )
    return AutoModelForCausalLM.from_pretrained(path, **kwargs).eval()
