"""What the demo measures: perplexity against history, hidden keys, and a few honest sentences about both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import hmt
from demo.settings import KeySettings, Settings
from demo.train import BASELINES, Post, key_task
from hmt.evaluation import MemoryReader, Setting, evaluate, make_task
from hmt.util.format import byte_text, difference_text

Results = dict[str, Any]


def label(system: str) -> str:
    """A system's name in tables and plots."""
    return BASELINES.get(system) or (system.upper() if len(system) < 5 else system.replace("_", " "))


def score_text(folder: Path, settings: Settings, system: str, post: Post) -> Results:
    """Every system on the held-out documents: perplexity after 0, 1, 4, ... segments. Leaves `text/`."""
    text, names = settings.text, [*settings.systems, *BASELINES]
    tokenizer = AutoTokenizer.from_pretrained(folder / "backbone")
    setting = Setting(tokenizer, text.segment)
    wanted = {"source": str(folder / "work" / "held_out.jsonl"), "seed": settings.seed, "skip": text.summary}
    wanted |= {"targets_per_document": text.targets_per_document, "batch_size": 32}
    documents: Any = make_task("text", **wanted)
    longest = max(map(len, documents.documents(setting)["input_ids"])) // text.segment - 1
    task = make_task("text", **wanted, histories=tuple(h for h in text.histories if h <= longest) or (0,))
    readers = [MemoryReader(hmt.load_model(folder / name), label(name)) for name in names]
    return _evaluate(readers, task, setting, folder / "text", post)


def score_keys(folder: Path, settings: Settings, system: str, post: Post) -> Results:
    """Every system on the hidden key-value task, by number of segments. Leaves `keys/`."""
    keys = settings.keys
    task = make_task("key_value", lengths=keys.lengths, samples=keys.samples, seed=settings.seed + 1000)
    readers = [MemoryReader(hmt.load_model(folder / f"recall-{s}"), label(s)) for s in settings.systems]
    return _evaluate(readers, task, Setting(key_tokenizer(keys), keys.segment), folder / "keys", post)


def key_tokenizer(keys: KeySettings) -> PreTrainedTokenizerFast:
    """A word for each id: the task is made of ids, and only their number matters."""
    words = {f"t{number}": number for number in range(key_task(keys).vocab_size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="t0")))


def _evaluate(readers, task, setting: Setting, output: Path, post: Post) -> Results:
    def progress(name: str, reader: str, done: int, total: int) -> None:
        at = [one.name for one in readers].index(reader)
        post(at * total + done, len(readers) * total, f"scoring {reader}")

    # training is repeated where settings changed, and answers of other models are not to be mixed in
    return evaluate(readers, [task], setting, output, progress, overwrite=True)


def rows(results: Results, task: str, metric: str) -> dict[str, dict[int, float | None]]:
    """Reader -> value of the task's first axis -> mean of the metric."""
    found = results["tasks"][task]
    return {
        reader: {cell["facts"][found["axes"][0]]: cell["metrics"][metric]["mean"] for cell in entry["curve"]}
        for reader, entry in found["readers"].items()
    }


def summarise(text: Results, keys: Results, read: Results, settings: Settings) -> str:
    """Paragraphs separated by empty lines."""
    return "\n\n".join([_about_text(text, settings), _about_keys(keys, settings), _about_reading(read)])


def _about_text(results: Results, settings: Settings) -> str:
    nats = rows(results, "text", "perplexity")
    longest = max(next(iter(nats.values())))
    after = {name: f"{math.exp(row[longest] or 0.0):.2f}" for name, row in nats.items()}
    pairs = results["tasks"]["text"]["paired_cells"][BASELINES["sensory"]]

    def gain(name: str) -> dict[str, Any]:
        """Difference in nats per token to the sensory tokens alone, on the same tokens."""
        return next(c["metrics"]["perplexity"] for c in pairs[name] if c["facts"]["history"] == longest)

    said = []
    for name in map(label, settings.systems):
        gap = gain(name)
        verdict = f"{name} {after[name]}, a difference of {difference_text(gap['mean'], 'perplexity')}%"
        if gap["low"] is not None:
            low, high = (difference_text(gap[end], "perplexity") for end in ("low", "high"))
            unsure = ": no evidence of one" if gap["low"] <= 0 <= gap["high"] else ""
            verdict += f" (95% interval over documents {low}% to {high}%{unsure})"
        said.append(verdict)
    return (
        f"After {longest} segments of held-out documents, perplexity is {after[BASELINES['alone']]} for the "
        f"backbone that sees one segment at a time, and {after[BASELINES['sensory']]} with nothing but the "
        f"sensory tokens and no memory. Beside that: {'; '.join(said)}. Reading the whole previous "
        "segment again, for about the compute that a memory needs, makes a difference of "
        f"{difference_text(gain(BASELINES['window'])['mean'], 'perplexity')}%: a measure of how much there "
        "is to remember for a language model of this size and age. All rows start from one backbone, are "
        "trained equally long and are scored on the same tokens, none of which was part of any input to its "
        "own prediction."
    )


def _about_keys(results: Results, settings: Settings) -> str:
    trained, right = settings.keys.trained, rows(results, "key_value", "accuracy")
    lengths = [n for n in settings.keys.lengths if n >= trained] or [max(settings.keys.lengths)]
    said = [
        f"{name} answers " + ", ".join(f"{100 * (row[n] or 0.0):.0f}% over {n}" for n in lengths)
        for name, row in right.items()
    ]
    chance = results["tasks"]["key_value"]["chance"]["accuracy"]
    return (
        f"A value hidden in one of many segments and asked for at the end: trained on at most {trained} "
        f"segments, {'; '.join(said)} segments (guessing: {100 * chance:.0f}%)."
    )


def _about_reading(read: Results) -> str:
    return (
        f"The held-out document {read['name']} ({read['tokens']:,} tokens, {read['segments']:,} segments) "
        f"was read into a memory file of {byte_text(read['file_bytes'])}, where full attention keeps "
        f"{byte_text(read['kv_bytes'])} of keys and values, and continued from that file by a new process. "
        "What it writes looks like the text it was trained on and means little: this language model has been "
        "trained for a minute or two."
    )
