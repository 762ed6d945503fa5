"""What stock code expects inside a causal LM: a body without head, and a gradient for every weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast


class MemoryBody(nn.Module):
    """A model with memory without its head, as `model.base_model`.

    It consists of the modules of the model itself, under the same names, and is none of them: what freezes,
    counts or hooks the body does so to the model, and no weight has two names.
    """

    owner: Any
    _tp_plan = _pp_plan = None  # `PreTrainedModel.supports_tp_plan` asks its body

    def __init__(self, owner: Any):
        super().__init__()
        self._modules = owner._modules  # the same dict: a module that is replaced is replaced here too
        self.__dict__["owner"] = owner  # not as a module of its own

    @property
    def config(self) -> Any:
        """The configuration of the model."""
        return self.owner.config

    def get_decoder(self) -> MemoryBody:
        """Itself: there is no decoder inside that reads with memory."""
        return self

    def get_input_embeddings(self) -> Any:
        """The token embeddings, weight [V, d]."""
        return self.owner.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple:
        """Read as `StreamingLM.forward` does, with its arguments but for labels.

        Returns `last_hidden_state` [B, T, d], at a masked column that of the last real token before it, and
        `past_key_values`, a `Memory`, with `use_cache`. The head makes logits of it.
        """
        # of the class: stock code puts functions of its own in the place of `owner.forward`, which call this
        read = type(self.owner).forward(
            self.owner,
            input_ids,
            attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_last_hidden_state=True,
            **kwargs,
        )
        output = BaseModelOutputWithPast(read.last_hidden_state, read.past_key_values)
        return output.to_tuple() if return_dict is False else output


def taking_part(hidden: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """`hidden` as it is, with gradients of zero for `weights`, on top of those that they have from elsewhere.

    What synchronises gradients waits for one of every weight, and a call may not need all of them.
    """
    return _TakingPart.apply(hidden, *weights) if weights else hidden


class _TakingPart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *weights: Tensor) -> Tensor:
        ctx.weights = weights
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return gradient, *(torch.zeros_like(weight) for weight in ctx.weights)
