"""What the demo's jobs share: telling how far they are, and leaving a model folder.

A job is a function that a worker process runs: it leaves a model folder and returns plain values.
`post(done, total, text)` tells how far it is. They live in `language.py` and `keys.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

Post = Callable[[int, int, str], None]


class Steps(TrainerCallback):
    """Posts every optimizer step of several stages, with the loss or, now and then, what `probe` finds."""

    def __init__(self, total: int, post: Post, what: str, probe: Callable[[Any], float] | None = None):
        self.done, self.total, self.post, self.what, self.loss = 0, total, post, what, ""
        self.probe = probe

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.probe is not None:
            return
        value = (logs or {}).get("lm_loss", (logs or {}).get("loss"))
        self.loss = self.loss if value is None else f", loss {value:.2f}"

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.done += 1
        if self.probe is not None and self.done % 10 == 0:
            self.loss = f", {self.probe(model):.0%} right"
        self.post(self.done, self.total, f"{self.what}{self.loss}")


def finish(model, folder: Path, tokenizer: Path | None, bank: int) -> dict[str, Any]:
    """Save the trained model with the bank it is used with, and the tokenizer beside it."""
    from transformers import AutoTokenizer

    if hasattr(model.config, "memory_size"):
        model.config.memory_size = bank
    model.save_pretrained(folder)
    if tokenizer is not None:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    extra = sum(p.numel() for module in model.memory_modules().values() for p in module.parameters())
    return {"parameters": model.num_parameters(), "memory_parameters": extra}
