"""Perplexity against history: brute force, fixed tokens, and what cannot be scored."""

import json
import math

import numpy as np
import pytest
import torch

from hmt.evaluation import HistoryResult, history_perplexity
from hmt.evaluation.perplexity import unscored_head
from hmt.evaluation.targets import Target, choose_targets, gather_windows

HISTORIES = (0, 1, 3)
LENGTH = 8


def brute_force(model, documents, target, history, skip):
    """Nats of one target by a single forward over history and target, scoring by labels."""
    end = (target.segment + 1) * LENGTH
    ids = torch.tensor([documents[target.document][end - (history + 1) * LENGTH : end]])
    labels = torch.full_like(ids, -100)
    labels[:, -(LENGTH - skip) :] = ids[:, -(LENGTH - skip) :]
    with torch.no_grad():
        return model(ids, labels=labels).loss.item() * (LENGTH - skip)


@pytest.mark.parametrize("system", ["hmt", "previous", "rmt", "window", "plain"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_equals_forward_on_the_concatenated_ids(make_model, documents, system, batch_size):
    model = make_model(system)
    result = history_perplexity({"m": model}, documents, HISTORIES, batch_size=batch_size, max_targets=5)
    assert len(result.targets) == 5
    for history in HISTORIES:
        want = [brute_force(model, documents, t, history, result.skip) for t in result.targets]
        assert result.nll["m"][history] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("skip", [1, 3, 7])
def test_any_skip_where_the_recall_prompt_is_causal(make_model, documents, skip):
    model = make_model("previous")
    result = history_perplexity({"m": model}, documents, (2,), skip=skip, max_targets=3)
    assert result.tokens == 3 * (LENGTH - skip)
    want = [brute_force(model, documents, t, 2, skip) for t in result.targets]
    assert result.nll["m"][2] == pytest.approx(want, rel=1e-5)


def test_all_models_and_histories_score_the_same_tokens(make_model, documents):
    models = {name: make_model(name) for name in ("hmt", "rmt", "window")}
    result = history_perplexity(models, documents, HISTORIES)
    scores = result.to_dict()["models"]
    assert {scores[m][str(h)]["tokens"] for m in models for h in HISTORIES} == {result.tokens}
    alone = history_perplexity({"rmt": models["rmt"]}, documents, HISTORIES, batch_size=2)
    assert alone.targets == result.targets
    assert alone.nll["rmt"][3] == pytest.approx(result.nll["rmt"][3], rel=1e-5)


def test_history_0_of_a_window_is_the_plain_backbone(make_model, documents):
    model = make_model("plain")
    result = history_perplexity({"plain": model, "window": make_model("window")}, documents, HISTORIES)
    segments = gather_windows(documents, result.targets, 0, LENGTH)
    with torch.no_grad():
        scores = model.backbone(segments).logits.float().log_softmax(-1)[:, :-1]
    nll = -scores.gather(2, segments[:, 1:, None])[..., 0]
    want = nll[:, result.skip - 1 :].double().sum(1).tolist()
    assert result.nll["plain"][0] == pytest.approx(want, rel=1e-5)
    assert result.nll["window"][0] == pytest.approx(want, rel=1e-5)
    assert result.nll["plain"][3] == result.nll["plain"][0]  # no window, no history


def test_mode_and_state_of_the_model_are_left_alone(make_model, documents):
    model = make_model("hmt").train()
    calls = []
    history_perplexity({"m": model}, documents, (0, 2), max_targets=4, progress=lambda *n: calls.append(n))
    assert model.training
    assert calls[-1] == (4 * (1 + 3) * LENGTH,) * 2
    assert all(a[0] < b[0] for a, b in zip(calls, calls[1:], strict=False))


def test_progress_counts_only_what_a_window_reads(make_model, documents):
    calls = []
    history_perplexity(
        {"m": make_model("plain")}, documents, HISTORIES, max_targets=2, progress=lambda *n: calls.append(n)
    )
    assert calls[-1] == (2 * LENGTH,) * 2  # one segment per target serves every history


# -- targets --


def choose(lengths, history, seed=0, per_document=3, most=100):
    return choose_targets(
        lengths,
        history,
        segment_length=LENGTH,
        targets_per_document=per_document,
        max_targets=most,
        seed=seed,
    )


def test_targets_have_their_history_and_are_whole():
    lengths = [7, 60, 100, 45, 31, 32]
    for target in choose(lengths, 3):
        assert 3 <= target.segment and (target.segment + 1) * LENGTH <= lengths[target.document]
    assert {t.document for t in choose(lengths, 3)} == {1, 2, 3, 5}
    assert Target(5, 3) in choose(lengths, 3)


def test_targets_depend_on_the_seed_alone():
    lengths = [200] * 10
    assert choose(lengths, 2) == choose(lengths, 2) == sorted(choose(lengths, 2))
    assert choose(lengths, 2) != choose(lengths, 2, seed=1)
    assert len(set(choose(lengths, 2))) == 30
    assert len(choose(lengths, 2, most=4)) == 4


def test_windows_end_with_the_target():
    document = list(range(100))
    windows = gather_windows([[], document], [Target(1, 5)], 2, LENGTH)
    assert windows.tolist() == [list(range(24, 48))]
    assert gather_windows([[], np.array(document, dtype=np.int32)], [Target(1, 5)], 2, LENGTH).equal(windows)


def test_too_short_says_how_many_documents_qualify_and_what_would_fit(make_model, documents):
    with pytest.raises(ValueError) as error:
        history_perplexity({"m": make_model("hmt")}, documents, (0, 20))
    message = str(error.value)
    assert "0 of 5 documents qualify" in message and "168 tokens" in message
    assert "the largest history that fits is 11, with 1 document" in message
    history_perplexity({"m": make_model("plain")}, documents, (0, 11), max_targets=1)
    with pytest.raises(ValueError, match="less than a single segment"):
        history_perplexity({"m": make_model("hmt")}, [[1, 2, 3]], (0,))
    with pytest.raises(ValueError, match="no documents"):
        history_perplexity({"m": make_model("hmt")}, [], (0,))


# -- settings --


def test_default_skip_covers_what_a_recall_prompt_has_seen(make_model, documents):
    model = make_model("hmt", summary_length=6)
    assert unscored_head(model) == 6
    assert unscored_head(make_model("hmt", summary_length=6, recall=False)) == 1
    both = {"hmt": model, "rmt": make_model("rmt")}
    assert history_perplexity(both, documents, (0,), max_targets=1).skip == 6
    with pytest.raises(ValueError, match="recall prompt of hmt sees the first 6 tokens"):
        history_perplexity(both, documents, (0,), skip=5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"skip": 0}, "skip must be at least 1"),
        ({"skip": 8}, "leaves nothing to score"),
        ({"histories": ()}, "histories are different"),
        ({"histories": (0, 0)}, "histories are different"),
        ({"histories": (-1,)}, "histories are different"),
        ({"segment_length": 16}, "theirs differ"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_targets": 0}, "max_targets"),
        ({"models": {}}, "no models"),
    ],
)
def test_settings_that_cannot_work(make_model, documents, options, message):
    arguments = {"models": {"m": make_model("rmt")}, "documents": documents, "histories": (0, 1), **options}
    with pytest.raises(ValueError, match=message):
        history_perplexity(**arguments)


