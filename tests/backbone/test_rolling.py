"""The rolling cache against full passes with a mask, and against attention written out by hand."""

import pytest
import torch
from backbones import VOCAB, random_ids, tiny_backbone
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from hmt.backbone import embedding_table, run
from hmt.backbone.rolling import RollingCache
from hmt.backbone.rotary import KeyPositions

MOVABLE = ["llama", "qwen3", "gemma2", "gpt_neox", "bloom"]
BLOCK = 5


@torch.no_grad()
def rolled(backbone, ids, window, sinks=0, block=BLOCK, cache=None):
    """Outputs [B, T, d] of ids [B, T] read in blocks, and the cache."""
    cache = cache or RollingCache(KeyPositions.of(backbone), window, sinks)
    found = []
    for part in ids.split(block, dim=1):
        vectors = backbone.get_input_embeddings()(part)
        hidden = run(backbone, vectors, cache=cache).hidden
        assert cache.get_seq_length() <= sinks + window + block
        found.append(hidden)
        cache.evict()
    return torch.cat(found, dim=1), cache


@torch.no_grad()
def masked(backbone, ids, window, block=BLOCK):
    """One full pass: a token sees its block so far and `window` tokens before the block.

    What it sees there has itself seen what was before: this is not the window read again.
    """
    at = torch.arange(ids.shape[1])
    begin = at // block * block
    seen = (at[None, :] <= at[:, None]) & (at[None, :] >= (begin - window)[:, None])
    config = backbone.config
    if config.model_type == "gemma2":
        near = at[:, None] - at[None, :] < config.sliding_window
        mask = {"full_attention": added(seen), "sliding_attention": added(seen & near)}
    else:
        mask = added(seen)
    return backbone.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


def added(seen):
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]


@pytest.mark.parametrize("window", [0, 3, 7, 12])
@pytest.mark.parametrize("family", [name for name in MOVABLE if name != "bloom"])
def test_it_equals_a_full_pass_with_a_mask(family, window):
    backbone, ids = tiny_backbone(family), random_ids(43)[None]
    got, _ = rolled(backbone, ids, window)
    torch.testing.assert_close(got, masked(backbone, ids, window), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("cohere", {}),  # pairs side by side
        ("glm", {"head_dim": 8, "pad_token_id": 0}),  # the same, in half of a head
        ("smollm3", {"num_hidden_layers": 4, "pad_token_id": 0}),  # every fourth layer without positions
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
        ),  # scaled tables
    ],
)
def test_other_kinds_of_rotation(family, fields):
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    backbone = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes | heads | ends | fields))
    ids = random_ids(43)[None]
    got, _ = rolled(backbone.eval(), ids, 7)
    torch.testing.assert_close(got, masked(backbone, ids, 7), rtol=1e-3, atol=1e-3)
    assert any(pairs for _, pairs in KeyPositions.of(backbone).layers)


@torch.no_grad()
def by_hand(model, ids, window, sinks, block=BLOCK):
    """Llama token by token from its weights: a list of raw keys and values per layer, positions by place."""
    inner, config = model.model, model.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    shared = heads // config.num_key_value_heads
    kept = [[] for _ in inner.layers]
    outputs = []
    for start in range(0, len(ids), block):
        x = inner.embed_tokens(ids[start : start + block])
        for stored, layer in zip(kept, inner.layers, strict=True):
            before, part = len(stored), layer.input_layernorm(x)
            q, k, v = (
                f(part) for f in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
            )
            stored += zip(k, v, strict=True)
            rows = []
            for number in range(len(x)):
                here = before + number + 1
                cos, sin = inner.rotary_emb(x, torch.arange(here)[None])
                keys = torch.stack([k for k, _ in stored[:here]]).view(1, here, -1, size).transpose(1, 2)
                values = torch.stack([v for _, v in stored[:here]]).view(1, here, -1, size).transpose(1, 2)
                query = q[number].view(1, 1, heads, size).transpose(1, 2)
                _, keys = apply_rotary_pos_emb(keys, keys, cos, sin)
                query, _ = apply_rotary_pos_emb(query, query, cos[:, -1:], sin[:, -1:])
                keys, values = (t.repeat_interleave(shared, dim=1) for t in (keys, values))
                weights = (query @ keys.transpose(2, 3) / size**0.5).softmax(-1)
                rows.append((weights @ values).flatten())
            x = x + layer.self_attn.o_proj(torch.stack(rows))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        outputs.append(inner.norm(x))
        for stored in kept:
            if len(stored) > sinks + window:
                del stored[sinks : len(stored) - window]
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("window", "sinks", "block"), [(7, 0, 5), (7, 3, 5), (4, 1, 1), (0, 2, 3), (9, 6, 4)]
)
def test_sinks_equal_attention_written_out(window, sinks, block):
    backbone, ids = tiny_backbone("llama"), random_ids(41)
    got, cache = rolled(backbone, ids[None], window, sinks, block)
    torch.testing.assert_close(got[0], by_hand(backbone, ids, window, sinks, block), rtol=1e-3, atol=1e-3)
    assert cache.get_seq_length() == sinks + window


@pytest.mark.parametrize("family", MOVABLE)
def test_a_stream_that_fits_is_a_plain_pass(family):
    backbone, ids = tiny_backbone(family), random_ids(23)[None]
    want = run(backbone, backbone.get_input_embeddings()(ids)).hidden
    for window, sinks in ((23, 0), (12, 11)):
        torch.testing.assert_close(rolled(backbone, ids, window, sinks)[0], want, rtol=1e-3, atol=1e-3)


