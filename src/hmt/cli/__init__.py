"""The `hmt` command.

Each command is one file in this folder and one name in `COMMANDS`. The files are imported to build
`hmt --help`, so none of them imports torch, transformers, datasets or matplotlib at the top: a command
imports what it needs inside its function.
"""

import importlib
import logging
import os
import sys
import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hmt.cli.errors import exit_code, one_line
from hmt.cli.options import Command, epilog
from hmt.util.processes import end_with_parent, without_shared_locks
from hmt.util.signals import end_at_once, stop_signals

# A module with a function `command` becomes a command, one with a Typer `app` becomes a group of commands;
# both are called by the module's name and appear in `hmt --help` in this order. The examples end its help.
COMMANDS = {
    "demo": [
        "hmt demo",
        'hmt demo --text book.txt --ask "Who is the captain of the ship?" --output demo-book',
        "hmt demo --train --text books/ --systems hmt,rmt,armt --output demo-books",
    ],
    "train": [
        "hmt train Qwen/Qwen3-0.6B books/ --output run --memory-size 300 --bf16 --replay",
        "hmt train Qwen/Qwen3-0.6B books/ --output run --memory-size 300 --bf16 --replay --resume",
        "hmt train run notes.jsonl --output tuned --tuning frozen --stage1-steps 0 --stage2-steps 200",
    ],
    "read": [
        "hmt read run book.txt --memory book.hmt",
        "hmt read run sequel.txt.gz --memory book.hmt --append",
        "zcat log.gz | hmt read run - --memory log.hmt --checkpoint-every 5",
    ],
    "generate": [
        'hmt generate run --memory book.hmt --prompt "The captain"',
        'hmt generate run -m book.hmt -p "The captain" --temperature 0.8 --top-p 0.9 --save-memory next.hmt',
    ],
    "ask": [
        'hmt ask book.txt "Who is the captain of the ship?"',
        'hmt ask volume1.txt volume2.txt "Where was the treaty signed?" --top 8 --json',
        "hmt ask book.txt -",
    ],
    "recall": [
        'hmt recall book.txt "the captain of the ship"',
        'hmt recall book.hmt "the captain of the ship" --model run --top 10 --json',
    ],
    "chat": [
        "hmt chat --session whales --read moby.pdf",
        "hmt chat run --session whales --store s3://bucket/sessions",
        "hmt chat --read notes.md --remember --temperature 0.7",
    ],
    "sessions": ["hmt sessions list", "hmt sessions show whales", "hmt sessions delete whales"],
    "serve": [
        "hmt serve",
        "hmt serve run --port 9000 --store s3://bucket/memories --keys keys.json --host 0.0.0.0",
    ],
    "keys": ["hmt keys add keys.json --name ada", "hmt keys list keys.json"],
    "mcp": ["hmt mcp", "hmt mcp run --files notes/ --store s3://bucket/memories"],
    "memory": ["hmt memory info book.hmt", "hmt memory info book.hmt --json"],
    "eval": [
        "hmt eval run --data held-out/ --output results",
        "hmt eval run other --tasks books,passkey --set passkey.lengths=4,16 --data held-out/ -o results",
        "hmt eval run --tasks needles --budgets 64KiB,1MiB --baselines window,full --output results",
    ],
    "report": [
        "hmt report results --output report.html",
        "hmt report seed0 seed1 seed2 --baseline window --pngs figures",
    ],
    "bench": [
        "hmt bench --shape tiny --parts reading,decode --lengths 8k,64k",
        "hmt bench --backbone Qwen/Qwen3-0.6B --systems hmt-segment,full --out bench-qwen",
    ],
    "env": ["hmt env", "hmt env --json"],
}


class _Group(TyperGroup):
    """The top of the command tree: turns the errors a user can cause into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        # The errors are caught here and not around `app()`, because click turns Ctrl-C into exit code 1 on
        # the way up, and because tests that use typer's CliRunner then see what the user sees.
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            code = exit_code(error)
            if code is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            typer.secho(one_line(error, getattr(command, "params", ())), fg=typer.colors.RED, err=True)
            raise typer.Exit(code) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from hmt.util.environment import version_of

        typer.echo(f"hmt {version_of('hmt-lm') or '(not installed)'}")
        raise typer.Exit()


app = typer.Typer(
    name="hmt",
    cls=_Group,
    epilog=epilog(
        ["hmt train Qwen/Qwen3-0.6B books/ --output run", COMMANDS["read"][0], COMMANDS["generate"][0]]
    ),
    help="Long-term memory for Hugging Face causal language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
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


for _name, _examples in COMMANDS.items():
    _module = importlib.import_module(f"hmt.cli.{_name}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name, epilog=epilog(_examples))
    else:
        _line = (_module.command.__doc__ or "").partition("\n")[0]
        app.command(_name, cls=Command, short_help=_line, epilog=epilog(_examples))(_module.command)


def main() -> None:
    """Entry point of the `hmt` script.

    Exit codes: 0 done, 1 a bug (with its traceback), 2 something the user can put right, 128 + signal when
    stopped by one (130 after Ctrl-C).
    """
    end_with_parent()
    try:
        with stop_signals():
            without_shared_locks()
            for stream in (sys.stdout, sys.stderr):  # in an ASCII locale a letter is replaced, and no error
                if hasattr(stream, "reconfigure"):
                    stream.reconfigure(errors="replace")
            if not (os.environ.get("HMT_DEBUG") or "--debug" in sys.argv):
                _only_our_words()
            app()
    finally:
        end_at_once()  # the interpreter would answer Ctrl-C with a traceback while it ends


def _only_our_words() -> None:
    """Keep what libraries note for their developers off the console; `hmt`'s own warnings and errors stay."""
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    if not sys.stderr.isatty():  # in a file their bars are noise; ours become lines there
        for library in ("HF_DATASETS", "HF_HUB"):
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("hmt").setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
