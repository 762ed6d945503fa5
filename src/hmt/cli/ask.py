"""`hmt ask`: questions about books, answered by a model that has read them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import typer

from hmt.cli.errors import one_line
from hmt.cli.generate import sampling_options
from hmt.cli.options import DeviceOption, options, takes
from hmt.cli.progress import TokenProgress
from hmt.cli.read import open_model
from hmt.data.documents import load_documents

WordsArgument = Annotated[
    list[str],
    typer.Argument(
        help="Texts as of hmt read, or a memory file; then, last, what is asked.", metavar="BOOK... QUESTION"
    ),
]
ReaderOption = Annotated[
    str, typer.Option("--model", help="Folder, hub id or short name of a model with memory.", metavar="MODEL")
]
TopOption = Annotated[int, typer.Option(help="Passages to show, at most.", min=1)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DEFAULT_MODEL = "smollm2-135m"


@takes(
    text=options(load_documents, only=["text_field", "encoding", "errors"]),
    sampling=options(sampling_options, without=["greedy"]),
)
def command(
    *,
    words: WordsArgument,
    model: ReaderOption = DEFAULT_MODEL,
    top: TopOption = 4,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to write.", min=1)] = 64,
    as_json: JsonOption = False,
    sampling: dict[str, Any],
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    text: dict[str, Any],
    device: DeviceOption = None,
) -> None:
    """Answer a question about books, and show where it was read.

    What was read once is kept in the cache folder and not read again. Several books are one memory, in their
    order. With - as the question, questions are taken from the terminal, one a line. Answers are greedy,
    unless a sampling option is given.
    """
    chosen = sampling_options(**sampling) or sampling_options(greedy=True)
    sources, question = split(words)
    books = open_books(sources, None if question == "-" else question, model, device, text)
    import torch
    from transformers import TextStreamer

    torch.manual_seed(seed)
    for one in _questions() if question == "-" else [question]:
        with _told() if question == "-" else nullcontext():
            streamer = None
            if not as_json:
                streamer = TextStreamer(books.tokenizer, skip_prompt=True, skip_special_tokens=True)
            answer = books.ask(one, top=top, max_new_tokens=max_new_tokens, streamer=streamer, **chosen)
            if as_json:
                found = [passage.facts() for passage in answer.passages]
                facts = {"question": one, "answer": answer.answer, "passages": found}
                typer.echo(json.dumps(facts, indent=None if question == "-" else 2))
            else:
                typer.echo("")
                show(answer.passages, one)


def split(words: list[str]) -> tuple[list[str], str]:
    """The texts and what is asked. ValueError where one is missing."""
    *sources, question = words
    if not sources:
        raise ValueError(f'name a text, and then what is asked about it: hmt ask {words[0]} "..."')
    if question == "-" and "-" in sources:
        raise ValueError("- can be the text or the question, not both: both would be read from stdin")
    if not question.strip():
        raise ValueError("the question is empty; ask something")
    return sources, question


def open_books(
    sources: list[str], question: str | None, model: str, device: str | None, text: dict[str, Any]
) -> Any:
    """What a model has read, or reads now, with progress; see `Books.open`."""
    from hmt.asking import Texts

    texts = Texts.of(sources, **text)  # what is wrong with them shows at once
    reader, tokenizer = open_model(model, device)
    books, read = read_texts(texts, reader, tokenizer, question)
    if read is not None:
        typer.echo(f"read {read.summary()}", err=True)
    return books


def read_texts(
    texts: Any, reader: Any, tokenizer: Any, question: str | None = None
) -> tuple[Any, TokenProgress | None]:
    """`Books.open` with a bar, and the progress of what was read now; None where all of it was kept."""
    from hmt.asking import Books

    reading: list[TokenProgress] = []

    def progress(tokens: int, total: float | None) -> None:
        if not reading:
            reading.append(TokenProgress("reading", reader.device, tokens))
        reading[0].of(tokens, total)

    try:
        books = Books.open(texts, reader, tokenizer, asking=question, progress=progress)
    finally:
        for one in reading:
            one.__exit__()
    return books, next(iter(reading), None)


def show(passages: list[Any], question: str) -> None:
    """Passages as text: weight, place and a line of each."""
    if not passages:
        typer.echo("nothing is recalled")
    for passage in passages:
        typer.echo(f"{passage.weight:>4.0%}  {passage.where}")
        if passage.text is not None:
            typer.echo(f"      {passage.context(question)}")


@contextmanager
def _told() -> Iterator[None]:
    """What a user can put right is told, and the next question may come."""
    try:
        yield
    except ValueError as error:
        typer.secho(one_line(error), fg=typer.colors.RED, err=True)


def _questions() -> Iterator[str]:
    """Lines of stdin with anything on them, asked for where it is a terminal."""
    if sys.stdin is None:
        raise ValueError("stdin is closed; name the question")
    while True:
        if sys.stdin.isatty():
            typer.echo("\n? ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
