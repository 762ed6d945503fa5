"""The demo's language model: trained from nothing, given each system's memory, scored on held-out text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

import hmt
from hmt.demo.jobs import Post, Steps, finish
from hmt.demo.settings import Settings, TextSettings
from hmt.evaluation import history_perplexity
from hmt.training import Recipe, Stage, train

END_OF_TEXT = "<|endoftext|>"


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
    from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

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
    trainer.remove_callback(PrinterCallback)
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
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted demo, or one with other settings, left there
    train(model, None, data, recipe, run, progress=False, callbacks=[Steps(total, post, "training")])
    return finish(model, out / system, out / "backbone", text.bank)


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
