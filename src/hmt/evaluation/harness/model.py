"""A reader, as the harness sees a model.

A context is read and never shortened: it may be of any length, and requests with the same context share one
reading. What follows it is scored by the reader, so that no input to a prediction contains the token that is
predicted.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from lm_eval.api.model import TemplateLM

# Importing from `models` also makes the harness list its own ones, which it does not once ours is there.
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from hmt.backbone import tokenizer_of
from hmt.evaluation.harness.opening import open_reader
from hmt.evaluation.readers.asking import end_tokens
from hmt.evaluation.readers.base import Reader
from hmt.evaluation.readers.memory import MemoryReader
from hmt.model.checkpoint import BackboneWrapper
from hmt.systems import load_tokenizer

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")  # mean nothing to a greedy search


class HarnessLM(TemplateLM):
    """A reader in the harness.

    Args:
        pretrained: folder or hub id of a model; in Python also a `Reader` or a `BackboneWrapper`.
        reader: "memory" (a model with memory, as it is), or one of `readers.budget.BASELINES` on the model,
            or on the backbone of a model with memory.
        budget: bytes per stream, such as "64KiB"; None: what the model with memory carries.
        context: longest input of a baseline in tokens; None: what the backbone's config says.
        chunk: tokens that a rolling cache reads before it forgets; None: the segment of the model with
            memory, or 64.
        tokenizer: folder or hub id, or a tokenizer; None: the one beside the model, or else its backbone's.
        device: such as "cuda:1"; None: the first GPU. The CPU where there is no GPU.
        dtype: of the weights, such as "bfloat16"; None: as they were saved.
        batch_size: contexts that a memory reads side by side. What follows is scored and written one by one.
        max_gen_toks: longest generated text, where the task does not say.
        max_length: nothing is ever cut off; accepted because recipes pass it, and reported as `max_length`.
        add_bos_token: whether texts get the tokenizer's special tokens; None: as it does by itself.
        prefix_token_id: stands before texts without context; None: beginning, or else end, of text.
    ValueError for what cannot be.
    """

    def __init__(
        self,
        pretrained: str | BackboneWrapper | Reader,
        tokenizer: Any = None,
        reader: str | None = None,
        budget: str | int | None = None,
        context: int | None = None,
        chunk: int | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int | str | None = 1,
        max_gen_toks: int = 256,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if not str(batch_size or 1).isdigit() or int(batch_size or 1) < 1:
            raise ValueError(f"batch_size is {batch_size}; it is a number of contexts, 1 or more")
        self.batch_size = int(batch_size or 1)
        if isinstance(pretrained, str):
            self.reader, self.tokenizer = open_reader(
                pretrained, reader or "memory", budget, tokenizer, device, dtype, context, chunk
            )
        elif any(given is not None for given in (reader, budget, context, chunk, device, dtype)):
            raise ValueError(
                "device, dtype, reader, budget, ... belong to a folder; this model is loaded already"
            )
        else:
            self.reader = pretrained if isinstance(pretrained, Reader) else MemoryReader(pretrained)
            self.tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        if self.tokenizer is None:
            self.tokenizer = tokenizer_of(self.reader.model)
        self.max_gen_toks = max_gen_toks
        self.max_length = max_length or sys.maxsize
        self.add_bos_token = add_bos_token
        self._prefix = prefix_token_id
        self._device = self.reader.model.device

    # -- text -----------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int | None:  # type: ignore[override]
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        for token in (self._prefix, self.tokenizer.bos_token_id, self.eot_token_id):
            if token is not None:
                return token
        raise ValueError(
            "the tokenizer has no token for beginning or end of text to put before a text without context; "
            "name one with --model_args prefix_token_id=..."
        )

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        bos = self.tokenizer.bos_token
        if add_special_tokens is None and bos and string.startswith(bos):  # a chat template wrote it
            special = False
        options = {} if special is None else {"add_special_tokens": special}
        return self.tokenizer(string, verbose=False, **options)["input_ids"]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    # -- requests -------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests, disable_tqdm: bool = False, **kwargs
    ) -> list[tuple[float, bool]]:
        """(sum of log p, whether each token was the likeliest) of (strings, context, continuation)."""
        answers: list[Any] = [None] * len(requests)
        contexts = [context for _, context, _ in requests]
        for number, kept in self._read(contexts, "loglikelihood", disable_tqdm):
            strings, _, continuation = requests[number]
            answers[number] = self._score(kept, continuation)
            self.cache_hook.add_partial("loglikelihood", strings, answers[number])
        return answers

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = []
        for context, continuation in (request.args for request in requests):
            if context:
                before, after = self._encode_pair(context, continuation)
            else:
                before, after = [], self.tok_encode(continuation, add_special_tokens=False)
            pairs.append(((context, continuation), *self._begun(before, after)))
        return self._loglikelihood_tokens(pairs, disable_tqdm)

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Sum of log p of all tokens of each text, each after everything before it, however long that is."""
        answers = []
        for (text,) in tqdm(
            [request.args for request in requests], "loglikelihood_rolling", disable=disable_tqdm
        ):
            before, after = self._begun([], self.tok_encode(text, add_special_tokens=False))
            nats = self.reader.nats(self.reader.read(before), [], after) if after else []
            answers.append(-sum(nats))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), answers[-1])
        return answers

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        answers: list[Any] = [None] * len(requests)
        contexts = [self._begun(self.tok_encode(request.args[0]), [])[0] for request in requests]
        for number, kept in self._read(contexts, "generate_until", disable_tqdm):
            context, options = requests[number].args
            answers[number] = self._generate(kept, options)
            self.cache_hook.add_partial("generate_until", (context, options), answers[number])
        return answers

    def get_model_info(self) -> dict[str, Any]:
        """What the harness adds to the `config` of its results."""
        model = self.reader.model
        facts = {
            "model_num_parameters": model.num_parameters(),
            "model_dtype": str(model.dtype),
            "reader": self.reader.name,
            "bytes_carried": self.reader.bytes_carried,
            "extra_parameters": self.reader.extra_parameters,
        }
        if isinstance(self.reader, MemoryReader):
            facts["memory_fields"] = self.reader.model.config.memory_fields()
        return facts

    # -- reading --------------------------------------------------------------------------------------------

    def _begun(self, before: list[int], after: list[int]) -> tuple[list[int], list[int]]:
        """Context and continuation, where a context without tokens becomes the prefix token."""
        if before:
            return before, after
        prefix = self.prefix_token_id
        return [prefix], after[1:] if after[:1] == [prefix] else after

    def _read(self, contexts: Sequence[list[int]], name: str, quiet: bool) -> Iterator[tuple[int, Any]]:
        """(number, what was read of it) for every context. The same ones are read once, the longest first."""
        places = defaultdict(list)
        for number, context in enumerate(contexts):
            places[tuple(context)].append(number)
        different = sorted(places, key=len, reverse=True)
        with tqdm(total=len(contexts), desc=name, disable=quiet) as bar:
            for index, kept in self.reader.read_many(different, self.batch_size):
                for number in places[different[index]]:
                    yield number, kept
                    bar.update()

    def _score(self, kept: Any, continuation: Sequence[int]) -> tuple[float, bool]:
        """Sum of log p of a continuation, and whether each of its tokens was the likeliest."""
        total, likeliest = 0.0, True
        for logits, goal in self.reader.logits(kept, [], continuation) if continuation else ():
            total -= sum(torch.nn.functional.cross_entropy(logits, goal, reduction="none").tolist())
            likeliest = likeliest and bool((logits.argmax(-1) == goal).all())
        return total, likeliest

    def _generate(self, kept: Any, options: dict[str, Any]) -> str:
        """The text that follows, up to the first of the task's marks. options: its `generation_kwargs`."""
        settings: dict[str, Any] = {**normalize_gen_kwargs(options, self.max_gen_toks)}
        until = [mark for mark in settings.pop("until") if mark]
        settings.pop("max_length", None)  # counts the context in, which has no bound here
        length = settings.pop("max_gen_toks")
        if not settings["do_sample"]:
            left_out = (*_SAMPLING, "do_sample")
            settings = {name: value for name, value in settings.items() if name not in left_out}
        model, eot = self.reader.model, self.eot_token_id
        ends = sorted({*end_tokens(model), *([] if eot is None else [eot])})
        if ends:
            settings["eos_token_id"] = ends
        stop = partial(self._holds, until) if until else None
        ids = self.reader.generate(kept, [], length, stop, **settings)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return postprocess_generated_text(text, until, None)

    def _holds(self, marks: Sequence[str], ids: Sequence[int]) -> bool:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return any(mark in text for mark in marks)
