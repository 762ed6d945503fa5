"""Questions about whole books and sets of paragraphs: exact recall beside BM25, other choices and no memory.

    python benchmarks/questions.py books BOOKS.jsonl.xz --model smollm2-135m --documents 6
    python benchmarks/questions.py paragraphs hotpotqa.jsonl.xz ... --model smollm2-135m --items 100
    python benchmarks/questions.py paragraphs minilongbench/hotpotqa.jsonl.xz ... --readers ...

books: facts that are made up and hidden in a book that was not trained on, and questions made of its own
sentences; it is read once, into one memory, and asked. paragraphs: HotpotQA, 2WikiMultihopQA and MuSiQue
with their distractors, each item read as one text in the order of its file; or LongBench prompts, of which
the text is read and the question asked.

Every reader reads the same text once and answers from a memory of the same bytes, or from none:

    exact recall   the model as it is: learned score, BM25 and second hop
    learned        its learned score alone, one hop
    bm25           BM25 over the remembered ids alone, one hop, the same number of passages
    random         passages drawn at random
    minilm         a memory of the segments that all-MiniLM-L6-v2 finds (`--minilm`), and nothing else
    full context   the backbone with the same adapter, and the last 8,064 tokens of the text in sight
    oracle         a memory of the segments (or the paragraphs) that hold the evidence, and nothing else
    none           the question alone
    no prompt      exact recall with its first prompt in the place of the recall prompt: passages alone
    prompt only    the recall prompt without passages: embeddings alone
    neither        the first prompt without passages; the question and the last tokens of the text remain

The last three are not among those asked by default.

Printed and written: whether the answer stands in the passages that were read again ("found"), exact match and
F1 as in SQuAD, with bootstrap intervals of 95% over documents (books) or items (paragraphs).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import lzma
import random
import re
import string
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from other_readers import FullContext, SentenceEmbeddings

import hmt
from hmt.data.questions import ask_document, in_tokens
from hmt.data.questions.samples import question_samples
from hmt.model.asking import answer_header, ask_memory, question_ids
from hmt.systems import load_tokenizer
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically

READERS = ("exact recall", "learned", "bm25", "random", "oracle", "none")
OTHERS = ("minilm", "full context", "no prompt", "prompt only", "neither")


def normal(text: str) -> list[str]:
    """Words as SQuAD compares them."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def scores(answer: str, golds: list[str]) -> tuple[float, float]:
    """Exact match and F1, the best over the right answers."""
    best = (0.0, 0.0)
    for gold in golds:
        said, meant = normal(answer), normal(gold)
        shared = sum((Counter(said) & Counter(meant)).values())
        f1 = 2 * shared / (len(said) + len(meant)) if said and meant else float(said == meant)
        best = max(best, (float(said == meant), f1))
    return best


class Asker:
    """Answers from memories, with one way of choosing passages or another."""

    def __init__(self, model: Any, tokenizer: Any, tokens: int):
        self.model, self.tokenizer, self.tokens = model, tokenizer, tokens
        self.header = torch.tensor([answer_header(tokenizer)])
        self.config = copy.deepcopy(model.config)
        self.key = model.recall.key.weight.detach().clone()
        self.whole = (model._prompt, model._passages)

    def choose_by(self, reader: str) -> None:
        """Set the model up for a reader; memories stay valid in this process."""
        lexical = {"learned": 0.0, "bm25": 1e3}.get(reader, self.config.lexical)
        self.model.config.lexical = lexical
        one_hop = reader in ("learned", "bm25", "random")
        self.model.config.hops = 1 if one_hop else self.config.hops
        self.model._prompt, self.model._passages = self.whole
        if reader in ("no prompt", "neither"):
            self.model._prompt = lambda state, recalled: self.model.first_prompt(state.batch_size)
        if reader in ("prompt only", "neither"):
            self.model._passages = lambda *_: ([], None)
        with torch.no_grad():
            self.model.recall.key.weight.copy_(self.key)
            if reader == "random":
                self.model.config.lexical = 0.0
                generator = torch.Generator().manual_seed(0)
                noise = torch.randn(self.key.shape, generator=generator)
                self.model.recall.key.weight.copy_(noise)

    def answer(self, memory: Any, question: str, top: int = 0) -> tuple[str, str, list[int]]:
        """What is answered, the text of the passages that were read again, and the best segments."""
        ids = question_ids(self.tokenizer, question)
        asked = ask_memory(self.model, memory, ids)
        ranked = self.model.recalled(asked, top=max(top, self.model.config.passages))[0]
        passages = [passage for passage in ranked if passage.read_again]
        out = self.model.generate(
            self.header, past_key_values=asked, max_new_tokens=self.tokens, do_sample=False
        )[0, self.header.shape[1] :]
        said = self.tokenizer.decode(out, skip_special_tokens=True).strip()
        shown = " ".join(self.tokenizer.decode(passage.ids) for passage in passages if passage.ids)
        return said, shown, [passage.segment for passage in ranked]

    def other(self, args: argparse.Namespace) -> dict[str, Any]:
        """The readers that bring something of their own, by name."""
        found: dict[str, Any] = {}
        if "full context" in args.readers:
            found["full context"] = FullContext(
                self.model, self.tokenizer, self.header[0].tolist(), self.tokens
            )
        if "minilm" in args.readers:
            found["minilm"] = SentenceEmbeddings(args.minilm, self.tokenizer)
        return found


