"""The memory that `generate` hands back is that of exactly the sequences it returns: work goes on from it."""

import copy

import pytest
import torch
from backbones import VOCAB, random_ids
from tokenizers import Tokenizer, decoders, models
from transformers import EosTokenCriteria, PreTrainedTokenizerFast, StoppingCriteria

from hmt import Memory

from .cases import SYSTEMS, J, L, build, close, pad, ragged, same_state, shared
from .test_generate import greedy, same_answer

SYSTEM = pytest.mark.parametrize("system", SYSTEMS)
LENGTHS = [L + J, 1, 5]


def answer(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": L + 3, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **options)


def written(out, prompts, width, ends=()):
    """The text of every row returned: its prompt, and what was written up to the id that ended it."""
    each, texts = len(out.sequences) // len(prompts), []
    for row, sequence in enumerate(out.sequences):
        new = sequence[width:]
        stops = [place for place, token in enumerate(new.tolist()) if token in ends]
        texts.append(torch.cat([prompts[row // each], new[: stops[0] + 1] if stops else new]))
    return texts


def check(model, memory, texts):
    """`memory` is that of the texts, and goes on from each as if all had been read from the start."""
    assert memory.tokens_read.tolist() == [len(text) for text in texts]
    for row, text in enumerate(texts):
        same_state(memory.select([row]), model.read(text))
    more = ragged([3 + row % 2 for row in range(len(texts))], seed=20)
    ids, mask = pad(more, "left", extra=0)
    got = model(ids, mask, past_key_values=memory.copy(), logits_to_keep=3).logits
    whole = [
        model(torch.cat([text, new])[None], logits_to_keep=3).logits
        for text, new in zip(texts, more, strict=True)
    ]
    close(got, torch.cat(whole))


@SYSTEM
@torch.no_grad()
def test_rows_that_end_anywhere(system):
    model, prompts = shared(system), ragged(LENGTHS)
    ids, mask = pad(prompts, "left")
    free = greedy(model, ids, mask, new=4)[0]
    ends = [int(free[1, 0]), int(free[2, 3])]
    out = answer(model, ids, mask, eos_token_id=ends, max_new_tokens=6)
    texts = written(out, prompts, ids.shape[1], ends)
    assert len(texts[1]) == 2, "one row ends with its first token"
    check(model, out.past_key_values, texts)


@pytest.mark.parametrize("system, where", [("hmt-segment", "right"), ("armt", "middle")])
@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 1},
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 2, "do_sample": True, "max_new_tokens": 3},
    ],
    ids=str,
)
@torch.no_grad()
def test_every_strategy(system, where, ended, options):
    model, prompts = shared(system), ragged([L + J, 3])
    ids, mask = pad(prompts, where)
    ends = list(range(0, VOCAB, 9)) if ended else []
    torch.manual_seed(5)
    out = answer(model, ids, mask, eos_token_id=ends or None, **options)
    check(model, out.past_key_values, written(out, prompts, ids.shape[1], ends))


@pytest.mark.parametrize("system", ["hmt-segment", "hmt-inline", "armt", "streaming_llm", "toy_step"])
@torch.no_grad()
def test_a_limit_on_the_end_of_a_segment_and_turn_after_turn(system):
    """A conversation, as in the documentation: always only the new ids, the memory handed on."""
    model, memory, text = shared(system), None, torch.zeros(0, dtype=torch.long)
    for turn, new in enumerate([L - 3, 5, 1]):
        said = random_ids(new, seed=turn)
        out = answer(model, said[None], past_key_values=memory, max_new_tokens=3)
        text = torch.cat([text, out.sequences[0]])
        memory = out.past_key_values
        assert memory.tokens_read.tolist() == [len(text)]
        same_state(memory, model.read(text))
    same_answer(
        greedy(model, said[None], past_key_values=memory), greedy(model, torch.cat([text, said])[None])
    )
    assert memory.columns_fed == 0 and memory.open is None


def test_what_ended_a_row_is_known_and_not_guessed():
    """The pad is written by the model itself, and rows are ended by a criterion that counts its calls."""

    class Third(StoppingCriteria):
        calls = 0

        def __call__(self, input_ids, scores, **kwargs):
            self.calls += 1
            return torch.tensor([self.calls == 3, False])

    model, prompts = shared("hmt-segment"), ragged([4, 4])
    for eos, longer in ((96, 3), (None, 8)):  # without an end token, rows are written on
        criterion = Third()
        out = answer(
            model, torch.stack(prompts), max_new_tokens=8, eos_token_id=eos, sequence_bias={(0,): 1e4},
            stopping_criteria=[criterion],
        )  # fmt: skip
        assert not out.sequences[:, 4:].any() and criterion.calls == 8
        assert out.past_key_values.tokens_read.tolist() == [4 + longer, 12]


def characters():
    """A tokenizer of one token per character, as many as the tiny backbones know."""
    vocabulary = {"<pad>": 0, "</s>": 1} | {chr(30 + i): i for i in range(2, VOCAB)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


@pytest.mark.parametrize("beams", [1, 2])
def test_stop_strings(beams):
    model, prompts, tokenizer = shared("hmt-segment"), ragged([L + 1, L + 1]), characters()
    ids = torch.stack(prompts)
    free = answer(model, ids, num_beams=beams).sequences[:, L + 1 :]
    stop = tokenizer.decode(free[0, 1:3])
    options = {"stop_strings": [stop], "tokenizer": tokenizer, "num_beams": beams, "eos_token_id": 1}
    out = answer(model, ids, **options)
    uncached = model.generate(
        ids, max_new_tokens=L + 3, pad_token_id=0, use_cache=False, do_sample=False, **options
    )
    assert torch.equal(out.sequences, uncached)
    if beams == 1:
        assert out.past_key_values.tokens_read[0] == L + 1 + 3 and not out.sequences[0, L + 1 + 3 :].any()
    texts = []
    for row, sequence in enumerate(out.sequences[:, L + 1 :]):
        text = tokenizer.decode(sequence)
        kept = text.index(stop) + 2 if stop in text else len(sequence)
        texts.append(torch.cat([prompts[row], sequence[:kept]]))
    check(model, out.past_key_values, texts)


def test_criteria_that_replace_those_of_the_options():
    model, ids = shared("hmt-segment"), random_ids(5)[None]
    end = int(greedy(model, ids, new=2)[0][0, 1])
    out = answer(
        model, ids, eos_token_id=end, stopping_criteria=[EosTokenCriteria(VOCAB - 1)], max_new_tokens=4
    )
    assert out.sequences.shape == (1, 9) and out.past_key_values.tokens_read.tolist() == [9]


def test_no_memory_where_none_is_kept():
    model, ids = shared("hmt-segment"), random_ids(L + 1)[None]
    assert answer(model, ids, use_cache=False).past_key_values is None
    out = answer(model, ids, use_cache=False, past_key_values=model.read(random_ids(5)))
    assert out.past_key_values is None and out.get("past_key_values") is None


# -- the whole text again, as with stock caches -------------------------------------------------------------


def test_the_text_it_was_returned_with_is_not_read_twice(tmp_path):
    model, (ids, mask) = shared("hmt-segment"), pad(ragged([L, 3]), "left")
    out = answer(model, ids, mask, max_new_tokens=2)
    memory, more = out.past_key_values, torch.stack(ragged([2, 2], seed=8))
    whole = torch.cat([out.sequences, more], 1)
    real = torch.cat([mask, torch.ones(2, 4, dtype=torch.long)], 1)
    message = r"row 0 of the ids begins with the 10 tokens .* pass only the new ids"
    for held in (memory, memory.copy(), copy.deepcopy(memory), memory.to("cpu"), memory.detach()):
        for text, seen in ((whole, real), (out.sequences, real[:, :-2])):
            with pytest.raises(ValueError, match=message):
                model.generate(text, attention_mask=seen, past_key_values=held, max_new_tokens=1)
    # padded anew, one row of it, among others, in a larger batch
    row = torch.cat([out.sequences[1, -5:], more[1]])
    again = Memory.cat([out.past_key_values.select([1])] * 2)
    both, seen = pad([random_ids(9, seed=30), row], "right")
    with pytest.raises(ValueError, match="row 1 of the ids begins with the 5 tokens"):
        model.generate(both, attention_mask=seen, past_key_values=again, max_new_tokens=1)


def test_ids_that_only_resemble_it_are_new():
    """As many as before, the same prompt, all but the last token, the longer mask of stock code, read on."""
    model, ids = shared("hmt-segment"), random_ids(L + 2)[None]
    out = answer(model, ids, max_new_tokens=3)
    memory, text = out.past_key_values, out.sequences[0]
    other = text.clone()
    other[-1] = (other[-1] + 1) % VOCAB
    for new in (ids[0], text[:-1], other, random_ids(len(text), seed=4)):
        expected = greedy(model, torch.cat([text, new])[None], new=2)
        same_answer(greedy(model, new[None], new=2, past_key_values=memory), expected)
        mask = torch.ones(1, len(text) + len(new), dtype=torch.long)
        same_answer(greedy(model, new[None], mask, new=2, past_key_values=memory), expected)
    memory = model.read(text, memory=memory)  # what is asked for in so many words
    expected = greedy(model, torch.cat([text, text, text])[None], new=2)
    same_answer(greedy(model, text[None], new=2, past_key_values=memory), expected)


# -- a call that does not come to its end -------------------------------------------------------------------


@pytest.mark.parametrize("where, widths", [("run_pass", [1, 4, 6]), ("head", [1, 4, 6]), ("update", [4, 6])])
@torch.no_grad()
def test_an_interrupted_call_leaves_the_memory_whole(where, widths, monkeypatch):
    model, text = build("hmt-segment"), random_ids(2 * L + J)
    memory = model.read(text[: L + 1])
    model(text[None, L + 1 : L + 4], past_key_values=memory)  # there is an open segment, of four tokens
    before, rest = memory.copy(), text[None, L + 4 :]

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    for width in widths:  # into the segment, to its end, and beyond
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(model, where, interrupt)
            model(rest[:, :width], past_key_values=memory)
        same_state(memory, before, exact=True)
    close(model(rest, past_key_values=memory).logits, model(text[None]).logits[:, L + 4 :])
    same_state(memory, model.read(text))
