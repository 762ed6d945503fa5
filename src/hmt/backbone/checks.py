"""Whether a model can be a backbone, found out before anything is trained on it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel
from transformers.utils import logging

from hmt.backbone.run import embed, embedding_table, evaluating, head, input_device, run

logger = logging.get_logger(__name__)

LOUD = 1000.0  # logits that no cap leaves as they are


def check_backbone(backbone: PreTrainedModel) -> None:
    """Raise ValueError if `backbone` cannot take memory vectors between its token embeddings."""
    name = type(backbone).__name__
    if backbone.config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder; segment memory wraps decoder-only causal LMs")
    built: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(backbone.config), ())
    if not (backbone.is_remote_code() or isinstance(backbone, built)):
        raise ValueError(
            f"{name} is not what AutoModelForCausalLM makes from its config ({backbone.config.model_type}), "
            "so a saved model could not be loaded; choose another backbone"
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


def plain_ids(backbone: PreTrainedModel, number: int) -> Tensor:
    """Token ids int64 [number] that the config gives no meaning: no padding, no place of an image."""
    config = backbone.config
    fields = config.to_dict() | config.get_text_config().to_dict()
    named = [value for name, value in fields.items() if name.endswith(("_token_id", "_token_index"))]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    size = embedding_table(backbone).weight.shape[0]
    found = [token for token in range(size // 2, size) if token not in special][:number]
    return torch.tensor((found * number)[:number], device=input_device(backbone))


@torch.no_grad()
def check_head(backbone: PreTrainedModel) -> None:
    """ValueError if `head(run(embed(ids)).hidden)` are not the backbone's own logits of these ids.

    On three tokens, and again with a head that is made so loud that a cap on logits shows. So found are
    families that do something to their logits that `head` does not know, that scale the tokens they look up
    and not the vectors they are given, that route or embed by token ids beside the vectors, and that cannot
    be run on vectors at all: each would give wrong probabilities without a sound. Takes five passes.
    """
    if input_device(backbone).type == "meta":
        return
    name, layer = type(backbone).__name__, backbone.get_output_embeddings()
    if layer is None:
        raise ValueError(f"{name} has no head: it gives no logits")
    ids = plain_ids(backbone, 3)[None]
    vectors = embed(backbone, ids)

    def same(own: Tensor, found: Tensor) -> bool:
        close = 1e-4 if vectors.dtype in (torch.float32, torch.float64) else 2e-2
        return bool((own.float() - found.float()).abs().max() <= close * own.float().abs().max())

    with evaluating(backbone):
        try:
            want = backbone(input_ids=ids, use_cache=False).logits
            given = vectors.clone()
            hidden = run(backbone, given).hidden
            written = not torch.equal(given, vectors)
            on_vectors = backbone(inputs_embeds=vectors, use_cache=False).logits
            run(backbone, vectors.roll(1, dims=-1))  # no token's
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{name} cannot read vectors in the place of tokens, which memory is made of "
                f"({type(error).__name__}: {reason}); choose another backbone"
            ) from error
        if written:
            raise ValueError(f"{name} writes into the vectors that it is given; choose another backbone")
        found = head(backbone, hidden)
        gain = LOUD / max(1e-6, want.abs().max().item())
        handle = layer.register_forward_hook(lambda module, args, output: output * gain)
        try:
            loud, found_loud = backbone(inputs_embeds=vectors, use_cache=False).logits, head(backbone, hidden)
        finally:
            handle.remove()
    if not want.isfinite().all():
        raise ValueError(f"{name} gives logits that are no numbers (NaN or infinite)")
    if not same(want, on_vectors):
        raise ValueError(
            f"{name} derives more from token ids than the vectors that it can be given, so that memory "
            "vectors and tokens would be read as another model reads them; choose another backbone"
        )
    if not (same(on_vectors, found) and same(loud, found_loud)):
        raise ValueError(
            f"{name} transforms its outputs before the head or its logits after it in a way that this "
            "library does not know; please report the model type so that it can be supported"
        )


@torch.no_grad()
def check_causal(backbone: PreTrainedModel) -> None:
    """ValueError if a vector changes the outputs before it, with neither mask nor position ids: as used here.

    Everything rests on it (rows are padded on the right, the suffix stands behind the tokens), and a backbone
    that lost its mask computes on without a sound. Costs one pass over two rows of four vectors.
    """
    if input_device(backbone).type == "meta":
        return
    with evaluating(backbone):
        row = embed(backbone, plain_ids(backbone, 4))
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
    if input_device(backbone).type == "meta":
        raise ValueError('memory_scale="embedding" is measured on the weights, and the backbone has none yet')
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(backbone.config.get_text_config().vocab_size, (1, tokens), generator=generator)
    with evaluating(backbone):
        embeddings = embed(backbone, ids.to(input_device(backbone)))
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
