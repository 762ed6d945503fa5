"""Callbacks: stopping, checking, the progress bar and the log file."""

from __future__ import annotations

import json
import time
from pathlib import Path

from transformers import TrainerCallback

from hmt.training.checkpoints import LOG
from hmt.util.progress import Bars


class Watch(TrainerCallback):
    """Stops the trainer after a whole step when a signal came, and checks what is about to be saved."""

    def __init__(self, trainer, tokenizer=None):
        self.trainer, self.tokenizer = trainer, tokenizer
        self.ended = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.reset_sums()  # only now the trainer knows at which step it resumes

    def on_step_end(self, args, state, control, **kwargs):
        self.ended = time.perf_counter()
        if self.trainer.stop_wanted():
            control.should_training_stop = control.should_save = True
        if control.should_log or control.should_save:
            self.trainer.check_loss()
        if control.should_save:
            self.trainer.check_weights()

    def on_evaluate(self, args, state, control, **kwargs):
        self._pause()

    def _pause(self) -> None:
        """Keep the time since the last step out of the tokens per second."""
        now = time.perf_counter()
        self.trainer.clock += now - self.ended
        self.ended = now

    def on_save(self, args, state, control, **kwargs):
        self._pause()
        # The tokenizer makes a checkpoint a model of its own. The Trainer would save it if it had it, but
        # also write the tokenizer's special tokens into the model's config.
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.tokenizer is not None and args.should_save and folder.is_dir():
            self.tokenizer.save_pretrained(folder)


class LogFile(TrainerCallback):
    """Appends what is logged to `log.jsonl`: an object per line, with `stage` (number), `name` and `step`."""

    def __init__(self, folder: Path, number: int, name: str):
        self.file, self.head, self.start = folder / LOG, {"stage": number, "name": name}, time.time()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not args.should_save or not logs or not ({"loss", "eval_loss"} & logs.keys()):
            return
        entry = {
            **self.head,
            "step": state.global_step,
            **logs,
            "seconds": round(time.time() - self.start, 3),
        }
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Progress(TrainerCallback):
    """A bar per stage on a terminal, a line per logging step elsewhere; to stderr."""

    def __init__(self, title: str):
        self.title, self.bars, self.text = title, Bars(every=0), ""

    def on_step_end(self, args, state, control, **kwargs):
        if self.bars.live and state.is_world_process_zero:
            self.bars(self.title, state.global_step, state.max_steps, self.text)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or not ({"loss", "eval_loss"} & logs.keys()) or not state.is_world_process_zero:
            return
        self.text = ", ".join(_readable(logs))
        self.bars(self.title, state.global_step, state.max_steps, self.text)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bars.close()


def _readable(logs: dict) -> list[str]:
    if "eval_loss" in logs:
        return [f"held-out loss {logs['eval_loss']:.4f}"]
    parts = [f"loss {logs['lm_loss']:.4f}"]
    if "recall_loss" in logs:
        parts.append(f"recall {logs['recall_loss']:.3f}")
    parts.append(f"lr {logs['learning_rate']:.2g}")
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    return parts
