"""`generate` of transformers on top of a memory.

A prompt is read once per stream, whatever is then written behind it: one answer, several, or beams. Decoding
advances a copy that nobody is given: it lacks the last token, its rows are the beams that go on, and it reads
what rows that ended are filled up with. What is handed back is made from the memory of the prompt and the
sequences themselves.
"""

from __future__ import annotations

import copy
import inspect
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    GenerationMixin,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.utils import ModelOutput

from hmt.memory.memory import Memory
from hmt.model.inputs import check_ids, check_mask
from hmt.util.oom import generating_advice, out_of_memory_advice

_DRAFTS = "drafts of assisted decoding are taken back where they fail, and nothing is taken out of a memory"
_CACHE = "a model with memory has a cache of one kind and size, its Memory"
_REPOSITORY = "transformers runs it from a repository of its own, which knows nothing of memories"
_CALL = "it is for a call of the model, `model(ids, ...)`; generate returns sequences and a memory"
_NOT_RETURNED = "what the backbone returns inside a segment is not kept"

#: Options of transformers' `generate` and `GenerationConfig`, and keywords of `forward`, that are refused,
#: each with the reason. All others do what they do for any causal LM.
REFUSED = {
    "assistant_model": _DRAFTS,
    "assistant_tokenizer": _DRAFTS,
    "assistant_early_exit": _DRAFTS,
    "prompt_lookup_num_tokens": _DRAFTS,
    "use_mtp": _DRAFTS,
    "is_assistant": _DRAFTS,
    "penalty_alpha": "contrastive search takes candidates back, and nothing is taken out of a memory",
    "cache_implementation": _CACHE,
    "cache_config": _CACHE,
    "max_cache_len": _CACHE,
    "continuous_batching_config": "a Memory has no pages; streams of any age share a batch as they are",
    "prefill_chunk_size": "a prompt is read segment by segment already",
    "compile_config": "`model.compile_steps()` compiles reading and decoding",
    "output_attentions": _NOT_RETURNED,
    "output_hidden_states": _NOT_RETURNED,
    "dola_layers": _NOT_RETURNED,
    "num_beam_groups": _REPOSITORY,
    "diversity_penalty": _REPOSITORY,
    "constraints": _REPOSITORY,
    "force_words_ids": _REPOSITORY,
    "token_healing": "it changes a prompt that was read; use `model.heal_tokens(ids, tokenizer)` before",
    "inputs_embeds": "sensory memory keeps raw tokens; pass their ids",
    "synced_gpus": "a token takes more passes where a segment ends, so processes fall out of step",
    "chunk": "to prepare fewer segments at a time, read a long prompt first, with `model.read(ids, chunk=1)`",
    "recall_targets": _CALL,
    "segment_ends": _CALL,
    "output_recall": _CALL,
    "output_last_hidden_state": _CALL,
}
# These values ask for nothing; None and False never do.
_NOTHING = {"num_beam_groups": 1, "diversity_penalty": 0, "penalty_alpha": 0}
# What a checkpoint says of the cache of its backbone alone.
_OF_A_BACKBONE = (
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "prefill_chunk_size",
    "compile_config",
)
_GENERATE = inspect.signature(GenerationMixin.generate)


def without_cache_options(config: GenerationConfig | None) -> GenerationConfig:
    """A copy of a backbone's generation config that says nothing of the backbone's own cache."""
    config = GenerationConfig() if config is None else copy.deepcopy(config)
    for name in _OF_A_BACKBONE:
        setattr(config, name, None)
    return config


class Deadline(MaxTimeCriteria):
    """`max_time` from the call of `generate` on: transformers counts from when the prompt has been read."""


