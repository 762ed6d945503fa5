"""The systems: one published method, one folder. What is in a folder here is found by everything else.

A folder holds `__init__.py` with a `SYSTEM` (see `registry`), `config.py`, `model.py` and `reference.py`.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from importlib import import_module
from typing import Any

from hmt.systems.registry import System

__all__ = ["System", "get", "load_config", "load_model", "load_tokenizer", "names", "register", "systems"]

_registered: set[str] = set()


def systems() -> dict[str, System]:
    """Every system, by name. ValueError where two folders hold one of the same name."""
    found: dict[str, System] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.ispkg:
            continue
        package = import_module(f"{__name__}.{module.name}")
        system = replace(package.SYSTEM, package=package.__name__)
        if system.name in found:
            raise ValueError(
                f"two systems are called {system.name!r}: {found[system.name].package} and {system.package}"
            )
        found[system.name] = system
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """The names of all systems."""
    return tuple(systems())


def get(name: str) -> System:
    """The system of that name. ValueError, with those there are, for another one."""
    known = systems()
    if name not in known:
        raise ValueError(f"there is no system {name!r}; choose among {', '.join(known)}")
    return known[name]


def register() -> None:
    """Tell transformers' Auto classes about every system, for `AutoModelForCausalLM.from_pretrained`.

    ValueError where two systems have one `model_type`.
    """
    new = {name: system for name, system in systems().items() if name not in _registered}
    if not new:
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    types: dict[str, str] = {}
    for name, system in systems().items():
        model_type = system.config.model_type
        if model_type in types:
            raise ValueError(
                f"the systems {types[model_type]} and {name} share the model_type {model_type!r}"
            )
        types[model_type] = name
    for name, system in new.items():
        AutoConfig.register(system.config.model_type, system.config, exist_ok=True)
        AutoModelForCausalLM.register(system.config, system.model, exist_ok=True)
        _registered.add(name)


def of_type(model_type: str) -> System | None:
    """The system whose checkpoints say `model_type`; None where they are none of ours."""
    return next((s for s in systems().values() if s.config.model_type == model_type), None)


def load_config(path: Any) -> Any:
    """The configuration of what is in `path`, as in `hmt.backbone.locate`. ValueError where there is none."""
    register()
    from transformers import AutoConfig

    from hmt.backbone import locate

    place = locate(path)
    try:
        return AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no folder with a model, nor one on the hub: {reason}") from error


def load_model(path: Any, **kwargs: Any) -> Any:
    """A trained system, from what `hmt.backbone.locate` takes, in eval mode.

    A short name is that of a model that comes with the library ("smollm2-135m"): what was trained, on the
    backbone of that name, which has to be installed. ValueError when it is a plain backbone.
    """
    register()
    from transformers import AutoConfig, AutoModelForCausalLM

    from hmt.backbone import locate
    from hmt.pretrained import shipped

    place = str(shipped(path) or locate(path))
    config = AutoConfig.from_pretrained(place)
    if of_type(config.model_type) is None:
        raise ValueError(
            f"{path} holds a plain {config.model_type} model without memory; "
            "train one on it with `hmt train`, or wrap it with HMTForCausalLM.from_backbone"
        )
    return AutoModelForCausalLM.from_pretrained(place, **kwargs).eval()


def load_tokenizer(path: Any, base: str | None = None) -> Any:
    """The tokenizer of `path`, or else of the backbone `base`; see `hmt.backbone.load_tokenizer`."""
    from hmt.backbone import load_tokenizer as load

    return load(path, base)
