"""Models with memory in EleutherAI's lm-evaluation-harness, as `--model hmt`.

    python -m hmt.evaluation.harness --model hmt --model_args pretrained=DIR --tasks lambada_openai

The harness has no plugins: a model exists for it once the module that registers it was imported. `main` does
that and hands over to the harness's own command line. In Python, importing this module is enough.

A context is read into memory and never shortened: it may be of any length, and requests with the same context
share one reading. What follows it is scored as `MemoryReader` does, so that no input to a prediction contains
the token that is predicted.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm
from transformers import StoppingCriteriaList

from hmt import backbone as bb
from hmt.evaluation.readers.memory import Kept, MemoryReader
from hmt.evaluation.readers.plain import StopWhen, new_ids
from hmt.model.base import SegmentMemoryModel
from hmt.systems import load_model, load_tokenizer

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model

    # Importing from `models` also makes the harness list its own ones, which it does not once ours is there.
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
except ImportError as error:
    raise ValueError(
        f'lm-evaluation-harness cannot be imported ({error}); install it with pip install "hmt-lm[eval]"'
    ) from error

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")  # mean nothing to a greedy search


class HarnessLM(TemplateLM):
    """A model with memory, as the harness sees one.

    Args:
        pretrained: folder or hub id of a model with memory; in Python also a `SegmentMemoryModel`.
        tokenizer: folder or hub id, or a tokenizer; None: the one beside the model, or else its backbone's.
        device: such as "cuda:1"; None: the first GPU. The CPU where there is no GPU.
        dtype: of the weights, such as "bfloat16"; None: as they were saved.
        batch_size: contexts that are read side by side. What follows them is scored and written one by one.
        memory_size: another size of the memory bank than the model was saved with.
        max_gen_toks: longest generated text, where the task does not say.
        max_length: nothing is ever cut off; accepted because recipes pass it, and reported as `max_length`.
        add_bos_token: whether texts get the tokenizer's special tokens; None: as it does by itself.
        prefix_token_id: stands before texts without context; None: beginning, or else end, of text.
    ValueError for what cannot be.
    """

    def __init__(
        self,
        pretrained: str | SegmentMemoryModel,
        tokenizer: Any = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int | str | None = 1,
        memory_size: int | None = None,
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
            self.model = _load(pretrained, device, dtype, memory_size)
        elif device is None and dtype is None and memory_size is None:
            self.model = pretrained
        else:
            raise ValueError("device, dtype and memory_size belong to a folder; this model is loaded already")
        if tokenizer is None or isinstance(tokenizer, str):
            place = tokenizer or self.model.config.name_or_path
            base = None if tokenizer else self.model.config.base_model_name_or_path
            tokenizer = load_tokenizer(place, base)
        self.tokenizer = tokenizer
        self.reader = MemoryReader(self.model)
        self.max_gen_toks = max_gen_toks
        self.max_length = max_length or sys.maxsize
        self.add_bos_token = add_bos_token
        self._prefix = prefix_token_id
        self._device = self.model.device

    # -- text -----------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
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
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": str(self.model.dtype),
            "memory_system": self.model.config.model_type,
            "memory_fields": self.model.config.memory_fields(),
            "memory_bytes": self.reader.bytes_carried,
        }

    # -- memory ---------------------------------------------------------------------------------------------

    def _begun(self, before: list[int], after: list[int]) -> tuple[list[int], list[int]]:
        """Context and continuation, where a context without tokens becomes the prefix token."""
        if before:
            return before, after
        prefix = self.prefix_token_id
        return [prefix], after[1:] if after[:1] == [prefix] else after

    def _read(self, contexts: Sequence[list[int]], name: str, quiet: bool) -> Iterator[tuple[int, Kept]]:
        """(number, what was read of it) for every context. The same ones are read once, the longest first."""
        places = defaultdict(list)
        for number, context in enumerate(contexts):
            places[tuple(context)].append(number)
        different = sorted(places, key=len, reverse=True)
        long = [ids for ids in different if len(ids) > 1]  # the last token is kept back: it predicts the next
        with tqdm(total=len(contexts), desc=name, disable=quiet) as bar:
            for ids in different[len(long) :]:
                for number in places[ids]:
                    yield number, self.reader.read(ids)
                    bar.update()
            texts = (list(ids[:-1]) for ids in long)
            for index, memory in self.model.read_many(texts, batch_size=self.batch_size):
                for number in places[long[index]]:
                    yield number, Kept(memory, long[index][-1:])
                    bar.update()

    def _score(self, kept: Kept, continuation: Sequence[int]) -> tuple[float, bool]:
        """Sum of log p of a continuation, and whether each of its tokens was the likeliest."""
        total, likeliest = 0.0, True
        for logits, goal in self.reader.logits(kept, [], continuation) if continuation else ():
            total -= sum(torch.nn.functional.cross_entropy(logits, goal, reduction="none").tolist())
            likeliest = likeliest and bool((logits.argmax(-1) == goal).all())
        return total, likeliest

    def _generate(self, kept: Kept, options: dict[str, Any]) -> str:
        """The text that follows, up to the first of the task's marks. options: its `generation_kwargs`."""
        settings: dict[str, Any] = {**normalize_gen_kwargs(options, self.max_gen_toks)}
        until = [mark for mark in settings.pop("until") if mark]
        settings.pop("max_length", None)  # counts the context in, which has no bound here
        settings["max_new_tokens"] = settings.pop("max_gen_toks")
        if not settings["do_sample"]:
            settings = {name: value for name, value in settings.items() if name not in _SAMPLING}
        ends = self._ends()
        if ends:
            settings |= {"eos_token_id": ends, "pad_token_id": ends[0]}
        ids = torch.tensor([kept.last], device=self.model.device)
        marks = [StopWhen(partial(self._holds, until), ids.shape[1])] if until else []
        with bb.evaluating(self.model):
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=kept.memory,
                stopping_criteria=StoppingCriteriaList(marks),
                **settings,
            )
        text = self.tokenizer.decode(new_ids(out, ids.shape[1], ends), skip_special_tokens=True)
        return postprocess_generated_text(text, until, None)

    def _holds(self, marks: Sequence[str], ids: Sequence[int]) -> bool:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return any(mark in text for mark in marks)

    def _ends(self) -> list[int]:
        """Ids that end a text: those of the generation config, and the tokenizer's."""
        known = getattr(self.model.generation_config, "eos_token_id", None)
        ends = [*(known if isinstance(known, list) else [known]), self.eot_token_id]
        return sorted({token for token in ends if token is not None})


def _load(path: str, device, dtype, memory_size: int | None) -> SegmentMemoryModel:
    """A model with memory from a folder or hub id. ValueError where there is none, or settings do not fit."""
    try:
        place = torch.device(device or "cuda")
        # the harness asks for cuda:0 by default
        if place.type == "cuda" and not torch.cuda.is_available():
            place = torch.device("cpu")
    except RuntimeError as error:
        raise ValueError(f"there is no device {device!r}: {error}") from error
    try:
        model = load_model(path, **({} if dtype is None else {"dtype": dtype}))
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no folder with a model, nor one on the hub: {reason}") from error
    if memory_size is not None:
        if not hasattr(model.config, "memory_size"):
            raise ValueError(f"{path} is a {model.config.model_type} model, which has no memory_size")
        model.config.memory_size = memory_size
        model.config.check()
    return model.to(place)


def main() -> None:
    """The harness's command line, with `--model hmt`."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    from hmt.evaluation import harness  # registers the class under its own name, not as one of `__main__`

    harness.main()
else:
    register_model("hmt")(HarnessLM)
