"""What a stage trains on: samples of its length out of whatever the user has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from hmt.data import RepeatedSamples, SegmentCollator, cut_samples, tokenize_documents
from hmt.data.collate import segment_cuts
from hmt.training.recipe import Recipe, Stage

# Documents with `text`, tokenized ones with `input_ids`, texts, ready samples, or a function from a stage to
# samples.
Data = Any


def prepare(data: Data, tokenizer) -> Data:
    """Tokenize what is text; the rest stays as it is. ValueError for what cannot be trained on."""
    import datasets

    if isinstance(data, str):
        raise ValueError("data is a string; load files with hmt.data.load_documents, or pass a list of texts")
    if isinstance(data, Sequence) and data and isinstance(data[0], str):
        data = datasets.Dataset.from_dict({"text": list(data)})
    if isinstance(data, datasets.Dataset) and "input_ids" not in data.column_names:
        if tokenizer is None:
            raise ValueError("the documents are text: pass the backbone's tokenizer, or tokenized documents")
        data = tokenize_documents(data, tokenizer, append_eos=tokenizer.eos_token_id is not None)
    if not callable(data) and not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise ValueError(
            f"cannot train on a {type(data).__name__}: pass documents, texts or a dataset with a length"
        )
    return data


def stage_samples(data: Data, stage: Stage, recipe: Recipe, segment_length: int) -> Any:
    """Samples of at most `stage.segments` segments, from what `prepare` returned.

    Tokenized documents are cut into runs; ready samples are cut short, their labels and recall targets with
    them; a function is called with the stage and its samples are taken as they are. Where the stage has a
    `repetition`, that share of their segments then repeats an earlier one. ValueError for that with samples
    that bring labels or recall targets.
    """
    import datasets

    cut = isinstance(data, datasets.Dataset) and "recall_targets" not in data.column_names
    samples: Any
    if cut:
        samples = cut_samples(data, segment_length, stage.segments, min_segments=recipe.min_segments)
    elif callable(data) and not hasattr(data, "__getitem__"):
        samples = data(stage)
    elif not len(data):
        raise ValueError("there are no samples to train on")
    else:
        samples = CutShort(data, segment_length, stage.segments)
    # beside stages with repetition, samples of those without have targets too, and all are empty
    marked = recipe.recall_targets == "given" and (cut or any(other.repetition for other in recipe.stages))
    if not stage.repetition and not marked:
        return samples
    if {"labels", "recall_targets"} & set(samples[0]):
        if not stage.repetition:
            return samples
        raise ValueError(
            f"the stage {stage.name!r} repeats segments, which changes the text: its samples cannot "
            "bring labels or recall_targets of their own"
        )
    # the segment just before is repeated only where there is no other
    nearest = 1 if stage.segments < 3 else 2
    return RepeatedSamples(samples, segment_length, stage.repetition, nearest, recipe.seed)


class CutShort(torch.utils.data.Dataset):
    """The first segments of ready samples."""

    def __init__(self, samples, segment_length: int, segments: int):
        self.samples, self.segments, self.tokens = samples, segments, segments * segment_length
        self.length = segment_length

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        tokens = self.tokens
        if sample.get("segment_ends") is not None:  # segments are shorter there
            cuts = segment_cuts(len(sample["input_ids"]), self.length, sample["segment_ends"])
            tokens = cuts[: self.segments][-1]
        ends = {name: tokens for name in ("input_ids", "labels", "segment_ends")}
        ends["recall_targets"] = self.segments
        return {name: sample[name][:end] for name, end in ends.items() if name in sample}


def describe(samples) -> dict[str, Any]:
    """What tells one set of samples from another: their number, and a hash of the first and the last."""
    digest = hashlib.sha256()
    for index in (0, len(samples) - 1):
        digest.update(torch.as_tensor(samples[index]["input_ids"]).to(torch.int64).numpy().tobytes())
    return {"samples": len(samples), "digest": digest.hexdigest()[:16]}


def make_collator(model, tokenizer, stage: Stage, recipe: Recipe) -> SegmentCollator:
    """The collator of a stage, with recall targets only where the stage and the system recall."""
    pad = getattr(tokenizer, "pad_token_id", None)
    retrieval, length = model.retrieval if stage.recall else None, model.config.segment_length
    return SegmentCollator(
        pad_token_id=0 if pad is None else pad,
        segment_length=length,
        recall_targets=None if retrieval is None else recipe.recall_targets,
        # tiny segments have no bigrams
        ngram_options={} if retrieval is None else {"head_length": retrieval.head, "n": min(2, length)},
    )
