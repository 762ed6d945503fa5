"""Whole runs: stages, resuming, tuning, precision."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

import hmt
from hmt.training import Recipe, TrainingDiverged, TrainingStopped, train
from hmt.training.checkpoints import last_checkpoint


def run(model, tokenizer, texts, recipe, folder, **options):
    return train(model, tokenizer, texts, recipe, folder, progress=False, **options)


def losses(entries):
    names = ("stage", "step", "loss", "lm_loss", "learning_rate", "tokens")
    return [tuple(entry[name] for name in names) for entry in entries]


def test_two_stages_lower_the_loss_and_leave_a_model(
    make_model, tokenizer, texts, make_recipe, tmp_path, read_log
):
    model = make_model()
    seen = []

    def stages(stage):
        from hmt.training.samples import prepare, stage_samples

        seen.append(stage.name)
        return stage_samples(prepare(texts, tokenizer), stage, recipe, 8)

    recipe = make_recipe(stage1_steps=10, stage2_steps=30)
    result = run(model, tokenizer, stages, recipe, tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert seen == ["recurrence", "memory"]
    assert [entry["name"] for entry in log] == ["recurrence"] * 10 + ["memory"] * 30
    assert log[-1]["lm_loss"] < log[0]["lm_loss"] - 0.2
    assert all(entry["tokens_per_second"] > 0 and entry["tokens"] > 0 for entry in log)
    assert [stage["steps"] for stage in result.stages] == [10, 30] and result.peak_memory > 1e6
    assert model.config.recall and not model.training
    loaded = hmt.load_model(tmp_path / "run")
    ids = torch.arange(3, 30)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def interrupt_at(step, signal_number=signal.SIGINT):
    """A callback that sends this process a signal in the middle of optimizer step `step` of stage 2."""
    from transformers import TrainerCallback

    class Interrupt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if "memory" in args.output_dir and state.global_step == step - 1:
                os.kill(os.getpid(), signal_number)

    return Interrupt()


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_resume_repeats_the_uninterrupted_run(
    tuning, make_model, tokenizer, texts, make_recipe, tmp_path, read_log
):
    # 16 samples in stage 2, so that it spans two epochs; LoRA brings dropout, so that random states matter
    sizes = {"stage1_steps": 1, "stage2_steps": 6, "batch_size": 2, "gradient_accumulation": 2}
    recipe = make_recipe(tuning=tuning, save_steps=4, **sizes)
    whole = make_model()
    run(whole, tokenizer, texts, recipe, tmp_path / "whole")
    with pytest.raises(TrainingStopped) as stop:
        run(make_model(), tokenizer, texts, recipe, tmp_path / "parts", callbacks=[interrupt_at(5)])
    assert stop.value.step == 5 and stop.value.checkpoint.name == "checkpoint-5"
    assert not (tmp_path / "parts" / "config.json").exists()

    again = make_model()
    with torch.no_grad():  # what the model holds before does not matter
        again.first_prompt.weight.add_(1.0)
    result = run(again, tokenizer, texts, recipe, tmp_path / "parts", resume=True)
    assert "loss" not in result.stages[0] and "loss" in result.stages[1]
    assert losses(read_log(tmp_path / "parts")) == losses(read_log(tmp_path / "whole"))
    saved = load_file(tmp_path / "parts" / "model.safetensors").keys()
    assert ("backbone.model.norm.weight" in saved) == (tuning == "full")
    ids = torch.arange(3, 40)[None]
    assert torch.equal(again(ids).logits, whole(ids).logits)
    assert torch.equal(hmt.load_model(tmp_path / "parts")(ids).logits, whole(ids).logits)

    once_more = make_model()  # a finished run is only loaded
    assert run(once_more, tokenizer, texts, recipe, tmp_path / "parts", resume=True).stages == []
    assert torch.equal(once_more(ids).logits, whole(ids).logits)


def test_resume_between_stages_and_from_a_torn_checkpoint(
    make_model, tokenizer, texts, make_recipe, tmp_path, read_log
):
    recipe = make_recipe()
    run(make_model(), tokenizer, texts, recipe, tmp_path / "whole")
    with pytest.raises(TrainingStopped):
        run(make_model(), tokenizer, texts, recipe, tmp_path / "parts", callbacks=[interrupt_at(1)])
    stage = tmp_path / "parts" / "stage-2-memory"
    (stage / "checkpoint-1" / "trainer_state.json").write_text("{")
    assert last_checkpoint(stage) is None
    run(make_model(), tokenizer, texts, recipe, tmp_path / "parts", resume=True)
    assert losses(read_log(tmp_path / "parts")) == losses(read_log(tmp_path / "whole"))


def test_sigterm_stops_like_ctrl_c(make_model, tokenizer, texts, make_recipe, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped, match="SIGTERM after step 2 of stage 'memory'") as stop:
        options = {"callbacks": [interrupt_at(2, signal.SIGTERM)]}
        run(make_model(), tokenizer, texts, make_recipe(), tmp_path / "run", **options)
    assert stop.value.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before


def test_changed_settings_are_refused_at_resume(make_model, tokenizer, texts, make_recipe, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(TrainingStopped):
        run(make_model(), tokenizer, texts, make_recipe(), folder, callbacks=[interrupt_at(1)])
    with pytest.raises(ValueError, match="already holds a run"):
        run(make_model(), tokenizer, texts, make_recipe(), folder)
    with pytest.raises(ValueError, match=r"stages\[1\].learning_rate was 0.001, is 0.002"):
        run(make_model(), tokenizer, texts, make_recipe(learning_rate=2e-3), folder, resume=True)
    with pytest.raises(ValueError, match="model.sensory_length was 2, is 3"):
        run(make_model(sensory_length=3), tokenizer, texts, make_recipe(), folder, resume=True)
    with pytest.raises(ValueError, match=r"data\[0\].digest was"):
        run(make_model(), tokenizer, texts[::-1], make_recipe(), folder, resume=True)
    assert Recipe.load(folder / "recipe.json") == make_recipe()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        run(make_model(), tokenizer, texts, make_recipe(), tmp_path / "other", resume=True)


def test_divergence_names_step_and_checkpoint(make_model, tokenizer, texts, make_recipe, tmp_path):
    from transformers import TrainerCallback

    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if "memory" in args.output_dir and state.global_step == 3:
                with torch.no_grad():
                    model.backbone.lm_head.weight[0, 0] = float("nan")

    folder = tmp_path / "run"
    with pytest.raises(TrainingDiverged, match=r"at step 4 of stage 'memory'.*checkpoint-2") as error:
        run(make_model(), tokenizer, texts, make_recipe(), folder, callbacks=[Poison()])
    assert error.value.step == 4 and not (folder / "config.json").exists()
    rescued = hmt.load_model(error.value.checkpoint)
    assert all(torch.isfinite(p).all() for p in rescued.parameters())


def test_weights_that_are_not_numbers_are_not_saved(make_model, tokenizer, texts, make_recipe, tmp_path):
    from transformers import TrainerCallback

    class Poison(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if "memory" in args.output_dir and state.global_step == 3:
                with torch.no_grad():
                    model.first_prompt.weight[0, 0] = float("inf")

    with pytest.raises(TrainingDiverged, match=r"weights .* at step 4") as error:
        run(make_model(), tokenizer, texts, make_recipe(), tmp_path / "run", callbacks=[Poison()])
    assert error.value.checkpoint.name == "checkpoint-2"


@pytest.mark.parametrize("tuning", ["lora", "frozen"])
def test_the_backbone_stays_where_it_was(tuning, make_model, tokenizer, texts, make_recipe, tmp_path):
    model = make_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    run(model, tokenizer, texts, make_recipe(tuning=tuning), tmp_path / "run")
    now = dict(model.named_parameters())
    moved = {
        name
        for name, p in before.items()
        if not torch.equal(
            now[
                name.replace("proj.w", "proj.base_layer.w")
                if tuning == "lora" and name.replace("proj.w", "proj.base_layer.w") in now
                else name
            ],
            p,
        )
    }
    assert moved == {
        "summary_prompt.weight",
        "first_prompt.weight",
        "recall.query.weight",
        "recall.key.weight",
    }
    adapters = [p for name, p in now.items() if "lora_B" in name]
    assert (len(adapters) > 0) == (tuning == "lora") and all(p.any() for p in adapters)


@pytest.mark.parametrize("system", ["RMTForCausalLM", "WindowForCausalLM"])
def test_systems_without_recall(system, make_model, tokenizer, texts, make_recipe, tmp_path, read_log):
    recipe = make_recipe(recall_targets="ngram", recall_loss_weight=0.5)
    model = make_model(system)
    run(model, tokenizer, texts, recipe, tmp_path / "run")
    assert all("recall_loss" not in entry for entry in read_log(tmp_path / "run"))
    if system == "WindowForCausalLM":
        with pytest.raises(ValueError, match="nothing to train"):
            run(make_model(system), tokenizer, texts, make_recipe(tuning="frozen"), tmp_path / "frozen")


def test_a_curriculum_is_several_stages(make_model, tokenizer, texts, make_recipe, tmp_path, read_log):
    recipe = make_recipe(curriculum=[2, 4], stage2_steps=4, replay=True)
    run(make_model(), tokenizer, texts, recipe, tmp_path / "run")
    assert [entry["name"] for entry in read_log(tmp_path / "run")[3:]] == ["memory-2"] * 2 + ["memory-4"] * 2


@pytest.mark.parametrize("half", [False, True])
def test_bf16(half, make_model, tokenizer, texts, make_recipe, tmp_path):
    model = make_model()
    model = model.bfloat16() if half else model
    forward, dtype = model.forward, model.dtype
    recipe = make_recipe(bf16=True, tuning="frozen" if half else "full", replay=True)
    run(model, tokenizer, texts, recipe, tmp_path / "run")
    assert model.forward == forward  # no autocast is left behind
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model(torch.arange(3, 30)[None]).logits.dtype == dtype
    if half:
        with pytest.raises(ValueError, match="bf16=True"):
            run(model, tokenizer, texts, make_recipe(tuning="frozen"), tmp_path / "again")


def test_held_out_loss(make_model, tokenizer, texts, make_recipe, tmp_path, read_log):
    recipe = make_recipe(eval_steps=2, eval_samples=3)
    run(make_model(), tokenizer, texts, recipe, tmp_path / "run", eval_data=texts[:2])
    held_out = [entry for entry in read_log(tmp_path / "run") if "eval_loss" in entry]
    assert [(entry["stage"], entry["step"]) for entry in held_out] == [(1, 2), (1, 3), (2, 2), (2, 4)]
    assert held_out[-1]["eval_tokens"] == 31 + 28 + 31  # two samples of the first document, one of the second


def test_stages_are_one_run_where_it_is_reported_to(
    make_model, tokenizer, texts, make_recipe, tmp_path, monkeypatch
):
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    seen = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                seen.append((args.run_name, state.global_step, logs["loss"]))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "paper", Reporter)
    recipe = make_recipe(stage1_steps=2, stage2_steps=3)
    options = {"report_to": ["paper"], "run_name": "mine"}
    with pytest.raises(TrainingStopped):
        callbacks = [interrupt_at(2)]
        run(make_model(), tokenizer, texts, recipe, tmp_path / "run", callbacks=callbacks, **options)
    run(make_model(), tokenizer, texts, recipe, tmp_path / "run", resume=True, **options)
    assert [entry[:2] for entry in seen] == [("mine", step) for step in range(1, 6)]
    run(make_model(), tokenizer, texts, recipe, tmp_path / "quiet")
    assert len(seen) == 5
    for name, reason in (("papr", "papr is not supported"), ("clearml", "to be installed")):
        with pytest.raises(ValueError, match=reason):
            run(make_model(), tokenizer, texts, recipe, tmp_path / "none", report_to=name)
    assert not (tmp_path / "none").exists()


def test_what_would_be_passed_over_is_refused(
    make_model, tokenizer, texts, make_recipe, tmp_path, monkeypatch
):
    for options, data in (({"eval_steps": 2}, None), ({}, texts)):
        with pytest.raises(ValueError, match="eval_steps: set both, or neither"):
            run(make_model(), tokenizer, texts, make_recipe(**options), tmp_path / "run", eval_data=data)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="mixed precision in fp16"):
        run(make_model(), tokenizer, texts, make_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_given_targets_and_ready_samples(make_model, make_recipe, tmp_path, read_log):
    from hmt.data import KeyValueDataset, KeyValueTask

    task = KeyValueTask(segment_length=10, num_symbols=4, num_values=4, num_noise=4)
    recipe = make_recipe(recall_targets="given", recall_loss_weight=0.5, recall_loss_until=0.5)
    model = make_model(segment_length=10)
    run(model, None, KeyValueDataset(task, 12, num_segments=6), recipe, tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert all(entry["tokens"] == 2 * 20 for entry in log[:3]) and all(
        entry["tokens"] == 80 for entry in log[3:]
    )
    assert all("recall_loss" not in entry for entry in log[:3])
    assert [entry["recall_loss_weight"] for entry in log[3:]] == [0.5, 0.5, 0.0, 0.0]
    for entry in log[3:]:
        total = entry["lm_loss"] + entry["recall_loss_weight"] * entry["recall_loss"]
        assert entry["loss"] == pytest.approx(total, abs=1e-5)


def test_repeated_segments_are_what_recall_is_taught(
    make_model, tokenizer, texts, make_recipe, tmp_path, read_log
):
    from hmt.training.samples import prepare, stage_samples

    recipe = make_recipe(repetition=1.0, recall_targets="given", recall_loss_weight=0.5)
    documents = prepare(texts, tokenizer)
    copies, repeated = (stage_samples(documents, stage, recipe, 8) for stage in recipe.stages)
    whole = [sample for sample in copies if len(sample["input_ids"]) == 16]
    assert whole and all(torch.equal(s["input_ids"][:8], s["input_ids"][8:]) for s in whole)
    assert all(s["recall_targets"].tolist() == [-100, 0] for s in whole)
    # the segment just before is no target where there are others
    assert [s["recall_targets"].tolist()[:3] for s in repeated if len(s["input_ids"]) > 24][0] == [
        -100,
        -100,
        0,
    ]
    run(make_model(), tokenizer, texts, recipe, tmp_path / "run")
    log = [entry for entry in read_log(tmp_path / "run") if "loss" in entry]
    assert all(entry["recall_loss"] > 0 for entry in log if entry["name"] == "memory")
    with pytest.raises(ValueError, match="'recurrence' repeats segments"):
        run(make_model(), None, list(whole), recipe, tmp_path / "other")
    bare = [{"input_ids": sample["input_ids"]} for sample in whole]
    (ready,) = stage_samples(bare[:1], recipe.stages[0], recipe, 8)
    assert torch.equal(ready["input_ids"], bare[0]["input_ids"]) and ready["recall_targets"].tolist() == [
        -100,
        0,
    ]


@pytest.mark.parametrize("form", ["function", "ready"])
def test_a_stage_beside_one_that_repeats_has_empty_targets(form, make_recipe):
    from hmt.training.samples import stage_samples

    recipe = make_recipe(copy_steps=1)
    bare = [{"input_ids": torch.arange(32)}]
    data = bare if form == "ready" else lambda stage: bare
    writing, *_, memory = recipe.stages
    assert stage_samples(data, writing, recipe, 8)[0]["recall_targets"].tolist()[:2] == [-100, 0]
    plain = stage_samples(data, memory, recipe, 8)[0]
    assert (plain["recall_targets"] == -100).all()
    assert torch.equal(plain["input_ids"], bare[0]["input_ids"][: len(plain["input_ids"])])
    # nothing is repeated: targets are asked for, and the samples have to bring them
    given = make_recipe(recall_targets="given")
    assert "recall_targets" not in stage_samples(data, given.stages[-1], given, 8)[0]


def test_text_that_is_evaluated_on_is_left_as_it_is(
    make_model, tokenizer, texts, make_recipe, tmp_path, read_log
):
    held_out = []
    for repetition in (0.0, 1.0):
        recipe = make_recipe(
            repetition=repetition, stage2_steps=0, stage1_steps=1, eval_steps=1, learning_rate=1e-9
        )
        folder = tmp_path / str(repetition)
        run(make_model(), tokenizer, texts, recipe, folder, eval_data=texts[:2])
        held_out += [entry["eval_loss"] for entry in read_log(folder) if "eval_loss" in entry]
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-5)


def test_what_cannot_be_trained(make_model, tokenizer, texts, make_recipe, tmp_path, backbone_folder):
    from transformers import AutoModelForCausalLM

    backbone = AutoModelForCausalLM.from_pretrained(backbone_folder)
    with pytest.raises(ValueError, match="a model with memory"):
        run(backbone, tokenizer, texts, make_recipe(), tmp_path / "run")
    with pytest.raises(ValueError, match="pass the backbone's tokenizer"):
        run(make_model(), None, texts, make_recipe(), tmp_path / "run")
    with pytest.raises(ValueError, match="load_documents"):
        run(make_model(), tokenizer, "book.txt", make_recipe(), tmp_path / "run")
    adapted = make_model()
    adapted.add_lora()
    with pytest.raises(ValueError, match="tuning='lora'"):
        run(adapted, tokenizer, texts, make_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