class RowEnds(StoppingCriteria):
    """Notes at which length each row was ended: transformers fills it up to the longest, and says of none.

    Args:
        given: criteria of the caller.
        eos: ids that end a row. stops: criterion of the stop strings. None where there are none.

    Attributes:
        lengths: int64 [rows], tokens of the prompt included; 0 where nothing ended the row.
        fills: whether rows that ended are filled up. Without ids that end a row they are written on.
        criteria: for `generate`: those that are given, and this.
    """

    def __init__(self, given: list[StoppingCriteria], eos: Any, stops: StoppingCriteria | None):
        # Those of transformers' own classes replace what it would make itself, so it has to see them; they
        # can be asked twice. Others may count how often they are asked: they are asked here alone.
        shown = [
            c for c in given if type(c).__module__.startswith("transformers.") or hasattr(c, "eos_token_id")
        ]
        made = [] if stops is None else [stops]
        if eos is not None:
            made.append(EosTokenCriteria(eos))
        made = [c for c in made if type(c) not in map(type, shown)]
        # these end all rows at once, and nothing is written behind that
        asked = [c for c in shown if not isinstance(c, (MaxLengthCriteria, MaxTimeCriteria))]
        hidden = [c for c in given if c not in shown]
        self.asked = StoppingCriteriaList([*made, *asked, *hidden])
        self.lengths: Tensor | None = None
        self.fills = any(hasattr(c, "eos_token_id") for c in self.asked)
        self.criteria = StoppingCriteriaList([*shown, self])

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        ended = self.asked(input_ids, scores, **kwargs)
        if self.lengths is None:
            self.lengths = torch.zeros_like(ended, dtype=torch.long)
        self.lengths = torch.where(ended & (self.lengths == 0), input_ids.shape[1], self.lengths)
        return ended

    def of(self, sequences: Tensor) -> Tensor:
        """Length of each row of `sequences` [rows, W], int64 [rows]: up to what ended it, inclusive."""
        whole = torch.full_like(sequences[:, 0], sequences.shape[1])
        if not self.fills or self.lengths is None:
            return whole
        return torch.where(self.lengths > 0, self.lengths.to(whole.device), whole)


