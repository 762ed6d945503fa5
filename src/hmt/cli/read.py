"""`hmt read`: read texts into a memory file."""

import itertools
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.cli.options import DeviceOption, ModelArgument, options, takes
from hmt.cli.progress import TokenProgress, library_bars
from hmt.cli.unfinished import Pieces, SoFar, Unfinished, steps
from hmt.data.documents import document_pieces, load_documents
from hmt.data.token_pieces import token_pieces
from hmt.util.files import exists, output_file, save_or_keep, size_of
from hmt.util.format import byte_text, plural
from hmt.util.signals import Stopped

_PIECE = 200_000  # bytes read and tokenized at a time
_STEP = 0.5  # seconds that a step of reading lasts at least, where it can


def read_tokens(
    reader,
    pieces: Pieces,
    now: SoFar,
    limit: int | None = None,
    chunk: int = 8,
    checkpoint_every: float = 5.0,
    unfinished: Unfinished | None = None,
) -> tuple[SoFar, TokenProgress]:
    """Read (ids, fraction) pieces on top of what was read `now`: what is read then, and the progress.

    Args:
        limit: stop after so many tokens.
        chunk: segments whose summaries run in one batch.
        checkpoint_every: minutes after which what was read is kept in OUT.part, as it is by Ctrl-C. Repeating
            the command goes on from there.

    ValueError for no tokens at all, and for numbers that are too small. `Stopped` after a signal.
    """
    for name, value in (("--limit", limit), ("--chunk", chunk)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not checkpoint_every > 0:
        raise ValueError(f"--checkpoint-every takes minutes, more than 0; got {checkpoint_every}")
    if limit is not None and limit < now.tokens:
        raise ValueError(f"{now.tokens:,} tokens of this text are read already, more than --limit {limit}")
    kept = time.monotonic()
    with TokenProgress("reading", reader.device, now.tokens) as progress:
        try:
            sizes = _sizes(chunk * reader.config.segment_length)
            for ids, total in steps(pieces, now.tokens, limit, sizes):
                progress.of(now.tokens, total)
                memory = reader.read(
                    ids,
                    memory=now.memory,
                    chunk=chunk,
                    progress=lambda n, base=now.tokens, total=total: progress.of(base + n, total),
                )
                now = now.then(ids, memory)
                progress.of(now.tokens, total)
                if unfinished and time.monotonic() - kept > 60 * checkpoint_every:
                    unfinished.save(now)
                    kept = time.monotonic()
        except BaseException as error:
            if not unfinished or not now.tokens:
                raise
            unfinished.save(now)
            told = f"{plural(now.tokens, 'token')} of the text are kept in {unfinished.path}"
            told += "; the same command goes on from there"
            if isinstance(error, KeyboardInterrupt):
                raise Stopped(getattr(error, "signal", 2), f"interrupted: {told}") from None
            typer.echo(told, err=True)
            raise
    if not now.tokens:
        raise ValueError("the tokenizer makes no tokens of this text")
    return now, progress


def _sizes(unit: int) -> Iterator[int]:
    """Tokens of each step: whole batches of segments, more of them where they take no time."""
    size, began = unit, -math.inf
    while True:
        now = time.monotonic()
        size = size * 2 if now - began < _STEP else size
        began = now
        yield size


@takes(
    text=options(document_pieces, load_documents, only=["text_field", "encoding", "errors"]),
    amount=options(read_tokens, only=["limit", "chunk", "checkpoint_every"]),
)
def command(
    *,
    model: ModelArgument,
    files: Annotated[
        list[str],
        typer.Argument(
            help="Text, JSON or Parquet files, may be .gz, .bz2 or .xz; folders; - is stdin.",
            metavar="FILE",
        ),
    ],
    memory: Annotated[
        str, typer.Option("--memory", "-m", help="Memory file to write, a URL too.", metavar="OUT")
    ],
    append: Annotated[bool, typer.Option("--append", help="Add to OUT, if it is there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT, if it is there.")] = False,
    text: dict[str, Any],
    amount: dict[str, Any],
    compile: Annotated[bool, typer.Option("--compile", help="Compile first: for long texts.")] = False,
    device: DeviceOption = None,
) -> None:
    """Read text of any length into a memory file of constant size.

    Several files, and the records of JSON and Parquet, are read one after another with an empty line between.
    """
    if append and overwrite:
        raise ValueError("--append and --overwrite contradict each other")
    taken = None if append or overwrite else "--append adds to it, --overwrite replaces it"
    pieces = document_pieces(files, **text, size=_PIECE)
    first = next(pieces)  # what is wrong with them shows at once
    with output_file(memory, "memory file", files, taken):
        from hmt.memory.memory import Memory

        reader, tokenizer = open_model(model, device)
        old = Memory.load(memory, model=reader) if append and exists(memory) else None
        unfinished = Unfinished(memory, appended=old is not None)
        tokens: Pieces = token_pieces(tokenizer, itertools.chain([first], pieces), start=old is None)
        now = SoFar(old)
        if unfinished.exists():
            try:
                now, tokens = unfinished.resume(tokens, reader)
                typer.echo(f"going on after {plural(now.tokens, 'token')}, from {unfinished.path}", err=True)
            except ValueError:
                twice = all(Path(file).is_file() or Path(file).is_dir() for file in files)  # unlike a pipe
                if not (overwrite and twice):
                    raise
                tokens = token_pieces(tokenizer, document_pieces(files, **text, size=_PIECE), start=True)
        if compile:
            reader.compile_steps()
        done, progress = read_tokens(reader, tokens, now, **amount, unfinished=unfinished)
        new = done.memory
        save_or_keep(memory, new.save)
        unfinished.remove()
    typer.echo(f"read {progress.summary()}")
    segments, total = int(new.segments_read.max()), int(new.tokens_read.max())
    size = byte_text(size_of(memory))
    typer.echo(f"{memory}: {plural(segments, 'segment')}, {plural(total, 'token')}, {size}")


def open_model(path: str, device: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer of what `hmt.backbone.locate` takes, on `device`. ValueError if there is none."""
    from hmt.backbone import is_here
    from hmt.systems import load_config, load_model, load_tokenizer
    from hmt.util.devices import find_device

    place = find_device(device)
    if not is_here(path) and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        raise ValueError(f"{path} is not there; name the folder of a model, or a hub id such as org/name")
    load_config(path)
    try:
        with library_bars():
            model = load_model(path)
    except OSError as error:
        raise ValueError(
            f"{path} holds no weights that can be loaded: {str(error).splitlines()[0]}"
        ) from error
    return model.to(place), load_tokenizer(path, model.config.base_model_name_or_path)
