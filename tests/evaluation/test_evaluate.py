"""Readers x tasks: exact numbers, interruption, and folders of other runs."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hmt.evaluation.predictions import Predictions, plain, slug
from hmt.evaluation.readers.base import Reader
from hmt.evaluation.run import evaluate
from hmt.evaluation.summary import cells, estimate, paired
from hmt.evaluation.tasks.base import Metric, Setting, Task
from hmt.util.files import only_writer


class FakeTokenizer:
    def __init__(self, *tokens):
        self.tokens = tokens

    def get_vocab(self):
        return {token: number for number, token in enumerate(self.tokens)}


class FakeReader(Reader):
    """Knows its scores; counts what it is asked, and stops where it is told to."""

    def __init__(self, name, scores, stop_at=None, **fields):
        self.name, self.scores, self._stop_at, self.asked = name, scores, stop_at, []
        self.bytes_carried = fields.pop("bytes_carried", 100)
        for field, value in fields.items():
            setattr(self, field, value)

    def flops_per_token(self, segment_length):
        return 10.0 * segment_length

    def answer(self, item):
        if len(self.asked) == self._stop_at:
            raise KeyboardInterrupt
        self.asked.append(item)
        return self.scores[item]

    def read(self, ids): ...
    def generate(self, memory, prompt, max_new_tokens, stop=None): ...
    def logits(self, memory, prompt, continuation): ...
    def target_nats(self, history, target): ...


@dataclass(frozen=True, kw_only=True)
class FakeTask(Task):
    name = "fake"
    metrics = (Metric("nats", "lower", "perplexity"), Metric("hit"))
    axes = ("segments",)
    items: int = 6

    def run(self, reader, setting, done=(), progress=None, shared=None):
        for number in range(self.items):
            if str(number) not in done:
                raw = reader.answer(number)
                facts = {"segments": 4 if number % 2 else 16}
                record = {"id": str(number), "group": f"d{number // 2}", "facts": facts, "raw": raw}
                yield self.rescore(record)
            if progress is not None:
                progress(number + 1, self.items)

    def rescore(self, record):
        raw = record["raw"]
        scores = {"nats": raw, "hit": None if raw is None or math.isnan(raw) else float(raw > 2)}
        return {**record, "scores": scores, "weights": {"nats": 1 + int(record["id"])}}

    def extras(self, records):
        return {"ids": [record["id"] for record in records]}


SETTING = Setting(FakeTokenizer("a", "b"), 8)
A, B = [1.0, 2.0, 3.0, 4.0, None, math.nan], [2.0, 2.0, 5.0, 4.0, 1.0, 1.0]


def readers(**fields):
    return [FakeReader("one 1 KiB", A, **fields), FakeReader("two", B, bytes_carried=None, limit=64)]


def test_exact_numbers(tmp_path):
    told = []
    found = evaluate(readers(), [FakeTask(limit=9)], SETTING, tmp_path, lambda *step: told.append(step))
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert found["format"] == 1 and found["setup"]["seed"] == 0 and found["setup"]["segment_length"] == 8
    assert found["readers"]["two"] == {
        "bytes_carried": None, "extra_parameters": 0, "flops_per_token": 80.0, "limit": 64,
    }  # fmt: skip
    task = found["tasks"]["fake"]
    assert task["settings"] == {"source": None, "split": "test", "limit": 9, "seed": 0, "items": 6}
    assert task["metrics"][1] == {"name": "hit", "better": "higher", "show": "percent"}
    one, two = task["readers"]["one 1 KiB"], task["readers"]["two"]
    # weights 1 .. 6; the last two scores of `one` are missing
    assert one["metrics"]["nats"]["mean"] == pytest.approx((1 + 4 + 9 + 16) / 10)
    assert one["metrics"]["nats"]["weight"] == 10 and one["n"] == 6
    assert one["metrics"]["hit"]["mean"] == 0.5 and one["metrics"]["hit"]["weight"] == 4
    assert two["metrics"]["nats"]["mean"] == pytest.approx((2 + 4 + 15 + 16 + 5 + 6) / 21)
    assert [cell["facts"] for cell in two["cells"]] == [{"segments": 4}, {"segments": 16}]
    assert two["cells"][0]["metrics"]["nats"]["mean"] == pytest.approx((4 + 16 + 6) / 12)
    assert two["cells"][0]["n"] == 3 and two["extras"] == {"ids": list("012345")}
    gap = task["paired"]["two"]["one 1 KiB"]["nats"]
    assert gap["mean"] == pytest.approx(3.0 - (2 + 4 + 15 + 16) / 10) and gap["n"] == 4
    assert gap["low"] <= gap["mean"] <= gap["high"]
    back = task["paired"]["one 1 KiB"]["two"]["nats"]
    assert (back["mean"], back["low"], back["high"]) == (-gap["mean"], -gap["high"], -gap["low"])
    assert task["chance"] == {} and two["curve"] == two["cells"]
    by_cell = task["paired_cells"]["two"]["one 1 KiB"][1]
    assert by_cell["facts"] == {"segments": 16}
    assert by_cell["metrics"]["nats"]["mean"] == pytest.approx((1 + 9 - 2 - 15) / 4)
    assert told[:2] == [("fake", "one 1 KiB", 0, 0), ("fake", "one 1 KiB", 1, 6)] and len(told) == 14
    lines = (tmp_path / "predictions" / "fake" / "one-1-KiB.jsonl").read_text().splitlines()
    assert len(lines) == 7 and json.loads(lines[0])["reader"] == "one 1 KiB"
    assert (
        json.loads(lines[6])["raw"] is None and str(Path.cwd()) not in (tmp_path / "results.json").read_text()
    )


def test_what_readers_share_is_prepared_once(tmp_path):
    class Counting(FakeTask):
        prepared, got = [], []

        def prepare(self, setting):
            self.prepared.append(setting)
            return self.prepared

        def run(self, reader, setting, done=(), progress=None, shared=None):
            self.got.append(shared)
            return super().run(reader, setting, done, progress)

    evaluate(readers(), [Counting()], SETTING, tmp_path)
    assert Counting.prepared == [SETTING] and [got is Counting.prepared for got in Counting.got] == [
        True,
        True,
    ]


def test_an_interrupted_run_goes_on(tmp_path):
    stopped, (whole, second) = FakeReader("one 1 KiB", A, stop_at=3), readers()
    with pytest.raises(KeyboardInterrupt):
        evaluate([stopped, second], [FakeTask()], SETTING, tmp_path / "a")
    file = tmp_path / "a" / "predictions" / "fake" / "one-1-KiB.jsonl"
    assert len(file.read_bytes().splitlines()) == 4 and not (tmp_path / "a" / "results.json").exists()
    cut = file.read_bytes()
    file.write_bytes(cut[:-5])  # the power failed while the third record was written
    again = FakeReader("one 1 KiB", A)
    found = evaluate([again, second], [FakeTask()], SETTING, tmp_path / "a")
    assert stopped.asked == [0, 1, 2] and again.asked == [2, 3, 4, 5]
    assert found["tasks"] == evaluate([whole, readers()[1]], [FakeTask()], SETTING, tmp_path / "b")["tasks"]
    other = tmp_path / "b" / "predictions" / "fake" / "one-1-KiB.jsonl"
    assert file.read_bytes() == other.read_bytes()
    third = FakeReader("one 1 KiB", A)
    evaluate([third, readers()[1]], [FakeTask()], SETTING, tmp_path / "a")
    assert third.asked == []
    evaluate([third], [FakeTask()], SETTING, tmp_path / "a", overwrite=True)
    assert third.asked == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("task", "setting", "fields", "named"),
    [
        (FakeTask(items=5), SETTING, {}, "settings.items is 6, and now it is 5"),
        (FakeTask(), Setting(FakeTokenizer("a", "c"), 8), {}, "tokenizer_digest"),
        (FakeTask(), Setting(SETTING.tokenizer, 16), {}, "segment_length is 8, and now it is 16"),
        (FakeTask(), SETTING, {"bytes_carried": 7}, "model.settings.bytes_carried"),
    ],
)
def test_answers_of_another_run_are_not_mixed_in(tmp_path, task, setting, fields, named):
    evaluate(readers(), [FakeTask()], SETTING, tmp_path)
    before = (tmp_path / "predictions" / "fake" / "one-1-KiB.jsonl").read_bytes()
    asked = readers(**fields)
    with pytest.raises(ValueError, match=named) as error:
        evaluate(asked, [task], setting, tmp_path)
    assert "--output" in str(error.value) and "--overwrite" in str(error.value)
    assert asked[0].asked == [] and asked[1].asked == []
    assert (tmp_path / "predictions" / "fake" / "one-1-KiB.jsonl").read_bytes() == before


def test_another_model_of_the_same_shape_is_noticed(tmp_path, make_model):
    def run(model):
        return evaluate([FakeReader("m", B, model=model)], [FakeTask()], SETTING, tmp_path)

    model = make_model("hmt")
    run(model)
    run(make_model("hmt"))  # the same weights in another object
    for parameter in model.parameters():
        parameter.data += 0.5
    with pytest.raises(ValueError, match="model.weights"):
        run(model)


def test_changed_scores_are_computed_anew_without_asking(tmp_path):
    class Doubled(FakeTask):
        def rescore(self, record):
            record = super().rescore(record)
            return {**record, "scores": {"nats": 2 * record["raw"], "hit": 1.0}}

    evaluate([FakeReader("two", B)], [FakeTask()], SETTING, tmp_path)
    reader = FakeReader("two", B)
    found = evaluate([reader], [Doubled()], SETTING, tmp_path)["tasks"]["fake"]["readers"]["two"]
    assert reader.asked == [] and found["metrics"]["nats"]["mean"] == pytest.approx(2 * 48 / 21)
    last = (tmp_path / "predictions" / "fake" / "two.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["scores"]["nats"] == 2.0


def test_two_axes_make_a_curve_over_the_first_and_a_map_over_both(tmp_path):
    class Grid(FakeTask):
        axes = ("segments", "depth")

        def rescore(self, record):
            record = super().rescore(record)
            return {**record, "facts": {**record["facts"], "depth": int(record["id"]) % 3 / 2}}

    task = evaluate(readers(), [Grid()], SETTING, tmp_path)["tasks"]["fake"]
    two = task["readers"]["two"]
    assert [cell["facts"] for cell in two["curve"]] == [{"segments": 4}, {"segments": 16}]
    assert len(two["cells"]) == 6 and {cell["n"] for cell in two["cells"]} == {1}
    assert two["curve"][0]["metrics"]["nats"]["mean"] == pytest.approx((4 + 16 + 6) / 12)
    assert [row["facts"] for row in task["paired_cells"]["two"]["one 1 KiB"]] == [
        {"segments": 4},
        {"segments": 16},
    ]


def test_a_reader_may_have_nothing_to_do_but_not_all_of_them(tmp_path):
    class Some(FakeTask):
        def run(self, reader, setting, done=(), progress=None, shared=None):
            return iter(()) if reader.name == "two" else super().run(reader, setting, done, progress)

    task = evaluate(readers(), [Some()], SETTING, tmp_path)["tasks"]["fake"]
    assert task["readers"]["two"]["n"] == 0 and task["readers"]["two"]["metrics"]["nats"]["mean"] is None
    with pytest.raises(ValueError, match="no items for these readers"):
        evaluate([FakeReader("two", B)], [Some()], SETTING, tmp_path / "other")


def test_names_that_would_share_a_file(tmp_path):
    with pytest.raises(ValueError, match="differ in letters or digits"):
        evaluate([FakeReader("a b", B), FakeReader("A-b", B)], [FakeTask()], SETTING, tmp_path)
    with pytest.raises(ValueError, match="no tasks"):
        evaluate(readers(), [], SETTING, tmp_path)
    assert slug("../window 16 KiB") == "window-16-KiB"


def test_a_damaged_file_and_a_repeated_id(tmp_path):
    with Predictions(tmp_path / "p.jsonl", {"a": 1}) as file:
        file.append({"id": "1", "x": np.float32(math.inf), "y": (1, np.arange(2))})
        with pytest.raises(ValueError, match="already is a record '1'"):
            file.append({"id": "1"})
    assert Predictions(tmp_path / "p.jsonl", {"a": 1}).records == [{"id": "1", "x": None, "y": [1, [0, 1]]}]
    (tmp_path / "p.jsonl").write_text('{"a": 1}\n{"id": \n{"id": "2"}\n')
    with pytest.raises(ValueError, match="line 2 of"):
        Predictions(tmp_path / "p.jsonl", {"a": 1})
    assert plain({1: {"x": math.nan}}) == {"1": {"x": None}}


def test_only_answers_are_begun_anew(tmp_path):
    path = tmp_path / "p.jsonl"
    for there in (b"my notes\n", b'{"b": 1}\n', b"[1]\n", b"\xff"):
        path.write_bytes(there)
        with pytest.raises(ValueError, match="holds no answers of hmt eval"):
            Predictions(path, {"a": 1}, overwrite=True)
        assert path.read_bytes() == there
    for there in (b'{"a": 2}\n{"id": "1"}\n', b""):  # of other settings; of a run that was killed at once
        path.write_bytes(there)
        assert Predictions(path, {"a": 1}, overwrite=True).records == [] and not path.exists()


def records(nats, documents):
    return [
        {"id": str(i), "group": f"{d}", "facts": {"h": i % 3}, "scores": {"m": value}}
        for i, (value, d) in enumerate(zip(nats, documents, strict=True))
    ]


def test_paired_differences_are_resampled_over_whole_documents():
    noise, base = np.random.default_rng(0).normal(0, 0.4, 200), np.random.default_rng(1).normal(12, 4, 200)
    a, b = base + noise - 0.4, base
    gap = paired(records(a, range(200)), records(b, range(200)), "m")  # a document each
    assert gap["mean"] == pytest.approx(noise.mean() - 0.4) and gap["n"] == 200
    spread = 1.96 * noise.std() / math.sqrt(200)  # that of the differences, not of the scores
    assert (gap["high"] - gap["low"]) / 2 == pytest.approx(spread, rel=0.1)
    assert gap["low"] < -0.4 < gap["high"] < 0
    assert gap == paired(records(a, range(200)), records(b, range(200)), "m")
    same = paired(records(b, range(200)), records(b, range(200)), "m")
    assert (same["mean"], same["low"], same["high"]) == (0.0, 0.0, 0.0)
    # ten documents of twenty targets that differ by the same: as uncertain as ten numbers
    shift = np.random.default_rng(2).normal(size=10).repeat(20)
    documents = np.arange(200) // 20
    few = paired(records(base + shift, documents), records(base, documents), "m")
    draws = np.random.default_rng(3).integers(10, size=(4000, 10))
    low, high = np.percentile(shift[::20][draws].mean(1), [2.5, 97.5])
    assert few["low"] == pytest.approx(low, abs=0.1) and few["high"] == pytest.approx(high, abs=0.1)


def test_intervals_cover_the_mean_of_documents_and_not_of_records():
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        truth = np.repeat(draw.normal(size=20), 10)  # ten equal records per document
        found = estimate(records(truth, np.arange(200) // 10), "m", resamples=300, seed=trial)
        covered += found["low"] <= 0 <= found["high"]
    assert 165 <= covered <= 200  # over single records it would be about 90


def test_what_has_no_interval():
    one = records([1.0, 2.0], [0, 0])
    assert estimate(one, "m") == {"mean": 1.5, "low": None, "high": None, "weight": 2.0}
    assert estimate(one, "other") == {"mean": None, "low": None, "high": None, "weight": 0.0}
    assert paired(one, records([1.0], [0]), "m") == {"mean": 0.0, "low": None, "high": None, "n": 1}
    assert paired(one, [], "m")["mean"] is None
    assert [facts for facts, _ in cells(records([1.0] * 4, [0] * 4), ["h"])] == [{"h": 0}, {"h": 1}, {"h": 2}]
    assert cells(one, []) == []


def test_many_groups_are_drawn_in_blocks():
    values = np.random.default_rng(0).normal(size=3000)
    found = estimate(records(values, range(3000)), "m")
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * values.std() / 3000**0.5, rel=0.08)


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with only_writer(tmp_path / "predictions"):
        with pytest.raises(ValueError, match="another run is writing to .*predictions.*--output"):
            evaluate(readers(), [FakeTask()], SETTING, tmp_path)
    evaluate(readers(), [FakeTask()], SETTING, tmp_path)
