"""`hmt demo`: everything the library does, on this machine, in a few minutes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything the demo leaves.")
    ] = Path("demo-output"),
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", help="Your own text file, folder or data set instead of Python's library. Repeatable."
        ),
    ] = None,
    systems: Annotated[
        str, typer.Option(help="Systems to train beside the baselines; the first reads the document.")
    ] = "hmt,rmt",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train at the same time.")] = 2,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Seconds instead of minutes: shows that everything runs, proves nothing."
        ),
    ] = False,
) -> None:
    """Train, compare, remember: the whole library on the text every Python has.

    Without network and GPU, in less than ten minutes on two free cores: trains
    a tokenizer and a small Llama on Python's own library, gives it memory by
    the two-stage recipe, compares HMT, RMT and the baselines on held-out
    documents, shows recall over 256 segments, reads a long document into a
    memory file and continues it in a new process. Run again after Ctrl-C, it
    goes on where it stopped.
    """
    names = [name.strip() for name in systems.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--systems names systems once each, such as hmt,rmt; got {systems!r}")
    add_examples()
    from demo.run import main

    main(output, text or [], names, seed, workers, smoke)


def add_examples() -> None:
    """Make the programs of `examples/` importable, in the package or, of a source tree, beside it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "examples", package.parents[1] / "examples"):
        if (folder / "demo" / "run.py").is_file():
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))  # worker processes inherit it
            return
    raise ValueError("the demo's program is not part of this installation; install hmt-lm from its wheel")
