"""A text of any length as token ids, in pieces whose ids together are those of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# characters before a piece that the tokenizer sees too, so that it does not look like a beginning
_CONTEXT = 64
# characters without a place to cut that are waited for
_LONGEST = 800_000


def token_pieces(
    tokenizer: PreTrainedTokenizerBase, pieces: Iterable[tuple[str, float | None]], start: bool
) -> Iterator[tuple[list[int], float | None]]:
    """(text, fraction) pieces of a text as (ids, fraction); the ids together are those of the whole text.

    Pieces are cut again between a letter or digit and white space, which no usual tokenizer joins in one
    token, and each is tokenized together with the characters before it. Only a text without such a place for
    a very long stretch is cut anywhere. start: begin with the BOS token, where the tokenizer adds one; an EOS
    token is never added.
    """
    for ids, _, fraction in placed_pieces(tokenizer, pieces, start):
        yield ids, fraction


def placed_pieces(
    tokenizer: PreTrainedTokenizerBase, pieces: Iterable[tuple[str, float | None]], start: bool
) -> Iterator[tuple[list[int], list[int | None], float | None]]:
    """The same as (ids, begins, fraction): with the character of the text that each token begins at.

    None for all tokens of a tokenizer that does not know.
    """
    if (
        start
        and tokenizer.bos_token_id is not None
        and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    ):
        yield [tokenizer.bos_token_id], [0], 0.0
    context, text, fraction, done = "", "", None, 0
    for more, fraction in pieces:
        text += more
        cut = _last_word_end(text)
        if cut == 0 and len(text) < _LONGEST:
            continue
        cut = cut or len(text)
        yield *_encode(tokenizer, context, text[:cut], done), fraction
        context, text, done = text[:cut][-_CONTEXT:], text[cut:], done + cut
    yield *_encode(tokenizer, context, text, done), fraction


def _last_word_end(text: str) -> int:
    """Index of the last white space after a letter or digit, 0 where there is none."""
    for index in range(len(text) - 1, 0, -1):
        if text[index].isspace() and text[index - 1].isalnum():
            return index
    return 0


def _encode(
    tokenizer: PreTrainedTokenizerBase, context: str, text: str, done: int
) -> tuple[list[int], list[int | None]]:
    """Ids of a text behind `context`, and where they begin; done: characters before the text."""
    if not tokenizer.is_fast:  # knows no offsets
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids, list(repeat(None, len(ids)))
    coded = tokenizer(context + text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pairs = zip(coded.input_ids, coded.offset_mapping, strict=True)
    kept = [(id, begin - len(context) + done) for id, (begin, _) in pairs if begin >= len(context)]
    return [id for id, _ in kept], [begin for _, begin in kept]
