"""The folder of a run: one run at a time, and nothing in it that keeps a run from going on."""

import os

import pytest
from transformers import TrainerCallback

from hmt.training import train
from hmt.training.checkpoints import check_folder, check_record, last_checkpoint


def test_one_run_at_a_time_and_nothing_planted_stops_it(make_model, tokenizer, texts, make_recipe, tmp_path):
    folder, recipe = tmp_path / "run", make_recipe(stage1_steps=1, stage2_steps=1)
    (folder / ".run.json.folder").mkdir(parents=True)
    planted = [".run.json.planted", ".run.json.k2j4h1g0.hmt-part", ".lock"]  # of runs that were killed
    for name in planted:
        (folder / name).write_text("{")

    class Second(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            with pytest.raises(ValueError, match="another run is writing to .*run; wait for it"):
                train(make_model(), tokenizer, texts, recipe, folder, resume=True, progress=False)
            seen.append(state.global_step)

    seen = []
    options = {"resume": True, "progress": False, "callbacks": [Second()]}
    train(make_model(), tokenizer, texts, recipe, folder, **options)
    assert seen == [1, 1] and (folder / "config.json").is_file()
    left = {name for name in os.listdir(folder) if name.startswith(".")}
    assert left == {".run.json.planted", ".run.json.folder"}  # who knows whose they are
    train(make_model(), tokenizer, texts, recipe, folder, resume=True, progress=False)  # it is finished


def test_a_full_disk_says_how_to_go_on(make_model, tokenizer, texts, make_recipe, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("hmt.training.checkpoints.save_final", full)
    recipe = make_recipe(stage1_steps=1, stage2_steps=1)
    with pytest.raises(OSError, match="run cannot be written to: .*No space left.*; go on with resume=True"):
        train(make_model(), tokenizer, texts, recipe, tmp_path / "run", progress=False)


def test_damaged_records_and_checkpoints(tmp_path):
    (tmp_path / "run.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="run.json is damaged"):
        check_record(tmp_path, {})
    check_folder(tmp_path, resume=True)
    for number, state in enumerate([b"\xff", b"[]", b"{", b'{"global_step": 9}']):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_bytes(state)
    assert last_checkpoint(tmp_path) is None
