"""The wrapped Hugging Face causal LM: loading it, checking it, calling it, counting its operations."""

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
    Vectors,
    embedding_table,
    evaluating,
    head,
    last_hidden,
    new_cache,
    takes_position_ids,
)

__all__ = [
    "KeptKV",
    "KeyPositions",
    "RollingCache",
    "Vectors",
    "check_backbone",
    "check_causal",
    "check_head",
    "check_length",
    "embedding_table",
    "evaluating",
    "head",
    "input_scale",
    "last_hidden",
    "load_backbone",
    "load_with_attention",
    "new_cache",
    "position_table",
    "takes_position_ids",
]
