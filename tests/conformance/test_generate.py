"""`generate` with a cache gives what reading everything again for each token would give."""

import pytest
import torch
from backbones import random_ids, tiny_backbone
from transformers import DynamicCache, GenerationConfig
from transformers.generation.streamers import BaseStreamer

from hmt import Memory

from .cases import SYSTEMS, J, L, build, close, pad, ragged, reference, same_state, shared

SYSTEM = pytest.mark.parametrize("system", SYSTEMS)
FAMILY = pytest.mark.parametrize("family", ["gpt2", "opt", "qwen3", "gemma2", "gpt_neox", "bloom"])
NEW = 2 * L + 3  # crosses at least two segment ends


def greedy(model, ids, mask=None, new=NEW, **kwargs):
    """New tokens [B, new] and the logits behind them [B, new, V]."""
    mask = torch.ones_like(ids) if mask is None else mask
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=new, do_sample=False, return_dict_in_generate=True,
        output_logits=True, **kwargs,
    )  # fmt: skip
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, dim=1)


def same_answer(actual, expected):
    assert torch.equal(actual[0], expected[0])
    close(actual[1], expected[1])


def by_the_book(model, ids, new=NEW):
    """Greedy decoding in which every token is computed by the reference from the whole text."""
    logits = []
    for _ in range(new):
        logits.append(reference(model, ids).logits[-1])
        ids = torch.cat([ids, logits[-1].argmax().view(1)])
    return ids[None, -new:], torch.stack(logits)[None]


@SYSTEM
@pytest.mark.parametrize("length", [1, L, 2 * L + J])
def test_greedy(system, length):
    model, ids = shared(system), random_ids(length)
    with torch.no_grad():
        expected = by_the_book(model, ids)
    assert len(expected[0].unique()) > 1, "a constant answer would hide mistakes"
    same_answer(greedy(model, ids[None]), expected)
    same_answer(greedy(model, ids[None], use_cache=False), expected)


@FAMILY
@pytest.mark.parametrize("system", ["hmt-segment", "rmt-2-sensory"])
@torch.no_grad()
def test_greedy_of_every_family(system, family):
    model = shared(system, family)
    rows = ragged([2 * L + J, L - 2, 3])
    got = greedy(model, *pad(rows, "left"), new=L + 3)
    for b, row in enumerate(rows):
        same_answer((got[0][b : b + 1], got[1][b : b + 1]), by_the_book(model, row, new=L + 3))


@SYSTEM
@pytest.mark.parametrize("where", ["left", "right", "middle"])
def test_ragged_rows_are_answered_as_if_alone(system, where):
    model, rows = shared(system), ragged([2 * L + J, 1, L, 5])
    got = greedy(model, *pad(rows, where), new=L + 3)
    for b, row in enumerate(rows):
        same_answer((got[0][b : b + 1], got[1][b : b + 1]), greedy(model, row[None], new=L + 3))


@pytest.mark.parametrize("system", ["hmt-segment", "hmt-previous", "rmt-2-sensory", "window-short"])
def test_beams(system):
    model = shared(system)
    ids, mask = pad(ragged([2 * L + 1, L]), "left")
    options = {"attention_mask": mask, "max_new_tokens": L + 3, "num_beams": 3, "num_return_sequences": 2}
    cached = model.generate(ids, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
    assert cached.shape == (4, ids.shape[1] + L + 3)
    cut = 2 * L
    memory = model.read(ids[:, :cut], mask[:, :cut])
    options["attention_mask"] = mask[:, cut:]
    asked = model.generate(ids[:, cut:], past_key_values=memory, **options)
    assert torch.equal(asked[:, -L - 3 :], cached[:, -L - 3 :])


def test_sampling_several_answers():
    model, ids = shared("hmt-segment"), random_ids(L + 2)[None].repeat(2, 1)
    answers = []
    for use_cache in (True, True, False):
        torch.manual_seed(3)
        answers.append(
            model.generate(ids, do_sample=True, num_return_sequences=3, max_new_tokens=L, use_cache=use_cache)
        )
    assert answers[0].shape == (6, 2 * L + 2)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])
    assert len(answers[0].unique(dim=0)) == 6


