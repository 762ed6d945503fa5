"""`hmt train`, end to end and stopped half-way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import hmt
from hmt.systems import get
from hmt.training.start import read_recipe

SMALL = ["--segment-length", "8", "--memory-size", "4", "--sensory-length", "2", "--logging-steps", "1"]
SMALL += ["--save-steps", "2", "--lr", "1e-3", "--bptt-depth", "4"]


def call(*arguments, expect=0):
    from hmt.cli import app

    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == expect, result.output
    return result.output


@pytest.fixture
def text_file(tmp_path, texts):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"words": text}) + "\n" for text in texts))
    return path


def test_end_to_end(backbone_folder, text_file, tmp_path):
    steps = ["--stage1-steps", 2, "--stage2-steps", 4, "--curriculum", "2,4", "--tuning", "lora"]
    steps += ["--recall-loss", 0.5, "--recall-targets", "ngram", "--repetition", 0.25]
    steps += [
        "--embeddings-per-segment",
        2,
        "--memory-scale",
        "embedding",
        "--attn",
        "eager",
        "--interleave",
        8,
        "--dilate",
        8,
    ]
    out = tmp_path / "out"
    held_out = ["--eval-data", text_file, "--eval-steps", 2]
    output = call(backbone_folder, text_file, "-o", out, "--text-field", "words", *SMALL, *steps, *held_out)
    assert "memory-4: 2 steps" in output and "peak memory" in output
    model = hmt.load_model(out)
    assert model.config.embeddings_per_segment == 2 and model.config.memory_scale != 1
    assert model.has_lora() and model.config.recall and model.config.memory_size == 4
    assert model(torch.arange(3, 30)[None]).logits.isfinite().all()

    # a trained model, and any checkpoint, can be trained further
    checkpoint = out / "stage-1-recurrence" / "checkpoint-2"
    common = ["--text-field", "words", "--stage1-steps", 0, "--stage2-steps", 1, "--bptt-depth", 2]
    call(checkpoint, text_file, "-o", tmp_path / "more", *common, "--tuning", "lora")
    assert hmt.load_model(tmp_path / "more").config.recall
    wrong = call(
        out, text_file, "-o", tmp_path / "x", *common, "--memory-size", 9, "--text-field", "words", expect=2
    )
    assert "--memory-size cannot change it" in wrong


def test_a_recipe_in_a_file(backbone_folder, text_file, tmp_path):
    """System, fields and stages come from it, and nothing that is in it from elsewhere."""
    stages = [{"name": "one", "segments": 2, "steps": 1, "recall": False}]
    stages += [{"name": "two", "segments": 3, "steps": 2, "learning_rate": 1e-3}]
    fields = {"segment_length": 8, "memory_size": 5, "sensory_length": 2, "recall_query": "previous"}
    found = {"system": "hmt", "fields": fields, "recipe": {"stages": stages, "tuning": "frozen"}}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(found))
    common = [backbone_folder, text_file, "--text-field", "words", "--recipe", path]
    output = call(*common, "-o", tmp_path / "out")
    assert "one: 1 steps" in output and "two: 2 steps" in output
    model = hmt.load_model(tmp_path / "out")
    assert model.config.memory_size == 5 and model.config.recall_query == "previous"
    assert "the model is in" in call(*common, "-o", tmp_path / "out", "--resume")
    for option in (["--lr", 1], ["--memory-size", 3], ["--set", "recall=false"], ["--system", "rmt"]):
        assert f"{option[0]} is in the recipe" in call(*common, "-o", tmp_path / "x", *option, expect=2)
    for wrong, said in (
        ("{", "is not JSON"),
        ('{"stages": []}', "is no recipe"),
        ('{"recipe": {"stages": []}}', "needs at least one stage"),
        ('{"recipe": {}, "lr": 1}', "has 'lr'"),
    ):
        path.write_text(wrong)
        assert said in " ".join(call(*common, "-o", tmp_path / "x", expect=2).split())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").glob("*.json")), ids=lambda path: path.stem
)
def test_the_recipes_that_come_along_can_be_read(path):
    recipe, system, fields = read_recipe(path)
    text = {"model_type": "llama", "vocab_size": 97}
    config = get(system).config(text_config=text, **fields)
    assert recipe.stages and config.segment_length == fields["segment_length"]


def test_writing_first(backbone_folder, text_file, tmp_path):
    steps = ["--copy-steps", 2, "--repetition-steps", 1, "--stage1-steps", 0, "--stage2-steps", 1]
    memory = ["--embeddings-per-segment", 2, "--write-prompt", "learned"]
    out = tmp_path / "out"
    output = call(backbone_folder, text_file, "-o", out, "--text-field", "words", *SMALL, *memory, *steps)
    assert "copying: 2 steps" in output and "repetition: 1 steps" in output and "memory: 1 steps" in output
    assert hmt.load_model(out).config.write_prompt == "learned"


def test_other_systems(backbone_folder, text_file, tmp_path):
    common = [
        "--text-field",
        "words",
        "--segment-length",
        8,
        "--stage1-steps",
        1,
        "--stage2-steps",
        1,
        "--bptt-depth",
        2,
    ]
    call(backbone_folder, text_file, "-o", tmp_path / "rmt", *common, "--system", "rmt", "--memory-size", 3)
    assert hmt.load_model(tmp_path / "rmt").config.num_memory_tokens == 3
    call(
        backbone_folder, text_file, "-o", tmp_path / "w", *common, "--system", "window", "--sensory-length", 4
    )
    assert hmt.load_model(tmp_path / "w").config.window_length == 4
    sized = ["--system", "window", "--memory-size", 4]
    assert "has no --memory-size" in call(
        backbone_folder, text_file, "-o", tmp_path / "x", *common, *sized, expect=2
    )


def test_mistakes(backbone_folder, text_file, tmp_path):
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    assert "nothing is not there" in call(tmp_path / "nothing", text_file, "-o", out, expect=2)
    AutoModelForCausalLM.from_pretrained(backbone_folder).save_pretrained(tmp_path / "bare")
    assert "no tokenizer" in call(tmp_path / "bare", text_file, "-o", out, expect=2)
    assert "'text'" in call(backbone_folder, text_file, "-o", out, expect=2)
    assert "such as 2,4,8" in call(backbone_folder, text_file, "-o", out, "--curriculum", "2,x", expect=2)
    assert "recall_targets" in call(backbone_folder, text_file, "-o", out, "--recall-loss", 1, expect=2)
    reporter = ["--text-field", "words", "--report-to", "papr"]
    assert "papr is not supported" in call(backbone_folder, text_file, "-o", out, *reporter, expect=2)
    assert not out.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_and_resume(backbone_folder, text_file, tmp_path):
    out = tmp_path / "out"
    arguments = ["train", backbone_folder, str(text_file), "-o", str(out), "--text-field", "words", *SMALL]
    arguments += ["--stage1-steps", "2", "--stage2-steps", "4000", "--save-steps", "100000"]
    code = "import sys; from hmt.cli import main; sys.argv[0] = 'hmt'; main()"
    source = str(Path(hmt.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    log, patience = out / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and '"memory"' in log.read_text()) and time.monotonic() < patience:
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    step = int(re.search(r"stopped by SIGINT after step (\d+) of stage 'memory'", error)[1])
    checkpoint = out / "stage-2-memory" / f"checkpoint-{step}"
    assert (checkpoint / "trainer_state.json").exists() and not (out / "config.json").exists()
    assert hmt.load_model(checkpoint).config.recall
    # resuming with other settings is refused: the run was to have 4000 steps
    arguments[arguments.index("4000")] = "5000"
    assert "steps was 4000, is 5000" in " ".join(call(*arguments[1:], "--resume", expect=2).split())
