"""A whole recipe: its stages one after another, resumable at any point."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hmt.model.checkpoint import BackboneWrapper
from hmt.training import checkpoints as ck
from hmt.training.arguments import training_arguments
from hmt.training.recipe import Recipe, Stage
from hmt.training.reporting import reporters
from hmt.training.samples import Data, describe, make_collator, prepare, stage_samples
from hmt.training.stops import TrainingStopped
from hmt.training.trainer import MemoryTrainer
from hmt.training.tuning import apply_tuning, trained_in_float32
from hmt.training.watch import LogFile, Progress
from hmt.util.environment import peak_memory
from hmt.util.files import disk_errors, local_folder, only_writer

logger = logging.getLogger(__name__)


@dataclass
class TrainingResult:
    """What a run did.

    Attributes:
        output_dir: the folder of the finished model.
        stages: one entry per stage: name, steps, segments, samples, seconds and loss (the last two only for
            the stages this call worked on).
        peak_memory: bytes of resident memory of this process at its highest.
        peak_device_memory: bytes that PyTorch had allocated on the GPU at the highest; 0 without one.
    """

    output_dir: Path
    stages: list[dict[str, Any]] = field(default_factory=list)
    peak_memory: int = 0
    peak_device_memory: int = 0


def train(
    model: BackboneWrapper,
    tokenizer,
    data: Data,
    recipe: Recipe,
    output_dir,
    *,
    resume: bool = False,
    eval_data: Data = None,
    report_to: str | Sequence[str] = "none",
    run_name: str | None = None,
    progress: bool = True,
    callbacks=(),
) -> TrainingResult:
    """Train `model` in place, and leave a model folder in `output_dir`.

    Args:
        tokenizer: the backbone's; None when `data` needs none.
        data: documents with a column `text`, tokenized documents with `input_ids`, a list of texts, ready
            samples (`input_ids`, optionally `labels` and `recall_targets`; cut to the length of each stage),
            or a function from a `Stage` to its samples.
        output_dir: a folder that does not exist or is empty; or, with `resume`, that of an earlier run, whose
            finished stages are skipped. With `resume` and nothing there, the run begins.
        eval_data: text to measure the loss on every `recipe.eval_steps`; in the forms of `data`.
        report_to: names of what transformers reports to ("tensorboard", "wandb", "mlflow", ...), "all" of
            what is installed, or "none": only `log.jsonl`. All stages are one run there.
        run_name: the name of that run. Where it goes is said in the environment (TENSORBOARD_LOGGING_DIR,
            WANDB_PROJECT, ...); TensorBoard's files are in the folders of the stages otherwise.
        callbacks: more `transformers.TrainerCallback`s, for every stage.

    Raises ValueError for settings that cannot work, for a resume with other settings and while another run
    writes into the folder, `TrainingDiverged` (a ValueError) when the loss is no longer a number, OSError
    when the folder cannot be written to, and `TrainingStopped` (a KeyboardInterrupt) after SIGINT or SIGTERM.
    """
    folder = local_folder(output_dir)
    _check_model(model, recipe)
    ck.check_folder(folder, resume)
    reporters(report_to)
    for stage in recipe.stages:
        training_arguments(stage, recipe, folder, None, evaluate=False)  # what they refuse, before any work
    if (eval_data is None) != (recipe.eval_steps is None):
        raise ValueError("eval_data is scored every recipe.eval_steps: set both, or neither")
    alone = only_writer(folder) if PartialState().is_main_process else nullcontext()
    told: dict[str, Any] = {"progress": progress, "report_to": report_to, "run_name": run_name}
    with alone, disk_errors(folder, "go on with resume=True (--resume) where there is room"):
        return _train(model, tokenizer, data, recipe, folder, resume, eval_data, list(callbacks), told)


def _train(
    model: BackboneWrapper,
    tokenizer,
    data: Data,
    recipe: Recipe,
    folder: Path,
    resume: bool,
    eval_data: Data,
    callbacks: list,
    told: dict[str, Any],
) -> TrainingResult:
    """`train`, in a folder that is this process's. told: how what happens is said, see `_Runner`."""
    ck.check_folder(folder, resume)  # another run may have begun, and ended, before it was
    data = prepare(data, tokenizer)
    eval_data = None if eval_data is None else prepare(eval_data, tokenizer)
    samples = [_samples(data, stage, model, recipe) for stage in recipe.stages]
    record = _record(model, recipe, samples)
    ck.check_record(folder, record)
    apply_tuning(model, recipe)
    PartialState().wait_for_everyone()  # all have looked at the folder
    if PartialState().is_main_process and not (folder / ck.RECORD).is_file():
        ck.write_record(folder, record)
        recipe.save(folder / "recipe.json")

    result = TrainingResult(folder)
    if ck.is_finished(folder):
        logger.info("the run in %s is finished; nothing is left to do", folder)
        _enter(model, recipe.stages[-1])
        ck.load_weights(model, folder)
    else:
        with trained_in_float32(model, recipe):
            runner = _Runner(model, tokenizer, recipe, folder, eval_data, callbacks, **told)
            for number, stage in enumerate(recipe.stages, start=1):
                result.stages.append(runner.run(number, stage, samples[number - 1]))
        model.eval()
        if PartialState().is_main_process:
            ck.save_final(model, tokenizer, folder)
        PartialState().wait_for_everyone()
    model.eval()
    result.peak_memory = peak_memory()
    result.peak_device_memory = peak_memory("cuda") if torch.cuda.is_available() else 0
    return result


