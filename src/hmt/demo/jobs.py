"""The parts of the demo that take time, each a function that a worker process can run.

Every job leaves a model folder, and returns plain values. `post(done, total, text)` tells how far it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

import hmt
from hmt.data import KeyValueDataset, KeyValueTask
from hmt.evaluation import history_perplexity, recall_accuracy
from hmt.training import Recipe, Stage, train

from .settings import RecallSettings, Settings, TextSettings

Post = Callable[[int, int, str], None]

END_OF_TEXT = "<|endoftext|>"


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


# -- the language model -----------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], vocabulary: int, folder: Path):
    """A byte-level BPE tokenizer (nothing is unknown to it), saved to `folder`."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=[END_OF_TEXT], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenize(tokenizer, texts: list[str]) -> list[list[int]]:
    # no template adds special tokens here; verbose=False: these are longer than any "model_max_length"
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def pretrain(folder: str, corpus: str, settings: Settings, post: Post) -> dict[str, Any]:
    """Train a tokenizer and a small Llama from nothing; leaves `backbone/` and `tokens.json`."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    text, out = settings.text, Path(folder)
    documents = json.loads(Path(corpus).read_text(encoding="utf-8"))
    post(0, text.backbone_steps, "training a tokenizer")
    names = {part: [pair[0] for pair in documents[part]] for part in documents}
    texts = {part: [pair[1] for pair in documents[part]] for part in documents}
    tokenizer = train_tokenizer(texts["train"], text.vocabulary, out / "backbone")
    ids = {part: tokenize(tokenizer, texts[part]) for part in texts}
    (out / "work" / "tokens.json").write_text(json.dumps({"ids": ids, "names": names}), encoding="utf-8")

    stream = torch.tensor(
        [token for document in ids["train"] for token in [*document, tokenizer.eos_token_id]]
    )
    rows = stream[: len(stream) // text.context * text.context].view(-1, text.context)
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=text.hidden,
        intermediate_size=text.hidden * 8 // 3,
        num_hidden_layers=text.layers,
        num_attention_heads=max(1, text.hidden // 32),
        num_key_value_heads=max(1, text.hidden // 32),
        max_position_embeddings=4 * text.context,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    steps = text.backbone_steps
    arguments = TrainingArguments(
        output_dir=str(out / "work" / "backbone"),
        max_steps=steps,
        per_device_train_batch_size=text.backbone_batch,
        learning_rate=text.backbone_rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 10,
        weight_decay=0.1,
        adam_beta2=0.95,
        logging_steps=10,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),
        seed=settings.seed,
    )
    samples = [{"input_ids": row, "labels": row} for row in rows]
    trainer = Trainer(model, arguments, train_dataset=samples, callbacks=[Steps(steps, post, "training")])
    _quiet(trainer)
    trainer.train()
    model.save_pretrained(out / "backbone")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "parameters": model.num_parameters(),
        "tokens": len(stream),
        "loss_start": losses[0] if losses else None,
        "loss_end": losses[-1] if losses else None,
    }


def text_model(system: str, backbone: Path, text: TextSettings, bank: int):
    """One of the compared systems on the trained backbone, its memory still untrained."""
    common = {"segment_length": text.segment}
    if system == "hmt":
        return hmt.HMTForCausalLM.from_backbone(
            backbone,
            summary_length=text.summary,
            sensory_length=text.sensory,
            memory_size=bank,
            memory_scale="embedding",
            **common,
        )
    if system == "rmt":  # with the sensory tokens of HMT, so that only the memory differs
        return hmt.RMTForCausalLM.from_backbone(
            backbone, sensory_length=text.sensory, memory_scale="embedding", **common
        )
    window = {"sensory": text.sensory, "alone": 0, "window": text.segment}
    return hmt.WindowForCausalLM.from_backbone(backbone, window_length=window[system], **common)


def train_text(folder: str, system: str, settings: Settings, post: Post) -> dict[str, Any]:
    """The two-stage recipe on the corpus; leaves a folder of the system's name.

    The baselines are trained as long as the memories: what the backbone learns from the additional text must
    not be taken for memory.
    """
    import datasets

    text, out = settings.text, Path(folder)
    documents = json.loads((out / "work" / "tokens.json").read_text(encoding="utf-8"))["ids"]["train"]
    torch.manual_seed(settings.seed)
    # The bank of training samples never holds more than their segments; a larger one would be copied about.
    model = text_model(system, out / "backbone", text, bank=text.stage2_segments)
    rates: dict[str, Any] = {"learning_rate": text.rate, "lr_schedule": "cosine", "warmup_steps": 10}
    recipe = Recipe(
        stages=(
            Stage(
                name="recurrence", recall=False, segments=2, steps=text.stage1_steps,
                batch_size=text.batch * text.stage2_segments // 2, **rates,
            ),
            Stage(name="memory", segments=text.stage2_segments, steps=text.stage2_steps, **rates),
        ),
        batch_size=text.batch,
        seed=settings.seed,
        save_steps=10_000,
    )  # fmt: skip
    total = text.stage1_steps + text.stage2_steps
    run = out / "work" / system
    data = datasets.Dataset.from_dict({"input_ids": documents})
    train(model, None, data, recipe, run, progress=False, callbacks=[Steps(total, post, "training")])
    return _finish(model, out / system, out / "backbone", text.bank)


def score_text(folder: str, system: str, settings: Settings, post: Post) -> dict[str, Any]:
    """Perplexity of one system on the held-out documents at growing history (a `HistoryResult` as a dict)."""
    text, out = settings.text, Path(folder)
    documents = json.loads((out / "work" / "tokens.json").read_text(encoding="utf-8"))["ids"]["held_out"]
    model = hmt.load_model(out / system)
    longest = max(len(ids) for ids in documents) // text.segment - 1
    histories = [h for h in text.histories if h <= longest] or [0]
    result = history_perplexity(
        {system: model},
        documents,
        histories,
        skip=text.summary,
        targets_per_document=text.targets_per_document,
        batch_size=32,
        seed=settings.seed,
        progress=lambda done, total: post(done, total, "scoring"),
    )
    return result.to_dict()


# -- the hidden key-value task ----------------------------------------------------------------------------


def recall_task(recall: RecallSettings) -> KeyValueTask:
    return KeyValueTask(segment_length=recall.segment)


def recall_model(system: str, settings: Settings):
    """A model of random weights for the key-value task.

    The weights start larger than a Llama's usual 0.02: a memory vector enters the layers at size one, and
    updates that are tiny beside it could never write anything into what comes out.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    recall = settings.recall
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=recall_task(recall).vocab_size,
        hidden_size=recall.hidden,
        intermediate_size=2 * recall.hidden,
        num_hidden_layers=recall.layers,
        num_attention_heads=max(1, recall.hidden // 32),
        num_key_value_heads=max(1, recall.hidden // 32),
        max_position_embeddings=256,
        initializer_range=0.08,
        tie_word_embeddings=False,
    )
    backbone = LlamaForCausalLM(config)
    torch.nn.init.normal_(backbone.model.embed_tokens.weight)
    common = {"segment_length": recall.segment, "sensory_length": recall.sensory}
    if system == "rmt":
        return hmt.RMTForCausalLM.from_backbone(backbone, **common)
    largest = max(segments for segments, _, _ in recall.curriculum)
    model = hmt.HMTForCausalLM.from_backbone(backbone, memory_size=largest, **common)
    with torch.no_grad():  # sharper from the start: training never sees as many segments as are asked over
        model.recall.query.weight.mul_(recall.recall_gain)
        model.recall.key.weight.mul_(recall.recall_gain)
    return model


def train_recall(folder: str, system: str, settings: Settings, post: Post) -> dict[str, Any]:
    """Train on few segments; leaves `recall-hmt/` or `recall-rmt/`."""
    recall, out = settings.recall, Path(folder)
    task, model = recall_task(recall), recall_model(system, settings)
    total = sum(steps for _, _, steps in recall.curriculum)
    stages = tuple(
        Stage(
            name=f"{segments}-segments",
            segments=segments,
            steps=steps,
            batch_size=batch,
            learning_rate=recall.rate,
            lr_schedule="cosine" if number == len(recall.curriculum) - 1 else "constant_with_warmup",
            warmup_steps=min(12, steps // 4),
            recall_loss_weight=1.0 if segments > 2 else 0.0,
            recall_negatives=True,
        )
        for number, (segments, batch, steps) in enumerate(recall.curriculum)
    )
    recipe = Recipe(
        stages=stages, recall_targets="given", seed=settings.seed, save_steps=10_000, weight_decay=0.01
    )

    def samples(stage: Stage):
        return KeyValueDataset(
            task, stage.steps * (stage.batch_size or 1), stage.segments, seed=settings.seed + stage.segments
        )

    def probe(model) -> float:
        lengths = [min(8, max(recall.lengths))]
        return recall_accuracy(model, task, lengths, samples=32, seed=settings.seed + 2000).accuracy(
            lengths[0]
        )

    run = out / "work" / f"recall-{system}"
    train(
        model, None, samples, recipe, run, progress=False, callbacks=[Steps(total, post, "training", probe)]
    )
    return _finish(model, out / f"recall-{system}", None, recall.bank)


def ask_recall(folder: str, system: str, settings: Settings, post: Post) -> dict[str, Any]:
    """Accuracy over every length (a `RecallResult` as a dict)."""
    recall = settings.recall
    model = hmt.load_model(Path(folder) / f"recall-{system}")
    result = recall_accuracy(
        model,
        recall_task(recall),
        recall.lengths,
        samples=recall.samples,
        batch_size=min(64, recall.samples),
        seed=settings.seed + 1000,
        progress=lambda done, total: post(done, total, "asking"),
    )
    return result.to_dict()


def _finish(model, folder: Path, tokenizer: Path | None, bank: int) -> dict[str, Any]:
    """Save the trained model with the bank it is used with, and the tokenizer beside it."""
    from transformers import AutoTokenizer

    if hasattr(model.config, "memory_size"):
        model.config.memory_size = bank
    model.save_pretrained(folder)
    if tokenizer is not None:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    extra = sum(p.numel() for module in model.memory_modules().values() for p in module.parameters())
    return {"parameters": model.num_parameters(), "memory_parameters": extra}


def _quiet(trainer) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
