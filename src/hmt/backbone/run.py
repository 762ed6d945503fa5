"""Calling a Hugging Face causal LM, through its public contract only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel


def embedding_table(backbone: PreTrainedModel) -> nn.Embedding:
    """The token embeddings. Their width d is that of memory vectors too (OPT-350m: not `hidden_size`)."""
    return cast(nn.Embedding, backbone.get_input_embeddings())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards every submodule is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def last_hidden(backbone: PreTrainedModel, embeddings: Tensor, **kwargs) -> tuple[Tensor, Any]:
    """Outputs of the last layer after the final norm, without the head: [B, T, d]; and the cache.

    kwargs: `past_key_values`, `attention_mask`, `position_ids`, `use_cache`, as the backbone has them.
    """
    kwargs.setdefault("use_cache", False)
    if kwargs.get("position_ids") is not None and not takes_position_ids(backbone):
        kwargs.pop("position_ids")  # these models count positions from the mask
    output = backbone.base_model(inputs_embeds=embeddings, return_dict=True, **kwargs)
    hidden = output.last_hidden_state
    if hidden.shape[-1] != embeddings.shape[-1]:
        raise ValueError(
            f"the backbone's outputs are {hidden.shape[-1]} wide and its embeddings {embeddings.shape[-1]}: "
            "an output could not be fed back as a memory vector"
        )
    return hidden, output.get("past_key_values")


def new_cache(backbone: PreTrainedModel) -> DynamicCache:
    """An empty KV cache of the kind the backbone's layers need."""
    return DynamicCache(config=backbone.config.get_text_config())


def takes_position_ids(backbone: PreTrainedModel) -> bool:
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
        """[B, n, d]."""
        return self.weight.unsqueeze(0).expand(batch_size, -1, -1)
