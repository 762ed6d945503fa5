"""A question as an instruction-tuned model was taught to be asked: by the chat template of its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def has_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    chat: bool | None = None,
    system: str | None = None,
    start: bool = True,
) -> list[int]:
    """Token ids that a model is to continue.

    Args:
        chat: `text` is what a user says, and the ids end where the answer begins; False: `text` itself is
            continued; None: a chat where the tokenizer has a template for one.
        system: what stands before the user's turn; None leaves it to the template. Only for a chat.
        start: a text begins here, so that it gets the BOS token where the tokenizer adds one; a chat has
            none but its template's.
    ValueError for a chat without a template, and for a template that refuses these messages.
    """
    if not (has_chat(tokenizer) if chat is None else chat):
        return tokenizer(text, add_special_tokens=start, verbose=False).input_ids
    if not has_chat(tokenizer):
        raise ValueError("the tokenizer has no chat template: continue the text as it is (chat=False)")
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": text})
    from jinja2 import TemplateError

    try:
        written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ValueError(f"the tokenizer's chat template refuses this: {error}") from error
    return tokenizer(written, add_special_tokens=False, verbose=False).input_ids
