"""Calling a Hugging Face causal LM, through its public contract only: `run` is the only place that does."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def embedding_table(backbone: PreTrainedModel) -> nn.Embedding:
    """The token embeddings [V, d]. Memory vectors have their width d (OPT-350m: not `hidden_size`)."""
    return cast(nn.Embedding, backbone.get_input_embeddings())


def input_device(backbone: PreTrainedModel) -> torch.device:
    """Where token ids are looked up: of offloaded embeddings, where they are brought to."""
    table = embedding_table(backbone)
    hook = getattr(table, "_hf_hook", None)  # accelerate's
    return table.weight.device if hook is None else torch.device(hook.execution_device)


def embed(backbone: PreTrainedModel, ids: Tensor) -> Tensor:
    """Token embeddings [..., d] of int64 [...], as the backbone's layers are given them."""
    vectors = backbone.get_input_embeddings()(ids)  # by calling the module: families that scale do it there
    config = backbone.config.get_text_config()
    # scales tokens that it looks up itself, and no vectors that it is given
    return vectors * config.embedding_multiplier if config.model_type == "falcon_h1" else vectors


def body(backbone: PreTrainedModel) -> nn.Module:
    """What turns input vectors into what the head is given: of a model of several modalities, its text part.

    ValueError, by name, where there is no such part.
    """
    for found in (backbone.get_decoder(), backbone.base_model):
        if isinstance(found, PreTrainedModel) and found is not backbone:
            return found
    # Llama 4: its `base_model_prefix` names no part of it, and it stands for itself
    table = backbone.get_input_embeddings()
    for part in backbone.modules():
        if isinstance(part, PreTrainedModel) and part.get_output_embeddings() is None:
            if part.get_input_embeddings() is table:
                return part
    raise ValueError(f"{type(backbone).__name__} has no part that reads vectors and stands before its head")


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
    one_by_one: bool = False,
    layer_memory: LayerMemory | None = None,
    first: int | None = None,
) -> Pass:
    """One pass over input vectors.

    Args:
        embeds: [B, T, d].
        cache: a transformers cache the vectors stand behind, written to; None: nothing is kept.
        mask: int64 [B, C + T] over the C cached positions and these, 0 at padding; None: there is none.
        positions: int64 [B, T]; None counts on from the cache. Families that count from the mask ignore them.
        one_by_one: a pass for every position, see `Caching`.
        layer_memory: read before every layer.
        first: run only so many layers, see `first_layers`; None: all.
    ValueError where an output could not be fed back as an input, and for a cache that cannot be handed over.
    """
    number = embeds.shape[1]
    if one_by_one and number > 1:
        passes = []
        for at in range(number):
            seen = None if mask is None else mask[:, : mask.shape[1] - number + at + 1]
            place = None if positions is None else positions[:, at : at + 1]
            vector = embeds[:, at : at + 1]
            one = run(backbone, vector, cache=cache, mask=seen, positions=place, layer_memory=layer_memory)
            passes.append(one)
        taken = [one.layers for one in passes if one.layers is not None]
        layers = tuple(torch.cat(layer, dim=1) for layer in zip(*taken, strict=True)) if taken else None
        return Pass(torch.cat([one.hidden for one in passes], dim=1), cache, layers)
    model = body(backbone) if first is None else first_layers(backbone, first)
    kwargs: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        kwargs[_cache_name(model)] = cache
    if mask is not None:
        kwargs["attention_mask"] = mask
    if positions is not None and takes_position_ids(backbone):
        kwargs["position_ids"] = positions
    if layer_memory is None:
        output, layers = model(inputs_embeds=embeds, return_dict=True, **kwargs), None
    else:
        with _inside_layers(backbone, layer_memory) as taps:
            output = model(inputs_embeds=embeds, return_dict=True, **kwargs)
        layers = tuple(taps)
    # The Mambas keep their outputs in float32, and round them before their head
    hidden = output.last_hidden_state.to(embeds.dtype)
    if hidden.shape[-1] != embeds.shape[-1]:
        raise ValueError(
            f"the backbone's outputs are {hidden.shape[-1]} wide and its embeddings {embeds.shape[-1]}: "
            "an output could not be fed back as a memory vector"
        )
    return Pass(hidden, cache, layers)


def _cache_name(model: nn.Module) -> str:
    """What a decoder calls the cache it is handed. ValueError, by name, where it takes none."""
    known = inspect.signature(model.forward).parameters
    for name in ("past_key_values", "cache_params"):
        if name in known:
            return name
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values()):
        return "past_key_values"  # handed on
    raise ValueError(f"{type(model).__name__} takes no cache of transformers")


