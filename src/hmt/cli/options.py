"""Options from what they fill: name, type, default and help of an option are those of a field or parameter.

    @takes(settings=options(Settings, names={"batch": "-b"}))
    def command(settings: dict[str, Any], out: ...) -> None:
        run(Settings(**settings))

The help is what the `Args:` section of the docstring says. Values are read by `parse_value`, so that every
option, `--set FIELD=VALUE` and a task's settings understand the same texts; whether they make sense is for
the dataclass to say.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import typer
from typer.core import TyperCommand

from hmt.cli.fields import Field, fields_of
from hmt.cli.values import parse_value, text_of

ModelArgument = Annotated[
    str, typer.Argument(help="Folder or hub id of a model with memory.", metavar="MODEL")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: a GPU where there is one.")
]
EncodingOption = Annotated[str, typer.Option(help="Encoding of text files.")]
ErrorsOption = Annotated[str, typer.Option(help="What to do with undecodable bytes: strict or replace.")]


class Command(TyperCommand):
    """A command whose help is plain text by panels: on a narrow terminal it is folded and never cut off."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The arguments, then the options of each panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            kind = "Arguments" if param.param_type_name == "argument" else "Options"
            if record := param.get_help_record(ctx):
                panels.setdefault(getattr(param, "rich_help_panel", None) or kind, []).append(record)
        for name, records in panels.items():
            with formatter.section(name):
                formatter.write_dl(records)


def epilog(examples: Sequence[str]) -> str:
    """The end of a help page, one line for each example."""
    return "\b\n" + "\n".join([f"Example{'s'[: len(examples) - 1]}:", *(f"  {one}" for one in examples)])


@dataclass(frozen=True)
class Options:
    """The options of some fields: further names (field -> "--name"), and the fields of each panel."""

    fields: dict[str, Field]
    names: Mapping[str, str] = field(default_factory=dict)
    panels: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> list[inspect.Parameter]:
        """As typer wants them, by panel; what no panel names comes last."""
        panel_of = {name: panel for panel, names in self.panels.items() for name in names.split()}
        for name in [*self.names, *panel_of]:
            if name not in self.fields:
                raise ValueError(f"there is no field {name} to make an option of")
        order = [*panel_of, *(name for name in self.fields if name not in panel_of)]
        return [self._parameter(self.fields[name], panel_of.get(name)) for name in order]

    def _parameter(self, one: Field, panel: str | None) -> inspect.Parameter:
        kind, default = _shown(one.kind), one.default
        flags = [self.names[one.name]] if one.name in self.names else []
        flags.append(one.option if one.default is not True else f"{one.option}/--no-{one.option[2:]}")
        shared: dict[str, Any] = {"help": one.help.replace("`", ""), "rich_help_panel": panel}
        if kind is bool:
            flags[-1] += f"/--no-{one.option[2:]}" if default is None else ""
            kind = bool if default is not None else bool | None
        elif typing.get_origin(kind) is Literal:
            kind = kind if default is not None else kind | None
        else:
            shared["metavar"] = _METAVARS.get(kind, "<str>")
            kind = str if default is not None else str | None
            default = text_of(default) if default is not None else None
        return inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, typer.Option(*flags, **shared)],
        )

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """Field -> value, of what typer made of the command line. ValueError for what cannot be read."""
        values = {}
        for one in self.fields.values():
            value = given.pop(one.name)
            if isinstance(value, str):
                value = parse_value(one.option, value, one.kind)
            values[one.name] = value
        return values


def options(
    *sources: Any,
    docs: Sequence[Any] = (),
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    panels: Mapping[str, str] | None = None,
) -> Options:
    """Options for what `fields_of` finds: for `only` some of it, or `without` some."""
    found = fields_of(*sources, docs=docs)
    chosen = {name: one for name, one in found.items() if (not only or name in only) and name not in without}
    return Options(chosen, names or {}, panels or {})


def takes(**parts: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameters of these names are made of options; it gets each as a dict of values."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(command, include_extras=True)
        own: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name in parts:
                own += parts[parameter.name].parameters()
            else:
                annotation = hints[parameter.name]
                own.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))

        @functools.wraps(command)
        def call(**given: Any) -> None:
            command(**{name: part.read(given) for name, part in parts.items()}, **given)

        call.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in own}
        del call.__wrapped__  # type: ignore[attr-defined]
        return call

    return decorate


_METAVARS: dict[Any, str] = {
    int: "<int>", float: "<float>", tuple[int, ...]: "<int>,<int>,...", Sequence[int]: "<int>,<int>,...",
    tuple[str, ...]: "<name>,<name>,...", Path: "<path>",
}  # fmt: skip


def _shown(kind: Any) -> Any:
    """The one type that a reader of the help should think of; choices with "none" where it is one."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return kind
    kinds = [one for one in inner if one is not type(None)]
    if len(kinds) > 1:
        return str
    if typing.get_origin(kinds[0]) is Literal:
        return Literal[(*typing.get_args(kinds[0]), "none")]
    return kinds[0]
