"""What a caller can get wrong, said in words before anything is computed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hmt.util.integers import as_integers

# What transformers and peft hand to the forward of any causal LM. Positions are counted anew in every segment
# and token types do not exist here, so these carry nothing.
_CARRY_NOTHING = {
    "num_items_in_batch",
    "position_ids",
    "cache_position",
    "token_type_ids",
    "is_first_iteration",
}
# Where the texts begin that are packed into a row.
_PACKED = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
# Asking for these is refused; saying no to them is not.
_NOT_RETURNED = {"output_attentions", "output_hidden_states", "output_router_logits"}
_ONE_TEXT = (
    "{} says that several texts are packed into a row. A row is one stream, whose memory would go from one "
    "text to the next: give each text a row of its own (TRL: packing=False and padding_free=False; or "
    'packing_strategy="wrapped", to read them as one)'
)


def check_keywords(given: Mapping[str, Any], forward: Callable) -> None:
    """TypeError for a keyword that `forward` does not know, ValueError for one that it cannot follow."""
    for name, value in given.items():
        if value is None or name in _CARRY_NOTHING or (name in _NOT_RETURNED and value is False):
            continue
        if name in _NOT_RETURNED:
            raise ValueError(f"{name}=True: a model with memory returns no {name.removeprefix('output_')}")
        if name in _PACKED:
            raise ValueError(_ONE_TEXT.format(name))
        known = inspect.signature(forward).parameters
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"forward takes no keyword {name!r}{hint}")


def as_ids(ids: Any, device: Any) -> Tensor:
    """Token ids, given as a tensor, an array or (nested) lists of integers of any width, as int64 [B, T] on
    `device`.

    ValueError as of `check_ids`, and for text.
    """
    if not isinstance(ids, Tensor):
        _refuse_text(ids)
    ids = as_integers(ids, "input_ids (token ids, [tokens] or [batch, tokens])").to(device)
    return check_ids(ids[None] if ids.dim() == 1 else ids)


def check_ids(ids: Any) -> Tensor:
    """`ids` as int64. ValueError unless they are an integer tensor [B, T] with at least one token."""
    if ids is not None and not isinstance(ids, Tensor):
        _refuse_text(ids)
        raise ValueError(
            f"input_ids must be a tensor [batch, tokens] of token ids, not a {type(ids).__name__}"
        )
    if ids is None or ids.dim() != 2 or 0 in ids.shape:
        shape = None if ids is None else tuple(ids.shape)
        raise ValueError(f"input_ids must be [batch, tokens] with at least one token, got {shape}")
    return as_integers(ids, "input_ids")


def _refuse_text(ids: Any) -> None:
    first = ids[0] if isinstance(ids, (list, tuple)) and ids else ids
    if isinstance(first, str):
        raise ValueError("input_ids are token ids, not text: tokenise it first, tokenizer(text).input_ids")
    if isinstance(ids, Mapping):
        raise ValueError("input_ids are token ids; of a tokenizer's output pass its `input_ids`")


def check_mask(mask: Tensor | None, ids: Tensor) -> Tensor | None:
    """The mask of the columns of `ids` as bool [B, T], from one that may cover more columns before them.

    ValueError for another shape.
    """
    if mask is None:
        return None
    batch, width = ids.shape
    if mask.dim() != 2 or mask.shape[0] != batch or mask.shape[1] < width:
        raise ValueError(
            f"attention_mask must be [batch, tokens] = {(batch, width)} (or longer), got {tuple(mask.shape)}"
        )
    return mask[:, -width:].bool()


def check_positions(positions: Any, ids: Tensor, mask: Tensor | None) -> None:
    """ValueError for position ids that begin anew inside a row of `ids` [B, T]; others carry nothing."""
    width = ids.shape[1]
    if not isinstance(positions, Tensor) or width < 2 or positions.shape[-1] < width:
        return
    jumps = positions[..., -width:].diff(dim=-1) != 1
    if mask is not None:
        jumps = jumps & (mask[:, 1:] & mask[:, :-1])
    if jumps.any():
        raise ValueError(_ONE_TEXT.format("position_ids"))


def check_training(
    ids: Tensor, labels: Tensor | None, targets: Tensor | None, bptt_depth: int | None, chunk: int | None
) -> None:
    """ValueError for arguments of `forward` that only training uses and that do not fit `ids` [B, T]."""
    check_chunk(chunk)
    if labels is not None and labels.shape != ids.shape:
        raise ValueError(f"labels are {tuple(labels.shape)} and input_ids {tuple(ids.shape)}; they align")
    if targets is not None and targets.shape[:-1] != (ids.shape[0],):
        raise ValueError(
            f"recall_targets must be [batch, segments] with {ids.shape[0]} rows, got {tuple(targets.shape)}"
        )
    if bptt_depth is not None and bptt_depth < 1:
        raise ValueError(f"bptt_depth is a number of segments (at least 1) or None, got {bptt_depth}")


def check_chunk(chunk: int | None) -> None:
    """ValueError for a number of segments to be prepared in one batch that is below 1."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is a number of segments (at least 1), got {chunk}")


def check_vocabulary(ids: Tensor, vocabulary: int) -> None:
    """ValueError for an id outside the vocabulary. Waits for the device."""
    low, high = torch.stack([ids.min(), ids.max()]).tolist()
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"token id {high if high >= vocabulary else low} is outside the vocabulary of {vocabulary}; "
            "was the text tokenised with this model's tokenizer?"
        )


def check_rows(lengths: list[int]) -> None:
    """ValueError when a row, of so many tokens, holds none at all."""
    if 0 in lengths:
        rows = [row for row, length in enumerate(lengths) if length == 0]
        raise ValueError(f"rows {rows} of the batch are all padding; drop them")


def kept_columns(keep: int | Tensor | None, width: int) -> Tensor:
    """Column indices int64 [n] that `logits_to_keep` means, of `width` columns.

    ValueError for a tensor that is not 1-D.
    """
    if isinstance(keep, Tensor):
        if keep.dim() != 1:
            raise ValueError("logits_to_keep is a number of columns or a 1-D tensor of column indices")
        keep = keep if keep.dtype == torch.bool else as_integers(keep, "logits_to_keep")
        return torch.arange(width, device=keep.device)[keep]
    return torch.arange(width)[slice(-keep, None) if keep else slice(None)]


def check_ends(ends: Tensor | None, ids: Tensor, model: Any) -> Tensor | None:
    """Tokens that a segment ends with, bool [B, T], or None. ValueError where that cannot be."""
    if ends is None:
        return None
    if ends.shape != ids.shape:
        raise ValueError(
            f"segment_ends must be {list(ids.shape)}, as input_ids are, and is {list(ends.shape)}"
        )
    if not (model.writes_alone and model.closes_early):
        raise ValueError(
            f"a {model.config.model_type} as configured here cannot close segments early inside a batch: "
            'that takes an HMT with passages and write_prompt="alone"'
        )
    return ends.to(ids.device).bool()
