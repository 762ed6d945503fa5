"""`hmt memory`: look into memory files."""

import json
from typing import Annotated

import typer

from hmt.cli.env import print_facts
from hmt.cli.options import Command, epilog
from hmt.util.format import byte_text

app = typer.Typer(help="Look into memory files.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    pass


@app.command(cls=Command, epilog=epilog(["hmt memory info book.hmt", "hmt memory info book.hmt --json"]))
def info(
    file: Annotated[str, typer.Argument(help="Memory file, a URL too.", metavar="FILE")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Show what a memory file holds and which model it belongs to; the model is not loaded."""
    from hmt.memory.memory import Memory
    from hmt.util.files import size_of

    facts = {"file": file, "file_bytes": 0, **Memory.load(file).info()}
    facts["file_bytes"] = size_of(file)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    rows = {"streams": f"{facts['streams']:,}"}
    for name in ("segments_read", "tokens_read", "open_tokens"):
        rows[name.replace("_", " ")] = ", ".join(f"{value:,}" for value in facts[name])
    rows |= {
        "memory": f"{byte_text(facts['bytes'])} (file: {byte_text(facts['file_bytes'])})",
        "system": facts["system"],
        "model": facts["model"] or "unnamed",
        "fingerprint": facts["fingerprint"],
        "fields": "\n".join(f"{name} = {value}" for name, value in facts["fields"].items()),
        "tensors": "\n".join(f"{name} {shape}" for name, shape in facts["tensors"].items()),
    }
    print_facts(file, rows)
