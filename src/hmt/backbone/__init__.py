"""The wrapped Hugging Face causal LM: loading it, checking it, calling it, counting its operations."""

from hmt.backbone.aligned import align, align_tensor
from hmt.backbone.checks import (
    check_backbone,
    check_causal,
    check_head,
    check_length,
    input_scale,
    position_table,
)
from hmt.backbone.load import load_backbone, load_with_attention
from hmt.backbone.rolling import KeptKV, RollingCache
from hmt.backbone.rotary import KeyPositions
from hmt.backbone.run import (
    LayerMemory,
    Pass,
    Vectors,
    check_one_pass,
    decoder_layers,
    embedding_table,
    evaluating,
    head,
    new_cache,
    run,
    takes_position_ids,
)

__all__ = [
    "KeptKV",
    "KeyPositions",
    "LayerMemory",
    "Pass",
    "RollingCache",
    "Vectors",
    "align",
    "align_tensor",
    "check_backbone",
    "check_causal",
    "check_head",
    "check_length",
    "check_one_pass",
    "decoder_layers",
    "embedding_table",
    "evaluating",
    "head",
    "input_scale",
    "load_backbone",
    "load_with_attention",
    "new_cache",
    "position_table",
    "run",
    "takes_position_ids",
]