def decoder_layers(backbone: PreTrainedModel) -> nn.ModuleList:
    """The backbone's layers, from the first to the last. ValueError where they cannot be told."""
    number = backbone.config.get_text_config().num_hidden_layers
    lists = [
        module
        for module in body(backbone).modules()
        if isinstance(module, nn.ModuleList) and len(module) == number
    ]
    if len(lists) != 1:
        raise ValueError(
            f"the layers of {type(backbone).__name__} cannot be tapped: {len(lists)} of its module lists "
            f"have {number} entries; memory inside the layers needs a decoder with one list of them"
        )
    return lists[0]


def first_layers(backbone: PreTrainedModel, number: int) -> nn.Module:
    """The body with its first layers only, and whatever it has behind all of them (a norm).

    All weights are shared and nothing is copied. ValueError where the layers cannot be told apart, and for
    more layers than there are. Whether a family can be run so is tried out by `check_first_layers`.
    """
    whole, layers = body(backbone), decoder_layers(backbone)
    if not 1 <= number <= len(layers):
        raise ValueError(
            f"the backbone has {len(layers)} layers: the first {number} of them cannot be run alone"
        )
    path = next(name for name, module in whole.named_modules() if module is layers)
    top = module = _own(whole, number)
    *parents, last = path.split(".")
    for name in parents:
        setattr(module, name, _own(getattr(module, name), number))
        module = getattr(module, name)
    setattr(module, last, nn.ModuleList(layers[:number]))
    return top


def _own(module: nn.Module, number: int) -> nn.Module:
    """The same module whose children may be replaced, and which knows of so many layers."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    if hasattr(module, "config"):
        config: Any = copy.copy(module.config)
        config.num_hidden_layers = number
        twin.config = config
    return twin


class _ReadsNothing:
    def read(self, layer: int, hidden: Tensor) -> Tensor:
        return hidden


@torch.no_grad()
def check_first_layers(backbone: PreTrainedModel, number: int) -> None:
    """ValueError where the first layers, run alone, do not compute what they do inside the whole."""
    layers = decoder_layers(backbone)
    with evaluating(backbone):
        embeds = embed(backbone, torch.arange(4, device=input_device(backbone))[None])
        whole = run(backbone, embeds, layer_memory=_ReadsNothing()).layers
        found: list[Tensor] = []
        handle = layers[number - 1].register_forward_hook(
            lambda module, args, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            run(backbone, embeds, first=number)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"the first {number} layers of {type(backbone).__name__} cannot be run alone: {error}"
            ) from error
        finally:
            handle.remove()
    assert whole is not None
    if len(found) != 1 or not torch.allclose(found[0], whole[number - 1], atol=1e-3, rtol=1e-2):
        raise ValueError(
            f"the first {number} layers of {type(backbone).__name__}, run alone, give something else than "
            "inside the whole; leave recall_layer out"
        )


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


def takes_position_ids(backbone: PreTrainedModel) -> bool:
    """Whether the backbone can be told positions; the others count them from the mask."""
    return "position_ids" in inspect.signature(body(backbone).forward).parameters


# Fields of configs that logits are multiplied with (1) or divided by (-1); before the head comes to the same
_SCALES = {
    "logit_scale": 1,  # Cohere
    "lm_head_multiplier": 1,  # Falcon H1
    "logits_scaling": -1,  # Granite, MiniCPM3
    "logits_mup_width_multiplier": -1,  # Inkling
}
# MPT has the field and does nothing with it
_SCALES_OF = {"mpt": {"logit_scale": 0}, "hyperclovax": {"logits_scaling": 1}}


# Gemma 2 and 3, RecurrentGemma, xLSTM
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True)
class AfterHead:
    """What a family does to the outputs of its head: cap * tanh(scale * x / cap).

    Attributes:
        scale: 1.0 for none.
        cap: None for none.
    """

    scale: float
    cap: float | None

    @classmethod
    def of(cls, backbone: PreTrainedModel) -> AfterHead:
        """From the config. Whether it is what the backbone does, `check_head` finds out."""
        config = backbone.config.get_text_config()
        scale = 1.0
        for field, power in (_SCALES | _SCALES_OF.get(config.model_type, {})).items():
            if power and getattr(config, field, None):
                scale *= getattr(config, field) ** power
        return cls(
            scale, next((getattr(config, name) for name in _CAPS if getattr(config, name, None)), None)
        )


def head(backbone: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits [..., V] of hidden vectors [..., d], with what some families do to the outputs of their head."""
    logits, after = backbone.get_output_embeddings()(hidden), AfterHead.of(backbone)
    if after.scale != 1:
        logits = logits * after.scale
    if after.cap is not None:
        logits = torch.tanh(logits / after.cap) * after.cap
    return logits


class Vectors(nn.Module):
    """Learned input vectors [n, d]. A module, so that PEFT's `modules_to_save` can name it."""

    def __init__(self, number: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(number, width))

    def forward(self, batch_size: int) -> Tensor:
        """The vectors for each of B rows, [B, n, d]."""
        return self.weight.unsqueeze(0).expand(batch_size, -1, -1)