class _Runner:
    """The stages of one call of `train`."""

    def __init__(
        self,
        model,
        tokenizer,
        recipe: Recipe,
        folder: Path,
        eval_data,
        callbacks: list,
        *,
        progress: bool,
        report_to: str | Sequence[str],
        run_name: str | None,
    ):
        self.report_to, self.run_name = report_to, run_name
        self.model, self.tokenizer, self.recipe, self.folder = model, tokenizer, recipe, folder
        self.eval_data, self.progress, self.callbacks = eval_data, progress, callbacks
        self.last: Path | None = None  # final checkpoint of the stage before
        self.loaded = True  # whether the model holds the weights of `last`

    def run(self, number: int, stage: Stage, samples) -> dict[str, Any]:
        folder = self.folder / f"stage-{number}-{stage.name}"
        checkpoint = ck.last_checkpoint(folder)
        _enter(self.model, stage)
        summary = {
            "name": stage.name,
            "steps": stage.steps,
            "segments": stage.segments,
            "samples": len(samples),
        }
        if checkpoint is not None and ck.checkpoint_step(checkpoint) == stage.steps:
            self.last, self.loaded = checkpoint, False
            return summary
        if checkpoint is None and self.last is not None and not self.loaded:
            ck.load_weights(self.model, self.last)
        if self.recipe.compile:
            self.model.compile_steps()  # again in every stage: recall changes the passes
        began = time.perf_counter()
        output = self._train(number, stage, samples, folder, checkpoint)
        self.last, self.loaded = ck.last_checkpoint(folder), True
        return {**summary, "seconds": time.perf_counter() - began, "loss": output.training_loss}

    def _train(self, number: int, stage: Stage, samples, folder: Path, checkpoint: Path | None):
        begin = 0 if checkpoint is None else ck.checkpoint_step(checkpoint)
        if PartialState().is_main_process:
            ck.trim_log(self.folder, number, begin)
            folder.mkdir(parents=True, exist_ok=True)
        before = sum(other.steps for other in self.recipe.stages[: number - 1])
        callbacks = [LogFile(self.folder, number, stage.name), *reporters(self.report_to, before)]
        callbacks += self.callbacks
        bar = Progress(f"stage {number} ({stage.name})")
        trainer = MemoryTrainer(
            self.model,
            stage,
            self.recipe,
            folder,
            train_dataset=samples,
            eval_dataset=self._eval_samples(stage),
            data_collator=make_collator(self.model, self.tokenizer, stage, self.recipe),
            tokenizer=self.tokenizer,
            callbacks=[*callbacks, bar] if self.progress else callbacks,
            seed=self.recipe.seed + number - 1,  # each stage its own order of samples
            start=self.last,
            run_name=self.run_name,
        )
        try:
            output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            bar.close()
        if trainer.stop_wanted():
            stopped_by = trainer.signals.received or 15
            raise TrainingStopped(
                stopped_by, stage.name, trainer.state.global_step, ck.last_checkpoint(folder)
            )
        return output

    def _eval_samples(self, stage: Stage):
        if self.eval_data is None or self.recipe.eval_steps is None:
            return None
        as_it_is = replace(stage, repetition=0.0)
        samples = _samples(self.eval_data, as_it_is, self.model, self.recipe)
        return [samples[index] for index in range(min(len(samples), self.recipe.eval_samples))]


def _check_model(model, recipe: Recipe) -> None:
    if not isinstance(model, BackboneWrapper):
        raise ValueError(
            f"train takes a model with memory (HMTForCausalLM.from_backbone(...)), not {type(model).__name__}"
        )
    model.require("train")
    if recipe.tuning != "lora" and model.has_lora():
        raise ValueError(f"the model has LoRA adapters: train it with tuning='lora', not {recipe.tuning!r}")


def _samples(data: Data, stage: Stage, model, recipe: Recipe):
    return stage_samples(data, stage, recipe, model.config.segment_length)


def _record(model, recipe: Recipe, samples: list) -> dict[str, Any]:
    config = model.config
    fields = {n: value for n, value in config.memory_fields().items() if n not in model.stage_fields}
    return {
        "recipe": recipe.to_dict(),
        "model": {"system": config.model_type, "backbone": config.base_model_name_or_path, **fields},
        "data": [describe(part) for part in samples],
    }


def _enter(model, stage: Stage) -> None:
    for name in model.stage_fields:
        setattr(model.config, name, getattr(stage, name))
