"""What `--tasks` and `--set` say: tasks with their settings, checked before any model is loaded."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from hmt.evaluation.tasks.base import Task


def chosen_tasks(
    names: Sequence[str], pairs: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> list[Task]:
    """The tasks of these names. pairs: "TASK.SETTING=VALUE". defaults: settings of all tasks that have them.

    ValueError for an unknown task or setting, and for a value that cannot be read or does not do.
    """
    from hmt.evaluation.tasks import check_setting, make_task, task_class

    if not names:
        raise ValueError("--tasks names no task; such as --tasks books,passkey")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--tasks names {repeated[0]} twice")
    settings: dict[str, dict[str, Any]] = {}
    for name in names:
        known = {f.name for f in fields(task_class(name))}
        settings[name] = {key: value for key, value in (defaults or {}).items() if key in known}
    for pair in pairs:
        name, key, text = _parts(pair)
        if name not in settings:
            raise ValueError(f"--set {pair}: the task {name} is not among --tasks {','.join(names)}")
        try:
            check_setting(name, key)
        except ValueError as error:
            raise ValueError(f"--set {pair}: {error}") from None
        kinds = typing.get_type_hints(task_class(name))
        settings[name][key] = parse_value(f"--set {pair}", text, kinds[key])
    return [make_task(name, **settings[name]) for name in names]


def _parts(pair: str) -> tuple[str, str, str]:
    """ "books.source=a=b" as ("books", "source", "a=b")."""
    place, equals, text = pair.partition("=")
    name, dot, key = place.strip().partition(".")
    if not (equals and dot and name and key):
        raise ValueError(f"--set takes TASK.SETTING=VALUE, such as passkey.lengths=4,16; got {pair!r}")
    return name, key, text


def parse_value(option: str, text: str, kind: Any) -> Any:
    """A value of the type of a field: int, float, str, bool, Literal, tuples with commas, and None.

    ValueError, naming `option`, for a text that is no such value.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if type(None) in inner and text.strip().lower() == "none":
            return None
        failed: ValueError | None = None
        for one in (one for one in inner if one is not type(None)):
            try:
                return parse_value(option, text, one)
            except ValueError as error:
                failed = error
        raise failed or ValueError(f"{option}: only None is possible")
    if origin is tuple:
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(parse_value(option, part, inner[0]) for part in parts)
        if len(parts) != len(inner):
            raise ValueError(f"{option}: there should be {len(inner)} values with commas between them")
        return tuple(parse_value(option, part, one) for part, one in zip(parts, inner, strict=True))
    if origin is Literal:
        found = [value for value in inner if str(value) == text.strip()]
        if not found:
            raise ValueError(f"{option}: choose from {', '.join(map(str, inner))}")
        return found[0]
    return _simple(option, text, kind)


def _simple(option: str, text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.strip().lower() not in words:
            raise ValueError(f"{option}: say true or false")
        return words[text.strip().lower()]
    if kind not in (int, float):
        raise ValueError(f"{option}: this setting cannot be given on the command line")
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{option}: {text.strip()!r} is not {what}") from None
