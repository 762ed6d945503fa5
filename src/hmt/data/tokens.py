"""Documents to token ids, once: the result is kept on disk and found again by content."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmt.util.cache import cache_directory, digest
from hmt.util.progress import library_bars

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Characters handed to the tokenizer at a time: enough to keep its threads busy, few enough for the ids, which
# are Python lists on the way (36 bytes each), to stay below some 100 MB.
_BATCH_CHARACTERS = 4_000_000


def tokenize_documents(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    append_eos: bool = True,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> Dataset:
    """The documents as token ids: columns `input_ids` (int32, whole documents of any length) and `name`.

    The tokenizer adds what it adds by itself (a BOS token, for some); `append_eos` ends every document with
    its EOS token, unless it did so already. The result is stored as `<cache_dir>/<hash>.arrow` (default:
    `cache_directory()`), memory-mapped, and found again by the text and by what the tokenizer does, not by
    object identity or time.

    ValueError if there is no column `text`, or no EOS token to append.
    """
    if "text" not in documents.column_names:
        raise ValueError(
            f"tokenize_documents needs a column 'text'; there are: {', '.join(documents.column_names)}. "
            "Load them with load_documents(..., text_field=...)."
        )
    eos = tokenizer.eos_token_id if append_eos else None
    if append_eos and eos is None:
        raise ValueError("The tokenizer has no EOS token: set tokenizer.eos_token, or pass append_eos=False.")
    if "name" not in documents.column_names:
        documents = documents.add_column("name", [f"document {i + 1}" for i in range(len(documents))])

    def encode(texts: list[str]) -> dict[str, list[list[int]]]:
        # verbose=False: documents are longer than the backbone's window by design, so that warning would
        # mislead.
        batch = tokenizer(texts, padding=False, truncation=False, return_attention_mask=False, verbose=False)
        return {"input_ids": [_end_with(ids, eos) for ids in batch["input_ids"]]}

    content, characters = _content(documents)
    # Hashing the tokenizer object, as Dataset.map would, misses the cache whenever it has been used in
    # between.
    fingerprint = digest(["tokens", content, tokenizer_digest(tokenizer), str(eos)])
    with library_bars(progress):
        return documents.map(
            encode,
            input_columns=["text"],
            batched=True,
            batch_size=max(1, min(1000, _BATCH_CHARACTERS * len(documents) // max(1, characters))),
            remove_columns=[name for name in documents.column_names if name != "name"],
            features=_features(),
            cache_file_name=str(cache_directory(cache_dir) / f"{fingerprint}.arrow"),
            load_from_cache_file=True,
            new_fingerprint=fingerprint,
            desc="Tokenizing",
        )


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """32 hex digits that name what the tokenizer does: equal in every process and after any use of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        # Leftovers of the last call, which decide nothing in the next.
        content.pop("padding", None)
        content.pop("truncation", None)
        return digest([type(tokenizer).__name__, json.dumps(content, sort_keys=True)])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        parts = [part for path in files for part in (path.name.encode(), path.read_bytes())]
    return digest([type(tokenizer).__name__, *parts])


def check_ids(ids: Sequence[int] | np.ndarray | torch.Tensor, vocab_size: int) -> None:
    """ValueError for the first id outside 0 .. vocab_size - 1, with its position; `ids` is one sequence [T].

    An embedding table answers such an id with a crash (on a GPU, an assertion that names nothing).
    """
    import numpy as np

    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"check_ids takes one sequence of ids, got the shape {ids.shape}.")
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"check_ids takes integers, got {ids.dtype}.")
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if wrong.size:
        at = int(wrong[0])
        raise ValueError(
            f"Token id {int(ids[at])} at position {at} is outside the vocabulary of {vocab_size} (ids 0 to "
            f"{vocab_size - 1}): use the backbone's own tokenizer, or resize its embeddings."
        )


def _end_with(ids: list[int], eos: int | None) -> list[int]:
    return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]


def _content(documents: Dataset) -> tuple[str, int]:
    """A hash of all names and texts, and the number of characters."""
    characters = 0

    def parts() -> Iterator[str]:
        nonlocal characters
        for row in documents.select_columns(["name", "text"]).with_format(None):
            characters += len(row["text"])
            yield str(row["name"])
            yield row["text"]

    return digest(parts()), characters


def _features() -> Any:
    import datasets

    return datasets.Features(
        {"name": datasets.Value("string"), "input_ids": datasets.List(datasets.Value("int32"))}
    )
