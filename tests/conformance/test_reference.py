"""The fast path computes what the equations say: logits, loss, memory, recall weights and gradients."""

import pytest
import torch
from backbones import random_ids, tiny_backbone

from hmt import HMTForCausalLM, RMTForCausalLM
from hmt.systems import get

from .cases import CASES, ODD_LENGTHS, L, build, close, pad, ragged, reference, shared, wrap

CASE = pytest.mark.parametrize("system,family", CASES, ids=[f"{s}-{f}" for s, f in CASES])


def check_memory(model, memory, row, ids, expected):
    """What row `row` of `memory` holds is what the reference left behind."""
    state, closed = memory.state, len(ids) // L
    assert memory.segments_read[row] == closed and memory.tokens_read[row] == len(ids)
    assert torch.equal(memory.open_ids[row, : len(ids) % L], ids[closed * L :])
    assert not memory.open_ids[row, len(ids) % L :].any()
    for name in ("sensory", "window"):
        if name in state.tensors:
            kept = ids[: closed * L][max(0, closed * L - state[name].shape[1]) :]
            assert torch.equal(state[name][row, state[name].shape[1] - len(kept) :], kept)
    for name, want in expected.state.items() if closed else ():
        got = state[name][row]
        if got.shape != want.shape:  # the slots that are filled
            got = got[..., got.shape[-2] - want.shape[-2] :, :]
        close(got, want)
    if closed and "memory" in state.tensors:
        close(state["memory"][row], expected.memory[-1])
    if "bank" in state.tensors:
        held = model.retrieval.held(memory.segments_read)[row].tolist()
        assert sorted(s for s in held if s >= 0) == list(range(max(0, closed - len(held)), closed))
        for slot, segment in enumerate(held):
            if segment >= 0:
                close(state["bank"][row, slot], expected.memory[segment].flatten())
        if closed:
            close(state["latest"][row], expected.memory[-1].flatten())


def check_recall(model, weights, expected):
    """Weights [S, N] by slot equal the reference's weights by age, and sum to 1 where there is something."""
    for now, want in enumerate(expected.recall):
        held = model.retrieval.held(torch.tensor([now]))[0]
        ages = held.argsort()[len(held) - len(want) :]
        close(weights[now, ages], want)
        close(weights[now].sum(), torch.tensor(float(len(want) > 0)))


@CASE
def test_one_stream(system, family):
    model = shared(system, family)
    for length in ODD_LENGTHS if family == "llama" else [1, L, 3 * L + 2]:
        ids = random_ids(length, seed=length)
        with torch.no_grad():
            expected = reference(model, ids, ids)
            out = model(ids[None], output_recall=True)
            loss = model(ids[None], labels=ids[None]).loss
        close(out.logits[0], expected.logits)
        close(loss, expected.loss)
        check_memory(model, out.past_key_values, 0, ids, expected)
        check_memory(model, model.read(ids), 0, ids, expected)
        if any(len(weights) for weights in expected.recall):
            check_recall(model, out.recall[0], expected)


@CASE
@pytest.mark.parametrize("where", ["left", "right", "middle"])
def test_ragged_batch(system, family, where):
    model = shared(system, family)
    rows = ragged([3 * L + 2, 1, L, 2 * L - 1, 4 * L + 1, L + 1])
    ids, mask = pad(rows, where)
    with torch.no_grad():
        out = model(ids, attention_mask=mask, output_recall=True)
        loss = model(ids, attention_mask=mask, labels=ids).loss
        expected = [reference(model, row, row) for row in rows]
    read = model.read(ids, attention_mask=mask)
    for b, row in enumerate(rows):
        close(out.logits[b, mask[b].bool()], expected[b].logits)
        check_memory(model, out.past_key_values, b, row, expected[b])
        check_memory(model, read, b, row, expected[b])
        if any(len(weights) for weights in expected[b].recall):
            check_recall(model, out.recall[b], expected[b])
    scored = [len(row) - 1 for row in rows]
    close(loss, sum(e.loss * n for e, n in zip(expected, scored, strict=True)) / sum(scored))


