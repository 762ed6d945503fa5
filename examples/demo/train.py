"""What the demo trains: a tokenizer and a language model from nothing, and memories on text and on keys.

Each function is a job that a worker process runs: it leaves a model folder in `folder` and returns plain
values. `post(done, total, text)` tells how far it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from demo.settings import KeySettings, Settings
from hmt.data import KeyValueDataset, KeyValueTask
from hmt.systems import get
from hmt.training import Recipe, Stage, train

Post = Callable[[int, int, str], None]
END_OF_TEXT = "<|endoftext|>"
# The backbone with so many tokens of the text before a segment: what every memory must beat.
BASELINES = {
    "sensory": "sensory tokens only",
    "window": "window of one segment",
    "alone": "backbone, one segment",
}


class Steps(TrainerCallback):
    """Posts every optimizer step of several stages, with the loss."""

    def __init__(self, total: int, post: Post):
        self.done, self.total, self.post, self.loss = 0, total, post, ""

    def on_log(self, args, state, control, logs=None, **kwargs):
        value = (logs or {}).get("lm_loss", (logs or {}).get("loss"))
        self.loss = self.loss if value is None else f", loss {value:.2f}"

    def on_step_end(self, args, state, control, **kwargs):
        self.done += 1
        self.post(self.done, self.total, f"training{self.loss}")


def build(system: str, backbone: Any, **wanted: Any) -> Any:
    """A system of the registry on a backbone, with those of the `wanted` fields that it has."""
    found = get(system)
    known = {field.name for field in fields(found.config)}
    own = {name: value for name, value in wanted.items() if name in known}
    return found.model.from_backbone(backbone, **own)


def llama(vocabulary: int, hidden: int, layers: int, **more: Any) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        num_key_value_heads=max(1, hidden // 32),
        **more,
    )
    return LlamaForCausalLM(config)


def train_tokenizer(texts: Sequence[str], vocabulary: int, folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (nothing is unknown to it), saved to `folder`."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=[END_OF_TEXT], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def backbone(folder: Path, settings: Settings, system: str, post: Post) -> dict[str, Any]:
    """Train a tokenizer and a small Llama on `train.jsonl`; leaves `backbone/` and `work/tokens/`."""
    text, steps = settings.text, settings.text.backbone_steps
    post(0, steps, "training a tokenizer")
    lines = (folder / "work" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    tokenizer = train_tokenizer(texts, text.vocabulary, folder / "backbone")
    # no template adds special tokens here; verbose=False: these are longer than any "model_max_length"
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    datasets.Dataset.from_dict({"input_ids": ids}).save_to_disk(folder / "work" / "tokens")

    stream = torch.tensor([token for document in ids for token in [*document, tokenizer.eos_token_id]])
    rows = stream[: len(stream) // text.context * text.context].view(-1, text.context)
    torch.manual_seed(settings.seed)
    model = llama(
        len(tokenizer), text.hidden, text.layers, intermediate_size=text.hidden * 8 // 3,
        max_position_embeddings=4 * text.context, tie_word_embeddings=True, initializer_range=0.04,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder / "work" / "backbone"), max_steps=steps, save_strategy="no", logging_steps=10,
        per_device_train_batch_size=text.backbone_batch, learning_rate=text.backbone_rate,
        lr_scheduler_type="cosine", warmup_steps=steps // 10, weight_decay=0.1, adam_beta2=0.95,
        disable_tqdm=True, report_to="none", use_cpu=not torch.accelerator.is_available(), seed=settings.seed,
    )  # fmt: skip
    samples = [{"input_ids": row, "labels": row} for row in rows]
    trainer = Trainer(model, arguments, train_dataset=samples, callbacks=[Steps(steps, post)])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.save_pretrained(folder / "backbone")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "parameters": model.num_parameters(),
        "tokens": len(stream),
        "losses": [*losses[:1], *losses[-1:]],
    }


def text_memory(folder: Path, settings: Settings, system: str, post: Post) -> dict[str, Any]:
    """The two-stage recipe on the corpus; leaves a folder of the system's name.

    The baselines are trained as long as the memories: what the backbone learns from the additional text must
    not be taken for memory. All systems have the sensory tokens of HMT, so that only the memory differs.
    """
    text = settings.text
    torch.manual_seed(settings.seed)
    windows = {"sensory": text.sensory, "window": text.segment, "alone": 0}
    # The bank of training samples never holds more than their segments; a larger one would be copied about.
    model = build(
        "window" if system in BASELINES else system, folder / "backbone", segment_length=text.segment,
        summary_length=text.summary, sensory_length=text.sensory, memory_size=text.stage2_segments,
        memory_scale=1.0 if system in BASELINES else "embedding", window_length=windows.get(system),
    )  # fmt: skip
    rates: dict[str, Any] = {"learning_rate": text.rate, "lr_schedule": "cosine", "warmup_steps": 10}
    first = Stage(
        name="recurrence", recall=False, segments=2, steps=text.stage1_steps,
        batch_size=text.batch * text.stage2_segments // 2, **rates,
    )  # fmt: skip
    second = Stage(name="memory", segments=text.stage2_segments, steps=text.stage2_steps, **rates)
    recipe = Recipe(stages=(first, second), batch_size=text.batch, seed=settings.seed, save_steps=10_000)
    data = datasets.load_from_disk(folder / "work" / "tokens")
    _train(model, data, recipe, folder / "work" / system, post)
    AutoTokenizer.from_pretrained(folder / "backbone").save_pretrained(folder / system)
    return _finish(model, folder / system, text.bank)


def key_memory(folder: Path, settings: Settings, system: str, post: Post) -> dict[str, Any]:
    """The hidden key-value task, trained on few segments; leaves `recall-<system>/`."""
    keys, task = settings.keys, key_task(settings.keys)
    torch.manual_seed(settings.seed)
    # The weights start larger than a Llama's usual 0.02: a memory vector enters the layers at size one, and
    # updates that are tiny beside it could never write anything into what comes out.
    plain = llama(
        task.vocab_size, keys.hidden, keys.layers, intermediate_size=2 * keys.hidden,
        max_position_embeddings=256, initializer_range=0.08, tie_word_embeddings=False,
    )  # fmt: skip
    torch.nn.init.normal_(plain.model.embed_tokens.weight)
    model = build(
        system, plain, segment_length=keys.segment, sensory_length=keys.sensory,
        memory_size=keys.trained, recall_query=keys.query,
    )  # fmt: skip
    with torch.no_grad():  # sharper from the start: training never sees as many segments as are asked over
        for name, weight in model.named_parameters():
            if name in ("recall.query.weight", "recall.key.weight"):
                weight.mul_(keys.recall_gain)
    stages = tuple(
        Stage(
            name=f"{segments}-segments", segments=segments, steps=steps, batch_size=batch,
            learning_rate=keys.rate, warmup_steps=min(12, steps // 4),
            lr_schedule="cosine" if segments == keys.trained else "constant_with_warmup",
            recall_loss_weight=1.0 if segments > 2 else 0.0, recall_negatives=True,
        )
        for segments, batch, steps in keys.curriculum
    )  # fmt: skip
    recipe = Recipe(
        stages=stages, recall_targets="given", seed=settings.seed, save_steps=10_000, weight_decay=0.01
    )

    def samples(stage: Stage) -> KeyValueDataset:
        number = stage.steps * (stage.batch_size or 1)
        return KeyValueDataset(task, number, stage.segments, seed=settings.seed + stage.segments)

    _train(model, samples, recipe, folder / "work" / f"recall-{system}", post)
    return _finish(model, folder / f"recall-{system}", keys.bank)


def key_task(keys: KeySettings) -> KeyValueTask:
    return KeyValueTask(segment_length=keys.segment)


def _train(model, data, recipe: Recipe, run: Path, post: Post) -> None:
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted demo, or one with other settings, left there
    total = sum(stage.steps for stage in recipe.stages)
    train(model, None, data, recipe, run, progress=False, callbacks=[Steps(total, post)])


def _finish(model, folder: Path, bank: int) -> dict[str, Any]:
    """Save the trained model with the bank it is used with."""
    if "memory_size" in model.sizes:
        model = model.resized(memory_size=bank)
    model.save_pretrained(folder)
    return {"parameters": model.num_parameters()}
