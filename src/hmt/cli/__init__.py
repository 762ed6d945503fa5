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
# both are called by the module's name and appear in `hmt --help` in this order. The example ends its help.
COMMANDS = {
    "demo": "hmt demo --smoke --output demo",
    "train": "hmt train Qwen/Qwen3-0.6B books/ --output run --memory-size 300 --bf16 --replay",
    "read": "hmt read run book.txt --memory book.hmt",
    "generate": 'hmt generate run --memory book.hmt --prompt "The captain"',
    "memory": "hmt memory info book.hmt",
    "eval": "hmt eval run --tasks books,passkey --data held-out/ --output results",
    "report": "hmt report results --output report.html",
    "bench": "hmt bench --shape tiny --parts reading,decode --lengths 8k,64k",
    "env": "hmt env --json",
}


class _Group(TyperGroup):
    """The top of the command tree: turns the errors a user can cause into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        # The errors are caught here and not around `app()`, because click turns Ctrl-C into exit code 1 on
        # the way up, and because tests that use typer's CliRunner then see what the user sees.
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read our output has gone: click ends quietly
            raise
        except (ValueError, OSError, KeyboardInterrupt) as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            typer.secho(_one_line(error), fg=typer.colors.RED, err=True)
            raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 2) from None


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        text = f"no such file or folder: {error.filename}"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    # a file may put anything into its names: no terminal is to obey it
    return "error: " + "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def _print_version(wanted: bool) -> None:
    if wanted:
        from hmt.util.environment import version_of

        typer.echo(f"hmt {version_of('hmt-lm') or '(not installed)'}")
        raise typer.Exit()


app = typer.Typer(
    name="hmt",
    cls=_Group,
    epilog=f"Example: {COMMANDS['read']}",
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


for _name, _example in COMMANDS.items():
    _module = importlib.import_module(f"hmt.cli.{_name}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name, epilog=f"Example: {_example}")
    else:
        app.command(_name, epilog=f"Example: {_example}")(_module.command)


def main() -> None:
    """Entry point of the `hmt` script.

    Exit codes: 0 done, 1 a bug (with its traceback), 2 something the user can put right, 130 stopped with
    Ctrl-C.
    """
    app()
