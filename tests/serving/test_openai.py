"""The official client against a running server."""

import openai
import pytest
from cli.models import TEXT


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


def test_several_answers_and_seeds(client):
    hot = {"temperature": 1.0, "seed": 7}
    three = [choice.message.content for choice in ask(client, n=3, **hot).choices]
    assert len(set(three)) > 1
    assert [choice.message.content for choice in ask(client, n=3, **hot).choices] == three
    assert ask(client, **hot).choices[0].message.content == three[0]
    pieces = ["", "", ""]
    for chunk in ask(client, n=3, stream=True, **hot):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == three


def test_a_stop_text_ends_an_answer(client):
    hot = {"temperature": 1.0, "seed": 7}
    whole = ask(client, **hot).choices[0]
    stop = whole.message.content[2:4]
    told = ask(client, stop=stop, **hot).choices[0]
    assert told.finish_reason == "stop"
    assert told.message.content == whole.message.content.partition(stop)[0].rstrip()
    streamed = ask(client, stop=[stop], stream=True, **hot)
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(pieces) == told.message.content


def test_passages_come_with_an_answer(client, memory):
    told = ask(client, "Who turned after the whale?", extra_body={"memory": memory, "top": 3})
    assert told.memory["id"] == memory and len(told.memory["passages"]) == 3
    message = told.choices[0].message
    assert [one["segment"] for one in told.memory["passages"]] == [one.segment for one in message.annotations]
    assert {one.type for one in message.annotations} == {"file_citation"}
    first, *_ = ask(client, extra_body={"memory": memory}, stream=True)
    assert first.memory["id"] == memory and first.memory["passages"]
    assert first.choices[0].delta.role == "assistant"


def test_messages_of_any_length_are_answered(client):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": TEXT * 3},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": [{"type": "text", "text": "Who turned?"}]},
    ]
    told = client.chat.completions.create(model="tiny", messages=messages, max_tokens=3)
    assert told.usage.prompt_tokens > 3 * 2400
    long = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": TEXT + "\n\nWho turned?"}], max_tokens=3
    )
    assert long.usage.prompt_tokens > 2400


def test_completions(client, memory):
    told = client.completions.create(model="tiny", prompt="The whale", max_tokens=8)
    choice = told.choices[0]
    assert told.object == "text_completion" and told.usage.completion_tokens <= 8
    echoed = client.completions.create(model="tiny", prompt="The whale", max_tokens=8, echo=True)
    assert echoed.choices[0].text == "The whale" + choice.text
    chunks = list(client.completions.create(model="tiny", prompt="The whale", max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason
    many = client.completions.create(model="tiny", prompt=["The whale", "A boat"], n=2, max_tokens=3)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    asked = client.completions.create(
        model="tiny", prompt="Who turned?", max_tokens=3, extra_body={"memory": memory}
    )
    assert asked.memory["passages"]


def test_a_completion_is_what_the_model_writes(client, runner):
    """Token for token: the plain model, greedily."""
    from hmt.sessions import DirectRunner, Options

    prompt = TEXT[:700]
    ids = runner.tokenizer(prompt).input_ids
    direct = DirectRunner(runner.model, runner.tokenizer)
    memory = direct.read(None, ids[:-1])
    wanted = direct.generate(memory, ids[-1:], Options(max_new_tokens=20))
    told = client.completions.create(model="tiny", prompt=prompt, max_tokens=20)
    assert told.choices[0].text == runner.tokenizer.decode(wanted, skip_special_tokens=True)
    assert told.usage.prompt_tokens == len(ids)


def test_responses(client, memory):
    told = client.responses.create(
        model="tiny", input="Who turned?", instructions="Be short.", max_output_tokens=12,
        extra_body={"memory": memory},
    )  # fmt: skip
    assert told.object == "response" and told.status in ("completed", "incomplete")
    assert told.output_text == told.output[0].content[0].text
    assert told.usage.total_tokens == told.usage.input_tokens + told.usage.output_tokens
    assert told.output[0].content[0].annotations[0].file_id == "d1"
    assert told.memory["passages"]
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Who turned?"}]}]
    assert client.responses.create(model="tiny", input=items, max_output_tokens=3).output_text is not None


def test_a_response_in_events(client):
    options = {"model": "tiny", "input": "Who turned?", "max_output_tokens": 12}
    events = list(client.responses.create(**options, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"]
    assert kinds[-1] in ("completed", "incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == client.responses.create(**options).output_text


def test_many_clients_at_once_get_what_each_would_alone(client, http):
    """Memories of their own: no answer has anything of another's."""
    from concurrent.futures import ThreadPoolExecutor

    names = [f"one-{number}" for number in range(6)]
    for number, name in enumerate(names):
        http.post("/v1/memories", json={"id": name, "text": f"Ship {number}. " + TEXT[number * 200 :][:900]})

    def told(name):
        answer = ask(client, "Which ship?", extra_body={"memory": name})
        return answer.choices[0].message.content, answer.memory

    alone = [told(name) for name in names]
    with ThreadPoolExecutor(6) as threads:
        for _ in range(3):
            together = list(threads.map(told, names))
            for (text, memory), (wanted, known) in zip(together, alone, strict=True):
                assert text == wanted
                assert [one["segment"] for one in memory["passages"]] == [
                    one["segment"] for one in known["passages"]
                ]
                assert [one["text"] for one in memory["passages"]] == [
                    one["text"] for one in known["passages"]
                ]
    for name in names:
        http.delete(f"/v1/memories/{name}")