def test_summary_of_the_whole_segment_and_foreign_tokens(make_model, documents):
    with pytest.raises(ValueError, match="leaves nothing to score .the recall prompt of m sees 8"):
        history_perplexity({"m": make_model("hmt", summary_length=8)}, documents, (0,))
    with pytest.raises(ValueError, match="outside the vocabulary of 50"):
        history_perplexity({"m": make_model("rmt", vocab_size=50)}, documents, (0,))
    models = {"a": make_model("rmt"), "b": make_model("rmt", segment_length=4)}
    with pytest.raises(ValueError, match="a: 8, b: 4"):
        history_perplexity(models, documents, (0,))


# -- results --


def result_of(**nll):
    targets = [Target(i // 2, i) for i in range(len(next(iter(nll.values()))[0]))]
    return HistoryResult(nll=nll, targets=targets, segment_length=8, skip=4, documents=9, long_enough=4)


def test_numbers_from_nll():
    result = result_of(a={0: [4.0, 8.0], 1: [4.0, 4.0]})
    assert result.tokens == 8 and result.histories == [0, 1]
    assert result.perplexity("a", 0) == pytest.approx(math.exp(1.5))
    assert result.bits_per_token("a", 1) == pytest.approx(1 / math.log(2))
    with pytest.raises(ValueError, match="no result for 'b' at history 0"):
        result.total("b", 0)


def test_paired_difference():
    noise = np.random.default_rng(0).normal(0, 0.4, 200)
    base = np.random.default_rng(1).normal(12, 4, 200)
    result = result_of(a={0: list(base + noise - 0.4), 1: list(base)}, b={0: list(base), 1: list(base)})
    gap = result.paired("a", "b", 0)
    assert gap.mean == pytest.approx(noise.mean() / 4 - 0.1)
    spread = 1.96 * noise.std() / 4 / math.sqrt(200)
    assert (gap.high - gap.low) / 2 == pytest.approx(spread, rel=0.1)
    assert gap.low < -0.1 < gap.high < 0 and gap.targets == 200
    assert gap == result.paired("a", "b", 0)
    assert result.paired("a", "b", 1) == (0.0, 0.0, 0.0, 200)
    assert result.paired("a", "a", 0, 1).mean == pytest.approx(gap.mean)
    by_document = result.paired("a", "b", 0, by="document")
    assert by_document.mean == gap.mean and by_document.low < gap.mean < by_document.high
    assert gap.perplexity_ratio == pytest.approx(math.exp(gap.mean))


def test_json_round_trip(make_model, documents):
    models = {"a": make_model("rmt"), "b": make_model("window")}
    result = history_perplexity(models, documents, (0, 1), seed=3)
    again = HistoryResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    assert (again.documents, again.long_enough, again.seed) == (5, 4, 3)
    merged = result.merged({"both": ["a", "b"]})
    assert merged.nll["both"][1][0] == pytest.approx((result.nll["a"][1][0] + result.nll["b"][1][0]) / 2)
