"""Values of options, from and to the text on the command line."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union


def parse_value(option: str, text: str, kind: Any) -> Any:
    """A value of the type of a field: int, float, str, bool, Literal, Path, sequences with commas, and None.

    Whole numbers may end in k (1,024) or M. ValueError, naming `option`, for a text that is no such value.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if type(None) in inner and text.strip().lower() == "none":
            return None
        kinds = [one for one in inner if one is not type(None)]
        # what can be any text is tried last, and a list after a single value
        for one in sorted(kinds, key=lambda one: (one is str, one is float)):
            try:
                return parse_value(option, text, one)
            except ValueError as error:
                failed = error
        raise failed
    if origin in (tuple, Sequence):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if origin is tuple and inner[-1] is not Ellipsis:
            if len(parts) != len(inner):
                raise ValueError(f"{option}: there should be {len(inner)} values with commas between them")
            return tuple(parse_value(option, part, one) for part, one in zip(parts, inner, strict=True))
        try:
            return tuple(parse_value(option, part, inner[0]) for part in parts)
        except ValueError:
            if inner[0] not in (int, float):
                raise
            raise ValueError(
                f"{option} takes numbers with commas between them, such as 2,4,8, or such as 2k,8k,1M (k is "
                f"1,024); got {text!r}"
            ) from None
    if origin is Literal:
        found = [value for value in inner if str(value) == text.strip()]
        if not found:
            raise ValueError(f"{option}: choose from {', '.join(map(str, inner))}")
        return found[0]
    return _simple(option, text, kind)


def _simple(option: str, text: str, kind: Any) -> Any:
    if kind in (str, Path):
        return kind(text)
    text = text.strip()
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(f"{option}: say true or false")
        return words[text.lower()]
    if kind is int:
        if not (match := re.fullmatch(r"([+-]?\d+)([kKmM]?)", text)):
            raise ValueError(f"{option}: {text!r} is not a whole number")
        number = (
            int(match[1]) * {"": 1, "k": 2**10, "m": 2**20}[match[2].lower()] if len(text) < 99 else 2**63
        )
        if abs(number) >= 2**63:
            raise ValueError(f"{option}: {text} is too large")
        return number
    if kind is not float:
        raise ValueError(f"{option}: this setting cannot be given on the command line")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option}: {text!r} is not a number") from None


def text_of(value: Any) -> str:
    """What `parse_value` reads as this value."""
    if isinstance(value, (tuple, list)):
        return ",".join(f"{n // 1024}k" if _is_round(n) else text_of(n) for n in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_round(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0 and value % 1024 == 0