def test_a_masked_column_repeats_the_logits_before_it():
    model = shared("rmt-1")
    ids, mask = pad(ragged([5, 9]), "right")
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
    close(logits[0, 5:], logits[0, 4].expand(6, -1))


@CASE
def test_gradients(system, family):
    model = build(system, family)
    rows = ragged([3 * L + 2, 4 * L + 1, 3] if family == "llama" else [2 * L + 2, 3])
    ids, mask = pad(rows, "middle")
    model(ids, attention_mask=mask, labels=ids).loss.backward()
    fast = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    scored = [len(row) - 1 for row in rows]
    total = sum(reference(model, row, row).loss * n for row, n in zip(rows, scored, strict=True))
    (total / sum(scored)).backward()
    for name, parameter in model.named_parameters():
        zero = torch.zeros_like(parameter)
        got, want = fast[name], parameter.grad
        close(zero if got is None else got, zero if want is None else want, atol=3e-5, rtol=1e-3)
    if system == "hmt-segment":
        for name in (
            "summary_prompt.weight",
            "first_prompt.weight",
            "recall.query.weight",
            "recall.key.weight",
        ):
            assert fast[name].abs().max() > 1e-6, name


@pytest.mark.parametrize(("family", "m"), [("llama", 1), ("gpt2", 1), ("llama", 2)])
def test_hmt_without_recall_and_sensory_tokens_is_rmt(family, m):
    backbone = tiny_backbone(family)
    fields = {"recall": False, "sensory_length": 0, "embeddings_per_segment": m}
    hmt = wrap(HMTForCausalLM, backbone, segment_length=L, **fields)
    rmt = wrap(RMTForCausalLM, backbone, seed=5, segment_length=L, num_memory_tokens=m)
    rmt.first_prompt.load_state_dict(hmt.first_prompt.state_dict())
    ids, mask = pad(ragged([3 * L + 3, L]), "left")
    with torch.no_grad():
        ours, theirs = hmt(ids, attention_mask=mask), rmt(ids, attention_mask=mask)
    close(ours.logits, theirs.logits)
    close(ours.past_key_values.state["latest"], theirs.past_key_values.state["memory"].flatten(1))


@pytest.mark.parametrize("family", ["llama", "bloom", "gemma2"])
def test_window_of_nothing_is_the_plain_backbone_per_segment(family):
    model = shared("window-0", family)
    ids = random_ids(2 * L + 5)
    with torch.no_grad():
        logits = model(ids[None]).logits
        plain = [model.backbone(part[None]).logits for part in ids.split(L)]
    close(logits, torch.cat(plain, dim=1))


@pytest.mark.parametrize("family", ["llama", "bloom", "gemma2"])
def test_window_of_everything_is_the_plain_backbone(family):
    model = build("window-long", family, window_length=4 * L)
    ids = random_ids(4 * L + 3)
    with torch.no_grad():
        close(model(ids[None]).logits, model.backbone(ids[None]).logits)


def test_recall_starts_as_the_similarity_of_summary_and_memory_embedding():
    """Equal orthonormal projections, which containers of modules do not get by themselves."""
    model = HMTForCausalLM.from_backbone(tiny_backbone(), segment_length=L, recall_dim=16)
    query, key = model.recall.query.weight.detach(), model.recall.key.weight.detach()
    assert torch.equal(query, key) and not torch.equal(query, torch.zeros_like(query))
    close(query @ query.T, torch.eye(16))


@torch.no_grad()
def test_an_untrained_armt_is_its_backbone_segment_by_segment():
    ids = random_ids(4 * L + 3)[None]
    fields = {"segment_length": L}
    armt = get("armt").model.from_backbone(tiny_backbone(), num_memory_tokens=2, memory_dim=4, **fields)
    alone = get("window").model.from_backbone(tiny_backbone(), window_length=0, **fields)
    close(armt.eval()(ids).logits, alone.eval()(ids).logits)
