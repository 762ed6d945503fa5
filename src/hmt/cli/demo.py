"""`hmt demo`: everything the library does, on this machine, in a few minutes."""

from __future__ import annotations

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
    from hmt.demo.corpus import make_corpus
    from hmt.demo.run import Demo
    from hmt.demo.settings import Settings
    from hmt.demo.settings import smoke as smoke_settings
    from hmt.demo.show import Display

    corpus = make_corpus(text, seed=seed)
    settings = smoke_settings(seed) if smoke else Settings(seed=seed)
    with Display(corpus, output) as display:
        Demo(output, corpus, settings, workers, display).run()
    display.conclude()
