"""BABILong: bAbI facts hidden in books, questions about them, and what it takes to answer at any length.

samples: bAbI's training stories in books of pg19 train, cut into segments that end where sentences do; a
training sample is the last segments that hold facts, the question, and an answer that quotes the facts it
follows from. recall: W_q and W_k learn to tell segments with facts from all others, on embeddings that are
computed once. train: the adapter of the model that comes with the library is trained on
(`recipes/babilong.json`; a second time on stories whose order counts). tune: how often what is needed is
found, for weights of BM25 and recency, on stories of train. evaluate: questions of test, in the order of
BABILong's own list, about texts that are made of test books, of any length.

    python benchmarks/babilong.py samples --babi BABI --books TRAIN.jsonl.xz --to WORK
    python benchmarks/babilong.py recall --babi BABI --books TRAIN.jsonl.xz --to WORK
    python benchmarks/babilong.py train --to WORK
    python benchmarks/babilong.py samples --babi BABI --books TRAIN.jsonl.xz --to WORK2 --samples 640 ...
        --seed 5 --contested --passages 6 --share qa1=0.62 qa5=0.2 qa4=0.12 needle=0.06
    cp WORK/recall.pt WORK2
    python benchmarks/babilong.py train --to WORK2 --run WORK/run --passages 6 --steps 60
    python benchmarks/babilong.py tune --babi BABI --books VALID.jsonl.xz --to WORK
    python benchmarks/babilong.py evaluate --babi BABI --books TEST.jsonl.xz --to WORK --run WORK2/run ...
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import math
import random
import re
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from assembled import Assembled
from hidden_facts import (
    NEEDLE,
    NEEDLE_QUESTION,
    TASKS,
    Books,
    Story,
    cut,
    encode,
    hide,
    number,
    pieces,
    stories,
)

import hmt
from hmt import HMTForCausalLM
from hmt.data.questions import training_sample
from hmt.memory.memory import Memory
from hmt.model.asking import answer_header, question_ids
from hmt.systems import load_tokenizer
from hmt.systems.hmt.whitening import whiten
from hmt.training import train
from hmt.training.start import read_recipe
from hmt.training.tuning import apply_tuning
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically

BACKBONE = "smollm2-135m"
RECIPE, _, FIELDS = read_recipe(Path(__file__).parent.parent / "recipes" / "babilong.json")
# of the samples
SHARES = {"qa1": 0.28, "qa2": 0.22, "qa3": 0.06, "qa4": 0.14, "qa5": 0.2, "needle": 0.1}


def samples(args: argparse.Namespace) -> None:
    """Write WORK/samples.jsonl: the last 8 segments with facts (and others, where there are fewer)."""
    tokenizer = load_tokenizer(BACKBONE)
    tokenizer.model_max_length = 10**9
    rng = random.Random(args.seed)
    books = Books(args.books, tokenizer, args.seed)
    header, end = answer_header(tokenizer), [tokenizer.eos_token_id]
    of_task = {task: stories(args.babi, task, "train") for task in SHARES if task != "needle"}
    length, most = FIELDS["segment_length"], args.passages
    if args.contested:
        of_task = {task: list(filter(contested, found)) for task, found in of_task.items()}
    shares = dict(one.split("=") for one in args.share) if args.share else SHARES
    kinds = [kind for kind, share in shares.items() for _ in range(round(float(share) * args.samples))]
    rng.shuffle(kinds)
    args.to.mkdir(parents=True, exist_ok=True)
    with (args.to / "samples.jsonl").open("w") as file:
        for done, kind in enumerate(kinds):
            background = books.take(round(math.exp(rng.uniform(math.log(60), math.log(4000)))))
            if kind == "needle":
                facts, question, answer = needles(background, tokenizer, rng)
            else:
                story = rng.choice(of_task[kind]).exchanged(rng)
                facts, question, answer = list(story.facts), story.question, story.explained()
            hidden = encode(tokenizer, facts)
            text = hide(background, hidden, sorted(rng.random() for _ in hidden))
            runs = pieces(text, length)
            marks = {tuple(fact) for fact in hidden}
            holding = [i for i, run in enumerate(runs) if holds(run, marks)]
            chosen = holding[-most:]
            if kind != "needle" and not read_again(runs, chosen, [hidden[i] for i in story.support]):
                continue  # it asks for more than is read
            others = sorted(set(range(len(runs))) - set(holding))
            chosen += rng.sample(others, min(len(others), most - len(chosen)))
            made = training_sample(
                {
                    "segments": [runs[i] for i in sorted(chosen)],
                    "hard": [],
                    "question": question,
                    "answer": answer,
                },
                lambda text: tokenizer(text, add_special_tokens=False).input_ids,
                lambda text: question_ids(tokenizer, text),
                header,
                end,
                rng,
                passages=most,
                shuffled=False,
            )
            file.write(json.dumps(made | {"kind": kind, "question": question, "answer": answer}) + "\n")
            if done % 500 == 0:
                print(done, kind, question, answer, len(made["input_ids"]), flush=True)
    print(f"{len(kinds)} samples: {dict(Counter(kinds))}")


def contested(story: Story) -> bool:
    """Whether an earlier fact would give another answer: who was asked for was elsewhere before."""
    if story.task != "qa1":
        return True
    person = story.question.rstrip("?").split()[-1]
    earlier = [fact for fact in story.facts[: story.support[-1]] if fact.startswith(person)]
    return bool(earlier) and story.answer not in earlier[-1]


def needles(background: list[list[int]], tokenizer: Any, rng: random.Random) -> tuple[list[str], str, str]:
    """1 to 8 numbers for keys of two words of the book, one of which is asked for."""
    words = re.findall(r"\b[a-z]{4,9}\b", tokenizer.decode(sum(background, [])[:1500])) + [
        "river",
        "stone",
        "cloud",
    ]
    keys = list(dict.fromkeys("-".join(rng.sample(words, 2)) for _ in range(rng.randint(1, 8))))
    values = [number(rng) for _ in keys]
    asked = rng.randrange(len(keys))
    facts = [NEEDLE.format(key=key, value=value) for key, value in zip(keys, values, strict=True)]
    return facts, NEEDLE_QUESTION.format(key=keys[asked]), values[asked]


def holds(run: list[int], marks: set[tuple[int, ...]]) -> bool:
    """Whether one of these sentences stands in a segment."""
    sizes = {len(mark) for mark in marks}
    return any(tuple(run[i : i + n]) in marks for n in sizes for i in range(len(run) - n + 1))


def read_again(runs: list[list[int]], chosen: list[int], facts: list[list[int]]) -> bool:
    """Whether all of these sentences stand in the chosen segments, the last ones of a text."""
    return all(any(holds(runs[i], {tuple(fact)}) for i in chosen) for fact in facts)


def training(args: argparse.Namespace) -> None:
    """Train in WORK/run, or go on there."""
    model = loaded(args)
    names = ("input_ids", "labels", "segment_ends")
    with (args.to / "samples.jsonl").open() as file:
        made = [{name: sample[name] for name in names} for sample in map(json.loads, file)]
    stages = (replace(RECIPE.stages[0], steps=args.steps),)
    train(model, load_tokenizer(BACKBONE), made, replace(RECIPE, stages=stages), args.to / "run", resume=True)


def untrained() -> HMTForCausalLM:
    """The model before any training."""
    torch.manual_seed(0)
    options = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    return HMTForCausalLM.from_backbone(BACKBONE, backbone_kwargs=options, **FIELDS).eval()


def recall(args: argparse.Namespace) -> None:
    """Write WORK/recall.pt: W_q and W_k with which questions find segments that hold facts."""
    model, tokenizer = untrained(), load_tokenizer(BACKBONE)
    tokenizer.model_max_length = 10**9
    assembled, rng = Assembled(model), random.Random(args.seed + 1)
    books = Books(args.books, tokenizer, args.seed + 1)
    length = FIELDS["segment_length"]
    started = time.perf_counter()
    book = assembled.embed(pieces(books.take(args.tokens), length)).float()
    print(f"{len(book)} segments of books in {time.perf_counter() - started:.0f} s", flush=True)
    asked, held, owner = [], [], []
    of_task = {task: stories(args.babi, task, "train") for task in SHARES if task != "needle"}
    for kind, share in SHARES.items():
        for _ in range(round(share * args.texts)):
            background = books.take(round(math.exp(rng.uniform(math.log(200), math.log(4000)))))
            if kind == "needle":
                facts, question, answer = needles(background, tokenizer, rng)
                needed = [fact for fact in facts if answer in fact]
            else:
                story = rng.choice(of_task[kind]).exchanged(rng)
                facts, question, needed = list(story.facts), story.question, list(story.facts)
            hidden = encode(tokenizer, facts)
            runs = pieces(hide(background, hidden, sorted(rng.random() for _ in hidden)), length)
            marks = {tuple(fact) for fact in encode(tokenizer, needed)}
            found = [run for run in runs if holds(run, marks)]
            found = rng.sample(found, min(8, len(found)))
            owner += [len(asked)] * len(found)
            held += found
            asked.append(question_ids(tokenizer, question))
    queries, positives = assembled.embed(asked).float(), assembled.embed(held).float()
    print(f"{len(positives)} that hold facts, {time.perf_counter() - started:.0f} s", flush=True)
    query, key = whiten(book, queries, model.recall.query.out_features)
    query, key = query.requires_grad_(), key.requires_grad_()
    scale, of = model.recall.scale, torch.tensor(owner)
    optimizer = torch.optim.AdamW([query, key], lr=args.rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(args.recall_steps):
        some = torch.randperm(len(positives), generator=generator)[:128]
        others = torch.randperm(len(book), generator=generator)[:8192]
        folded = queries[of[some]] @ query.T @ key * scale
        right = (folded * positives[some]).sum(1)
        wrong = (folded @ book[others].T).logsumexp(1) + math.log(len(book) / len(others))
        loss = torch.nn.functional.softplus(wrong - right).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(step, round(loss.item(), 4), f"{time.perf_counter() - started:.0f} s", flush=True)
    torch.save({"query": query.detach(), "key": key.detach()}, args.to / "recall.pt")


def loaded(args: argparse.Namespace) -> HMTForCausalLM:
    """With the recall that was trained, and the adapter: what was trained, or where that begins."""
    model = untrained()
    found = torch.load(args.to / "recall.pt")
    shipped = hmt.load_model(BACKBONE)
    apply_tuning(model, RECIPE)
    run = args.run or args.to / "run"
    trained = hmt.load_model(run) if (run / "config.json").exists() else shipped
    theirs = dict(trained.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or name.startswith("first_prompt"):
                parameter.copy_(theirs[name])
        model.recall.query.weight.copy_(found["query"])
        model.recall.key.weight.copy_(found["key"])
    model.config.lexical, model.config.recency = args.lexical, args.recency
    model.config.passages = args.passages
    return model.eval()


class Texts:
    """Stories hidden in a book, and memories of what is made so."""

    def __init__(self, model: HMTForCausalLM, tokenizer: Any, args: argparse.Namespace):
        self.model, self.tokenizer, self.args = model, tokenizer, args
        self.assembled = Assembled(model)
        self.book = Books(args.books, tokenizer).take(max(args.lengths) + 2000)
        self.starts = list(itertools.accumulate(map(len, self.book), initial=0))
        self.header = torch.tensor([answer_header(tokenizer)])
        cache = args.to / f"embedded-{args.books.name}.pt"
        if cache.exists():
            self.assembled.known = torch.load(cache)
        before, started = len(self.assembled.known), time.perf_counter()
        self.assembled.embed(pieces(self.book, FIELDS["segment_length"]))
        if len(self.assembled.known) > before:
            seconds = time.perf_counter() - started
            print(f"{self.starts[-1]:,} tokens embedded in {seconds:.0f} s", flush=True)
            torch.save(self.assembled.known, cache)

    def hidden(self, facts: list[str], length: int, rng: random.Random) -> list[list[int]]:
        """Segments of a text of `length` tokens, at a random place of the book, in which the facts stand."""
        facts_ids = encode(self.tokenizer, facts)
        room = length - sum(map(len, facts_ids))
        start = bisect.bisect_left(self.starts, rng.uniform(0, self.starts[-1] - length - 1000))
        text = hide(cut(self.book[start:], room), facts_ids, sorted(rng.random() for _ in facts))
        return pieces(text, FIELDS["segment_length"])

    def ask(self, texts: list[list[list[int]]], questions: list[str]) -> Any:
        """The memories of texts with a question each, as one batch."""
        size = max(map(len, texts)) + 1
        self.model.config.memory_size = size
        memory = Memory.cat([self.assembled.memory(text) for text in texts])
        ids = [torch.tensor(question_ids(self.tokenizer, question)) for question in questions]
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
        ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        return self.model.flush(self.model.read(ids, memory=memory, attention_mask=mask))

    def answer(self, asked: Any, tokens: int) -> list[str]:
        """What is answered, greedily."""
        header = self.header.expand(asked.batch_size, -1)
        out = self.model.generate(
            header,
            attention_mask=torch.ones_like(header),
            past_key_values=asked,
            max_new_tokens=tokens,
            do_sample=False,
        )
        return self.tokenizer.batch_decode(out[:, header.shape[1] :], skip_special_tokens=True)


def stands(facts: list[list[int]], passages: list[Any]) -> bool:
    """Whether all of these sentences stand in what was recalled."""
    return all(any(holds(list(passage.ids or []), {tuple(fact)}) for passage in passages) for fact in facts)


def embed(args: argparse.Namespace) -> None:
    """Embed the segments of the books that the longest of `--lengths` takes, for all further steps."""
    tokenizer = load_tokenizer(BACKBONE)
    tokenizer.model_max_length = 10**9
    Texts(loaded(args), tokenizer, args)


@torch.no_grad()
def tune(args: argparse.Namespace) -> None:
    """Print how often what is needed is found, by weight of BM25 and recency, on stories of train."""
    model, tokenizer = loaded(args), load_tokenizer(BACKBONE)
    tokenizer.model_max_length = 10**9
    texts, rng = Texts(model, tokenizer, args), random.Random(args.seed + 2)
    for length in args.lengths:
        items = []
        for task in args.tasks:
            for story in rng.sample(stories(args.babi, task, "train"), args.each):
                text = texts.hidden(list(story.facts), length, rng)
                needed = [fact for i, fact in enumerate(story.facts) if i in story.support]
                items.append((task, story, text, encode(tokenizer, needed)))
        for lexical in args.grid_lexical:
            for recency in args.grid_recency:
                model.config.lexical, model.config.recency = lexical, recency
                found: dict[str, list[bool]] = defaultdict(list)
                for task, story, text, needed in items:
                    asked = texts.ask([text], [story.question])
                    passages = model.recalled(asked, top=model.config.passages)[0]
                    found[task].append(stands(needed, passages))
                shown = "  ".join(f"{task} {100 * np.mean(hits):3.0f}" for task, hits in found.items())
                print(f"{length:8d} lexical {lexical:4.1f} recency {recency:4.1f}  {shown}", flush=True)


ROWS = ("exact recall", "without recency", "learned", "bm25", "random", "oracle", "none")


def choose_by(model: HMTForCausalLM, row: str, args: argparse.Namespace, key: torch.Tensor) -> None:
    """Set the model up for a row; memories stay valid in this process."""
    lexical = {"learned": 0.0, "bm25": 1e3, "random": 0.0}.get(row, args.lexical)
    model.config.lexical = lexical
    model.config.recency = args.recency if row in ("exact recall", "oracle", "none") else 0.0
    noise = torch.randn(key.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.recall.key.weight.copy_(noise if row == "random" else key)


def given(
    text: list[list[int]], facts: list[list[int]], support: tuple[int, ...], most: int
) -> list[list[int]]:
    """The segments of a text that hold the facts that are needed, and the latest ones of the other facts."""
    needed, every = {tuple(facts[i]) for i in support}, set(map(tuple, facts))
    first = [i for i, piece in enumerate(text) if holds(piece, needed)][-most:]
    later = [i for i, piece in enumerate(text) if holds(piece, every) and i not in first]
    return [text[i] for i in sorted([*first, *(later[-(most - len(first)) :] if most > len(first) else [])])]


@torch.no_grad()
def evaluate(args: argparse.Namespace) -> None:
    """Answers to questions about stories of test in books of test, in the order of BABILong's own list."""
    model, tokenizer = loaded(args), load_tokenizer(BACKBONE)
    tokenizer.model_max_length = 10**9
    texts = Texts(model, tokenizer, args)
    key = model.recall.key.weight.detach().clone()
    chosen = json.loads((args.babi / "babilong_test_100_idxs.json").read_text())
    results: dict[str, Any] = {}
    examples = []
    plan = [one.split(":") for one in args.plan] or [
        [task, str(length), str(args.each), ",".join(args.rows)]
        for length in args.lengths
        for task in args.tasks
    ]
    for task, size, each, named in plan:
        length, number_asked, rows = int(size), int(each), named.split(",")
        everything = stories(args.babi, task, args.split)
        rng = random.Random(f"{args.seed} {task} {length}")
        if args.split == "test":
            items = [everything[i] for i in chosen[task][:number_asked]]
        else:
            items = rng.sample(everything, number_asked)
        made = [texts.hidden(list(story.facts), length, rng) for story in items]
        for row in rows:
            choose_by(model, row, args, key)
            sources = made
            if row == "oracle":
                sources = [
                    given(text, encode(tokenizer, list(story.facts)), story.support, args.passages)
                    for text, story in zip(made, items, strict=True)
                ]
            elif row == "none":
                sources = [[texts.book[0][:16]] for _ in items]
            hits, right = [], []
            for start in range(0, len(items), args.batch):
                part = slice(start, start + args.batch)
                asked = texts.ask(sources[part], [story.question for story in items[part]])
                again = model.recalled(asked, top=args.passages)
                said = texts.answer(asked, args.tokens_said)
                for story, passages, answer in zip(items[part], again, said, strict=True):
                    needed = encode(tokenizer, [story.facts[i] for i in story.support])
                    hits.append(stands(needed, passages))
                    last = answer.split("Answer:")[-1].strip().strip(".").lower()
                    right.append(last == story.answer.lower())
                if start == 0 and row == "exact recall":
                    examples += [[length, items[0].question, said[0], items[0].answer]]
            results[f"{task} {length} {row}"] = {
                "questions": len(right),
                "found": float(np.mean(hits)),
                "right": float(np.mean(right)),
                "interval": wilson(sum(right), len(right)),
            }
            print(
                task,
                length,
                row,
                results[f"{task} {length} {row}"],
                time.strftime("%H:%M:%S"),
                flush=True,
            )
        write(args, results, examples)
    write(args, results, examples)


