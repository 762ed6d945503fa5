"""`hmt demo`: a long document, remembered and asked; with --train everything the library does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hmt.cli.ask import DEFAULT_MODEL

_ASK, _TRAIN = "Without --train", "With --train"


def command(
    context: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for everything the demo leaves; demo-output, or demo-train with --train.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="Your own text file instead of Python's reference; with --train files, folders or data sets "
            "instead of Python's library. Repeatable.",
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train small models instead: the whole library, from nothing.")
    ] = False,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="Ask this instead of the demo's questions. Repeatable.", rich_help_panel=_ASK),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Folder, hub id or short name of a model with memory.", metavar="MODEL", rich_help_panel=_ASK
        ),
    ] = DEFAULT_MODEL,
    top: Annotated[
        int | None,
        typer.Option(
            help="Passages to show, at most. Default: as many as the model reads again.",
            min=1,
            rich_help_panel=_ASK,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1, ... Default: a GPU where there is one.", rich_help_panel=_ASK),
    ] = None,
    systems: Annotated[
        str,
        typer.Option(
            help="Systems to train beside the baselines; the first reads the document.",
            rich_help_panel=_TRAIN,
        ),
    ] = "hmt,rmt",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.", rich_help_panel=_TRAIN)] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train at the same time.", rich_help_panel=_TRAIN)
    ] = 2,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Seconds instead of minutes: shows that everything runs, proves nothing.",
            rich_help_panel=_TRAIN,
        ),
    ] = False,
) -> None:
    """Read a long document, remember it, answer questions about it, and show where the answers were read.

    On SmolLM2 with the weights that come with the library, in a few minutes on two cores, without network and
    GPU. The document is the reference of the language that every Python has. Beside the answers stand those
    of BM25 alone, of the last tokens, and of full attention.

    With --train: trains a tokenizer and a small Llama on Python's own library, gives it memory by the
    two-stage recipe, compares HMT, RMT and the baselines on held-out documents, shows recall over 256
    segments, reads a long document into a memory file and continues it in a new process, in less than ten
    minutes. Run again after Ctrl-C, it goes on where it stopped.
    """
    _check_given(context, train)
    if train:
        names = [name.strip() for name in systems.split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"--systems names systems once each, such as hmt,rmt; got {systems!r}")
        add_examples()
        from demo.run import main as train_demo

        train_demo(output or Path("demo-train"), text or [], names, seed, workers, smoke)
        return
    add_examples()
    from ask_python.run import main as ask_demo

    ask_demo(output or Path("demo-output"), text or [], ask or [], model, device, top)


def _check_given(context: typer.Context, train: bool) -> None:
    """ValueError for an option that the demo which was asked for would pass over."""
    panels = {_ASK: not train, _TRAIN: train}
    for param in context.command.params:
        panel = getattr(param, "rich_help_panel", None)
        source = context.get_parameter_source(param.name or "")
        if not panels.get(panel or "", True) and source is not None and source.name == "COMMANDLINE":
            raise ValueError(
                f"{param.opts[0]} is for the demo without --train; leave one of them out"
                if train
                else f"{param.opts[0]} is for the demo with --train; add that, or leave it out"
            )


def add_examples() -> None:
    """Make the programs of `examples/` importable, in the package or, of a source tree, beside it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "examples", package.parents[1] / "examples"):
        if all((folder / name / "run.py").is_file() for name in ("demo", "ask_python")):
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))  # worker processes inherit it
            return
    raise ValueError("the demo's program is not part of this installation; install hmt-lm from its wheel")
