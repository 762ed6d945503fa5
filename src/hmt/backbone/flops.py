"""Floating-point operations, and the positions that a system passes through the backbone.

Only matrix products are counted, one multiply-add as two operations, as in torch.utils.flop_counter:

    linear layers   2 x (weights of the layers' matrices) x positions
    attention       4 x layers x (heads x head size) x pairs of query and key
    head            2 x vocabulary x d x tokens that get logits

A pair is counted where the query may look at the key, so causal attention over n positions has n (n + 1) / 2
of them; kernels that compute the masked half too do more than is counted here. Embeddings are looked up, not
multiplied. Left out, because they are below a thousandth of the rest: norms, rotary embeddings, softmax, and
what a system adds beside the backbone (HMT's recall is 4 d d_h + 4 N d per segment). Layers with a sliding
window count as full attention, experts of a mixture as all in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hmt.backbone import body, embedding_table

# bfloat16 and float16 dense, in TFLOP/s, by what the device's name contains (vendor's data sheets, SXM)
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}


@dataclass(frozen=True)
class BackboneFlops:
    """Operations of one backbone.

    Attributes:
        matrices: weights in the matrices of all layers, without embeddings and head.
        layers: layers with attention. width: heads x head size of one of them.
        head: weights of the head (vocabulary x d).
    """

    matrices: int
    layers: int
    width: int
    head: int

    @classmethod
    def of(cls, backbone: PreTrainedModel) -> BackboneFlops:
        """Counted on the parameters of `backbone`; sizes of heads are those of its config."""
        config = backbone.config.get_text_config()
        looked_up = {
            id(module.weight) for module in body(backbone).modules() if isinstance(module, nn.Embedding)
        }
        parameters = [p for p in body(backbone).parameters() if p.dim() >= 2 and id(p) not in looked_up]
        each = getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers
        kinds = getattr(config, "layer_types", None) or ["attention"] * len(each)
        attends = ["attention" in kind and kind != "linear_attention" for kind in kinds]
        widths = [_width(layer) for layer, does in zip(each, attends, strict=True) if does]
        return cls(
            matrices=sum(p.numel() for p in parameters),
            layers=len(widths),
            width=sum(widths) // max(1, len(widths)),
            head=embedding_table(backbone).weight.numel(),
        )

    def attention(self, pairs: int) -> int:
        """Of all layers, for so many pairs of query and key; see `causal_pairs`."""
        return 4 * self.layers * self.width * pairs

    def forward(self, positions: int, pairs: int) -> int:
        """One row of `positions` through the layers, with so many pairs in attention, without the head."""
        return 2 * self.matrices * positions + self.attention(pairs)

    def logits(self, tokens: int) -> int:
        """The head, on so many tokens."""
        return 2 * self.head * tokens

    def full_attention(self, tokens: int) -> int:
        """One text of so many tokens read with full attention, without the head."""
        return self.forward(tokens, causal_pairs(tokens))

    def half_attention(self) -> int:
        """The length at which attention becomes half of the operations of full attention.

        2 matrices T = 4 layers width T (T + 1) / 2.
        """
        return max(1, round(self.matrices / (self.layers * self.width) - 1))

    def overtaken(self, per_segment: int, segment_length: int) -> int:
        """The length from which full attention takes more operations than `per_segment` for each segment."""
        excess = per_segment / segment_length - 2 * self.matrices
        return max(1, round(excess / (2 * self.layers * self.width) - 1))


def _width(config: Any) -> int:
    """Heads x head size of a layer; state-space models have no heads."""
    heads = getattr(config, "num_attention_heads", None) or 0
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // max(1, heads))


def causal_pairs(queries: int, before: int = 0) -> int:
    """Pairs of query and key that `queries` positions see on top of `before` kept ones."""
    return queries * before + queries * (queries + 1) // 2


def segment_flops(backbone: PreTrainedModel, passes: Sequence[int]) -> int:
    """Operations of the backbone for one segment of one stream, forward, without the head.

    passes: positions of each pass, as `model.passes()` of a system with memory says.
    """
    count = BackboneFlops.of(backbone)
    return sum(count.forward(row, causal_pairs(row)) for row in passes)


def peak_flops(device_name: str, dtype: str, given: float | None = None) -> float | None:
    """Operations per second the device could do, from TFLOP/s that were given or the table; else None."""
    if given is not None:
        return given * 1e12
    if dtype == "float32":
        return None
    found = [value for name, value in PEAK_TFLOPS.items() if name in device_name]
    return found[0] * 1e12 if found else None
