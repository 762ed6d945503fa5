"""The rolling cache as a reader, against one full pass with a mask; the cache has tests of its own."""

import copy

import pytest
import torch
from backbones import tiny_backbone
from reader_oracles import LENGTH, VOCABULARY, direct, ids

from hmt.backbone.flops import BackboneFlops, causal_pairs
from hmt.evaluation.readers import RollingReader, WindowIdsReader
from hmt.util.kv_cache import kv_cache_bytes

TEXT = ids(61, 1)


@torch.no_grad()
def masked(backbone, text: list[int], following: list[int], window: int, chunk: int) -> torch.Tensor:
    """Nats of all tokens but the first.

    The text but its last token is read in chunks, the rest in others. A token attends to its chunk so far,
    and to the `window` tokens before the chunk.
    """
    split = max(0, len(text) - 1)
    tokens = torch.tensor([text + following])
    at = torch.arange(tokens.shape[1])
    begin = torch.where(at < split, at // chunk * chunk, split + (at - split) // chunk * chunk)
    seen = (at[None, :] <= at[:, None]) & (at[None, :] >= (begin - window)[:, None])
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    logits = backbone(tokens, attention_mask=mask).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")


@pytest.mark.parametrize(("tokens", "chunk"), [(11, 8), (0, 4), (5, 1), (40, 16)])
@pytest.mark.parametrize(("text", "prompt"), [(61, 0), (61, 13), (1, 3), (0, 3)])
def test_nats_equal_a_full_pass_with_a_mask(backbone, tokens, chunk, text, prompt):
    reader, text, prompt, goal = (
        RollingReader(backbone, tokens=tokens, chunk=chunk),
        TEXT[:text],
        ids(prompt, 2),
        ids(21, 3),
    )
    got = reader.nats(reader.read(text), prompt, goal)
    want = masked(backbone, text, prompt + goal, tokens, chunk)[-21:]
    torch.testing.assert_close(torch.tensor(got), want, rtol=1e-3, atol=1e-3)


def test_what_is_cached_knows_more_than_ids_that_are_read_again(backbone):
    """The difference that the two rows of a table are for: keys carry what stood before the window."""
    goal = ids(9, 3)
    rolling, again = RollingReader(backbone, tokens=11, chunk=8), WindowIdsReader(backbone, tokens=11)
    cached = rolling.nats(rolling.read(TEXT), [], goal)
    reread = again.nats(again.read(TEXT), [], goal)
    torch.testing.assert_close(reread, direct(backbone, TEXT[-11:], goal), rtol=1e-3, atol=1e-3)
    assert max(abs(a - b) for a, b in zip(cached, reread, strict=True)) > 0.05


@pytest.mark.parametrize("sinks", [0, 3])
def test_likelihoods_and_answers_run_on_one_cache(backbone, sinks):
    """Each token that is written is the likeliest by `logits`, over several chunks."""
    backbone.generation_config.eos_token_id = None
    reader = RollingReader(backbone, tokens=11, sinks=sinks, chunk=8)
    memory, prompt = reader.read(TEXT), ids(5, 2)
    before = [tensor.clone() for tensor in memory.content.keys]
    new = reader.generate(memory, prompt, 20)
    logits = torch.cat([part for part, _ in reader.logits(memory, prompt, new)])
    assert logits.argmax(-1).tolist() == new
    assert all(torch.equal(a, b) for a, b in zip(before, memory.content.keys, strict=True))
    with pytest.raises(ValueError, match="likeliest token; it has no do_sample, top_p"):
        reader.generate(memory, prompt, 3, do_sample=True, top_p=0.5)


@pytest.mark.parametrize(("sinks", "chunk"), [(0, LENGTH), (3, LENGTH), (0, 5)])
def test_target_nats_equal_nats(backbone, sinks, chunk):
    reader = RollingReader(backbone, tokens=11, sinks=sinks, chunk=chunk)
    history, target = torch.tensor([ids(48, 1), ids(48, 2)]), torch.tensor([ids(LENGTH, 3), ids(LENGTH, 4)])
    for past in (history, history[:, :0]):
        got = reader.target_nats(past, target)
        assert got[:, 0].isnan().all()
        for row, before, goal in zip(got, past.tolist(), target.tolist(), strict=True):
            want = reader.nats(reader.read(before), goal[:1], goal[1:])
            torch.testing.assert_close(row[1:].tolist(), want, rtol=1e-3, atol=1e-3)


def test_sinks_keep_the_first_tokens(backbone):
    """A changed first token is felt far behind it with sinks; else not even through layers of windows."""
    long, goal = ids(150, 1), ids(9, 3)
    other = [long[0] + 1, *long[1:]]
    for sinks, felt in ((0, False), (1, True)):
        reader = RollingReader(backbone, tokens=9, sinks=sinks, chunk=8)
        one, two = (torch.tensor(reader.nats(reader.read(text), [], goal)) for text in (long, other))
        assert torch.allclose(one, two, atol=1e-3) != felt
    shared = [reader.read(text).content.keys[0][:, :, 0] for text in (long, long[:30])]
    assert torch.allclose(*shared, atol=1e-4)


def test_only_what_reaches_an_output_is_read(backbone, monkeypatch):
    reader = RollingReader(backbone, tokens=9, chunk=8)
    long, goal = ids(400, 1), ids(9, 3)
    got = reader.nats(reader.read(long), [], goal)
    assert sum(len(part[0]) for part in forwarded(reader, long, monkeypatch)) < 60
    want = masked(backbone, long, goal, 9, 8)[-9:]
    torch.testing.assert_close(torch.tensor(got), want, rtol=1e-3, atol=1e-3)
    with_sinks = RollingReader(backbone, tokens=9, sinks=2, chunk=8)
    assert sum(len(part[0]) for part in forwarded(with_sinks, long, monkeypatch)) == 399


def forwarded(reader, text, monkeypatch):
    parts = []
    hook = reader.model.get_input_embeddings().register_forward_hook(
        lambda module, given, out: parts.append(given[0])
    )
    reader.read(text)
    hook.remove()
    return parts


def test_positions_are_never_exceeded(short_backbone):
    """On a stream longer than the backbone's positions: places in the cache, not in the stream."""
    most: list[int] = []

    def look(module, given, kwargs):
        most.append(int(kwargs.get("position_ids", given[-1]).max()))

    short_backbone.model.rotary_emb.register_forward_pre_hook(look, with_kwargs=True)
    reader = RollingReader(short_backbone, tokens=100, sinks=4, chunk=6)
    assert (reader.tokens, reader.sinks, reader.positions) == (10, 4, 16)
    assert RollingReader(short_backbone, tokens=100).chunk == 8
    memory = reader.read(ids(200, 1))
    assert len(reader.generate(memory, ids(30, 2), 40)) == 40
    assert len(reader.nats(memory, ids(30, 2), ids(37, 3))) == 37
    assert max(most) == 15


def test_bytes_and_work(backbone):
    token = kv_cache_bytes(backbone.config, 1, 4)
    reader = RollingReader(backbone, 10 * token + 3, chunk=LENGTH)
    assert (reader.name, reader.tokens, reader.bytes_carried) == ("window", 10, 10 * token)
    sinks = RollingReader(backbone, 10 * token, sinks=4)
    assert (sinks.name, sinks.tokens, sinks.sinks, sinks.bytes_carried) == ("sinks", 10, 4, 10 * token)
    assert reader.read(TEXT).content.nbytes == sinks.read(TEXT).content.nbytes == 10 * token
    small = RollingReader(backbone, 2 * token, sinks=4)
    assert (small.tokens, small.sinks) == (2, 2)
    assert RollingReader(backbone, token - 1).tokens == 0
    assert RollingReader(copy.deepcopy(backbone).bfloat16(), 10 * token).tokens == 20
    count = BackboneFlops.of(backbone)
    alone = count.forward(LENGTH, causal_pairs(LENGTH)) / LENGTH + 2 * VOCABULARY * 32
    assert reader.flops_per_token(LENGTH) == alone + count.attention(10)


def test_what_cannot_be(backbone):
    for wrong in ({}, {"budget_bytes": 5, "tokens": 5}, {"tokens": -1}, {"budget_bytes": -1}):
        with pytest.raises(ValueError, match="window"):
            RollingReader(backbone, **wrong)
    for wrong in ({"sinks": -1}, {"chunk": 0}):
        with pytest.raises(ValueError, match="sinks are 0 or more and a chunk 1"):
            RollingReader(backbone, tokens=5, **wrong)
    with pytest.raises(ValueError, match="gpt2.*window-ids"):
        RollingReader(tiny_backbone("gpt2"), tokens=5)
