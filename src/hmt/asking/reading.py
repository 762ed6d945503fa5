"""Reading documents into one memory, each from a segment of its own, and keeping it in the cache folder.

A memory is found again by what it was made of: the weights and fields of the model, what its tokenizer does,
and the texts in their order. What was interrupted is kept under the same name and is gone on with. Two files
each, `NAME.hmt` (the memory) and `NAME.json` (`Places`), that can be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from hmt.asking.places import Document, Places, ReadDocument
from hmt.data.cache import cache_directory, digest
from hmt.data.token_pieces import placed_pieces
from hmt.data.tokens import tokenizer_digest
from hmt.util.files import output_file, write_atomically

if TYPE_CHECKING:
    from hmt.memory.memory import Memory

logger = logging.getLogger(__name__)

Progress = Callable[[int, float | None], None]

_PIECE = 200_000  # characters that are tokenized at a time
_CHUNK = 8  # segments that are read in one step, and what an interrupt loses at most
_EVERY = 300.0  # seconds after which what was read is kept


@dataclass(frozen=True)
class Reading:
    """A memory and what it has read; never changed, only replaced, so that the two always belong together."""

    memory: Memory | None = None
    places: Places = field(default_factory=Places)


class Kept:
    """The memory of some documents, as it is kept in the cache folder.

    Args:
        model, tokenizer: with which it is read.
        documents: all that it has read, in this order.
    """

    def __init__(self, model: Any, tokenizer: Any, documents: Sequence[Document]):
        made_by = model.new_memory(1).identity
        fields = json.dumps(made_by.fields, sort_keys=True)
        reader = [made_by.fingerprint.values, made_by.system, fields, tokenizer_digest(tokenizer)]
        name = digest(["asking", *reader, *(document.text for document in documents)])
        self.model = model
        self.path = cache_directory() / "memories" / f"{name}.hmt"
        self._places = self.path.with_suffix(".json")

    def load(self) -> Reading | None:
        """What was read of the documents; None where nothing was, or what there is cannot be used."""
        from hmt.memory.memory import Memory

        try:
            places = Places.from_json(self._places.read_bytes())
            memory = Memory.load(self.path, model=self.model)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # as any cache: it is made anew
        # a writer may have been killed between the two files
        return Reading(memory, places) if int(memory.tokens_read.max()) == places.tokens else None

    def save(self, reading: Reading) -> bool:
        """Keep what was read; whether that was possible. A full disk is a warning, and no half file."""
        assert reading.memory is not None
        try:
            reading.memory.save(self.path)
            write_atomically(self._places, reading.places.to_json())
        except OSError as error:
            why = error.strerror or error
            logger.warning("What was read is not kept in %s: %s.", self.path.parent, why)
            return False
        return True


def read_documents(
    model: Any, tokenizer: Any, sources: Sequence[Sequence[Document]], progress: Progress | None = None
) -> Reading:
    """One memory of all documents of all sources, in this order, read or from the cache.

    It is kept after each source, so that another one behind the same ones is all that is read then. When it
    is interrupted, what was read is kept, too.

    progress: called as progress(tokens read, of so many). ValueError for documents without tokens, for a
    model that cannot close a segment early, and while another process reads the same.
    """
    before = Reading()
    for number in range(1, len(sources) + 1):
        documents = [document for source in sources[:number] for document in source]
        kept = Kept(model, tokenizer, documents)
        found = kept.load()
        if found is None or not found.places.done:
            with output_file(kept.path, "memory file"):
                found = _read(model, tokenizer, documents, found or before, kept, progress)
        before = found
    return before


def _read(
    model: Any,
    tokenizer: Any,
    documents: Sequence[Document],
    now: Reading,
    kept: Kept,
    progress: Progress | None,
) -> Reading:
    """`documents`, of which the first ones were read before, and the last of these perhaps in part."""
    since = time.monotonic()
    first = len(now.places.documents) - (not now.places.done)
    begun = now
    try:
        for index in range(max(first, 0), len(documents)):
            for step in _steps(model, tokenizer, documents, index, now, progress):
                now = step
                if time.monotonic() - since > _EVERY:
                    kept.save(now)
                    since = time.monotonic()
    except BaseException as error:
        if now is not begun and kept.save(now):
            error.add_note(f"{now.places.tokens:,} tokens are kept; the same again goes on from there")
        raise
    now = Reading(now.memory, Places(now.places.documents, done=True))
    kept.save(now)
    return now


def _steps(
    model: Any,
    tokenizer: Any,
    documents: Sequence[Document],
    index: int,
    now: Reading,
    progress: Progress | None,
) -> Iterator[Reading]:
    """What was read after each step through a document, and at its end, where its last segment is closed."""
    length, memory, tokens = model.segment_length, now.memory, now.places.tokens
    before, here = now.places.documents[:index], (*now.places.documents, ReadDocument())[index]
    if progress is not None:
        progress(tokens, None)  # of an earlier run
    characters = sum(len(document.text) for document in documents)
    passed = sum(len(document.text) for document in documents[:index])
    for ids, begins, ahead, share in _batches(tokenizer, documents[index].text, index == 0, here, length):
        total = (tokens + ahead) * characters / (passed + share) if passed + share else None
        tell = None if progress is None else partial(_further, progress, tokens, total)
        memory = model.read(ids, memory=memory, chunk=_CHUNK, progress=tell)
        here, tokens = here.then(begins, length), tokens + len(ids)
        if progress is not None:
            progress(tokens, total)  # the last tokens are no whole segment
        yield Reading(memory, Places((*before, here)))
    if memory is None:
        raise ValueError(f"the tokenizer makes no tokens of {documents[index].name}")
    yield Reading(model.flush(memory), Places((*before, here)))


def _further(progress: Progress, tokens: int, total: float | None, more: int) -> None:
    progress(tokens + more, total)


def _batches(
    tokenizer: Any, text: str, start: bool, read: ReadDocument, length: int
) -> Iterator[tuple[list[int], list[int | None], int, float]]:
    """What is left of a text as (ids, begins, ids there are, characters they are of), some segments each."""
    ids: list[int] = []
    begins: list[int | None] = []
    skip, size, share = read.tokens, _CHUNK * length, 0.0
    pieces = ((text[at : at + _PIECE], min(at + _PIECE, len(text))) for at in range(0, len(text), _PIECE))
    for more, where, characters in placed_pieces(tokenizer, pieces, start):
        share = characters or 0
        ids, begins, skip = ids + more[skip:], begins + where[skip:], max(0, skip - len(more))
        while len(ids) >= size:
            yield ids[:size], begins[:size], len(ids), share
            ids, begins = ids[size:], begins[size:]
    if ids:
        yield ids, begins, len(ids), share
