"""The systems: one published method, one file. A new one is a file and a line in `SYSTEMS`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

# model_type -> (module, config class, model class)
SYSTEMS = {
    "hmt": ("hmt.systems.hmt.model", "HMTConfig", "HMTForCausalLM"),
    "rmt": ("hmt.systems.rmt.model", "RMTConfig", "RMTForCausalLM"),
    "memory_window": ("hmt.systems.window.model", "WindowConfig", "WindowForCausalLM"),
}

_registered = False


def register() -> None:
    """Tell transformers' Auto classes about every system, for `AutoModelForCausalLM.from_pretrained`."""
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


def load_tokenizer(path, base: str | None = None):
    """The tokenizer of a folder or hub id, or else of the backbone `base`; ValueError when there is none."""
    from transformers import AutoTokenizer

    if not Path(path).exists() and str(path).startswith((".", "/", "~")):
        raise ValueError(f"there is no model folder {path}")
    for place in filter(None, (path, base)):
        try:
            return AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise ValueError(
        f"{path} has no tokenizer that can be loaded; save the backbone's there with "
        f"tokenizer.save_pretrained({str(path)!r})"
    )
