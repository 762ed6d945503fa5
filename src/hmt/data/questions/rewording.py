"""Other words for the words of a question, taken from the word embeddings of a language model.

A question made from a sentence has the sentence's words, and any lexical search finds it; a reader's question
has its own. The nearest neighbours of a word among the token embeddings of a language model are mostly words
that could stand in its place (captain: commander; shouted: exclaimed; quickly: rapidly), no dictionary
needed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hmt.data.questions.text import is_content

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_WORD = re.compile(r"(?<![\w'’])[a-z]{4,}(?![\w'’])")
_STEM = 4  # letters: words that begin alike are the same word in another form
# What questions are asked with; replacing it makes another question, or none.
_KEPT = frozenset("fill complete missing words belongs year kind thing person said many first second".split())


def word_neighbours(
    embeddings: Tensor, tokenizer: PreTrainedTokenizerBase, *, number: int = 3, similarity: float = 0.25
) -> dict[str, list[str]]:
    """For every lower-case word that is one token, up to `number` other such words, the nearest first.

    Args:
        embeddings: [V, d], the input embeddings of the tokenizer's model.
        tokenizer: one that keeps the space before a word in its token (byte-level, as of GPT-2 and Llama 3).
        similarity: the least cosine, of embeddings whose mean was taken off.
    """
    import torch

    decoded = {str(tokenizer.decode([token])).strip() for token in range(len(embeddings))}
    candidates = sorted(word for word in decoded if re.fullmatch("[a-z]{4,}", word) and is_content(word))
    # Only what is one token behind a space is a word; pieces from inside words look the same when decoded.
    if not candidates:
        return {}
    encoded = tokenizer([f" {word}" for word in candidates], add_special_tokens=False)["input_ids"]
    tokens = {word: ids[0] for word, ids in zip(candidates, encoded, strict=True) if len(ids) == 1}
    vocabulary = list(tokens)
    if not vocabulary:
        return {}
    vectors = embeddings[[tokens[word] for word in vocabulary]].detach().float()
    vectors = torch.nn.functional.normalize(vectors - embeddings.detach().float().mean(0), dim=1)
    found: dict[str, list[str]] = {}
    width = min(len(vocabulary), 4 * number + 4)
    for start in range(0, len(vocabulary), 2048):
        values, places = (vectors[start : start + 2048] @ vectors.T).topk(width, dim=1)
        for row, (near, where) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            word = vocabulary[start + row]
            others = [
                vocabulary[place]
                for value, place in zip(near, where, strict=True)
                if value >= similarity and vocabulary[place][:_STEM] != word[:_STEM]
            ]
            if others:
                found[word] = others[:number]
    return found


def reword(question: str, table: Mapping[str, Sequence[str]], rng: random.Random, share: float) -> str:
    """`question` with a share of its lower-case content words replaced by others of the `table`."""

    def other(match: re.Match[str]) -> str:
        word = match.group()
        kept = word in _KEPT or not is_content(word) or not table.get(word) or rng.random() >= share
        return word if kept else rng.choice(table[word])

    return _WORD.sub(other, question)
