"""The wrapped Hugging Face causal LM: loading it, checking it, calling it, counting its operations."""

from hmt.backbone.adapters import (
    adapter_settings,
    add_adapters,
    base_name,
    has_adapters,
    merge_adapters,
)
from hmt.backbone.aligned import align, align_tensor
from hmt.backbone.checks import (
    check_backbone,
    check_causal,
    check_head,
    check_length,
    input_scale,
    position_table,
)
from hmt.backbone.fingerprint import Fingerprint, fingerprint, is_quantised, sampled, tensors
from hmt.backbone.load import load_backbone, load_with_attention
from hmt.backbone.rolling import KeptKV, RollingCache
from hmt.backbone.rotary import KeyPositions
from hmt.backbone.run import (
    LayerMemory,
    Pass,
    Vectors,
    decoder_layers,
    embedding_table,
    evaluating,
    head,
    input_device,
    is_checkpointed,
    new_cache,
    run,
    takes_position_ids,
)

__all__ = [
    "Fingerprint",
    "KeptKV",
    "KeyPositions",
    "LayerMemory",
    "Pass",
    "RollingCache",
    "Vectors",
    "adapter_settings",
    "add_adapters",
    "align",
    "align_tensor",
    "base_name",
    "check_backbone",
    "check_causal",
    "check_head",
    "check_length",
    "decoder_layers",
    "embedding_table",
    "evaluating",
    "fingerprint",
    "has_adapters",
    "head",
    "input_device",
    "input_scale",
    "is_checkpointed",
    "is_quantised",
    "load_backbone",
    "load_with_attention",
    "merge_adapters",
    "new_cache",
    "position_table",
    "run",
    "sampled",
    "takes_position_ids",
    "tensors",
]
