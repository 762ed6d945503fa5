"""Whether a model can be a backbone, found out before anything is trained on it."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hmt.backbone.run import embedding_table, evaluating, head, run

logger = logging.get_logger(__name__)

# These rebuild token ids from `inputs_embeds`, or add per-token embeddings of their own: vectors that belong
# to no token are refused or silently mistreated.
_UNSUPPORTED = ("gemma3n", "gemma4")


def check_backbone(backbone: PreTrainedModel) -> None:
    """Raise ValueError if `backbone` cannot take memory vectors between its token embeddings."""
    name = type(backbone).__name__
    if backbone.config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder; segment memory wraps decoder-only causal LMs")
    if backbone.config.model_type.startswith(_UNSUPPORTED):
        raise ValueError(
            f"{name} derives extra inputs from token ids and cannot read memory vectors; choose another "
            "backbone"
        )
    if "inputs_embeds" not in inspect.signature(backbone.forward).parameters:
        raise ValueError(
            f"{name}.forward has no `inputs_embeds` argument, so memory vectors cannot be fed to it; "
            "choose a causal LM that has one (nearly all in transformers do)"
        )
    parts = [part for part in backbone.modules() if isinstance(part, PreTrainedModel)]
    if any(part.config._attn_implementation is None for part in parts):
        raise ValueError(
            f"{name} has lost its attention implementation and would run without a causal mask (it happens "
            "when its config is made part of another one): set it with "
            '`backbone.set_attn_implementation("sdpa")` (or "eager"), or load the backbone again'
        )


@torch.no_grad()
def check_head(backbone: PreTrainedModel) -> None:
    """ValueError if `head(run(...).hidden)` and the backbone's own logits differ on three tokens.

    A family that post-processes its logits in a way `head` does not know would otherwise give wrong
    probabilities without a sound.
    """
    device = embedding_table(backbone).weight.device
    if device.type == "meta":
        return
    with evaluating(backbone):
        ids = torch.arange(3, device=device)[None] % backbone.config.get_text_config().vocab_size
        embeddings = embedding_table(backbone)(ids)
        want = backbone(inputs_embeds=embeddings, use_cache=False).logits.float()
        got = head(backbone, run(backbone, embeddings).hidden).float()
    if not torch.allclose(want, got, rtol=1e-2, atol=1e-2 * max(1.0, want.abs().max().item())):
        raise ValueError(
            f"{type(backbone).__name__} transforms its logits after the head in a way this library does "
            "not know; "
            "please report the model type so that it can be supported"
        )


@torch.no_grad()
def check_causal(backbone: PreTrainedModel) -> None:
    """ValueError if a vector changes the outputs before it, with neither mask nor position ids: as used here.

    Everything rests on it (rows are padded on the right, the suffix stands behind the tokens), and a backbone
    that lost its mask computes on without a sound. Costs one pass over two rows of four vectors.
    """
    table = embedding_table(backbone)
    if table.weight.device.type == "meta":
        return
    ids = torch.arange(4, device=table.weight.device) % backbone.config.get_text_config().vocab_size
    with evaluating(backbone):
        row = table(ids)
        # noise, not another token: untrained tokens can share one embedding
        noise = torch.randn(row.shape[-1], generator=torch.Generator().manual_seed(0)).to(row)
        other = torch.cat([row[:-1], row[-1:] + row.float().square().mean().sqrt().to(row) * noise])
        hidden = run(backbone, torch.stack([row, other])).hidden[:, :-1].float()
    change = (hidden[0] - hidden[1]).norm(dim=-1) / hidden[0].norm(dim=-1).clamp(min=1e-30)
    # Kernels may round rows differently, in half and quantised precision by much; a lost mask changes more.
    if change.max() > (1e-3 if row.dtype in (torch.float32, torch.float64) else 5e-2):
        raise ValueError(
            f"{type(backbone).__name__} is not causal: its outputs depend on vectors behind them "
            f"(attn_implementation={backbone.config._attn_implementation!r}). Load it as a decoder, with "
            'attn_implementation="sdpa" or "eager"'
        )


@torch.no_grad()
def input_scale(backbone: PreTrainedModel, tokens: int = 64) -> float:
    """RMS of the token embeddings over RMS of the outputs, measured on random ids.

    A memory vector is an output that is fed in again. Multiplied by this it enters at the size of a token; as
    it is it can be so much larger that the layers barely change it, and what is read cannot be written into
    memory.
    """
    table = embedding_table(backbone)
    if table.weight.device.type == "meta":
        raise ValueError('memory_scale="embedding" is measured on the weights, and the backbone has none yet')
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(backbone.config.get_text_config().vocab_size, (1, tokens), generator=generator)
    embeddings = table(ids.to(table.weight.device))
    with evaluating(backbone):
        hidden = run(backbone, embeddings).hidden
    return float(embeddings.float().square().mean().sqrt() / hidden.float().square().mean().sqrt())


def position_table(backbone: PreTrainedModel) -> int | None:
    """Positions that the backbone has learned vectors for; None where it has none (rotary, ALiBi)."""
    limit = _trained_length(backbone)
    for module in backbone.modules() if limit else ():
        if not isinstance(module, nn.Embedding) or module is backbone.get_input_embeddings():
            continue
        if abs(module.num_embeddings - limit) <= 2:  # some keep two slots that stand for no position
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return min(module.num_embeddings, limit) - unused
    return None


def _trained_length(backbone: PreTrainedModel) -> int:
    """Positions the backbone was made for; 0 where its config does not say."""
    return getattr(backbone.config.get_text_config(), "max_position_embeddings", None) or 0


def check_length(backbone: PreTrainedModel, segment_length: int, around: int) -> None:
    """ValueError for segments that learned positions have no room for; a warning for other positions.

    around: positions that memory vectors and sensory tokens take beside the segment.
    """
    length, name = segment_length + around, type(backbone).__name__
    table = position_table(backbone)
    if table is not None and length > table:
        fits = table - around
        advice = f"the largest segment_length that fits is {fits}" if fits > 0 else "keep fewer raw tokens"
        raise ValueError(
            f"{name} has learned {table} positions, and a segment of {segment_length} tokens takes {length} "
            f"with the {around} of memory vectors and sensory tokens around it: {advice}"
        )
    limit = _trained_length(backbone)
    if table is None and limit and length > limit:
        logger.warning_once(
            f"a segment takes {length} positions (segment_length {segment_length} and {around} around "
            "it), and "
            f"{name} was made for {limit}: it may read the rest badly"
        )