def wilson(hits: int, number: int, z: float = 1.96) -> list[float]:
    """95% interval of a share."""
    centre = (hits + z * z / 2) / (number + z * z)
    half = z * math.sqrt(hits * (number - hits) / number + z * z / 4) / (number + z * z)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def write(args: argparse.Namespace, results: dict[str, Any], examples: list[Any]) -> None:
    """The results file, if one is asked for."""
    if args.output:
        names = (
            "plan",
            "lengths",
            "tasks",
            "rows",
            "each",
            "passages",
            "lexical",
            "recency",
            "split",
            "seed",
        )
        settings = {name: getattr(args, name) for name in names} | {"books": args.books.name}
        found = {"run": run_facts(args.seed), "settings": settings, "results": results, "examples": examples}
        write_atomically(args.output, (json.dumps(found, indent=1) + "\n").encode())


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = {
        "samples": samples,
        "recall": recall,
        "train": training,
        "tune": tune,
        "embed": embed,
        "evaluate": evaluate,
    }
    parser.add_argument("step", choices=[*steps])
    parser.add_argument("--to", type=Path, required=True, help="folder of the work")
    parser.add_argument("--babi", type=Path, help="folder with en/ and en-10k/")
    parser.add_argument("--books", type=Path, help="JSON lines with a field text, xz")
    parser.add_argument("--run", type=Path, help="what was trained, or a checkpoint of it; WORK/run")
    parser.add_argument("--samples", type=int, default=1600)
    parser.add_argument("--share", nargs="+", help="of the samples, such as qa1=0.6 qa5=0.4")
    parser.add_argument("--contested", action="store_true", help="only qa1 stories whose order counts")
    parser.add_argument("--steps", type=int, default=RECIPE.stages[0].steps)
    parser.add_argument("--tokens", type=int, default=300_000, help="of books, for recall")
    parser.add_argument("--texts", type=int, default=600, help="with facts, for recall")
    parser.add_argument("--recall-steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384, 65536, 131072])
    parser.add_argument("--tasks", nargs="+", default=[*TASKS])
    parser.add_argument("--each", type=int, default=100, help="questions of each task and length")
    parser.add_argument("--passages", type=int, default=FIELDS["passages"])
    parser.add_argument("--lexical", type=float, default=FIELDS["lexical"])
    parser.add_argument("--recency", type=float, default=FIELDS["recency"])
    parser.add_argument("--grid-lexical", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--grid-recency", type=float, nargs="+", default=[0.0, 1.0, 2.0, 4.0])
    parser.add_argument("--split", choices=["train", "test"], default="test", help="of bAbI")
    parser.add_argument("--rows", nargs="+", default=["exact recall"], choices=ROWS)
    parser.add_argument(
        "--plan", nargs="+", default=[], help="instead: task:length:questions:row,row ... one after another"
    )
    parser.add_argument("--batch", type=int, default=10, help="questions answered side by side")
    parser.add_argument("--tokens-said", type=int, default=28, help="of an answer, at most")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps[args.step](args)


if __name__ == "__main__":
    main()