class MemoryGenerationMixin(GenerationMixin):
    """`generate`, and the hook it prepares inputs with, of a model that makes memories."""

    config: Any

    def new_memory(self, batch_size: int) -> Memory:
        """The memory of streams that have read nothing."""
        raise TypeError(f"{type(self).__name__} makes no memories")  # pragma: no cover - abstract

    def memory_for(self, cache: Any, batch: int) -> Memory:
        """`cache` as a memory of `batch` streams of this model."""
        raise TypeError(f"{type(self).__name__} makes no memories")  # pragma: no cover - abstract

    def read(
        self, input_ids: Any, attention_mask: Tensor | None = None, memory: Memory | None = None
    ) -> Memory:
        """`memory`, or a new one, with more tokens read into it."""
        raise TypeError(f"{type(self).__name__} reads nothing")  # pragma: no cover - abstract

    @property
    def input_device(self) -> torch.device:
        """Where token ids are looked up."""
        raise TypeError(f"{type(self).__name__} has no input")  # pragma: no cover - abstract

    @torch.no_grad()
    def generate(
        self, inputs: Tensor | None = None, *args: Any, past_key_values: Memory | None = None, **kwargs: Any
    ) -> Any:
        """`transformers` generate, with its options: greedy, sampling, beams, streamers, ragged batches.

        Args:
            inputs: int64 [B, T], of any length; with `past_key_values` *only the new* ids. Padding may stand
                anywhere where an `attention_mask` [B, T] says so (of a longer one the last T columns count).
            past_key_values: a `Memory` of B streams, which is left as it is: one memory can be asked many
                questions.

        With `return_dict_in_generate=True`, `past_key_values` of what is returned is the memory of exactly
        its `sequences` [R, W], row by row. It has read the prompt without padding and all that was written,
        the last token included; of a row that ended up to the id or stop string that ended it, inclusive, and
        nothing of what the row is filled up with. To go on, pass it with the new ids alone; it is as if all
        were read from the start::

            out = model.generate(ids, return_dict_in_generate=True)
            out = model.generate(more, past_key_values=out.past_key_values, return_dict_in_generate=True)

        With the caches of transformers the whole text is passed again, `cat([out.sequences, more], 1)`, and
        what the cache holds is left out. A memory keeps no text, and new ids may repeat old ones, so the two
        cannot be told apart, and this one is refused: ValueError where a row begins with the sequence that
        the memory was returned with. (To have it read a second time, `read` it.) Nor can the last token be
        taken out again: to write on where an answer was cut off, pass `out.sequences` with the memory, or
        none, that came before it.

        `use_cache=False` computes every token from the whole text, and returns no memory.

        ValueError also without a prompt token in every row, for a memory that does not fit, and for options
        that mean nothing to a memory or need what it cannot do (`REFUSED`), each by its name.
        """
        started = time.time()
        named = _GENERATE.bind_partial(self, inputs, *args, **kwargs).arguments
        kwargs = {name: named[name] for name in named if name not in ("self", "inputs", "kwargs")}
        kwargs |= named.get("kwargs", {})
        if inputs is None:
            inputs = kwargs.pop("input_ids", None)
        self._refuse(kwargs)
        if inputs is None or (isinstance(inputs, Tensor) and inputs.numel() == 0):
            raise ValueError("generate needs at least one prompt token per stream")
        inputs = check_ids(inputs)
        ids = inputs.to(self.input_device)
        mask = self._mask(ids, kwargs)
        if kwargs.get("attention_mask") is not None:
            kwargs["attention_mask"] = mask.long().to(inputs.device)
        if not mask.any(1).all():
            raise ValueError("a row of the prompt is all padding; there is nothing to continue from")
        (batch, width), given = ids.shape, past_key_values is not None
        memory = self.memory_for(past_key_values, batch)
        repeated = memory.returned_with(ids, mask)
        if repeated:
            row, length = repeated[0], memory.returned[repeated[0]].length
            raise ValueError(
                f"row {row} of the ids begins with the {length} tokens of the sequence that `generate` "
                "returned with this memory, which has read them: pass only the new ids, such as "
                "ids[:, out.sequences.shape[1]:] (to have all of it read once more, use `read`)"
            )
        cached = self._option("use_cache", kwargs) is not False
        returning = cached and bool(self._option("return_dict_in_generate", kwargs))
        beams = max(self._option("num_beams", kwargs) or 1, self._option("num_return_sequences", kwargs) or 1)
        with out_of_memory_advice(partial(generating_advice, batch, beams, self.config.segment_length)):
            done = 0
            if cached:
                # every row keeps a token to go on from
                columns = torch.arange(width, device=ids.device)
                done = int(torch.where(mask, columns, 0).amax(1).min())
                memory = self.read(ids[:, :done], mask[:, :done], memory) if done else memory
            limit = self._option("max_time", kwargs)
            if limit is not None:
                deadline = Deadline(limit, initial_timestamp=started)
                given_criteria = kwargs.get("stopping_criteria") or ()
                kwargs["stopping_criteria"] = StoppingCriteriaList([*given_criteria, deadline])
            if cached or given:
                kwargs["past_key_values"] = memory.copy()
                kwargs["past_key_values"].columns_fed = done
            ends = self._row_ends(kwargs) if returning else None
            if ends is not None:
                kwargs["stopping_criteria"] = ends.criteria
            out = super().generate(inputs, **kwargs)
            if not isinstance(out, ModelOutput) or not hasattr(out, "past_key_values"):
                return out
            if ends is None:
                return replace(out, past_key_values=None)
            return replace(out, past_key_values=self._memory_of(out, ids, mask, memory, done, ends))

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """ValueError, always: `generate_batch` and servers on it keep pages of keys and values."""
        raise ValueError(
            "continuous batching (generate_batch) keeps keys and values in pages, and a memory has none; "
            "pass several rows to `generate`, or read texts side by side with `read_many`"
        )

    # -- pieces of generate ---------------------------------------------------------------------------------

    def _option(self, name: str, kwargs: dict) -> Any:
        """An option of `generate`: from the call, or else its generation config, or else the model's."""
        if name in kwargs:
            return kwargs[name]
        configs = (kwargs.get("generation_config"), self.generation_config)
        values = (getattr(config, name, None) for config in configs)
        return next((value for value in values if value is not None), None)

    def _refuse(self, kwargs: dict) -> None:
        """ValueError for what is asked for and refused."""
        for name, reason in REFUSED.items():
            value = self._option(name, kwargs)
            if value is None or value is False or (name in _NOTHING and value == _NOTHING[name]):
                continue
            raise ValueError(f"generate of a model with memory does not take {name}: {reason}")
        if isinstance(kwargs.get("custom_generate"), str):
            raise ValueError(
                "generate of a model with memory does not take custom_generate of a repository, which "
                "replaces all of it and knows nothing of memories; pass a function that is the decoding loop"
            )

    def _mask(self, ids: Tensor, kwargs: dict) -> Tensor:
        """Where ids are real, bool [B, T]. Without a mask as in transformers: all, or all but the pads."""
        mask = check_mask(kwargs.get("attention_mask"), ids)
        if mask is not None:
            return mask.to(ids.device)
        pad, ends = self._option("pad_token_id", kwargs), self._option("eos_token_id", kwargs)
        if pad is None or (ends is not None and pad in torch.as_tensor(ends).view(-1).tolist()):
            return torch.ones_like(ids, dtype=torch.bool)
        return ids != pad

    def _row_ends(self, kwargs: dict) -> RowEnds:
        strings, tokenizer = self._option("stop_strings", kwargs), kwargs.get("tokenizer")
        stops = None
        if strings is not None and tokenizer is not None:  # without a tokenizer transformers refuses them
            stops = StopStringCriteria(tokenizer, strings)
        given = list(kwargs.get("stopping_criteria") or ())
        return RowEnds(given, self._option("eos_token_id", kwargs), stops)

    def _memory_of(
        self, out: Any, ids: Tensor, mask: Tensor, memory: Memory, done: int, ends: RowEnds
    ) -> Memory:
        """The memory of the sequences in `out`, from one of the first `done` columns of the prompt."""
        sequences = out.sequences.to(ids.device)
        number, (batch, width) = len(sequences) // len(ids), ids.shape
        if not torch.equal(sequences[:, :width], ids.repeat_interleave(number, 0)):
            raise ValueError(
                "the sequences do not begin with the prompt, so it cannot be told what was read of them; "
                "with this custom_generate use return_dict_in_generate=False"
            )
        beams = getattr(out, "beam_indices", None)  # -1 behind the end of a row
        lengths = ends.of(sequences) if beams is None else width + (beams >= 0).sum(1)
        real = torch.arange(sequences.shape[1], device=ids.device) < lengths.to(ids.device)[:, None]
        real[:, :width] = mask.repeat_interleave(number, 0)
        rows = torch.arange(batch, device=ids.device).repeat_interleave(number)
        after = self.read(sequences[:, done:], real[:, done:], memory.select(rows))
        after.note_returned(sequences, real)
        return after

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        past_key_values: Any = None,
        attention_mask: Any = None,
        next_sequence_length: Any = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; with a `Memory` only the ids it has not been fed, [B, n], and their mask.

        tokenizer: what stop strings need of `generate`; no input of the model.
        """
        # Stock code slices the ids by comparing lengths with the cache, which is wrong for "memory + only new
        # ids". The memory itself knows how many columns of this call's ids it has been fed.
        if isinstance(past_key_values, Memory):
            repeats = input_ids.shape[0] // past_key_values.batch_size
            if repeats > 1:  # beams, or several return sequences
                past_key_values.batch_repeat_interleave(repeats)
            next_sequence_length = input_ids.shape[1] - past_key_values.columns_fed
            if next_sequence_length < 1:
                raise ValueError("there is no new token: the memory has been fed all columns of these ids")
            if attention_mask is not None:
                attention_mask = attention_mask[:, -next_sequence_length:]
        return super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            next_sequence_length=next_sequence_length,
            **kwargs,
        )
