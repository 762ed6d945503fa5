"""The system that CONTRIBUTING.md walks through is built from its text, and is found by everything."""

import re
import sys
from pathlib import Path

import pytest
import torch
from backbones import random_ids, tiny_backbone

import hmt.systems
from hmt.bench.readers import system_names
from hmt.training import Recipe, Stage, train

from . import cases, test_checkpoints, test_generate, test_memory_file, test_reference, test_streams
from .cases import L

TEXT = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def mean(tmp_path, monkeypatch):
    """The folder of the page, beside those of the library."""
    files = re.findall(r"`src/hmt/systems/mean/(\w+\.py)`.*?```python\n(.*?)```", TEXT.read_text(), re.DOTALL)
    assert [name for name, _ in files] == ["__init__.py", "config.py", "model.py", "reference.py"]
    (tmp_path / "systems" / "mean").mkdir(parents=True)
    for name, text in files:
        (tmp_path / "systems" / "mean" / name).write_text(text)
    monkeypatch.setattr(hmt.systems, "__path__", [*hmt.systems.__path__, str(tmp_path / "systems")])
    system = hmt.systems.get("mean")
    for example, fields in system.examples.items():
        monkeypatch.setitem(cases.SYSTEMS, f"mean-{example}".rstrip("-"), (system, dict(fields)))
    hmt.systems.register()
    yield system
    for name in [name for name in sys.modules if name.startswith("hmt.systems.mean")]:
        del sys.modules[name]


def test_the_walk_through(mean, tmp_path):
    for name in ("mean", "mean-sensory"):
        test_reference.test_one_stream(name, "llama")
        test_reference.test_ragged_batch(name, "llama", "middle")
        test_reference.test_gradients(name, "llama")
        test_streams.test_token_by_token_equals_the_reference_of_every_prefix(name, "llama")
        for length in (1, L, 2 * L + 3):
            test_generate.test_greedy(name, length)
        test_generate.test_ragged_rows_are_answered_as_if_alone(name, "left")
        test_checkpoints.test_whole_model(name, tmp_path / name)
        test_memory_file.test_round_trip(name, tmp_path / name)
    assert "mean" in hmt.systems.names() and "mean" in system_names()
    model = mean.model.from_backbone(tiny_backbone(), segment_length=L)
    recipe = Recipe(stages=(Stage(name="memory", segments=2, steps=2),), batch_size=1)
    train(model, None, [{"input_ids": random_ids(4 * L).tolist()}], recipe, tmp_path / "run", progress=False)
    loaded = hmt.load_model(tmp_path / "run")
    with torch.no_grad():
        cases.close(loaded(random_ids(20)[None]).logits, model.eval()(random_ids(20)[None]).logits)