def test_streamer_receives_every_token():
    class Collect(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    model, streamer = shared("hmt-segment"), Collect()
    out = model.generate(random_ids(L)[None], max_new_tokens=NEW, streamer=streamer)
    assert streamer.ended and streamer.tokens == out[0].tolist()


@SYSTEM
@pytest.mark.parametrize("asked", [1, 2, L + 1])
def test_a_saved_memory_and_only_the_new_ids(system, asked, tmp_path):
    model, text = shared(system), random_ids(3 * L + 2)
    model.read(text[:-asked]).save(tmp_path / "text.hmt")
    memory = Memory.load(tmp_path / "text.hmt", model=model)
    before, new = memory.copy(), L + 3
    expected = greedy(model, text[None], new=new)
    same_answer(greedy(model, text[None, -asked:], new=new, past_key_values=memory), expected)
    same_answer(greedy(model, text[None, -asked:], new=new, past_key_values=memory), expected)
    same_answer(
        greedy(model, text[None, -asked:], new=new, past_key_values=memory, use_cache=False), expected
    )
    same_state(memory, before, exact=True)
    assert memory.columns_fed == 0 and memory.open is None


def test_streams_of_different_age_are_asked_together():
    model = shared("hmt-segment")
    texts, questions = ragged([4 * L + 1, 2, L]), ragged([3, 1, 5], seed=9)
    memory = Memory.cat([model.read(text) for text in texts])
    got = greedy(model, *pad(questions, "left"), past_key_values=memory)
    for b, (text, question) in enumerate(zip(texts, questions, strict=True)):
        alone = greedy(model, torch.cat([text, question])[None])
        same_answer((got[0][b : b + 1], got[1][b : b + 1]), alone)


def test_an_empty_stock_cache_is_taken_for_no_cache():
    model, ids = shared("rmt-1"), random_ids(5)[None]
    with torch.no_grad():
        out = model(ids, past_key_values=DynamicCache())
    assert isinstance(out.past_key_values, Memory)
    assert torch.equal(out.logits, model(ids).logits)


def test_generation_config_without_cache():
    model, ids = shared("hmt-segment"), random_ids(L + 1)[None]
    config = GenerationConfig(max_new_tokens=NEW, use_cache=False, pad_token_id=0)
    assert torch.equal(model.generate(ids, generation_config=config)[:, L + 1 :], greedy(model, ids)[0])


def test_keyword_input_ids():
    model, ids = shared("hmt-segment"), random_ids(L + 1)[None]
    assert torch.equal(model.generate(input_ids=ids, max_new_tokens=3), model.generate(ids, max_new_tokens=3))


def test_generation_stops_at_the_end_of_sequence_token():
    model, ids = shared("hmt-segment"), torch.stack(ragged([L + 1, L + 1]))
    free, _ = greedy(model, ids, new=6)
    stop = free[0, 2].item()
    stopped = model.generate(ids, max_new_tokens=6, eos_token_id=stop, pad_token_id=0)[:, L + 1 :]
    for row, want in zip(stopped, free, strict=True):
        end = want.tolist().index(stop) + 1 if stop in want else 6
        assert torch.equal(row[:end], want[:end]) and not row[end:].any()


def test_generation_in_training_mode_is_still_right():
    """Reading may differ with dropout, which these backbones do not have; the cache is simply not used."""
    model, ids = build("hmt-segment"), random_ids(L + 1)[None]
    expected = greedy(model, ids)
    same_answer(greedy(model.train(), ids), expected)


def test_assisted_decoding_is_refused():
    model, ids = shared("hmt-segment"), random_ids(5)[None]
    with pytest.raises(ValueError, match="[Aa]ssisted|stateful"):
        model.generate(ids, max_new_tokens=4, assistant_model=tiny_backbone())
    with pytest.raises(ValueError, match="[Aa]ssisted|stateful"):
        model.generate(ids, max_new_tokens=4, prompt_lookup_num_tokens=2)
