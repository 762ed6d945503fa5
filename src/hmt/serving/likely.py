"""How likely tokens were, as OpenAI's clients expect it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hmt.sessions import Token


def chat_token(tokenizer: Any, token: Token) -> dict[str, Any]:
    """One token of `logprobs.content` of a chat completion."""
    others = [_entry(tokenizer, other, logprob) for other, logprob in token.top]
    return {**_entry(tokenizer, token, token.logprob), "top_logprobs": others}


def completion_tokens(tokenizer: Any, tokens: Sequence[Token], offset: int = 0) -> dict[str, Any]:
    """`logprobs` of a completion. offset: characters in front of the first token."""
    texts = [tokenizer.decode([one]) for one in tokens]
    offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [
            {tokenizer.decode([other]): logprob for other, logprob in reversed(one.top)} for one in tokens
        ],
        "text_offset": offsets,
    }


def _entry(tokenizer: Any, token: int, logprob: float) -> dict[str, Any]:
    """bytes: None of a token that is a part of a character."""
    text = tokenizer.decode([token])
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}
