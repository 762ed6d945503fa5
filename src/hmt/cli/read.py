"""`hmt read`: read texts into a memory file."""

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.cli.options import DeviceOption, ModelArgument, options, takes
from hmt.cli.progress import TokenProgress, library_bars
from hmt.data.documents import document_pieces, load_documents
from hmt.util.files import exists, output_file, save_or_keep, size_of
from hmt.util.format import byte_text, plural

_PIECE = 200_000  # bytes read and tokenized at a time
# characters before a piece that the tokenizer sees too, so that it does not look like a beginning
_CONTEXT = 64


def read_tokens(
    reader, pieces, memory, limit: int | None = None, chunk: int = 8
) -> tuple[Any, TokenProgress]:
    """Read (ids, fraction) pieces on top of `memory` (or None): the new memory and the finished progress.

    Args:
        limit: stop after so many tokens.
        chunk: segments whose summaries run in one batch.

    ValueError for no tokens at all, and for numbers below 1.
    """
    for name, value in (("--limit", limit), ("--chunk", chunk)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    done, end = 0, limit or sys.maxsize
    total: float | None = limit
    with TokenProgress("reading", reader.device) as progress:
        for ids, fraction in pieces:
            if fraction:  # of the text, at the end of this piece: what is left has as many tokens per byte
                total = min(end, max(1.0, (done + len(ids)) / fraction))
            ids = ids[: end - done]
            if ids:
                memory = reader.read(
                    ids,
                    memory=memory,
                    chunk=chunk,
                    progress=lambda n, base=done, total=total: progress.of(base + n, total),
                )
                done += len(ids)
                progress.of(done, total)
            if done >= end:
                break
    if not done:
        raise ValueError("the tokenizer makes no tokens of this text")
    return memory, progress


@takes(
    text=options(document_pieces, load_documents, only=["text_field", "encoding", "errors"]),
    amount=options(read_tokens, only=["limit", "chunk"]),
)
def command(
    *,
    model: ModelArgument,
    files: Annotated[
        list[str],
        typer.Argument(
            help="Text, JSON or Parquet files, may be .gz, .bz2 or .xz; folders; - is stdin.",
            metavar="FILE...",
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
    first = next(pieces)  # what is wrong with the files shows before the model is loaded
    with output_file(memory, "memory file", files, taken):
        from hmt.memory.memory import Memory

        reader, tokenizer = open_model(model, device)
        old = Memory.load(memory, model=reader) if append and exists(memory) else None
        tokens = token_pieces(tokenizer, itertools.chain([first], pieces), start=old is None)
        if compile:
            reader.compile_steps()
        new, progress = read_tokens(reader, tokens, old, **amount)
        save_or_keep(memory, new.save)
    typer.echo(f"read {progress.summary()}")
    segments, total = int(new.segments_read.max()), int(new.tokens_read.max())
    size = byte_text(size_of(memory))
    typer.echo(f"{memory}: {plural(segments, 'segment')}, {plural(total, 'token')}, {size}")


def token_pieces(tokenizer, pieces, start: bool) -> Iterator[tuple[list[int], float | None]]:
    """(text, fraction) pieces of a text as (ids, fraction); the ids together are those of the whole text.

    Pieces are cut again between a letter or digit and white space, which no usual tokenizer joins in one
    token, and each is tokenized together with the characters before it. Only a text without such a place for
    a very long stretch is cut anywhere. start: begin with the BOS token, where the tokenizer adds one; an EOS
    token is never added.
    """
    if (
        start
        and tokenizer.bos_token_id is not None
        and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    ):
        yield [tokenizer.bos_token_id], 0.0
    context, text, fraction = "", "", None
    for more, fraction in pieces:
        text += more
        cut = _last_word_end(text)
        if cut == 0 and len(text) < 4 * _PIECE:
            continue
        cut = cut or len(text)
        yield _encode(tokenizer, context, text[:cut]), fraction
        context, text = text[:cut][-_CONTEXT:], text[cut:]
    yield _encode(tokenizer, context, text), fraction


def _last_word_end(text: str) -> int:
    """Index of the last white space after a letter or digit, 0 where there is none."""
    for index in range(len(text) - 1, 0, -1):
        if text[index].isspace() and text[index - 1].isalnum():
            return index
    return 0


def _encode(tokenizer, context: str, text: str) -> list[int]:
    if not tokenizer.is_fast:  # knows no offsets
        return tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    coded = tokenizer(context + text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pairs = zip(coded.input_ids, coded.offset_mapping, strict=True)
    return [id for id, (begin, _) in pairs if begin >= len(context)]


def open_model(path: str, device: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer from a folder or hub id, on `device`. ValueError when there is no such thing."""
    import torch

    from hmt.systems import load_model, load_tokenizer

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {device}: {error}") from error
    if not Path(path).is_dir() and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        raise ValueError(f"{path} is not there; name the folder of a model, or a hub id such as org/name")
    try:
        with library_bars():
            model = load_model(path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no folder with a model, nor one on the hub: {reason}") from error
    return model.to(place), load_tokenizer(path, model.config.base_model_name_or_path)
