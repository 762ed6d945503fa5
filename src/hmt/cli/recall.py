"""`hmt recall`: the passages of books that a model recalls, without an answer."""

import json
from typing import Any

import typer

from hmt.cli.ask import (
    DEFAULT_MODEL,
    JsonOption,
    ReaderOption,
    TopOption,
    WordsArgument,
    open_books,
    show,
    split,
)
from hmt.cli.options import DeviceOption, options, takes
from hmt.data.documents import load_documents


@takes(text=options(load_documents, only=["text_field", "encoding", "errors"]))
def command(
    *,
    words: WordsArgument,
    model: ReaderOption = DEFAULT_MODEL,
    top: TopOption = 4,
    as_json: JsonOption = False,
    text: dict[str, Any],
    device: DeviceOption = None,
) -> None:
    """Show the passages of books, or of a memory file, that are recalled for a text, by weight.

    They are those of `hmt ask` for the same words.
    """
    sources, question = split(words)
    found = open_books(sources, question, model, device, text).recall(question, top)
    if as_json:
        facts = {"question": question, "passages": [passage.facts() for passage in found]}
        typer.echo(json.dumps(facts, indent=2))
    else:
        show(found, question)