def test_bloom_attends_to_its_window_alone():
    """ALiBi is made from lengths, and the full pass takes no other mask: one layer can be read again."""
    backbone, ids = tiny_backbone("bloom"), random_ids(43)[None]
    del backbone.transformer.h[1:]
    backbone.config.n_layer = backbone.config.num_hidden_layers = 1
    got, _ = rolled(backbone, ids, 7)
    begin = 40 - 7
    again = run(backbone, backbone.get_input_embeddings()(ids[:, begin:])).hidden
    torch.testing.assert_close(got[:, 40:], again[:, 7:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("family", MOVABLE)
def test_rows_of_different_length_are_as_if_alone(family, fixed):
    backbone, window, sinks = tiny_backbone(family), 6, 2
    places = KeyPositions.of(backbone)
    rows = [random_ids(length, seed=length) for length in (17, 3, 9)]
    alone = [rolled(backbone, row[None], window, sinks)[0][0] for row in rows]
    content, found = None, [[], [], []]
    for start in range(0, 20, BLOCK):
        parts = [row[start : start + BLOCK] for row in rows]
        lengths = torch.tensor([len(part) for part in parts])
        ids = torch.stack([torch.cat([p, torch.full((BLOCK - len(p),), 9)]) for p in parts])
        cache = RollingCache(places, window, sinks, content)
        with torch.no_grad():
            hidden = run(
                backbone, backbone.get_input_embeddings()(ids), cache=cache, mask=cache.attention_mask(BLOCK)
            ).hidden
        cache.evict(lengths, fixed=fixed)
        content = cache.content()
        assert not fixed or content.keys[0].shape[2] == window + sinks
        for own, row, length in zip(found, hidden, lengths.tolist(), strict=True):
            own.append(row[:length])
    for own, want in zip(found, alone, strict=True):
        torch.testing.assert_close(torch.cat(own), want, rtol=1e-3, atol=1e-3)
    assert content.lengths.tolist() == [8, 3, 8]


def test_rows_are_chosen_and_content_travels():
    backbone = tiny_backbone("llama")
    ids = torch.stack([random_ids(20, seed) for seed in range(3)])
    _, cache = rolled(backbone, ids, 6, 2)
    kept = cache.content()
    want, _ = rolled(backbone, ids[[2, 0, 2]], 6, 2, cache=None)
    following = torch.stack([random_ids(4, seed=9)] * 3)
    expected = rolled(backbone, torch.cat([ids[[2, 0, 2]], following], 1), 6, 2)[0][:, 20:]
    chosen = torch.tensor([2, 0, 2])
    loaded = RollingCache(cache.positions, 6, 2, kept.select(chosen))
    cache.batch_select_indices(chosen)
    for one in (loaded, cache):
        got, _ = rolled(backbone, following, 6, 2, cache=one)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    loaded.reorder_cache(torch.tensor([1, 1, 0]))
    loaded.batch_repeat_interleave(2)
    assert loaded.content().lengths.tolist() == [8] * 6
    assert (
        kept.nbytes == 2 * 2 * 3 * 2 * 8 * 8 * 4
    )  # keys and values, layers, rows, heads, slots, head, float32


def test_keys_do_not_wear_out_in_half_precision():
    """A sink is as it was after hundreds of evictions: what is kept has no positions to be turned."""
    backbone = tiny_backbone("llama").bfloat16()
    ids = random_ids(300)[None]
    _, early = rolled(backbone, ids[:, :10], 8, 2)
    _, late = rolled(backbone, ids, 8, 2, block=1, cache=early)
    first = rolled(backbone, ids[:, :10], 8, 2)[1].content()
    assert torch.equal(late.content().keys[0][:, :, :2], first.keys[0][:, :, :2])


def test_gradients_pass_and_what_was_kept_stays():
    backbone, ids = tiny_backbone("llama"), random_ids(12)[None]
    vectors = embedding_table(backbone)(ids).detach().requires_grad_()
    cache = RollingCache(KeyPositions.of(backbone), 4)
    run(backbone, vectors[:, :6], cache=cache)
    cache.evict()
    kept = cache.content()
    before = kept.keys[0].detach().clone()
    hidden = run(backbone, vectors[:, 6:], cache=cache).hidden
    cache.evict()
    hidden.sum().backward()
    assert torch.equal(kept.keys[0], before)
    assert (vectors.grad[0, 2:].abs().sum(-1) > 0).all() and kept.detach().keys[0].grad_fn is None


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_learned_positions_are_refused_by_name(family):
    with pytest.raises(ValueError, match=f"cached keys of {family} cannot be moved.*window-ids"):
        KeyPositions.of(tiny_backbone(family))


def test_what_cannot_be():
    backbone = tiny_backbone("llama")
    places = KeyPositions.of(backbone)
    with pytest.raises(ValueError, match="numbers of tokens"):
        RollingCache(places, -1)
    with pytest.raises(ValueError, match="nothing was read"):
        RollingCache(places, 4).content()
    _, cache = rolled(backbone, random_ids(10)[None], 6)
    with pytest.raises(ValueError, match="has 6 slots; this cache holds 5"):
        RollingCache(places, 4, 1, cache.content())
    run(backbone, embedding_table(backbone)(random_ids(2)[None]), cache=cache)
    with pytest.raises(ValueError, match="evict"):
        cache.content()
    backbone.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(ValueError, match="llama .*dynamic frequencies"):
        KeyPositions.of(backbone)
