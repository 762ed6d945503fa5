"""The `hmt` command.

Each command is one file in this folder and one name in `COMMANDS`. The files are imported to build
`hmt --help`, so none of them imports torch, transformers, datasets or matplotlib at the top: a command
imports what it needs inside its function.
"""

import importlib
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# A module with a function `command` becomes a command, one with a Typer `app` becomes a group of commands;
# both are called by the module's name and appear in `hmt --help` in this order.
COMMANDS = [
    "demo",
    "train",
    "read",
    "generate",
    "memory",
    "eval",
    "report",
    "bench",
    "env",
]


class _Group(TyperGroup):
    """The top of the command tree: turns the errors a user can cause into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        # The errors are caught here and not around `app()`, because click turns Ctrl-C into exit code 1 on
        # the way up, and because tests that use typer's CliRunner then see what the user sees.
        try:
            return super().invoke(ctx)
        except (ValueError, FileNotFoundError, KeyboardInterrupt) as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            typer.secho(_one_line(error), fg=typer.colors.RED, err=True)
            raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 2) from None


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"error: no such file or folder: {error.filename}"
    return "error: " + (" ".join(str(error).split()) or type(error).__name__)


def _print_version(wanted: bool) -> None:
    if wanted:
        from hmt.util.environment import version_of

        typer.echo(f"hmt {version_of('hmt-lm') or '(not installed)'}")
        raise typer.Exit()


app = typer.Typer(
    name="hmt",
    cls=_Group,
    help="Long-term memory for Hugging Face causal language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="HMT_DEBUG", help="Show the traceback of every error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


for _name in COMMANDS:
    _module = importlib.import_module(f"hmt.cli.{_name}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    else:
        app.command(_name)(_module.command)


def main() -> None:
    """Entry point of the `hmt` script.

    Exit codes: 0 done, 1 a bug (with its traceback), 2 something the user can put right, 130 stopped with
    Ctrl-C.
    """
    app()
