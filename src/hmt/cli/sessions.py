"""`hmt sessions`: look after what is kept."""

import json
import time
from typing import Annotated, Any

import typer

from hmt.cli.chat import StoreOption
from hmt.cli.options import Command, DeviceOption, epilog
from hmt.util.format import byte_text, plural

app = typer.Typer(help="List, show, copy and delete sessions.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(help="Name of a session.", metavar="NAME")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback()
def _group() -> None:
    pass


def _store(url: str | None) -> Any:
    from hmt.sessions import Store

    return Store(url)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@app.command("list", cls=Command, epilog=epilog(["hmt sessions list", "hmt sessions list --json"]))
def list_(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List sessions; no model is loaded."""
    from dataclasses import asdict

    from hmt.util.tables import print_table

    found = _store(store).list()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    rows = [
        [one.name, "damaged", "", "", "", ""]
        if one.damaged
        else [
            one.name, _date(one.updated), f"{one.documents:,}", f"{one.tokens:,}", f"{one.turns:,}",
            byte_text(one.bytes),
        ]
        for one in found
    ]  # fmt: skip
    if not rows:
        typer.echo("there are no sessions")
        return
    print_table("Sessions", ["session", "saved", "documents", "tokens", "turns", "bytes"], rows)


@app.command(cls=Command, epilog=epilog(["hmt sessions show whales", "hmt sessions show whales --json"]))
def show(name: NameArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show the documents and turns of a session; no model is loaded."""
    facts = _store(store).describe(name)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(
        f"session {name}, version {facts['version']}, saved {_date(facts['updated'])}, "
        f"{byte_text(facts['bytes'])}, read by {facts['model'] or 'an unnamed model'}"
    )
    for one in facts["documents"]:
        kept = {"text": "", "offsets": ", text not kept", "nothing": ", neither text nor places kept"}
        typer.echo(f"{one['id']:>4}  {one['name']}: {plural(one['tokens'], 'token')}{kept[one['keep']]}")
    for number, turn in enumerate(facts["turns"], 1):
        typer.echo(f"{number:>4}. {turn['question']}\n      {' '.join(turn['answer'].split())}")


@app.command(cls=Command, epilog=epilog(["hmt sessions delete whales"]))
def delete(name: NameArgument, store: StoreOption = None) -> None:
    """Delete a session: every version, and everything in it."""
    _store(store).delete(name)
    typer.echo(f"deleted {name}", err=True)


@app.command(cls=Command, epilog=epilog(["hmt sessions export whales whales.session"]))
def export(
    name: NameArgument,
    file: Annotated[str, typer.Argument(help="File or URL to write.", metavar="FILE")],
    store: StoreOption = None,
) -> None:
    """Write a session into one file."""
    _store(store).export(name, file)
    typer.echo(f"saved {file}", err=True)


@app.command("import", cls=Command, epilog=epilog(["hmt sessions import whales.session --name copy"]))
def import_(
    file: Annotated[str, typer.Argument(help="File or URL that was exported.", metavar="FILE")],
    name: Annotated[
        str | None, typer.Option(help="Its name here. Default: the one it had.", metavar="NAME")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Take a session out of a file."""
    typer.echo(f"imported {_store(store).import_(file, name).name}", err=True)


@app.command(cls=Command, epilog=epilog(["hmt sessions fork whales other"]))
def fork(
    name: NameArgument,
    new: Annotated[str, typer.Argument(help="Name of the copy.", metavar="NEW")],
    store: StoreOption = None,
) -> None:
    """Copy a session under another name."""
    _store(store).fork(name, new)
    typer.echo(f"forked {name} as {new}", err=True)


@app.command(cls=Command, epilog=epilog(["hmt sessions forget whales d2"]))
def forget(
    name: NameArgument,
    document: Annotated[str, typer.Argument(help="Id of a document, see show.", metavar="DOC")],
    model: Annotated[str, typer.Option(help="The model that read it.", metavar="MODEL")] = "smollm2-135m",
    store: StoreOption = None,
    device: DeviceOption = None,
) -> None:
    """Take one document out of a session, out of its memory too."""
    from hmt.cli.read import open_model
    from hmt.sessions import DirectRunner

    kept = _store(store)
    known = [one["id"] for one in kept.describe(name)["documents"]]
    if document not in known:
        raise ValueError(f"session {name} has no document {document}; it has {', '.join(known) or 'none'}")
    session = kept.open(name, DirectRunner(*open_model(model, device)))
    kept.save(session.forget(document))
    typer.echo(f"forgot {document} of {name}", err=True)
