"""What is read and what is asked, of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hmt.model.asking import question_ids
from hmt.serving.errors import ApiError

Turns = Sequence[tuple[str, str]]  # role, text

_PIECE = 200_000  # characters that are counted at a time
# where a long message may be cut into what is read and what is asked, best first
_CUTS = ("\n\n", "\n", ". ", " ")


def check_tokens(tokenizer: Any, text: str, most: int, param: str | None = None) -> None:
    """ApiError 413 for a text of more tokens."""
    if len(text) * 4 <= most or len(text.encode("utf-8", "replace")) <= most:
        return  # no tokenizer makes more tokens than bytes
    tokens = 0
    for at in range(0, len(text), _PIECE):
        tokens += len(tokenizer(text[at : at + _PIECE], add_special_tokens=False).input_ids)
        if tokens > most:
            raise ApiError(413, f"The text has more than {most:,} tokens, the most here.", param=param)


def last_question(turns: Turns) -> str:
    """The user's last message. ApiError 400 where the last one is not the user's."""
    if turns[-1][0] != "user":
        raise ApiError(400, "The last message must be the user's: it is what is answered.", param="messages")
    return turns[-1][1]


def split_question(tokenizer: Any, text: str, most: int) -> tuple[str, str]:
    """What is read before, and the end of it that is asked: what fits into `most` tokens with the marks of
    its turn, cut between paragraphs where that leaves anything, else lines, sentences or words."""
    text = text.strip()
    tail = text[-8 * most :]  # more characters than a question of so many tokens is likely to have
    if len(tail) == len(text) and len(question_ids(tokenizer, text)) <= most:
        return "", text
    for cut in _CUTS:
        at, found = len(tail), None
        while (at := tail.rfind(cut, 0, at)) >= 0:
            rest = tail[at + len(cut) :].strip()
            if rest and len(question_ids(tokenizer, rest)) > most:
                break
            found = rest or found
        if found:
            return text[: len(text) - len(found)].rstrip(), found
    size = min(len(tail), most)
    while size > 1 and len(question_ids(tokenizer, tail[-size:])) > most:
        size -= max(1, size // 8)
    return text[:-size], tail[-size:]


def written(tokenizer: Any, turns: Turns) -> str:
    """Messages as one text, by the tokenizer's chat template where it takes them."""
    messages = [{"role": "system" if role == "developer" else role, "content": text} for role, text in turns]
    if tokenizer.chat_template:
        from jinja2 import TemplateError

        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False))
        except (TemplateError, ValueError):
            pass  # some take no system message, or no two of one role
    return "".join(f"{one['role'].capitalize()}: {one['content']}\n\n" for one in messages)
