"""What stands before the next token, as vectors: decoding on an engine that knows nothing of memories.

Up to the end of its open segment a system whose memory stands in the input is its backbone behind some
vectors: the recall prompt, the passages, the sensory tokens and what the segment has of its own. Any engine
that takes prompt embeddings can therefore write the answer, with the backbone's own weights.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hmt import backbone as bb
from hmt.memory.memory import Memory
from hmt.model.layout import Block, Embeds, Tokens, join
from hmt.model.open_segment import embed_parts

_NOTHING_FITS = "its segments are more than vectors in front of tokens, and no other engine can read them"


@torch.no_grad()
def prompt_embeddings(model: Any, memory: Memory, input_ids: Any) -> list[Tensor]:
    """See `BackboneMemory.prompt_embeddings`."""
    if not model.one_pass():
        raise ValueError(f"a {model.config.model_type} as configured here has no prompt: {_NOTHING_FITS}")
    memory = model.read(input_ids, memory=memory)
    lengths = memory.open_lengths
    if not bool((lengths > 0).all()):
        raise ValueError(
            "the last of these tokens ends a segment, and no segment is open that an answer could be written "
            "in: flush the memory before, or read all but some of the tokens into it"
        )
    longest = int(lengths.max())
    with bb.evaluating(model):
        state, encoded = memory.state, None
        if model.lookahead:
            encoded = model.encode_one(memory.open_ids[:, :longest], lengths)
        layout = model.layout(state, encoded)
        parts, tokens = embed_parts(model, layout.parts, memory.open_ids[:, :longest])
    before = parts[: next(place for place, part in enumerate(parts) if isinstance(part, Tokens))]
    blocks = [_block(part, tokens.dtype) for part in before]
    row = join([*blocks, Block(tokens, lengths)], "behind")
    at = row.places[-1]
    begin = torch.full_like(lengths, at) if isinstance(at, int) else at[:, 0]
    ends: list[int] = (begin + lengths).tolist()
    return [vectors[:end].clone() for vectors, end in zip(row.vectors, ends, strict=True)]


def _block(part: Any, dtype: torch.dtype) -> Block:
    return Block(part.vectors.to(dtype)) if isinstance(part, Embeds) else part


def export_backbone(model: Any, folder: Any, tokenizer: Any = None) -> None:
    """See `BackboneMemory.export_backbone`."""
    folder = Path(folder).expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and no empty folder; name another one")
    if bb.is_quantised(model.backbone):
        raise ValueError("a quantised backbone is not exported; load it in bfloat16 for that")
    backbone = model.backbone
    if bb.has_adapters(backbone):
        backbone = copy.deepcopy(backbone)
        bb.merge_adapters(backbone)
    backbone.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
