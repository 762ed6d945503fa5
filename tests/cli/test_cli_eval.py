"""`hmt eval`: numbers equal the library's, files are complete, meaningless comparisons are refused."""

import json

import pytest
from transformers import AutoTokenizer

from hmt import WindowForCausalLM, load_model
from hmt.cli.history import unique_name, whole_numbers
from hmt.evaluation import HistoryResult, history_perplexity
from hmt.util.environment import commit

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
        *("--window", "0,3", "--max-targets", 6, "--seed", 3),
    )
    results = json.loads((workplace / "out" / "results.json").read_text(encoding="utf-8"))
    found = HistoryResult.from_dict(results["perplexity"])
    assert found.models == ["hmt", "rmt", "window 0", "window 3"] and found.histories == [0, 1, 5]
    assert (found.documents, found.long_enough, found.seed, len(found.targets)) == (4, 3, 3, 6)

    tokenizer = AutoTokenizer.from_pretrained(folders / "hmt")
    lines = (workplace / data).read_text(encoding="utf-8").splitlines()
    ids = [[*tokenizer(json.loads(line)["text"]).input_ids, tokenizer.eos_token_id] for line in lines]
    first = load_model(folders / "hmt")
    window = WindowForCausalLM.from_backbone(first.backbone, segment_length=16, window_length=3)
    want = history_perplexity({"hmt": first, "window 3": window}, ids, (0, 1, 5), max_targets=6, seed=3)
    assert found.targets == want.targets
    for name in want.models:
        for history in want.histories:
            assert found.perplexity(name, history) == pytest.approx(want.perplexity(name, history), rel=1e-5)
            assert f"{found.perplexity(name, history):.3f}" in result.stdout

    assert (workplace / "out" / "perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert "Difference to window 0" in (workplace / "out" / "report.html").read_text(encoding="utf-8")
    assert "3 of 4 are long enough" in result.stdout
    assert set(results["memory"]) == set(found.models)
    assert {"command", "commit", "seed", "torch", "transformers", "cores", "devices"} <= set(results["setup"])
    assert results["setup"]["seed"] == 3 and results["baseline"] == "window 0"


def test_comparisons_that_mean_nothing(error_of, folders, data):
    def error(*models, history="0,1", more=()):
        return error_of("eval", *models, "--data", data, "--history", history, "-o", "out", *more)

    message = error(folders / "hmt", folders / "other")
    assert "other and " in message and "different tokenizers" in message
    message = error(folders / "hmt", history="0,5000")
    assert "0 of 4 documents qualify" in message and "the largest history that fits is" in message
    assert "is named twice" in error(folders / "hmt", folders / "hmt")
    assert "recall prompt of hmt sees" in error(folders / "hmt", more=("--skip", 3))


@pytest.mark.parametrize("history", ["0,one", "-1", "1.5", "0,,1", "2,2"])
def test_bad_history(error_of, folders, data, history):
    arguments = ("eval", folders / "rmt", "--data", data, f"--history={history}", "-o", "out")
    assert "0,1,4" in error_of(*arguments)


def test_missing_data_is_found_before_models_load(error_of):
    arguments = ("eval", "no-model", "--data", "nope.txt", "-o", "out")
    assert "nope.txt does not exist" in error_of(*arguments)


def test_small_parts():
    assert whole_numbers("--x", " 0, 4,16") == [0, 4, 16] and whole_numbers("--x", "") == []
    assert unique_name("runs/a/hmt", {}) == "hmt"
    assert unique_name("runs/b/hmt", {"hmt": 1}) == "b/hmt"
    found = commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
