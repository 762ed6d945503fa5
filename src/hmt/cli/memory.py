"""`hmt memory`: look into memory files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hmt.evaluation.units import byte_text

app = typer.Typer(help="Look into memory files.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="Memory file.", metavar="FILE")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Show what a memory file holds and which model it belongs to; the model is not loaded."""
    from hmt.memory.memory import Memory

    facts = {"file": str(file), "file_bytes": 0, **Memory.load(file).info()}
    facts["file_bytes"] = file.stat().st_size
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, title=str(file), title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("streams", f"{facts['streams']:,}")
    for name in ("segments_read", "tokens_read", "open_tokens"):
        table.add_row(name.replace("_", " "), ", ".join(f"{value:,}" for value in facts[name]))
    table.add_row("memory", f"{byte_text(facts['bytes'])} (file: {byte_text(facts['file_bytes'])})")
    table.add_row("system", facts["system"])
    table.add_row("model", facts["model"] or "unnamed")
    table.add_row("fingerprint", facts["fingerprint"])
    table.add_row("fields", "\n".join(f"{name} = {value}" for name, value in facts["fields"].items()))
    table.add_row("tensors", "\n".join(f"{name} {shape}" for name, shape in facts["tensors"].items()))
    Console().print(table)
