"""The wrapped Hugging Face causal LM: loading it, checking it, calling it, counting its operations."""

from hmt.backbone.adapters import (
    adapter_settings,
    add_adapters,
    base_name,
    has_adapters,
    merge_adapters,
)
from hmt.backbone.aligned import align, align_tensor
from hmt.backbone.caching import Caching, new_cache
from hmt.backbone.checks import (
    check_backbone,
    check_causal,
    check_head,
    check_length,
    input_scale,
    position_table,
)
from hmt.backbone.fingerprint import Fingerprint, fingerprint, is_quantised, sampled, tensors
from hmt.backbone.load import load_backbone, load_tokenizer, load_with_attention, tokenizer_of
from hmt.backbone.lora import lora_targets
from hmt.backbone.on_cpu import CPUChoice, cpu_choice, suit_cpu
from hmt.backbone.packed import PackedLinear, pack_linears
from hmt.backbone.rolling import KeptKV, RollingCache
from hmt.backbone.rotary import KeyPositions
from hmt.backbone.run import (
    AfterHead,
    LayerMemory,
    Pass,
    Vectors,
    body,
    check_first_layers,
    decoder_layers,
    embed,
    embedding_table,
    evaluating,
    head,
    input_device,
    is_checkpointed,
    run,
    takes_position_ids,
)
from hmt.backbone.sources import PACKAGED, Packaged, is_here, lasting_name, locate

__all__ = [
    "Fingerprint",
    "AfterHead",
    "CPUChoice",
    "Caching",
    "KeptKV",
    "KeyPositions",
    "LayerMemory",
    "PACKAGED",
    "PackedLinear",
    "Packaged",
    "Pass",
    "RollingCache",
    "Vectors",
    "adapter_settings",
    "add_adapters",
    "align",
    "align_tensor",
    "base_name",
    "body",
    "check_backbone",
    "check_causal",
    "check_head",
    "check_length",
    "cpu_choice",
    "decoder_layers",
    "embed",
    "embedding_table",
    "evaluating",
    "fingerprint",
    "has_adapters",
    "head",
    "input_device",
    "input_scale",
    "is_checkpointed",
    "is_here",
    "is_quantised",
    "lasting_name",
    "load_backbone",
    "load_tokenizer",
    "load_with_attention",
    "locate",
    "lora_targets",
    "merge_adapters",
    "new_cache",
    "pack_linears",
    "position_table",
    "check_first_layers",
    "run",
    "sampled",
    "suit_cpu",
    "takes_position_ids",
    "tensors",
    "tokenizer_of",
]
