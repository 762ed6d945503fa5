"""Make the model that comes with the library: exact recall around SmolLM2-135M-Instruct, in three steps.

    python benchmarks/make_smollm2.py questions --books BOOKS.jsonl.xz --articles ARTICLES.jsonl.xz --to WORK
    python benchmarks/make_smollm2.py train --to WORK
    python benchmarks/make_smollm2.py ship --to WORK

questions: asks the documents (cloze questions, questions by patterns, made-up facts hidden in the text) and
writes training samples: two passages, of which one or both hold the answer, the question and the answer.
train: W_q and W_k are a whitening of 800 segments and 600 questions (`hmt.systems.hmt.whitening`); then LoRA
in the layers above the one that recall reads learns to answer, by `hmt.training.train` (the same command
again goes on). ship: what was trained, as `src/hmt/pretrained/smollm2-135m`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import hmt
from hmt import HMTForCausalLM
from hmt.data.questions import ask_document, in_tokens, question_samples, training_sample
from hmt.model.asking import answer_header, question_ids
from hmt.systems import load_tokenizer
from hmt.systems.hmt.whitening import whiten
from hmt.training import train
from hmt.training.start import read_recipe
from hmt.training.tuning import apply_tuning

BACKBONE = "smollm2-135m"
RECIPE, _, FIELDS = read_recipe(Path(__file__).parent.parent / "recipes" / "answering.json")
SHARES = {"fact": 0.40, "cloze": 0.22, "natural": 0.38}


def texts(path: Path, rng: random.Random) -> Iterator[str]:
    """The documents of a file, in an order of their own, again and again."""
    with lzma.open(path, "rt") as file:
        found = [json.loads(line)["text"] for line in file]
    rng.shuffle(found)
    return itertools.cycle(found)


def questions(args: argparse.Namespace) -> None:
    """Write WORK/samples.jsonl, and segments and questions for the whitening."""
    tokenizer = load_tokenizer(BACKBONE)
    tokenizer.model_max_length = 10**9
    rng = random.Random(args.seed)
    books, articles = texts(args.books, rng), texts(args.articles, rng)
    header, end = answer_header(tokenizer), [tokenizer.eos_token_id]

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    def asked(text: str) -> list[int]:
        return question_ids(tokenizer, text)

    samples, segments, number = [], [], Counter()
    for document in itertools.count():
        if document % 3 < 2:
            text = next(articles)[:80_000]
        else:
            text = next(books)
            start = rng.randrange(max(1, len(text) - 60_000))
            text = text[start : start + 60_000]
        text, found = ask_document(text, rng, facts=10, document=document)
        encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        ids = encoded.input_ids
        segments += [ids[i : i + 256] for i in range(0, len(ids) - 255, 256)]
        spans = in_tokens(found, encoded.offset_mapping)
        options: dict[str, Any] = {"hard": 2, "per_segment": 2, "longest": 50}
        for sample in question_samples(ids, spans, tokenizer, 256, rng, **options):
            kind = sample["kind"]
            group = "cloze" if kind.startswith("cloze") else "fact" if "fact" in kind else "natural"
            if number[group] >= SHARES[group] * args.samples:
                continue
            number[group] += 1
            made = training_sample(sample, encode, asked, header, end, rng)
            samples.append(made | {"kind": kind, "question": sample["question"], "answer": sample["answer"]})
        if len(samples) >= args.samples * 0.999:
            break
    rng.shuffle(samples)
    args.to.mkdir(parents=True, exist_ok=True)
    (args.to / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    chosen = {
        "segments": rng.sample(segments, min(800, len(segments))),
        "questions": [sample["question"] for sample in samples[:600]],
    }
    (args.to / "whitening.json").write_text(json.dumps(chosen))
    print(f"{len(samples)} samples of {document + 1} documents: {dict(Counter(s['kind'] for s in samples))}")


def fresh(work: Path) -> tuple[HMTForCausalLM, Any]:
    """The model with measured recall, before any training, and its tokenizer."""
    torch.manual_seed(0)
    options = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    model = HMTForCausalLM.from_backbone(BACKBONE, backbone_kwargs=options, **FIELDS).eval()
    tokenizer = load_tokenizer(BACKBONE)
    chosen = json.loads((work / "whitening.json").read_text())
    asked = [question_ids(tokenizer, question) for question in chosen["questions"]]
    query, key = whiten(
        states(model, chosen["segments"]), states(model, asked), model.recall.query.out_features
    )
    with torch.no_grad():
        model.recall.query.weight.copy_(query)
        model.recall.key.weight.copy_(key)
    return model, tokenizer


@torch.no_grad()
def states(model: HMTForCausalLM, runs: list[list[int]]) -> torch.Tensor:
    """Memory embeddings [n, d] of runs of tokens, float32."""
    found: dict[int, torch.Tensor] = {}
    order = sorted(range(len(runs)), key=lambda place: len(runs[place]))
    for start in range(0, len(order), 16):
        places = order[start : start + 16]
        lengths = torch.tensor([len(runs[place]) for place in places])
        ids = torch.zeros(len(places), int(lengths.max()), dtype=torch.long)
        for row, place in zip(ids, places, strict=True):
            row[: len(runs[place])] = torch.tensor(runs[place])
        written = model.write(ids[None], lengths[None])
        assert written is not None
        found |= dict(zip(places, written[0].float(), strict=True))
    return torch.stack([found[place] for place in range(len(runs))])


def training(args: argparse.Namespace) -> None:
    """Train in WORK/run, or go on there."""
    model, tokenizer = fresh(args.to)
    names = ("input_ids", "labels", "segment_ends")
    with (args.to / "samples.jsonl").open() as file:
        samples = [{name: sample[name] for name in names} for sample in map(json.loads, file)]
    stages = (replace(RECIPE.stages[0], steps=args.steps),)
    train(model, tokenizer, samples, replace(RECIPE, stages=stages), args.to / "run", resume=True)


def ship(args: argparse.Namespace) -> None:
    """Save what was trained beside the library, in bfloat16."""
    trained = hmt.load_model(args.to / "run")
    model, _ = fresh(args.to)
    apply_tuning(model, RECIPE)
    theirs = dict(trained.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or name.startswith("first_prompt"):
                parameter.copy_(theirs[name])
            parameter.data = parameter.data.to(torch.bfloat16)
    folder = Path(hmt.__file__).parent / "pretrained" / BACKBONE
    model.save_pretrained(folder)
    for path in sorted(folder.iterdir()):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["questions", "train", "ship"])
    parser.add_argument("--to", type=Path, required=True, help="folder of the work")
    parser.add_argument("--books", type=Path, help="JSON lines with a field text, xz")
    parser.add_argument("--articles", type=Path, help="the same")
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=RECIPE.stages[0].steps)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"questions": questions, "train": training, "ship": ship}[args.step](args)


if __name__ == "__main__":
    main()
