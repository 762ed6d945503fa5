"""A question as a segment of its own: how a memory is asked.

    flushed = model.flush(memory)                              the open segment of what was read is closed
    asked = model.flush(model.read(question, memory=flushed))  the question is what recall asks with
    model.generate(header, past_key_values=asked)              and stands before the answer as sensory tokens

The question is the user's turn of the tokenizer's chat template, the header what stands there before an
answer. What a template puts before the first turn (a BOS token, a system prompt of its own) is left out: the
question is not the beginning of what the model has read, and its tokens are few.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hmt.backbone import tokenizer_of
from hmt.model.recalling import Passage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hmt.memory.memory import Memory

# of models without a chat template
_QUESTION, _HEADER = "Question: {}\n", "Answer:"
# what may stand before a user's turn, tried in this order: not every template takes every one of them
_BEFORE: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"role": "system", "content": "a"}],
    [],
)


def question_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """The tokens of a question, as the user's turn where the tokenizer has a chat template.

    ValueError for a question without text, and for a template that refuses it.
    """
    question = question.strip()
    try:
        question.encode()
    except UnicodeEncodeError as error:
        at = error.start
        raise ValueError(f"the question is not text: its character {at + 1} is {question[at]!r}") from None
    if not question:
        raise ValueError("the question is empty; ask something")
    text = _QUESTION.format(question)
    if tokenizer.chat_template:
        text = _turn(tokenizer, {"role": "user", "content": question})
    return tokenizer(text, add_special_tokens=False).input_ids


def answer_header(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens between a question and its answer; at least one."""
    text = ""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "a"}]
        without, whole = _written(tokenizer, turns), _written(tokenizer, turns, add_generation_prompt=True)
        text = whole.removeprefix(without) if whole.startswith(without) else ""
    # some templates end the user's turn so that the answer follows at once
    return tokenizer(text or _HEADER, add_special_tokens=False).input_ids


def check_question(model: Any, question: list[int]) -> None:
    """ValueError for a question that a model cannot be asked.

    It is one segment, and all of it stands before the answer; so the model must be able to close a segment
    early, and the question must not be longer than what stands there.
    """
    if not model.closes_early:
        raise ValueError(
            f"this model keeps no passages and cannot be asked: a {model.config.model_type} as configured "
            "here cannot close a segment early (an HMT with passages can)"
        )
    most = min(model.segment_length, model.tokens_before)
    if len(question) > most:
        raise ValueError(
            f"the question has {len(question)} tokens with the marks of its turn, and {most} are the most "
            "that stand before an answer of this model; ask a shorter one"
        )


def ask_memory(model: Any, memory: Memory, question: list[int]) -> Memory:
    """The memory of one stream with a question read as a segment of its own; `memory` stays as it is.

    `model.recalled` then says what is recalled for the question, and `model.generate` answers it, with
    `answer_header` as its prompt. ValueError as of `check_question`.
    """
    check_question(model, question)
    return model.flush(model.read(question, memory=model.flush(memory)))


def recall_text(
    model: Any, memory: Memory, text: str, tokenizer: PreTrainedTokenizerBase | None, top: int
) -> list[Passage]:
    """See `hmt.Memory.recall`."""
    if memory.batch_size != 1:
        raise ValueError(f"the memory holds {memory.batch_size} streams; select([row]) the one that is meant")
    if tokenizer is None:
        tokenizer = tokenizer_of(model)
    assert tokenizer is not None
    asked = ask_memory(model, memory, question_ids(tokenizer, text))
    found = model.recalled(asked, top)[0]
    return [
        passage
        if passage.ids is None
        else replace(passage, text=tokenizer.decode(passage.ids, skip_special_tokens=True))
        for passage in found
    ]


def _turn(tokenizer: PreTrainedTokenizerBase, message: dict[str, str]) -> str:
    """One turn as the template writes it behind others."""
    from jinja2 import TemplateError

    refused: Any = "earlier turns are written in another way than the last one"
    for before in _BEFORE:
        try:
            start = _written(tokenizer, before) if before else ""
            whole = _written(tokenizer, [*before, message])
        except (TemplateError, ValueError) as error:
            refused = error
            continue
        if whole.startswith(start):  # some write earlier turns in another way than the last one
            turn = whole.removeprefix(start)
            bos = tokenizer.bos_token or ""
            return turn if before else turn.removeprefix(bos)
    raise ValueError(f"the tokenizer's chat template refuses a question: {refused}")


def _written(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
