"""Needles in books: a number for a key, alone or among others, from thousands of tokens to a million.

    python benchmarks/needles.py TEST.jsonl.xz --model smollm2-135m --lengths 4096 131072 1048576

The needles are RULER's ("One of the special magic numbers for ... is: ..."): one, or as many as `--keys`,
each for a key of its own. Every length is asked at five depths. The text is read segment by segment as
`model.read` does it, and needles stand where they fall: they take the place of as many tokens of the book,
and the end of a segment may cut them. With `--sentences` segments are closed where sentences end
(`hidden_facts.pieces`), for models that were trained so.

Found: the number stands in the passages that were read again. Right: it stands in the answer.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from assembled import Assembled
from babilong import wilson
from hidden_facts import NEEDLE, NEEDLE_QUESTION, Books, cut, encode, hide, number, pieces

import hmt
from hmt.evaluation.tasks.needles import _FIRST, _SECOND
from hmt.memory.memory import Memory
from hmt.model.asking import answer_header, question_ids
from hmt.systems import load_tokenizer
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Haystack:
    """A book in tokens, and what is hidden in it."""

    def __init__(self, path: Path, tokenizer: Any, tokens: int, length: int, whole: bool):
        self.tokenizer, self.length, self.whole = tokenizer, length, whole
        self.sentences = Books(path, tokenizer).take(tokens + 100)
        self.ids = [token for sentence in self.sentences for token in sentence]

    def plain(self) -> list[list[int]]:
        """The segments without anything hidden."""
        return pieces(self.sentences, self.length) if self.whole else self._grid(self.ids)

    def hidden(self, needles: list[tuple[float, str]], tokens: int) -> list[list[int]]:
        """The segments of the first so many tokens, with needles at depths 0 to 1."""
        needles = sorted(needles)
        facts = encode(self.tokenizer, [text for _, text in needles])
        if self.whole:
            room = tokens - sum(map(len, facts))
            text = hide(cut(self.sentences, room), facts, [depth for depth, _ in needles])
            return pieces(text, self.length)
        ids, free = self.ids[:tokens], 0
        for (depth, _), fact in zip(needles, facts, strict=True):
            place = max(free, min(round(depth * tokens), tokens - sum(map(len, facts))))
            ids[place : place + len(fact)] = fact
            free = place + len(fact)
        return self._grid(ids)

    def _grid(self, ids: list[int]) -> list[list[int]]:
        return [ids[i : i + self.length] for i in range(0, len(ids), self.length)]


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384, 65536, 131072])
    parser.add_argument("--keys", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--each", type=int, default=4, help="questions at each length and depth")
    parser.add_argument("--lexical", type=float, help="weight of BM25; the model's")
    parser.add_argument("--sentences", action="store_true")
    parser.add_argument("--batch", type=int, default=10, help="questions answered side by side")
    parser.add_argument("--cache", type=Path, help="file of embedded segments, made where it is not there")
    parser.add_argument("--check", action="store_true", help="read the first text as users do, and compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = hmt.load_model(args.model)
    if args.lexical is not None:
        model.config.lexical = args.lexical
    tokenizer = load_tokenizer(args.model, model.config.base_model_name_or_path)
    tokenizer.model_max_length = 10**9
    length, keys = model.segment_length, [f"{a}-{b}" for a in _FIRST for b in _SECOND]
    stack = Haystack(args.data, tokenizer, max(args.lengths), length, args.sentences)
    assembled = Assembled(model)
    if args.cache and args.cache.exists():
        assembled.known = torch.load(args.cache)
    started, before = time.perf_counter(), len(assembled.known)
    assembled.embed(stack.plain())
    seconds = time.perf_counter() - started
    print(
        f"{len(stack.ids):,} tokens, {len(assembled.known) - before} segments in {seconds:.0f} s", flush=True
    )
    if args.cache and len(assembled.known) > before:
        torch.save(assembled.known, args.cache)
    header = torch.tensor([answer_header(tokenizer)])
    results: dict[str, Any] = {}
    for tokens in args.lengths:
        for count in args.keys:
            rng = random.Random(f"{args.seed} {tokens} {count}")
            items = []
            for depth in DEPTHS * args.each:
                names, values = rng.sample(keys, count), [number(rng) for _ in range(count)]
                texts = [NEEDLE.format(key=k, value=v) for k, v in zip(names, values, strict=True)]
                places = [depth, *(rng.random() for _ in names[1:])]
                items.append((depth, names[0], values[0], list(zip(places, texts, strict=True))))
            rows = []
            for start in range(0, len(items), args.batch):
                part = items[start : start + args.batch]
                made = [stack.hidden(needles, tokens) for _, _, _, needles in part]
                model.config.memory_size = max(map(len, made)) + 1
                memories = [assembled.memory(text) for text in made]
                if args.check:
                    compare(model, made[0], memories[0])
                    args.check = False
                ids = [
                    torch.tensor(question_ids(tokenizer, NEEDLE_QUESTION.format(key=k)))
                    for _, k, _, _ in part
                ]
                mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
                asked = model.read(
                    torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
                    memory=Memory.cat(memories),
                    attention_mask=mask,
                )
                asked = model.flush(asked)
                again = model.recalled(asked, top=model.config.passages)
                start_of = header.expand(len(part), -1)
                out = model.generate(
                    start_of,
                    attention_mask=torch.ones_like(start_of),
                    past_key_values=asked,
                    max_new_tokens=12,
                    do_sample=False,
                )
                said = tokenizer.batch_decode(out[:, header.shape[1] :], skip_special_tokens=True)
                for (depth, _, value, _), passages, answer in zip(part, again, said, strict=True):
                    shown = "".join(tokenizer.decode(passage.ids) for passage in passages if passage.ids)
                    rows.append((depth, value in shown, value in answer.replace(",", "")))
            right = sum(row[2] for row in rows)
            by_depth = {d: [sum(r[i] for r in rows if r[0] == d) for i in (1, 2)] for d in DEPTHS}
            results[f"{count} keys {tokens}"] = {
                "questions": len(rows),
                "found": sum(row[1] for row in rows) / len(rows),
                "right": right / len(rows),
                "interval": wilson(right, len(rows)),
                "found and right by depth": by_depth,
            }
            row = results[f"{count} keys {tokens}"]
            print(tokens, count, row, time.strftime("%H:%M:%S"), repr(said[0]), flush=True)
    if args.output:
        names_ = ("lengths", "keys", "each", "sentences", "lexical", "seed")
        settings = {name: getattr(args, name) for name in names_}
        settings |= {"data": args.data.name, "model": Path(args.model).name, "tokens_read": len(stack.ids)}
        found = {"run": run_facts(args.seed), "settings": settings, "results": results}
        write_atomically(args.output, (json.dumps(found, indent=1) + "\n").encode())


@torch.no_grad()
def compare(model: Any, text: list[list[int]], memory: Memory) -> None:
    """Prints how far an assembled memory is from that of reading: the same tokens, close embeddings."""
    read = None
    for piece in text:
        read = model.flush(model.read(torch.tensor(piece), memory=read))
    assert read is not None
    same = all(
        torch.equal(read.state[name], memory.state[name])
        for name in ("passages", "sensory", "segments", "tokens")
    )
    count = len(text)
    theirs, ours = (one.state["bank"][0, :count].float() for one in (read, memory))
    apart = float((theirs - ours).norm() / theirs.norm())
    print(f"assembled memory: tokens the same: {same}; embeddings apart by {apart:.1e}")


if __name__ == "__main__":
    main()
