"""What `--tasks` and `--set` say: tasks with their settings, checked before any model is loaded."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

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
    from pydantic import TypeAdapter, ValidationError

    value: Any = text
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    if type(None) in kinds and text.strip().lower() == "none":
        value = None
    elif any(typing.get_origin(one) is tuple for one in kinds):
        value = [part.strip() for part in text.split(",")] if text.strip() else []
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        found = error.errors()[0]
        raise ValueError(f"{option}: {found['input']!r}: {found['msg']}") from None
