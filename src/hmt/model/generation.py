"""`generate` of transformers on top of a memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from hmt.memory.memory import Memory
from hmt.model.inputs import check_ids
from hmt.util.oom import generating_advice, out_of_memory_advice


class MemoryGenerationMixin(GenerationMixin):
    """`generate`, and the hook it prepares inputs with, of a model that makes memories."""

    config: Any

    def new_memory(self, batch_size: int) -> Memory:
        """The memory of streams that have read nothing."""
        raise TypeError(f"{type(self).__name__} makes no memories")  # pragma: no cover - abstract

    def memory_for(self, cache: Any, batch: int) -> Memory:
        """`cache` as a memory of `batch` streams of this model."""
        raise TypeError(f"{type(self).__name__} makes no memories")  # pragma: no cover - abstract

    @torch.no_grad()
    def generate(
        self, inputs: Tensor | None = None, *args: Any, past_key_values: Memory | None = None, **kwargs: Any
    ) -> Any:
        """`transformers` generate: all strategies but assisted decoding, streamers, ragged batches.

        `inputs`: int64 [B, T], of any length. `past_key_values` may be a `Memory`; `inputs` are then only the
        new ids. It is copied, so one memory can be asked many questions; `return_dict_in_generate=True`
        returns the advanced copy. ValueError without a prompt token in every row, and for a memory that does
        not fit.
        """
        ids = inputs if inputs is not None else kwargs.get("input_ids")
        if ids is None or (isinstance(ids, Tensor) and ids.numel() == 0):
            raise ValueError("generate needs at least one prompt token per stream")
        ids = check_ids(ids)
        mask = kwargs.get("attention_mask")
        if mask is not None and not mask.bool().any(1).all():
            raise ValueError("a row of the prompt is all padding; there is nothing to continue from")
        if past_key_values is not None:
            kwargs["past_key_values"] = self.memory_for(past_key_values, ids.shape[0]).copy()
        elif self._wants_cache(kwargs):
            kwargs["past_key_values"] = self.new_memory(ids.shape[0])
        beams = max(kwargs.get("num_beams") or 1, kwargs.get("num_return_sequences") or 1)
        advice = partial(generating_advice, ids.shape[0], beams, self.config.segment_length)
        with out_of_memory_advice(advice):
            return super().generate(inputs, *args, **kwargs)

    @staticmethod
    def _wants_cache(kwargs: dict) -> bool:
        given = kwargs.get("generation_config")
        return kwargs.get("use_cache") is not False and getattr(given, "use_cache", True) is not False

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        past_key_values: Any = None,
        attention_mask: Any = None,
        next_sequence_length: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; with a `Memory` only the ids it has not been fed, [B, n], and their mask."""
        # Stock code slices the ids by comparing lengths with the cache, which is wrong for "memory + only new
        # ids". The memory itself knows how many columns of this call's ids it has been fed.
        if isinstance(past_key_values, Memory):
            repeats = input_ids.shape[0] // past_key_values.batch_size
            if repeats > 1:  # beams, or several return sequences
                past_key_values.batch_repeat_interleave(repeats)
            next_sequence_length = input_ids.shape[1] - past_key_values.columns_fed
            if attention_mask is not None:
                attention_mask = attention_mask[:, -next_sequence_length:]
        return super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            next_sequence_length=next_sequence_length,
            **kwargs,
        )
