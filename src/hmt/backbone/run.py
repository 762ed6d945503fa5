"""Calling a Hugging Face causal LM, through its public contract only: `run` is the only place that does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel


def embedding_table(backbone: PreTrainedModel) -> nn.Embedding:
    """The token embeddings [V, d]. Memory vectors have their width d (OPT-350m: not `hidden_size`)."""
    return cast(nn.Embedding, backbone.get_input_embeddings())


def input_device(backbone: PreTrainedModel) -> torch.device:
    """Where token ids are looked up: of offloaded embeddings, where they are brought to."""
    table = embedding_table(backbone)
    hook = getattr(table, "_hf_hook", None)  # accelerate's
    return table.weight.device if hook is None else torch.device(hook.execution_device)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Eval mode of a module for a while; afterwards every submodule is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class LayerMemory(Protocol):
    """What is read inside the layers during one pass (`BackboneMemory.layer_memory`)."""

    def read(self, layer: int, hidden: Tensor) -> Tensor:
        """What layer `layer` is given instead of its input [B, T, d]."""


@dataclass(frozen=True)
class Pass:
    """What one pass of the backbone gives.

    Attributes:
        hidden: [B, T, d], outputs of the last layer after the final norm, without the head.
        cache: the cache it wrote to, None without one.
        layers: [B, T, d] after each layer, where a layer memory was given; else None.
    """

    hidden: Tensor
    cache: Any = None
    layers: tuple[Tensor, ...] | None = None


def run(
    backbone: PreTrainedModel,
    embeds: Tensor,
    *,
    cache: Any = None,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    layer_memory: LayerMemory | None = None,
) -> Pass:
    """One pass over input vectors.

    Args:
        embeds: [B, T, d].
        cache: a transformers cache the vectors stand behind, written to; None: nothing is kept.
        mask: int64 [B, C + T] over the C cached positions and these, 0 at padding; None: there is none.
        positions: int64 [B, T]; None counts on from the cache. Families that count from the mask ignore them.
        layer_memory: read before every layer.
    ValueError where an output could not be fed back as an input.
    """
    kwargs: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        kwargs["past_key_values"] = cache
    if mask is not None:
        kwargs["attention_mask"] = mask
    if positions is not None and takes_position_ids(backbone):
        kwargs["position_ids"] = positions
    if layer_memory is None:
        output, layers = backbone.base_model(inputs_embeds=embeds, return_dict=True, **kwargs), None
    else:
        with _inside_layers(backbone, layer_memory) as taps:
            output = backbone.base_model(inputs_embeds=embeds, return_dict=True, **kwargs)
        layers = tuple(taps)
    hidden = output.last_hidden_state
    if hidden.shape[-1] != embeds.shape[-1]:
        raise ValueError(
            f"the backbone's outputs are {hidden.shape[-1]} wide and its embeddings {embeds.shape[-1]}: "
            "an output could not be fed back as a memory vector"
        )
    return Pass(hidden, output.get("past_key_values"), layers)


def decoder_layers(backbone: PreTrainedModel) -> nn.ModuleList:
    """The backbone's layers, from the first to the last. ValueError where they cannot be told."""
    number = backbone.config.get_text_config().num_hidden_layers
    lists = [
        module
        for module in backbone.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == number
    ]
    if len(lists) != 1:
        raise ValueError(
            f"the layers of {type(backbone).__name__} cannot be tapped: {len(lists)} of its module lists "
            f"have {number} entries; memory inside the layers needs a decoder with one list of them"
        )
    return lists[0]


@contextmanager
def _inside_layers(backbone: PreTrainedModel, memory: LayerMemory) -> Iterator[list[Tensor]]:
    """Forward hooks for one pass; yields the list that the layers' outputs are appended to.

    The hooks are gone when the pass ends, so a recomputation by gradient checkpointing inside the backbone
    would run without them: `BackboneMemory.run` refuses it.
    """
    taps: list[Tensor] = []
    handles = []

    def reader(index: int) -> Any:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (memory.read(index, args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": memory.read(index, kwargs["hidden_states"])}

        return before

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        taps.append(output if isinstance(output, Tensor) else output[0])

    try:
        for index, layer in enumerate(decoder_layers(backbone)):
            handles.append(layer.register_forward_pre_hook(reader(index), with_kwargs=True))
            handles.append(layer.register_forward_hook(after))
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def is_checkpointed(backbone: PreTrainedModel) -> bool:
    """Whether gradient checkpointing inside the backbone is on: in training it drops caches and hooks."""
    return any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules())


def new_cache(backbone: PreTrainedModel) -> DynamicCache:
    """An empty KV cache of the kind the backbone's layers need."""
    return DynamicCache(config=backbone.config.get_text_config())


def takes_position_ids(backbone: PreTrainedModel) -> bool:
    """Whether the backbone can be told positions; the others count them from the mask."""
    return "position_ids" in inspect.signature(backbone.base_model.forward).parameters


def head(backbone: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits [..., V] of hidden vectors [..., d], with the scalings some families apply after their head."""
    logits = backbone.get_output_embeddings()(hidden)
    config = backbone.config.get_text_config()
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scale := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2 and 3
        logits = torch.tanh(logits / cap) * cap
    return logits


class Vectors(nn.Module):
    """Learned input vectors [n, d]. A module, so that PEFT's `modules_to_save` can name it."""

    def __init__(self, number: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(number, width))

    def forward(self, batch_size: int) -> Tensor:
        """The vectors for each of B rows, [B, n, d]."""
        return self.weight.unsqueeze(0).expand(batch_size, -1, -1)
