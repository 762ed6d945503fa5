"""Checking plain dataclasses: unknown names, missing ones, wrong types, numbers out of range."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

_TYPES: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}


def build(cls, values: dict[str, Any]):
    """`cls(**values)` of a dataclass. ValueError for what is no dict, and for unknown and missing fields."""
    if not isinstance(values, dict):
        raise ValueError(f"a {cls.__name__} is an object with named fields, got {type(values).__name__}")
    known = [field.name for field in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"{cls.__name__} has no field {name!r}{hint}")
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{cls.__name__} lacks {', '.join(missing)}")
    return cls(**values)


def check_types(item) -> None:
    """ValueError for a field whose value is not of its plain type (int, float, bool, str), or not finite."""
    for field in dataclasses.fields(item):
        name, optional = field.type.removesuffix(" | None"), field.type.endswith(" | None")
        value = getattr(item, field.name)
        if name not in _TYPES or (optional and value is None):
            continue
        if not isinstance(value, _TYPES[name]) or (isinstance(value, bool) and name != "bool"):
            raise ValueError(f"{field.name} must be a {field.type}, got {value!r}")
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{field.name} must be a finite number, got {value!r}")


def at_least(item, least: int, *names: str) -> None:
    """ValueError for a field of these names that is below `least`; None passes."""
    for name in names:
        value = getattr(item, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
