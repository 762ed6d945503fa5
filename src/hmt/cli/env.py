"""`hmt env`: the versions and the hardware a bug report or a benchmark needs beside it."""

import json
from typing import Annotated, Any

import typer

from hmt.util.environment import PACKAGES, collect


def command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Show versions, cores, memory and accelerators, and what a backbone is run in here."""
    facts = collect()
    if "torch_error" not in facts and facts["transformers"] is not None:
        from hmt.backbone.on_cpu import chosen_facts

        facts |= chosen_facts()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    print_facts("hmt env", {name: _readable(name, value) for name, value in facts.items()})


def print_facts(title: str, facts: dict[str, str]) -> None:
    """A table of two columns on stdout; long values are folded."""
    from rich.table import Table
    from rich.text import Text

    from hmt.util.tables import stdout

    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    console = stdout()
    console.print(Text(title, style="bold"))
    console.print(table)


def _readable(name: str, value: Any) -> str:
    if name == "devices":
        return "\n".join(_describe(device) for device in value) or "none (CPU only)"
    if name == "environment":
        return "\n".join(f"{key}={text}" for key, text in value.items()) or "nothing set"
    if name.startswith("backbone") and value is None:
        return "as transformers chooses"
    if value is None:
        return "not installed" if name in ("hmt", *PACKAGES) else "none"
    if name.startswith("memory"):
        return _gib(value)
    return str(value)


def _describe(device: dict[str, Any]) -> str:
    size = "" if device["memory"] is None else f", {_gib(device['memory'])}"
    return f"{device['device']}: {device['name']}{size}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
