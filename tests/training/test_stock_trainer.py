"""`transformers.Trainer` as it is: saving, resuming, choosing the best, whatever of the model is trained."""

import pytest
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import hmt

TUNING = pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])


@pytest.fixture
def tuned(make_model):
    def make(tuning):
        model = make_model()
        if tuning == "lora":
            model.add_lora(r=2)
        elif tuning == "frozen":
            model.freeze_backbone()
        return model

    return make


@pytest.fixture
def make_trainer(tokenizer, texts):
    def make(model, folder, *, callbacks=(), compute_metrics=None, **options):
        rows = [{"input_ids": tokenizer(text).input_ids[: 20 + 5 * i]} for i, text in enumerate(texts)]
        defaults = {
            "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "weight_decay": 0.1,
            "logging_steps": 1, "save_steps": 2, "use_cpu": True, "disable_tqdm": True, "report_to": "none",
        }  # fmt: skip
        return Trainer(
            model,
            TrainingArguments(str(folder), **defaults | options),
            train_dataset=rows,
            eval_dataset=rows[:3],
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            compute_metrics=compute_metrics,
            callbacks=list(callbacks),
        )

    return make


class WeightsAt(TrainerCallback):
    """Copies of the weights, as they are after each step."""

    def __init__(self):
        self.weights = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = {n: p.detach().clone() for n, p in model.named_parameters()}


def same(model, weights):
    now = dict(model.named_parameters())
    return now.keys() == weights.keys() and all(torch.equal(now[name], weights[name]) for name in now)


def curve(trainer):
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


@TUNING
def test_resuming_repeats_the_uninterrupted_run(tuning, tuned, make_trainer, tmp_path):
    whole = make_trainer(tuned(tuning), tmp_path / "run")
    whole.train()
    again = tuned(tuning)
    with torch.no_grad():  # what the model holds before does not matter
        for parameter in again.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    resumed = make_trainer(again, tmp_path / "run")
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert curve(resumed) == curve(whole) and len(curve(whole)) == 6
    assert same(again, dict(whole.model.named_parameters()))

    resumed.save_model(str(tmp_path / "model"))
    ids = torch.arange(3, 40)[None]
    assert torch.equal(hmt.load_model(tmp_path / "model")(ids).logits, again.eval()(ids).logits)


@TUNING
def test_the_best_model_at_the_end_is_the_best(tuning, tuned, make_trainer, tmp_path):
    scores, seen = iter([1.0, 3.0, 2.0]), WeightsAt()
    trainer = make_trainer(
        tuned(tuning),
        tmp_path,
        callbacks=[seen],
        compute_metrics=lambda prediction: {"score": next(scores, 0.0)},
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        save_total_limit=1,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    assert same(trainer.model, seen.weights[4]) and not same(trainer.model, seen.weights[6])
    evaluated = [e["eval_loss"] for e in trainer.state.log_history if e.get("step") == 4 and "eval_loss" in e]
    assert trainer.evaluate()["eval_loss"] == evaluated[0]


def test_old_checkpoints_go(tuned, make_trainer, tmp_path):
    make_trainer(tuned("frozen"), tmp_path, save_total_limit=2).train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}


def test_accumulating_equals_one_batch_and_predictions_are_logits(tuned, make_trainer, tmp_path, texts):
    options = {"max_steps": 2, "save_strategy": "no", "max_grad_norm": 0.0}
    one = make_trainer(tuned("full"), tmp_path / "a", per_device_train_batch_size=4, **options)
    sizes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    two = make_trainer(tuned("full"), tmp_path / "b", **sizes, **options)
    one.train(), two.train()
    assert [loss for _, loss in curve(two)] == pytest.approx([loss for _, loss in curve(one)], rel=1e-4)
    rows, bare = [{"input_ids": [3, 4, 5, 6] * 5}] * 2, DataCollatorWithPadding(one.data_collator.tokenizer)
    for collator in (one.data_collator, bare):  # with labels and without
        one.data_collator = collator
        assert one.predict(rows).predictions.shape == (2, 20, 43)


def test_a_loss_that_is_not_the_models(tuned, make_trainer, tmp_path, caplog):
    """The Trainer shifts labels for its own classes only: with smoothing a model would learn to copy."""
    with caplog.at_level("WARNING", logger="hmt"):
        make_trainer(tuned("full"), tmp_path, max_steps=1, save_strategy="no").train()
        assert "labels" not in caplog.text
        options = {"max_steps": 1, "save_strategy": "no", "label_smoothing_factor": 0.1}
        make_trainer(tuned("full"), tmp_path, **options).train()
    assert "label_smoothing_factor does not shift labels" in caplog.text
