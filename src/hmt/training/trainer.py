"""One stage on `transformers.Trainer`.

How the loss is normalised. The language-model loss of an optimizer step is the sum over all scored tokens of
all its micro-batches and devices, divided by their number, which the Trainer counts from the labels
(`num_items_in_batch`). The first token of a sample is never scored: nothing of the sample stands before it.
The Trainer leaves out the first column of the labels for the same reason, and the collator pads on the right,
so both count the same tokens. The recall loss is the mean over all segments of the step whose target is in
the memory bank; `get_batch_samples` gives each micro-batch its share. So accumulating gradients equals one
big batch, whatever the lengths of the samples.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer

from hmt.training.arguments import training_arguments
from hmt.training.checkpoints import last_checkpoint, load_weights
from hmt.training.counts import count_recall_targets, scored_tokens
from hmt.training.recipe import Recipe, Stage
from hmt.training.stops import StopSignals, TrainingDiverged
from hmt.training.watch import Watch
from hmt.util.oom import out_of_memory_advice, training_advice


class MemoryTrainer(Trainer):
    """Trains a `BackboneWrapper` for one stage of a recipe.

    Logs `loss` (what is minimised), `lm_loss` and, where there are targets, `recall_loss` and
    `recall_loss_weight`; `tokens` (read since the last log) and `tokens_per_second`.

    Args:
        train_dataset, eval_dataset, data_collator, callbacks: as in `transformers.Trainer`.
        tokenizer: saved beside every checkpoint.
        start: the checkpoint this stage began from, named when the stage diverges before its own first one.
        run_name: what reporting callbacks call the run.
    ValueError where one process sees several GPUs.
    """

    model: Any

    def __init__(
        self,
        model,
        stage: Stage,
        recipe: Recipe,
        output_dir,
        *,
        train_dataset,
        data_collator,
        eval_dataset=None,
        tokenizer=None,
        callbacks=(),
        seed: int | None = None,
        start: Path | None = None,
        run_name: str | None = None,
    ):
        self.stage, self.recipe, self.start = stage, recipe, start
        self.signals = StopSignals()
        evaluate = eval_dataset is not None
        args = training_arguments(stage, recipe, output_dir, seed, evaluate, run_name)
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs are visible to one process: launch with "
                f"`torchrun --nproc-per-node={args.n_gpu}`, or choose one with CUDA_VISIBLE_DEVICES"
            )
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[Watch(self, tokenizer), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self.reset_sums()
        self._diverged = torch.zeros((), dtype=torch.bool, device=self.args.device)

    # -- the loss -------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches: int, device):
        """As in the Trainer, and each batch learns its share of the recall targets of the step."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and "recall_targets" in batches[0]:
            counts = [count_recall_targets(self.model, batch["recall_targets"]) for batch in batches]
            total = torch.stack(counts).sum()
            if self.args.world_size > 1:
                total = self.accelerator.gather(total.to(device)).sum()
            for batch, own in zip(batches, counts, strict=True):
                batch["recall_share"] = (own / total.clamp(min=1)).item()
        return batches, torch.as_tensor(1 if count is None else count).clamp(min=1)

    def training_step(self, model, inputs, *args, **kwargs):
        """As in the Trainer; where memory runs out the error says what to change."""

        def advice() -> str:
            length = self.model.config.segment_length
            batch, width = inputs["input_ids"].shape
            return training_advice(
                replay=self.recipe.replay,
                batch_size=batch,
                segments=-(-width // length),
                segment_length=length,
            )

        with out_of_memory_advice(advice):
            return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The model's loss, in training with the stage's depth, replay and recall loss: a scalar."""
        inputs = dict(inputs)
        share = inputs.pop("recall_share", 1.0)
        options: dict[str, Any] = {}
        if model.training:
            options = {"bptt_depth": self.stage.bptt_depth, "replay": self.recipe.replay}
            options["recall_negatives"] = self.stage.recall_negatives
            options["recall_loss_weight"] = self.stage.recall_weight(self.state.global_step) * share
        loss, outputs = super().compute_loss(
            model, {**inputs, **options}, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if model.training:
            self._note(loss.detach(), outputs, share, options["recall_loss_weight"], inputs)
        return (loss, outputs) if return_outputs else loss

    def _note(self, loss, outputs, share: float, weight: float, inputs) -> None:
        self._diverged |= ~torch.isfinite(loss)
        if loss.device.type == "cpu":  # elsewhere it would wait for the device at every step
            self.check_loss(step=self.state.global_step + 1)
        recall = outputs.recall_loss
        # with several devices the Trainer has multiplied the loss by their number, to undo DDP's mean
        lm = loss / self.accelerator.num_processes
        if recall is not None:
            self._recall_seen = True
            self._recall += share * recall.detach()
            lm = lm - weight * recall.detach()
        self._lm += lm
        mask = inputs.get("attention_mask")
        self._tokens += inputs["input_ids"].numel() if mask is None else mask.sum()

    def prediction_step(self, model, inputs, prediction_loss_only: bool, ignore_keys=None):
        """As in the Trainer, without gathering memories and recall weights."""
        ignore = ["past_key_values", "recall", "recall_loss", *(ignore_keys or ())]
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore)

    @torch.no_grad()
    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss per scored token (not a mean of batch means) as `eval_loss`, and their number
        `eval_tokens`.

        This is the training loss on other text. It scores the head of every segment too, which the recall
        prompt of `recall_query="segment"` has seen: good for watching a run, not for comparing systems.
        """
        self.model.eval()
        total = torch.zeros(2, device=self.args.device)
        for batch in self.get_eval_dataloader(eval_dataset):
            batch = {
                name: value.to(self.args.device) for name, value in batch.items() if name != "recall_targets"
            }
            loss = self.model(**batch, num_items_in_batch=1, logits_to_keep=1).loss
            total += torch.stack([loss, scored_tokens(batch["labels"], batch["attention_mask"])])
        loss, tokens = self.accelerator.reduce(total, "sum").tolist()
        metrics = {
            f"{metric_key_prefix}_loss": loss / max(1, tokens),
            f"{metric_key_prefix}_tokens": int(tokens),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # -- the schedule, the log, the checkpoints -------------------------------------------------------------

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """`Stage.lr_factor` for "steps", else the Trainer's own."""
        if self.stage.lr_schedule != "steps":
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            stage = self.stage  # a plain function: a callable object would be stored in every checkpoint
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: stage.lr_factor(step))  # type: ignore[arg-type]
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Beside `loss`, what the class names, over all processes since the last log."""
        if "loss" in logs:
            steps = max(1, self.state.global_step - self._since)
            sums = torch.stack([self._lm, self._recall, self._tokens.to(self._lm.dtype)])
            lm, recall, tokens = self.accelerator.reduce(sums, "sum").tolist()
            logs["lm_loss"] = lm / steps
            if self._recall_seen:
                logs["recall_loss"] = recall / steps
                logs["recall_loss_weight"] = self.stage.recall_weight(max(0, self.state.global_step - 1))
            logs["tokens"] = int(tokens)
            logs["tokens_per_second"] = tokens / max(1e-9, time.perf_counter() - self.clock)
            self.reset_sums()
        super().log(logs, start_time)

    def reset_sums(self) -> None:
        """Begin a new logging interval."""
        self._lm, self._recall, self._tokens = torch.zeros(3, device=self.args.device).unbind()
        self._recall_seen = False
        self._since, self.clock = self.state.global_step, time.perf_counter()

    def train(self, resume_from_checkpoint=None, *args, **kwargs):  # type: ignore[override]
        """As in the Trainer; `signals.received` tells afterwards whether SIGINT or SIGTERM ended it early."""
        try:
            with StopSignals() as self.signals:
                return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._release_model()

    def _release_model(self) -> None:
        """Undo what accelerate did to the model: its forward under autocast, and a mark.

        A model that keeps the mark is passed over by the next Trainer, which then trains it in another
        precision than was asked for, without a word.
        """
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        model.__dict__.pop("_is_accelerate_prepared", None)
        if getattr(model.forward, "__func__", None) is type(model).forward:
            model.__dict__.pop("forward", None)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_weights(self.model, Path(resume_from_checkpoint))

    def stop_wanted(self) -> bool:
        """Whether any process has received a stop signal: all of them must stop after the same step."""
        wanted = self.signals.received is not None
        if self.args.world_size > 1:
            wanted = bool(self.accelerator.reduce(torch.tensor(wanted, device=self.args.device).int(), "sum"))
        return wanted

    def check_loss(self, step: int | None = None) -> None:
        """TrainingDiverged if a loss since the start was nan or infinite."""
        if self._diverged:
            raise self._divergence("the loss became nan or infinite", step)

    def check_weights(self) -> None:
        """TrainingDiverged if a trained weight is nan or infinite: it must not replace a good one."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if not torch.stack([torch.isfinite(p).all() for p in trained]).all():
            raise self._divergence("the weights became nan or infinite", None)

    def _divergence(self, what: str, step: int | None) -> TrainingDiverged:
        checkpoint = last_checkpoint(Path(str(self.args.output_dir))) or self.start
        step = self.state.global_step if step is None else step
        return TrainingDiverged(what, self.stage.name, step, checkpoint, self.stage.learning_rate)
