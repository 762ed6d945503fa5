"""What an option says of what it fills: the parameters of dataclasses and functions, with their docstrings.

A system's configuration is made of transformers', for which `--help` does not wait: its file is read, and not
imported.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union

import hmt.systems
from hmt.cli.values import text_of

_PACKAGE = Path(__file__).parents[1]


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


def config_fields(system: str) -> dict[str, Field]:
    """The fields of the configuration in `hmt.systems.<system>`, those that all systems share first.

    Names in its `option_names` stand for the fields that they name. Fields whose type or default cannot be
    told from the text alone are left out. ValueError where there is no configuration.
    """
    folder = hmt.systems.get(system).folder
    own = [node for file in sorted(folder.glob("*.py")) for node in _configs(file)]
    if not own:
        raise ValueError(f"there is no class with a model_type in {folder}")
    found: dict[str, Field] = {}
    for config in [*_configs(_PACKAGE / "config.py"), *own]:
        helps = args_section(ast.get_docstring(config) or "")
        for node in config.body:
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                name = ast.unparse(node.target)
                try:
                    kind = eval(ast.unparse(node.annotation), dict(vars(typing)))
                    default = ast.literal_eval(node.value)
                except (NameError, ValueError):
                    continue
                if typing.get_origin(kind) is not typing.ClassVar:
                    found[name] = Field(name, kind, default, _sentence(helps.get(name, "")))
    also = _assigned(own[-1], "option_names") or {}
    return found | {name: replace(found[field], name=name) for name, field in also.items()}


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


def _configs(file: Path) -> Iterator[ast.ClassDef]:
    """The classes of a file that have a `model_type`."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and _assigned(node, "model_type") is not None:
            yield node


def _assigned(node: ast.ClassDef, name: str) -> Any:
    for one in node.body:
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == name:
            return ast.literal_eval(one.value)
    return None


def _sentence(text: str) -> str:
    text = re.sub(r"[;.] None(:| means) ", ". Default: ", text)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "...")) or not text else ".")
