"""A whole run: what it writes, what it leaves out and says so, what is left after Ctrl-C."""

import json

import pytest
import torch

from hmt.bench import peaks, run
from hmt.bench.peaks import peak_here
from hmt.bench.plots import bench_plot, save
from hmt.bench.results import crossing
from hmt.bench.settings import Settings
from hmt.bench.show import label, seconds_text
from hmt.bench.timing import Case, take_turns
from hmt.bench.workbench import Workbench

SMALL = {
    "shape": "tiny",
    "segment_length": 8,
    "sensory_length": 2,
    "memory_size": 4,
    "lengths": (16, 32),
    "chunk": 2,
    "decode_after": (1, 30),
    "train_segments": (2, 3),
    "full_attention_max": 16,
    "repeats": 2,
    "device": "cpu",
    "systems": ("hmt-segment", "rmt", "full"),
}


@pytest.fixture
def no_children(monkeypatch):
    """Points of memory are measured in this process: the numbers mean nothing, and no second is lost."""
    monkeypatch.setattr(peaks, "_in_child", lambda bench, point: (peak_here(bench, point), ""))


def test_everything_is_measured_and_told(no_children, tmp_path):
    seen, told = [], []
    results = run.run(
        Settings(**SMALL),
        save=seen.append,
        progress=lambda part, done, total: told.append((part, done, total)),
    )
    text = run.to_json(results)
    assert json.loads(text) == json.loads(json.dumps(results)) and str(tmp_path) not in text
    assert [found["finished"] for found in seen][-1] == ["reading", "decode", "training", "memory"]
    assert {part for part, _, _ in told} == set(results["finished"])
    assert all(0 <= done <= total for _, done, total in told)
    assert {"command", "commit", "seed", "torch", "transformers", "cores"} <= set(results["setup"])
    assert results["settings"]["lengths"] == (16, 32) and results["settings"]["dtype"] == "float32"

    reading = {(row["system"], row["length"]): row for row in results["reading"]}
    assert set(reading) == {(s, n) for s in SMALL["systems"] for n in (16, 32)} - {("full", 32)}
    row = reading["hmt-segment", 32]
    assert len(row["seconds_raw"]) == 2 and row["seconds_min"] <= row["seconds"]
    assert row["tokens_per_second"] == pytest.approx(32 / row["seconds"])
    passes = [8 + 2 + 2, 4 + 2]
    assert results["systems"]["hmt-segment"]["passes_per_segment"] == passes
    rate = results["bound"]["reading"]["tokens_per_second"]
    assert row["of_bound"] == pytest.approx(row["tokens_per_second"] / (rate * 8 / sum(passes)))
    busy = results["bound"]["reading"]["processor_seconds"] * 4 * sum(passes) / 8
    assert row["of_bound_processor"] == pytest.approx(busy / row["processor_seconds"])
    assert reading["full", 16]["of_bound"] is None
    assert min(row["first_token_seconds"], row["question_seconds"]) > 0
    assert "flop_utilisation" not in row

    decode = {(row["system"], row["after_segments"]): row for row in results["decode"]}
    assert set(decode) == {("hmt-segment", 1), ("hmt-segment", 30), ("rmt", 1), ("rmt", 30), ("full", 1)}
    assert decode["rmt", 30]["really_read"] == 16 and decode["rmt", 1]["really_read"] == 1
    assert [len(times) for times in decode["rmt", 30]["seconds_raw"]] == [8, 8]

    training = {(row["system"], row["segments"], row["replay"]): row for row in results["training"]}
    assert set(training) == {
        (s, n, replay) for s in ("hmt-segment", "rmt") for n in (2, 3) for replay in (False, True)
    }
    plain, replayed = training["rmt", 3, False], training["rmt", 3, True]
    assert replayed["bound_tokens_per_second"] == pytest.approx(0.75 * plain["bound_tokens_per_second"])

    assert {(row["system"], row["length"]) for row in results["memory"]["reading"]} == set(reading)
    assert len(results["memory"]["training"]) == len(training)
    assert all(row["peak"] >= row["peak_before"] > 0 for row in results["memory"]["training"])
    skipped = [(row["part"], row["system"]) for row in results["skipped"]]
    assert skipped == [("reading", "full"), ("decode", "full"), ("memory, reading", "full")]
    assert all("--full-attention-max 16" in row["why"] for row in results["skipped"])
    assert set(results["crossover"]["reading"]) == {"hmt-segment", "rmt"}

    save(bench_plot(json.loads(text)), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_interrupted_runs_leave_what_was_measured(monkeypatch):
    def stop(bench, progress):
        raise KeyboardInterrupt

    saved = []
    monkeypatch.setitem(run._MEASURE, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        run.run(Settings(**SMALL, parts=("reading", "decode")), save=saved.append)
    assert saved[-1]["finished"] == ["reading"] and len(saved[-1]["reading"]) == 5
    assert saved[-1]["decode"] == [] and saved[-1]["training"] == []
    titles = [axes.get_title("left") for axes in bench_plot(saved[-1]).axes]
    assert titles == ["Reading (tokens/s)", "Share of the FLOP bound", "First token (s)"], (
        "only what was measured"
    )


def test_cases_take_turns_and_one_that_does_not_fit_is_left_out():
    order, skipped = [], []

    def case(name: str, fails: bool = False) -> Case:
        def one():
            order.append(name)
            if fails:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return {"lap": 1.0}

        return Case({"system": name}, one, lambda: order.append(f"warm {name}"), work=1)

    cases = [case("a"), case("b", fails=True), case("c")]
    take_turns(cases, 2, lambda facts, why: skipped.append((facts["system"], why)), lambda done, total: None)
    assert order == ["warm a", "warm b", "warm c", "a", "b", "c", "a", "c"]
    assert [len(case.laps) for case in cases] == [2, 0, 2] and skipped == [("b", "out of memory")]

    broken = Case({}, lambda: 1 / 0, lambda: None, work=1)
    with pytest.raises(ZeroDivisionError):
        take_turns([broken], 1, lambda facts, why: None, lambda done, total: None)


def test_a_point_of_memory_in_a_process_of_its_own():
    settings = Settings(**SMALL | {"systems": ("rmt",), "lengths": (64,)})
    bench = Workbench.build(settings)
    ballast = torch.ones(2**26)  # 256 MiB that the child must not be charged with
    found, why = peaks._in_child(bench, {"kind": "reading", "system": "rmt", "length": 64})
    assert ballast.sum() > 0 and not why and found is not None
    assert 0 < found["before"] <= found["peak_before"] <= found["peak"]
    assert found["peak"] < peaks.peak_memory("cpu")


def test_steps_that_ram_cannot_hold_are_left_out(monkeypatch, no_children):
    monkeypatch.setattr("hmt.bench.training.stored_per_segment", lambda model, ids: 2**60)
    small = SMALL | {
        "systems": ("rmt",),
        "parts": ("training", "memory"),
        "train_segments": (2,),
        "repeats": 1,
    }
    results = run.run(Settings(**small))
    assert [row["replay"] for row in results["training"]] == [True]
    assert [row["replay"] for row in results["memory"]["training"]] == [True]
    assert ["for the backward pass" in row["why"] for row in results["skipped"]] == [True, True]


def test_crossing():
    assert crossing({1024: 0.5, 4096: 2.0}) == {"tokens": 2048, "at_most": False}
    assert crossing({1024: 1.5, 4096: 2.0}) == {"tokens": 1024, "at_most": True}
    assert crossing({1024: 0.5, 4096: 0.9}) is None and crossing({}) is None


def test_small_parts():
    assert [label(name) for name in ("hmt-segment", "rmt", "full")] == [
        "HMT segment",
        "RMT",
        "full attention",
    ]
    assert [seconds_text(s) for s in (0.00123, 1.5, 1234)] == ["1.23 ms", "1.5 s", "1,234 s"]
    settings = Settings(**SMALL)
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
