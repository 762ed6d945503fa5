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
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from hmt.asking.places import Document, Places, ReadDocument
from hmt.data.token_pieces import placed_pieces
from hmt.data.tokens import tokenizer_digest
from hmt.util.cache import cache_directory, digest
from hmt.util.files import output_file, write_atomically
from hmt.util.format import plural
from hmt.util.signals import Stopped

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
    """A memory in the cache folder. Args: model: by which it is read. name: without suffix."""

    def __init__(self, model: Any, name: str):
        self.model = model
        self.path = cache_directory() / "memories" / f"{name}.hmt"
        self._places = self.path.with_suffix(".json")

    def load(self) -> Reading | None:
        """What was read; None where nothing was, or what there is cannot be used."""
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


def names(model: Any, tokenizer: Any, sources: Sequence[Sequence[Document]]) -> list[str]:
    """What the memory of the first source is kept as, of the first two, and so on."""
    made_by = model.new_memory(1).identity
    fields = json.dumps(made_by.fields, sort_keys=True)
    reader = [made_by.fingerprint.values, made_by.system, fields, tokenizer_digest(tokenizer)]
    texts = [digest(document.text for document in source) for source in sources]
    return [digest(["asking", *reader, *texts[: end + 1]]) for end in range(len(sources))]


def read_documents(
    model: Any,
    tokenizer: Any,
    sources: Sequence[Sequence[Document]],
    progress: Progress = lambda tokens, total: None,
) -> Reading:
    """One memory of all documents of all sources, in this order, from the cache or read now and kept there.

    Where the memory of the first few sources is kept, only the others are read.

    progress: called as progress(tokens read, of so many). ValueError for documents without tokens, for a
    model that cannot close a segment early, and while another process reads the same.
    """
    documents = [document for source in sources for document in source]
    kept = [Kept(model, name) for name in names(model, tokenizer, sources)]
    now = kept[-1].load()
    if now is not None and now.places.done:
        return now
    for one in reversed(kept[:-1]):
        if now is None and (before := one.load()) is not None and before.places.done:
            now = before
    with output_file(kept[-1].path, "memory file"):
        return _read(model, tokenizer, documents, now or Reading(), kept[-1], progress)


def _read(
    model: Any,
    tokenizer: Any,
    documents: Sequence[Document],
    now: Reading,
    kept: Kept,
    progress: Progress,
) -> Reading:
    """`documents`, of which the first ones were read before, and the last of these perhaps in part."""
    since = time.monotonic()
    first = len(now.places.documents) - (not now.places.done)
    begun = now
    progress(now.places.tokens, None)  # of an earlier run
    try:
        for index in range(max(first, 0), len(documents)):
            for step in _steps(model, tokenizer, documents, index, now, progress):
                now = step
                if time.monotonic() - since > _EVERY:
                    kept.save(now)
                    since = time.monotonic()
    except BaseException as error:
        if now is begun or not kept.save(now):
            raise
        told = f"{plural(now.places.tokens, 'token')} are kept; the same again goes on from there"
        if isinstance(error, KeyboardInterrupt):
            raise Stopped(getattr(error, "signal", SIGINT), f"interrupted: {told}") from None
        logger.warning("%s.", told)
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
    progress: Progress,
) -> Iterator[Reading]:
    """What was read after each step through a document, and at its end, where its last segment is closed."""
    length, memory, tokens = model.segment_length, now.memory, now.places.tokens
    before, here = now.places.documents[:index], (*now.places.documents, ReadDocument())[index]
    characters = sum(len(document.text) for document in documents)
    passed = sum(len(document.text) for document in documents[:index])
    for ids, begins, ahead, share in batches(tokenizer, documents[index].text, index == 0, here, length):
        total = (tokens + ahead) * characters / (passed + share) if passed + share else None
        tell = partial(_further, progress, tokens, total)
        memory = model.read(ids, memory=memory, chunk=_CHUNK, progress=tell)
        here, tokens = here.then(begins, length), tokens + len(ids)
        progress(tokens, total)  # the last tokens are no whole segment
        yield Reading(memory, Places((*before, here)))
    if memory is None:
        raise ValueError(f"the tokenizer makes no tokens of {documents[index].name}")
    yield Reading(model.flush(memory), Places((*before, here)))


def _further(progress: Progress, tokens: int, total: float | None, more: int) -> None:
    progress(tokens + more, total)


def batches(
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
