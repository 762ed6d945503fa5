"""Options from what they fill: name, type, default and help of an option are those of a field or parameter.

    @takes(settings=options(Settings, names={"batch": "-b"}))
    def command(settings: dict[str, Any], out: ...) -> None:
        run(Settings(**settings))

The help is what the `Args:` section of the docstring says. Values are read by `parse_value`, so that every
option, `--set FIELD=VALUE` and a task's settings understand the same texts; whether they make sense is for
the dataclass to say.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import typer

ModelArgument = Annotated[
    str, typer.Argument(help="Folder or hub id of a model with memory.", metavar="MODEL")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: a GPU where there is one.")
]
EncodingOption = Annotated[str, typer.Option(help="Encoding of text files.")]
ErrorsOption = Annotated[str, typer.Option(help="What to do with undecodable bytes: strict or replace.")]


@dataclass(frozen=True)
class Field:
    """What an option fills. kind: its type. default: `inspect.Parameter.empty` where it must be given."""

    name: str
    kind: Any
    default: Any
    help: str = ""

    @property
    def option(self) -> str:
        """--its-name."""
        return "--" + self.name.replace("_", "-")


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
        shared: dict[str, Any] = {"help": _markup(one.help), "rich_help_panel": panel}
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


# -- from Python to fields ---------------------------------------------------------------------------------


def fields_of(*sources: Any, docs: Sequence[Any] = ()) -> dict[str, Field]:
    """The parameters of dataclasses and functions by name; the first that has one decides.

    Its help is that of the first docstring that has one, of the sources and then of `docs`.
    """
    helps: dict[str, str] = {}
    for source in reversed([*sources, *docs]):
        helps |= args_section(inspect.getdoc(source) or "")
    found: dict[str, Field] = {}
    for source in sources:
        names = vars(sys.modules[source.__module__])
        for parameter in inspect.signature(source).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD or parameter.name in found:
                continue
            kind = parameter.annotation
            try:
                kind = eval(kind, dict(names)) if isinstance(kind, str) else kind
            except NameError:  # imported only where types are checked: not for the command line
                continue
            help = _sentence(helps.get(parameter.name, ""))
            found[parameter.name] = Field(parameter.name, kind, parameter.default, help)
    return found


def args_section(doc: str) -> dict[str, str]:
    """name -> text, of the `Args:` section of a docstring in Google's style; "a, b: text" is of both."""
    lines = inspect.cleandoc(doc).splitlines()
    if "Args:" not in lines:
        return {}
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Args:") + 1 :]:
        entry = re.fullmatch(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif line.startswith(" " * 8):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line.strip():
            break
    return found


def class_fields(module: str, name: str) -> dict[str, Field]:
    """As `fields_of`, of a dataclass of this package whose module is read and not imported.

    Configurations are made of transformers', and `--help` does not wait for that. Fields whose type or
    default cannot be told from the text alone are left out.
    """
    tree = _parsed(module)
    origin = {
        alias.asname or alias.name: (_absolute(node, module), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    [body] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    found: dict[str, Field] = {}
    for base in body.bases:
        where = origin.get(ast.unparse(base), (module, ast.unparse(base)))
        if where[0].partition(".")[0] == __package__.partition(".")[0]:
            found |= class_fields(*where)
    helps = args_section(ast.get_docstring(body) or "")
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            try:
                kind = eval(ast.unparse(node.annotation), dict(vars(typing)))
                default = ast.literal_eval(node.value)
            except (NameError, ValueError):
                continue
            if typing.get_origin(kind) is not typing.ClassVar:
                help = _sentence(helps.get(node.target.id, ""))
                found[node.target.id] = Field(node.target.id, kind, default, help)
    return found


def config_fields(folder: str) -> dict[str, Field]:
    """The fields of the configuration in `hmt.systems.<folder>`: of its class that has a `model_type`.

    Names in its `option_names` stand for the fields that they name. ValueError where there is no such class.
    """
    package = f"{__package__.partition('.')[0]}.systems.{folder}"
    for path in sorted(_file(package).parent.glob("*.py")):
        module = package if path.stem == "__init__" else f"{package}.{path.stem}"
        for node in _parsed(module).body:
            if isinstance(node, ast.ClassDef) and _assigned(node, "model_type") is not None:
                fields = class_fields(module, node.name)
                also = _assigned(node, "option_names") or {}
                return fields | {name: replace(fields[own], name=name) for name, own in also.items()}
    raise ValueError(f"{package} has no class with a model_type")


def system_fields(systems: Iterable[str], without: Iterable[str] = ()) -> dict[str, Field]:
    """The fields of the configurations of all systems; default None, what they are said in the help."""
    of_system = {system: config_fields(system) for system in systems}
    names = dict.fromkeys(name for fields in of_system.values() for name in fields)
    found = {}
    for name in names:
        if name in without:
            continue
        own = {system: fields[name] for system, fields in of_system.items() if name in fields}
        told: dict[str, list[str]] = {}
        for system, one in own.items():
            default = "" if one.default is None else f" Default: {text_of(one.default)}."
            told.setdefault(one.help + default, []).append(system)
        shared = len(told) == 1 and len(own) == len(of_system)
        parts = [text if shared else f"{', '.join(some)}: {text}" for text, some in told.items()]
        kinds = dict.fromkeys(one.kind for one in own.values())
        found[name] = Field(name, Union[tuple(kinds)], None, " ".join(parts))  # noqa: UP007
    return found


@functools.cache
def _parsed(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _file(module: str) -> Path:
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def _assigned(node: ast.ClassDef, name: str) -> Any:
    for one in node.body:
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == name:
            return ast.literal_eval(one.value)
    return None


# -- from and to text --------------------------------------------------------------------------------------


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
        return int(match[1]) * {"": 1, "k": 2**10, "m": 2**20}[match[2].lower()]
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


def _sentence(text: str) -> str:
    text = re.sub(r"[;.] None(:| means) ", ". Default: ", text)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "...")) or not text else ".")


def _markup(text: str) -> str:
    """Help as typer prints it: without backticks, and the paper's [k] not taken for markup."""
    return re.sub(r"(\[[a-z#/@][^\[]*?\])", r"\\\1", text.replace("`", ""))
