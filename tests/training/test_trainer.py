"""The loss of an optimizer step: its normalisation, its parts, its schedule."""

import dataclasses

import pytest
import torch

from hmt.data import SegmentCollator
from hmt.training import MemoryTrainer, Recipe, Stage
from hmt.training.counts import scored_tokens


def samples(count, seed=0):
    """Samples of 9 to 32 tokens with recall targets, some of which have left a bank of 2."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(9, 33, (), generator=generator))
        segments = -(-length // 8)
        targets = [-100] + [int(torch.randint(n, (), generator=generator)) for n in range(1, segments)]
        ids = torch.randint(3, 43, (length,), generator=generator)
        found.append({"input_ids": ids, "recall_targets": torch.tensor(targets)})
    return found


def trainer(model, folder, data, stage=None, **options):
    stage = stage or Stage(name="memory", segments=4, steps=3, recall_loss_weight=0.5, learning_rate=1e-2)
    recipe = Recipe(stages=(stage,), recall_targets="given", logging_steps=1, **options)
    collator = SegmentCollator(segment_length=8, recall_targets="given")
    return MemoryTrainer(model, stage, recipe, folder, train_dataset=data, data_collator=collator)


def gradients_of_first_step(model, folder, **options):
    """Gradients just before the first optimizer step, and the first entry of the log."""
    from transformers import TrainerCallback

    found = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            found.setdefault("grads", {n: p.grad.clone() for n, p in model.named_parameters()})

    made = trainer(model, folder, samples(4), max_grad_norm=0.0, **options)
    made.add_callback(Catch())
    made.train()
    return found["grads"], made.state.log_history[0]


def test_accumulation_equals_one_big_batch(make_model, tmp_path):
    big, big_log = gradients_of_first_step(make_model(memory_size=2), tmp_path / "a", batch_size=4)
    small, small_log = gradients_of_first_step(
        make_model(memory_size=2), tmp_path / "b", batch_size=1, gradient_accumulation=4
    )
    for name in big:
        torch.testing.assert_close(small[name], big[name], rtol=1e-4, atol=1e-6)
    for name in ("loss", "lm_loss", "recall_loss", "tokens"):
        assert small_log[name] == pytest.approx(big_log[name], rel=1e-5)


def test_the_trainer_counts_what_the_model_scores(make_model, tmp_path):
    model = make_model()
    batch = SegmentCollator(segment_length=8)(samples(4))
    made = trainer(model, tmp_path, samples(4))
    _, count = made.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    lengths = batch["attention_mask"].sum(1)
    assert count == (lengths - 1).sum() == scored_tokens(batch["labels"], batch["attention_mask"])
    mean = model.train()(**batch).loss
    counted = model(**batch, num_items_in_batch=count).loss
    assert counted.item() == pytest.approx(mean.item(), rel=1e-6)


def test_steps_schedule_reaches_the_optimizer(make_model, tmp_path):
    stage = Stage(name="memory", segments=4, steps=5, learning_rate=1e-3, lr_decay=0.7, lr_decay_every=2)
    made = trainer(make_model(), tmp_path, samples(4), stage)
    made.train()
    rates = [entry["learning_rate"] for entry in made.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-3, 1e-3, 7e-4, 7e-4, 4.9e-4])


def test_other_schedules_are_the_trainers(make_model, tmp_path):
    stage = Stage(name="memory", segments=4, steps=4, learning_rate=1e-3, lr_schedule="linear")
    made = trainer(make_model(), tmp_path, samples(4), stage)
    made.train()
    rates = [entry["learning_rate"] for entry in made.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_the_model_gets_the_stage(make_model, tmp_path):
    model = make_model()
    stage = Stage(
        name="memory", segments=4, steps=4, bptt_depth=2, recall_loss_weight=0.5, recall_loss_until=0.5
    )
    seen, forward = [], model.forward

    def spy(*args, **kwargs):
        seen.append((kwargs["bptt_depth"], kwargs["replay"], kwargs["recall_loss_weight"]))
        return forward(*args, **kwargs)

    made = trainer(model, tmp_path, samples(4), stage, replay=True)
    model.forward = spy
    made.train()
    assert seen == [(2, True, 0.5)] * 2 + [(2, True, 0.0)] * 2


def test_replay_and_depth_change_memory_use_not_the_loss(make_model, tmp_path):
    plain, _ = gradients_of_first_step(make_model(), tmp_path / "a", batch_size=4)
    replayed, _ = gradients_of_first_step(make_model(), tmp_path / "b", batch_size=4, replay=True)
    for name in plain:
        torch.testing.assert_close(replayed[name], plain[name], rtol=1e-4, atol=1e-6)


def test_predictions_hold_logits_and_no_memory(make_model, tmp_path):
    made = trainer(make_model(), tmp_path, samples(4), batch_size=4)
    same_length = [
        {**s, "input_ids": s["input_ids"][:9], "recall_targets": s["recall_targets"][:2]} for s in samples(4)
    ]
    output = made.predict(same_length)
    assert output.predictions.shape == (4, 9, 43)


def test_evaluation_is_a_mean_over_tokens(make_model, tmp_path):
    model = make_model()
    data = samples(5)
    metrics = trainer(model, tmp_path, data, batch_size=2).evaluate(data)
    batch = SegmentCollator(segment_length=8)(data)
    with torch.no_grad():
        assert metrics["eval_loss"] == pytest.approx(model.eval()(**batch).loss.item(), rel=1e-5)
    assert metrics["eval_tokens"] == sum(len(sample["input_ids"]) - 1 for sample in data)


def test_a_step_without_labels_is_no_divergence(make_model, tmp_path):
    data = [{**sample, "labels": torch.full_like(sample["input_ids"], -100)} for sample in samples(4)]
    stage = Stage(name="memory", segments=4, steps=1)
    made = trainer(make_model(), tmp_path, data, stage)
    made.train()
    assert made.state.log_history[0]["loss"] == 0


def test_stages_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Stage(name="memory", segments=4, steps=1).steps = 2