def interval(groups: list[list[float]], seed: int = 0) -> list[float]:
    """Mean and its 95% interval, resampled over groups."""
    rng = np.random.default_rng(seed)
    sums, sizes = np.array([sum(g) for g in groups]), np.array([len(g) for g in groups])
    picks = rng.integers(0, len(groups), (2000, len(groups)))
    means = sums[picks].sum(1) / np.maximum(sizes[picks].sum(1), 1)
    return [float(sums.sum() / sizes.sum()), *(float(q) for q in np.quantile(means, [0.025, 0.975]))]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt") as file:
        for line in file:
            yield json.loads(line)


Asked = tuple[str, int, str, str, list[str], str, list[bool] | None]


def books(asker: Asker, args: argparse.Namespace) -> Iterator[Asked]:
    """(kind, group, reader, answer, golds, passages, which of the first 4 segments hold the answer)."""
    others = asker.other(args)
    model, tokenizer = asker.model, asker.tokenizer
    length = model.segment_length
    records = lines(args.data[0])
    for number in range(args.documents):
        joined = list(itertools.islice(records, args.joined))
        record = {"text": "\n\n".join(one["text"] for one in joined), "title": joined[0].get("title")}
        rng = random.Random(number)
        text, questions = ask_document(
            record["text"][: args.characters], rng, facts=args.facts, document=number
        )
        encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        ids = encoded.input_ids
        by_kind: dict[str, list[Any]] = defaultdict(list)
        spans = in_tokens(questions, encoded.offset_mapping)
        for sample in question_samples(ids, spans, tokenizer, length, rng, hard=0, longest=50):
            by_kind[sample["kind"]].append(sample)
        chosen = [s for found in by_kind.values() for s in rng.sample(found, min(args.each, len(found)))]
        started = time.perf_counter()
        memory = model.read(torch.tensor(ids)) if args.readers != ["minilm"] else None
        seconds = time.perf_counter() - started
        print(f"{record.get('title')}: {len(ids):,} tokens read at {len(ids) / seconds:,.0f}/s", flush=True)
        for reader in args.readers:
            asker.choose_by(reader)
            if reader == "full context":
                others[reader].read(ids)
            elif reader == "minilm":
                others[reader].read(ids, length)
            for sample in chosen:
                source, ranked = memory, None
                if reader == "full context":
                    said = others[reader].answer(question_ids(tokenizer, sample["question"]))
                    kept = tokenizer.decode(others[reader].kept)
                    yield sample["kind"], number, reader, said, [sample["answer"]], kept, None
                    continue
                if reader == "none":
                    source = model.new_memory(1)
                elif reader == "oracle":
                    source = model.read(torch.tensor(sum(sample["segments"], [])))
                elif reader == "minilm":
                    ranked = others[reader].ranked(sample["question"], 4)
                    best = sorted(ranked[: asker.config.passages])
                    kept = sum((others[reader].segments[i] for i in best), [])
                    if not args.tokens:  # only what is found
                        hits = [segment == sample["segment"] for segment in ranked]
                        found_ = tokenizer.decode(kept)
                        yield sample["kind"], number, reader, "", [sample["answer"]], found_, hits
                        continue
                    source = model.read(torch.tensor(kept))
                said, shown, found = asker.answer(source, sample["question"], 4)
                ranked = found if ranked is None else ranked
                hits = [segment == sample["segment"] for segment in ranked[:4]]
                right = hits if reader not in ("none", "oracle") else None
                yield sample["kind"], number, reader, said, [sample["answer"]], shown, right


