"""The hidden key-value task: trained over few segments, asked over many."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

import hmt
from hmt.data import KeyValueDataset, KeyValueTask
from hmt.demo.jobs import Post, Steps, finish
from hmt.demo.settings import RecallSettings, Settings
from hmt.evaluation import recall_accuracy
from hmt.training import Recipe, Stage, train


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
    model = hmt.HMTForCausalLM.from_backbone(
        backbone, memory_size=largest, recall_query=recall.query, **common
    )
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
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted demo, or one with other settings, left there
    train(
        model, None, samples, recipe, run, progress=False, callbacks=[Steps(total, post, "training", probe)]
    )
    return finish(model, out / f"recall-{system}", None, recall.bank)


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
