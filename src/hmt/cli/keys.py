"""`hmt keys`: API keys of `hmt serve`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from hmt.cli.options import Command, epilog

app = typer.Typer(help="API keys of hmt serve.", no_args_is_help=True, rich_markup_mode=None)
FileArgument = Annotated[Path, typer.Argument(help="File of keys.", metavar="FILE")]


@app.callback()
def _group() -> None:
    pass


@app.command(cls=Command, epilog=epilog(["hmt keys add keys.json --name ada"]))
def add(
    file: FileArgument,
    name: Annotated[str, typer.Option(help="What or whom it is for.")] = "",
    namespace: Annotated[
        str | None,
        typer.Option(help="Memories that it sees; default: its own. That of another key shares them."),
    ] = None,
) -> None:
    """Make a key and print it: it is kept nowhere else, the file only knows how to recognise it."""
    from hmt.serving.keys import add_key

    secret, key = add_key(file, name, namespace)
    typer.echo(f"key {key.id} in {file}, memories of {key.namespace}", err=True)
    typer.echo(secret)


@app.command("list", cls=Command, epilog=epilog(["hmt keys list keys.json"]))
def list_(file: FileArgument) -> None:
    """Show the keys of a file, without their secrets."""
    from hmt.serving.keys import Keys

    for key in Keys(file).list():
        made = time.strftime("%Y-%m-%d", time.gmtime(key.created))
        typer.echo(f"{key.id}  {made}  {key.namespace}  {key.name}".rstrip())


@app.command(cls=Command, epilog=epilog(["hmt keys revoke keys.json 4f1c0a9b7d2e"]))
def revoke(
    file: FileArgument,
    key: Annotated[str, typer.Argument(help="Id of the key, as of hmt keys list.", metavar="ID")],
) -> None:
    """Take a key out: a running server refuses it within a second. Its memories stay."""
    from hmt.serving.keys import revoke_key

    gone = revoke_key(file, key)
    typer.echo(f"revoked {gone.id}; its memories are still in the namespace {gone.namespace}", err=True)
