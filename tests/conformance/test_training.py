"""Gradients, replay, the loss and the recall loss."""

import math

import pytest
import torch
from backbones import FAMILIES, random_ids
from torch.nn import functional as F

from .cases import SYSTEMS, J, K, L, N, build, close, pad, ragged, reference, shared

SYSTEM = pytest.mark.parametrize("system", SYSTEMS)
# systems whose gradient goes through their state: not those that keep raw tokens or stop it, nor those that
# read tokens again from anywhere
WITH_MEMORY = [
    name
    for name in SYSTEMS
    if "passages" not in SYSTEMS[name][1]
    and not name.startswith(("window", "toy_lengths", "transformer_xl", "streaming_llm-sinks"))
]
TOKEN = 3  # a token id that random_ids may give; removed from the text where a test marks a place with it


def gradients(model, ids, **kwargs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(ids, **kwargs).loss.backward()
    zero = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    return zero | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def reach(model, place: int, length: int, **kwargs) -> float:
    """Largest gradient from the loss of the last segment alone to the embedding of the token at `place`."""
    ids = random_ids(length)
    ids[ids == TOKEN] += 1
    ids[place] = TOKEN
    labels = ids.clone()
    labels[: (length - 1) // L * L + 1] = -100
    got = gradients(model, ids[None], labels=labels[None], **kwargs)
    return got["backbone.model.embed_tokens.weight"][TOKEN].abs().max().item()


@pytest.mark.parametrize(
    "system,replay", [*((system, False) for system in WITH_MEMORY), ("hmt-segment", True), ("rmt-2", True)]
)
def test_gradient_reaches_the_first_segment_and_stops_at_the_cut(system, replay):
    model, length = build(system), 4 * L
    assert reach(model, 0, length, replay=replay) > 1e-7
    for depth in (1, 2, 3):
        cut = 3 // depth * depth * L  # first token of the newest run of `depth` segments
        assert reach(model, 0, length, bptt_depth=depth, replay=replay) == 0
        before_the_sensory_tokens = cut - 1 - model.tokens_read_again
        assert reach(model, before_the_sensory_tokens, length, bptt_depth=depth, replay=replay) == 0
        if cut < 3 * L:
            assert reach(model, cut, length, bptt_depth=depth, replay=replay) > 1e-7
    assert reach(model, 0, length, bptt_depth=4, replay=replay) > 1e-7


def test_the_cut_is_exact_for_the_query_of_the_segment_before():
    model = build("hmt-previous")
    for place in range(3 * L - K):
        assert reach(model, place, 4 * L, bptt_depth=3) == 0


def test_a_window_has_no_gradient_beyond_it():
    model = build("window-short")
    assert reach(model, 3 * L - 6, 4 * L) == 0
    assert reach(model, 3 * L - 5, 4 * L) > 1e-7


@pytest.mark.parametrize("system", ["transformer_xl-short", "transformer_xl-long"])
def test_transformer_xl_trains_every_segment_by_itself(system):
    model = build(system)
    assert reach(model, 3 * L - 1, 4 * L) == 0 and reach(model, 3 * L, 4 * L) > 1e-7


@SYSTEM
@pytest.mark.parametrize("depth", [None, 2])
def test_replay_gives_the_same_gradients(system, depth):
    model = build(system).train()
    ids, mask = pad(ragged([3 * L + 2, L, 5]), "middle")
    kwargs = {"attention_mask": mask, "labels": ids, "bptt_depth": depth}
    plain, replayed = gradients(model, ids, **kwargs), gradients(model, ids, replay=True, **kwargs)
    for name, gradient in plain.items():
        close(replayed[name], gradient, atol=1e-6)
    assert max(gradient.abs().max() for gradient in plain.values()) > 1e-3


def test_replay_replays_dropout():
    """With dropout, gradients only agree if a segment is recomputed with the random numbers it first had."""
    model = build("hmt-segment", "gpt2").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    ids = random_ids(3 * L)[None]
    got = []
    for replay in (False, True):
        torch.manual_seed(1)
        # with the same chunk the random numbers are drawn in the same order
        got.append(gradients(model, ids, labels=ids, replay=replay, chunk=2))
    for name in got[0]:
        close(got[1][name], got[0][name], atol=1e-6)


def test_replay_stores_less():
    model, ids = build("hmt-segment").train(), random_ids(12 * L)[None]

    def stored(replay: bool) -> int:
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(ids, labels=ids, replay=replay).loss
        assert loss.requires_grad
        return sum(sizes.values())

    assert stored(True) < stored(False) / 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_all_logits_shifted(family):
    model, ids = shared("hmt-segment", family), torch.stack(ragged([3 * L + 2] * 2))
    with torch.no_grad():
        out = model(ids, labels=ids)
    expected = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    close(out.loss, expected, atol=1e-6)


@SYSTEM
def test_the_loss_counts_tokens_and_not_segments_or_rows(system):
    model = shared(system)
    rows = ragged([3 * L + 2, 2, L])
    ids, mask = pad(rows, "middle")
    labels = ids.clone()
    labels[0, torch.randperm(ids.shape[1])[: ids.shape[1] // 2]] = -100
    with torch.no_grad():
        total, scored = 0.0, 0
        for b, row in enumerate(rows):
            wanted = labels[b, mask[b].bool()]
            n = int((wanted[1:] != -100).sum())
            total, scored = total + reference(model, row, wanted).loss * n, scored + n
        close(model(ids, attention_mask=mask, labels=labels).loss, total / scored)
        close(model(ids, attention_mask=mask, labels=labels, num_items_in_batch=7).loss, total / 7)
        close(
            model(ids, attention_mask=mask, labels=labels, num_items_in_batch=torch.tensor(7)).loss, total / 7
        )


def test_labels_at_padding_are_never_scored():
    model = shared("rmt-1")
    ids, mask = pad(ragged([L + 2, 3]), "middle")
    hidden = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        assert torch.equal(
            model(ids, attention_mask=mask, labels=ids).loss,
            model(ids, attention_mask=mask, labels=hidden).loss,
        )


def test_nothing_to_score_gives_zero_and_not_nan():
    model, ids = build("hmt-segment"), random_ids(L + 1)[None]
    loss = model(ids, labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss == 0


def test_the_loss_of_a_call_on_a_memory_scores_all_but_its_first_token():
    model, ids = shared("hmt-previous"), random_ids(3 * L + 2)[None]
    memory = model.read(ids[:, :13])
    with torch.no_grad():
        whole = model(ids).logits
        loss = model(ids[:, 13:], labels=ids[:, 13:], past_key_values=memory).loss
    close(loss, F.cross_entropy(whole[0, 13:-1], ids[0, 14:]))


def test_training_gives_no_logits_unless_asked():
    model, ids = build("hmt-segment"), random_ids(2 * L)[None]
    out = model(ids, labels=ids)
    assert out.logits.shape == (1, 2 * L, 97) and out.past_key_values is None
    model.train()
    out = model(ids, labels=ids)
    assert out.logits is None and out.past_key_values is None and out.loss.requires_grad
    assert model(ids, labels=ids, logits_to_keep=3).logits.shape == (1, 3, 97)
    assert model(ids).logits.shape == (1, 2 * L, 97)
    assert model(ids, labels=ids, use_cache=True).past_key_values.segments_read.tolist() == [2]


def test_logits_to_keep():
    model = shared("hmt-segment")
    ids, mask = pad(ragged([2 * L + 1, L]), "left")
    with torch.no_grad():
        full = model(ids, attention_mask=mask).logits
        for keep, want in [
            (0, full),
            (1, full[:, -1:]),
            (5, full[:, -5:]),
            (999, full),
            (torch.tensor([4, 0, -1]), full[:, [4, 0, -1]]),
            (torch.arange(ids.shape[1]) % 3 == 0, full[:, ::3]),
        ]:
            close(model(ids, attention_mask=mask, logits_to_keep=keep).logits, want)
        with pytest.raises(ValueError, match="logits_to_keep"):
            model(ids, logits_to_keep=torch.zeros(2, 2, dtype=torch.long))


def test_the_head_runs_only_where_it_is_asked_for():
    model, ids = build("hmt-segment"), random_ids(3 * L)[None]
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: seen.append(out.shape[-2]))
    model.read(ids)
    assert seen == []
    with torch.no_grad():
        model(ids, logits_to_keep=1)
    assert seen == [1]


def test_return_dict_false():
    model, ids = shared("rmt-1"), random_ids(5)[None]
    loss, logits = model(ids, labels=ids, return_dict=False)[:2]
    assert loss.dim() == 0 and logits.shape == (1, 5, 97)


# -- recall -------------------------------------------------------------------------------------------------

RECALLS = pytest.mark.parametrize("system", ["hmt-segment", "hmt-previous", "hmt-memory"])


def test_slots_after_the_ring_buffer_wrapped_around():
    model = shared("hmt-segment")
    want = [[-1, -1, -1], [0, -1, -1], [0, 1, -1], [0, 1, 2], [3, 1, 2], [3, 4, 2], [3, 4, 5], [6, 4, 5]]
    assert model.retrieval.held(torch.arange(8)).tolist() == want
    assert model.retrieval.held(torch.tensor([300])).tolist() == [[297, 298, 299]]


@RECALLS
def test_recall_loss_by_hand(system):
    model = shared(system)
    rows = ragged([6 * L + 2, 5 * L])
    ids, mask = pad(rows, "left")
    targets = torch.tensor([[-100, 0, 1, 0, 2, 1, 5], [0, 0, -100, 2, 1, -100, -100]])
    # not in the bank: segment 1 when segment 5 is read (N = 3: 2, 3, 4 are), anything when segment 0 is read
    with torch.no_grad():
        out = model(ids, attention_mask=mask, labels=ids, recall_targets=targets, recall_loss_weight=0.5)
        plain = model(ids, attention_mask=mask, labels=ids)
        losses = []
        for row, wanted in zip(rows, targets.tolist(), strict=True):
            for now, weights in enumerate(reference(model, row).recall):
                oldest = max(0, now - N)
                if oldest <= wanted[now] < now:
                    losses.append(-math.log(weights[wanted[now] - oldest]))
    assert len(losses) == 8
    close(out.recall_loss, torch.tensor(sum(losses) / len(losses)))
    close(out.loss, plain.loss + 0.5 * out.recall_loss)
    assert plain.recall_loss is None


@RECALLS
def test_recall_targets_are_absolute_when_a_memory_is_given(system):
    model, ids = shared(system), random_ids(6 * L)[None]
    targets = torch.tensor([[-100, -100, -100, -100, 2, 3]])
    with torch.no_grad():
        whole = model(ids, recall_targets=targets).recall_loss
        memory = model.read(ids[:, : 4 * L])
        part = model(ids[:, 4 * L :], recall_targets=targets[:, 4:], past_key_values=memory).recall_loss
    close(part, whole)


@RECALLS
def test_recall_targets_beyond_the_end_of_a_row_count_for_nothing(system):
    model = shared(system)
    ids, mask = pad(ragged([5 * L, 2 * L]), "right")
    targets = torch.tensor([[-100, 0, 0, 1, 2], [-100, 0, -100, -100, -100]])
    beyond = targets.clone()
    beyond[1, 3:] = 2
    with torch.no_grad():
        want = model(ids, attention_mask=mask, recall_targets=targets).recall_loss
        close(model(ids, attention_mask=mask, recall_targets=beyond).recall_loss, want)


@RECALLS
def test_the_recall_loss_trains_the_projections(system):
    model, ids = build(system).train(), random_ids(4 * L)[None]
    targets = torch.tensor([[-100, 0, 0, 1]])
    kwargs = {"labels": torch.full_like(ids, -100), "recall_targets": targets, "recall_loss_weight": 1.0}
    plain, replayed = gradients(model, ids, **kwargs), gradients(model, ids, replay=True, **kwargs)
    for name in ("recall.query.weight", "recall.key.weight"):
        assert plain[name].abs().max() > 1e-6
    for name in plain:
        close(replayed[name], plain[name], atol=1e-6)


def test_recall_weights_sum_to_one():
    model = shared("hmt-segment")
    ids, mask = pad(ragged([6 * L + 1, 3 * L]), "left")
    with torch.no_grad():
        recall = model(ids, attention_mask=mask, output_recall=True).recall
    assert recall.shape == (2, 7, N)
    close(recall[0].sum(-1), torch.tensor([0.0, *[1.0] * 6]))
    assert (recall[0, 3:] > 0).all() and (recall[:, 0] == 0).all() and (recall[:, 1, 1:] == 0).all()
    assert shared("rmt-1")(ids, attention_mask=mask, output_recall=True).recall is None


def test_segment_of_one_token():
    model, ids = build("hmt-segment", segment_length=1, summary_length=1, sensory_length=3), random_ids(J + 4)
    expected = reference(model, ids, ids)
    out = model(ids[None], labels=ids[None])
    close(out.logits[0], expected.logits)
    close(out.loss, expected.loss)
