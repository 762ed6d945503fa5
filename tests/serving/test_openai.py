"""The official client against a running server."""

import openai
import pytest


def test_models(client):
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "hmt"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("other")
    assert raised.value.code == "model_not_found"


def ask(client, text="Who turned after the whale?", **options):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, **options)


def test_chat(client):
    told = ask(client)
    choice = told.choices[0]
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens
    assert 1 <= told.usage.completion_tokens <= 12
    assert ask(client).choices[0].message.content == choice.message.content


def test_a_stream_says_the_same(client, memory):
    for extra in ({}, {"memory": memory}):
        whole = ask(client, extra_body=extra)
        chunks = list(ask(client, extra_body=extra, stream=True, stream_options={"include_usage": True}))
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage and not chunks[-1].choices
        assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