def paragraphs(asker: Asker, args: argparse.Namespace) -> Iterator[Asked]:
    """As `books`, of question sets with paragraphs."""
    others, length = asker.other(args), asker.model.segment_length
    for path in args.data:
        kind = path.name.split(".")[0]
        usable = (r for r in lines(path) if any(map(r.get, ("context", "paragraphs", "prompt"))))
        for number, record in enumerate(usable):
            if number >= args.items:
                break
            if "prompt" in record:
                text, record["question"] = longbench(record["prompt"])
                record["answer"], *record["answer_aliases"] = record["gold"]
                texts, needed = [text], list[int]()
            elif "context" in record:
                texts = [
                    f"{title}. {' '.join(s.strip() for s in parts)}" for title, parts in record["context"]
                ]
                titles = {title for title, _ in record["supporting_facts"]}
                needed = [i for i, (title, _) in enumerate(record["context"]) if title in titles]
            else:
                texts = [f"{p['title']}. {p['paragraph_text']}" for p in record["paragraphs"]]
                needed = [i for i, p in enumerate(record["paragraphs"]) if p["is_supporting"]]
            golds = [record["answer"], *record.get("answer_aliases", [])]
            ids = asker.tokenizer("\n".join(texts), add_special_tokens=False).input_ids
            memory = asker.model.read(torch.tensor(ids))
            question = record["question"]
            for reader in args.readers:
                asker.choose_by(reader)
                source = memory
                if reader == "full context":
                    others[reader].read(ids)
                    said = others[reader].answer(question_ids(asker.tokenizer, question))
                    yield kind, number, reader, said, golds, asker.tokenizer.decode(others[reader].kept), None
                    continue
                if reader == "none":
                    source = asker.model.new_memory(1)
                elif reader == "oracle":  # each its own segment, as many as are read again
                    source = None
                    for place in needed[-asker.config.passages :]:
                        one = asker.tokenizer(texts[place], add_special_tokens=False).input_ids[:length]
                        source = asker.model.flush(asker.model.read(torch.tensor(one), memory=source))
                elif reader == "minilm":
                    others[reader].read(ids, length)
                    best = sorted(others[reader].ranked(question, asker.config.passages))
                    kept = [token for i in best for token in others[reader].segments[i]]
                    source = asker.model.read(torch.tensor(kept))
                said, shown, _ = asker.answer(source, question)
                yield kind, number, reader, said, golds, shown, None


def longbench(prompt: str) -> tuple[str, str]:
    """Text and question of a LongBench prompt, without what tells to answer."""
    text, _, rest = prompt.rpartition("Question:")
    told = text.rstrip().rfind("\n\n")
    return text[:told].partition("\n\n")[2], rest.strip().removesuffix("Answer:").strip()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["books", "paragraphs"])
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--characters", type=int, default=10**9, help="of each book")
    parser.add_argument("--joined", type=int, default=1, help="books that make one text")
    parser.add_argument("--memory-size", type=int, help="segments that are remembered; as trained")
    parser.add_argument("--facts", type=int, default=20, help="hidden in each book")
    parser.add_argument("--each", type=int, default=6, help="questions of each kind and book")
    parser.add_argument("--items", type=int, default=50, help="of each set of paragraphs")
    parser.add_argument("--tokens", type=int, default=16, help="of an answer, at most (minilm: 0)")
    parser.add_argument("--readers", nargs="+", choices=[*READERS, *OTHERS])
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.readers is None:
        args.readers = list(READERS)
    torch.set_num_threads(1)
    model = hmt.load_model(args.model)
    if args.memory_size:
        model = model.resized(memory_size=args.memory_size)
    tokenizer = load_tokenizer(args.model, model.config.base_model_name_or_path)
    tokenizer.model_max_length = 10**9  # it is read segment by segment
    asker = Asker(model, tokenizer, args.tokens)
    found: dict[tuple[str, str], dict[int, list[tuple[float, float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    ranks: dict[tuple[str, str], dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    examples = []
    with torch.no_grad():
        for kind, group, reader, said, golds, shown, first in (books if args.what == "books" else paragraphs)(
            asker, args
        ):
            exact, f1 = scores(said, golds)
            held = float(any(g and " ".join(normal(g)) in " ".join(normal(shown)) for g in golds))
            for name in (kind, "all"):
                found[name, reader][group].append((held, exact, f1))
                for top in (1, 2, 4) if first is not None else ():
                    ranks[name, reader][top].append(any(first[:top]))
            if reader == "exact recall" and len(examples) < 60:
                examples.append({"kind": kind, "said": said, "right": golds[0]})
    rows = {}
    for (kind, reader), groups in sorted(found.items()):
        many = list(groups.values())
        row = {
            name: interval([[one[i] for one in group] for group in many])
            for i, name in enumerate(("found", "exact", "f1"))
        }
        first = {f"recall@{top}": float(np.mean(hits)) for top, hits in ranks[kind, reader].items()}
        rows[f"{kind} | {reader}"] = row | first | {"questions": sum(map(len, many))}
        shown = "  ".join(
            f"{name} {100 * m:5.1f} [{100 * a:.0f}, {100 * b:.0f}]" for name, (m, a, b) in row.items()
        )
        print(f"{kind:24s} {reader:14s} {shown}  n={sum(map(len, many))}  {first}")
    if args.output:
        settings = {
            k: [str(p) for p in v] if k == "data" else v
            for k, v in vars(args).items()
            if k not in ("output", "minilm")
        }
        settings["data"] = [Path(path).name for path in settings["data"]]
        result = {"run": run_facts(0), "settings": settings, "results": rows, "examples": examples}
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
