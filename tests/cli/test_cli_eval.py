"""`hmt eval --data`: numbers equal the library's, files are complete, meaningless comparisons are refused."""

import json

import pytest

from hmt import load_model
from hmt.cli.eval_tasks import unique_name
from hmt.evaluation import MemoryReader, Setting, make_task
from hmt.evaluation.summary import estimate
from hmt.systems import load_tokenizer
from hmt.util.environment import commit
from hmt.util.format import score_text

from .models import TEXT


@pytest.fixture
def data(workplace):
    with (workplace / "docs.jsonl").open("w", encoding="utf-8") as file:
        for start in (0, 300, 600):
            file.write(json.dumps({"text": TEXT[start:], "name": f"from {start}"}) + "\n")
        file.write(json.dumps({"text": "Too short."}) + "\n")
    return "docs.jsonl"


def test_numbers_and_files(hmt, folders, data, workplace):
    result = hmt(
        *("eval", folders / "hmt", folders / "rmt", "--data", data, "--history", "0,1,5", "-o", "out"),
        *("--baselines", "alone,sensory", "--set", "text.max_targets=6", "--seed", 3),
    )
    results = json.loads((workplace / "out" / "results.json").read_text(encoding="utf-8"))
    task = results["tasks"]["text"]
    first, *others = task["readers"]
    assert first.startswith("hmt") and others == ["rmt", "alone", "sensory"]
    assert {entry["n"] for entry in task["readers"].values()} == {18}
    assert task["settings"]["seed"] == 3 and task["settings"]["histories"] == [0, 1, 5]

    model = load_model(folders / "hmt")
    same = make_task("text", source=data, histories=(0, 1, 5), max_targets=6, seed=3)
    records = list(same.run(MemoryReader(model), Setting(load_tokenizer(folders / "hmt"), 16)))
    for cell in task["readers"][first]["curve"]:
        own = [record for record in records if record["facts"] == cell["facts"]]
        mean = cell["metrics"]["perplexity"]["mean"]
        assert mean == pytest.approx(estimate(own, "perplexity")["mean"], rel=1e-5)
        assert score_text(mean, "perplexity") in result.stdout
    setup = results["setup"]
    assert {"command", "commit", "seed", "torch", "transformers", "cores", "devices"} <= set(setup)
    assert setup["seed"] == 3


def test_comparisons_that_mean_nothing(error_of, folders, data):
    def error(*models, history="0,1", more=()):
        return error_of("eval", *models, "--data", data, "--history", history, "-o", "out", *more)

    message = error(folders / "hmt", folders / "other")
    assert "other and " in message and "different tokenizers" in message
    message = error(folders / "rmt", history="0,5000", more=("--baselines", "none"))
    assert "0 of 4 documents qualify" in message and "the largest history that fits is" in message
    assert "is named twice" in error(folders / "hmt", folders / "hmt")
    few = ("--set", "text.skip=3", "--baselines", "none")
    assert "sees the first 8 tokens" in error(folders / "hmt", more=few)


def test_missing_data(error_of, folders):
    assert "nope.txt does not exist" in error_of("eval", folders / "rmt", "--data", "nope.txt", "-o", "out")


def test_small_parts():
    assert unique_name("runs/a/hmt", {}) == "hmt"
    assert unique_name("runs/b/hmt", {"hmt": 1}) == "b/hmt"
    found = commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
