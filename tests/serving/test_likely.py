"""logprobs and penalties: as the model alone says them, and as the official client sees them."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cli.models import TEXT

from hmt.serving.engine import Engine
from hmt.sessions import DirectRunner, Options, Token

WAYS = [
    Options(max_new_tokens=12, logprobs=3),
    Options(max_new_tokens=12, logprobs=0, frequency_penalty=1.5, presence_penalty=0.5),
    Options(max_new_tokens=12, frequency_penalty=-2.0),
    Options(max_new_tokens=12, temperature=0.9, top_k=9, seed=3, logprobs=20, presence_penalty=2.0),
]


def heard(runner, memory, options):
    """Ids of an answer, and what was told of them."""
    tokens = []
    ids = runner.generate(memory, [5, 6], options, lambda token: tokens.append(token) and None)
    assert ids == tokens
    return tokens


@pytest.fixture(scope="module")
def direct(runner):
    return DirectRunner(runner.model, runner.tokenizer)


@pytest.fixture(scope="module")
def memories(direct):
    ids = direct.tokenizer(TEXT).input_ids
    return [direct.close(direct.read(None, ids[at : at + 90])) for at in (0, 200, 400, 600)]


def same(tokens, expected):
    assert tokens == expected
    for one, other in zip(tokens, expected, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Token):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [value for _, value in one.top] == pytest.approx([v for _, v in other.top], abs=1e-4)


def test_side_by_side_as_alone(direct, memories):
    alone = [heard(direct, *given) for given in zip(memories, WAYS, strict=True)]
    engine = Engine(direct.model, direct.tokenizer)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda given: heard(engine, *given), zip(memories, WAYS, strict=True)))
    assert engine.shutdown(timeout=30)
    for one, expected, options in zip(found, alone, WAYS, strict=True):
        same(one, expected)
        if options.seed is None or options.temperature == 0:
            continue
        assert len(one[0].top) == 20


@torch.no_grad()
def test_they_are_those_of_the_model(direct, memories):
    tokens = heard(direct, memories[0], WAYS[0])
    ids = torch.tensor([[5, 6, *tokens]])
    logs = direct.model(ids, past_key_values=memories[0].copy()).logits[0].log_softmax(-1)
    for place, token in enumerate(tokens):
        assert token.logprob == pytest.approx(float(logs[place + 1, token]), abs=1e-4)
        assert token.top[0] == (token, token.logprob)  # greedy
        assert [value for _, value in token.top] == pytest.approx(
            logs[place + 1].topk(3).values.tolist(), abs=1e-4
        )


@torch.no_grad()
def test_penalties_are_those_of_openai(direct, memories):
    """Of what was written, and of nothing before it."""
    options = Options(max_new_tokens=12, frequency_penalty=1.5, presence_penalty=0.5)
    tokens, plain = (
        heard(direct, memories[0], options),
        heard(direct, memories[0], Options(max_new_tokens=12)),
    )
    logits = direct.model(torch.tensor([[5, 6, *tokens]]), past_key_values=memories[0].copy()).logits[0]
    for place, token in enumerate(tokens):
        scores = logits[place + 1].clone()
        for other in set(tokens[:place]):
            scores[other] -= 1.5 * tokens[:place].count(other) + 0.5
        assert int(scores.argmax()) == token
    assert tokens != plain  # or nothing was tried


@pytest.mark.parametrize(
    "field, value", [("frequency_penalty", 3), ("presence_penalty", -2.1), ("logprobs", 21)]
)
def test_numbers_that_make_no_sense(field, value):
    with pytest.raises(ValueError, match=field):
        Options(**{field: value})


def ask(client, **options):
    messages = [{"role": "user", "content": "Who turned after the whale?"}]
    return client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, **options)


def test_chat(client):
    told = ask(client, logprobs=True, top_logprobs=2, n=2, seed=1, temperature=1.0)
    for choice in told.choices:
        entries = choice.logprobs.content
        assert len(entries) <= 12
        text = "".join(one.token for one in entries)
        assert choice.message.content in text or "\ufffd" in text
        for one in entries:
            assert one.logprob <= 0 and len(one.top_logprobs) == 2
            assert one.top_logprobs[0].logprob >= one.logprob - 1e-6
            assert one.bytes is None or bytes(one.bytes).decode() == one.token
    whole = ask(client, logprobs=True)
    chunks = [one for one in ask(client, logprobs=True, stream=True) if one.choices[0].logprobs]
    streamed = [entry for one in chunks for entry in one.choices[0].logprobs.content]
    assert [one.token for one in streamed] == [one.token for one in whole.choices[0].logprobs.content]
    assert [one.logprob for one in streamed] == pytest.approx(
        [one.logprob for one in whole.choices[0].logprobs.content], abs=1e-4
    )
    assert ask(client).choices[0].logprobs is None
    assert ask(client, frequency_penalty=-2, presence_penalty=-2).choices[0].message.content != (
        whole.choices[0].message.content
    )


def test_completions(client):
    whole = client.completions.create(model="tiny", prompt=TEXT[:200], max_tokens=8, logprobs=2)
    told = whole.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)
    assert all(math.exp(one) <= 1 for one in told.token_logprobs)
    for token, logprob, others in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert 1 <= len(others) <= 2 and others[token] == pytest.approx(logprob)  # greedy
    chunks = client.completions.create(model="tiny", prompt=TEXT[:200], max_tokens=8, logprobs=2, stream=True)
    parts = [one.choices[0].logprobs for one in chunks if one.choices[0].logprobs]
    assert [token for one in parts for token in one.tokens] == told.tokens
    assert [place for one in parts for place in one.text_offset] == told.text_offset
