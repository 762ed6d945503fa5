"""The engine with its batches and without: how fast many sessions read and write, and what a long read costs
an answer.

    python benchmarks/serving_engine.py BOOKS.jsonl.xz --output benchmarks/results/serving_engine.json

"together" is the engine as a server uses it; "in turn" the same engine, one call after another. Both run in
turn in one process, `--rounds` times; the fastest of each counts. Printed for every number of sessions:

read: tokens/s of all, each session a text of its own.
write: tokens/s of all answers, the passages that are read again before the first token included; seconds
until the first token (mean of the sessions); share of answers that are the same in both, token for token.
beside: seconds between two tokens of one answer, alone and while a book is read, and how fast that is then.
rows: the largest difference of a logit between streams that are run in one batch and each alone, in the
precision of the model and in float32, and how far the likeliest token is ahead of the next one (median).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from questions import lines

import hmt
from hmt.memory.memory import Memory
from hmt.model.asking import answer_header, question_ids
from hmt.serving.engine import Engine
from hmt.sessions import DirectRunner, Options
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically

SESSIONS = (1, 4, 8, 16)


class Runners:
    """One model, with batches and without."""

    def __init__(self, direct: DirectRunner):
        self.direct, self.model, self.tokenizer = direct, direct.model, direct.tokenizer
        self.turn = threading.Lock()

    @contextmanager
    def running(self, together: bool) -> Iterator[Callable[..., Any]]:
        """Calls a function of the engine: at once, or one after another."""
        engine = Engine(self.model, self.tokenizer, answers=16 if together else 1)

        def call(name: str, *given: Any, **more: Any) -> Any:
            if together:
                return getattr(engine, name)(*given, **more)
            with self.turn:
                return getattr(engine, name)(*given, **more)

        try:
            yield call
        finally:
            engine.shutdown()


def at_once(number: int, work: Callable[[int], Any]) -> tuple[float, list[Any]]:
    """Seconds from a common start to the last end, and what each has found."""
    found: list[Any] = [None] * number
    start = threading.Barrier(number + 1)

    def run(index: int) -> None:
        start.wait()
        found[index] = work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, found


def read(call: Callable[..., Any], texts: list[list[int]]) -> dict[str, Any]:
    """Every session reads a text."""
    seconds, _ = at_once(len(texts), lambda index: call("read", None, texts[index]))
    return {"tokens_per_second": sum(map(len, texts)) / seconds}


def write(call: Callable[..., Any], memories: list[Memory], header: list[int], tokens: int) -> dict[str, Any]:
    """Every session writes an answer."""

    def one(index: int) -> tuple[list[int], float]:
        began, first = time.perf_counter(), []

        def heard(token: int) -> None:
            first.append(time.perf_counter() - began)

        ids = call("generate", memories[index], header, Options(max_new_tokens=tokens), heard)
        return ids, first[0]

    seconds, found = at_once(len(memories), one)
    return {
        "tokens_per_second": sum(len(ids) for ids, _ in found) / seconds,
        "first_token_seconds": statistics.mean(first for _, first in found),
        "written": [ids for ids, _ in found],
    }


def best(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest one: whatever else runs here only slows down."""
    return max(rounds, key=lambda one: one["tokens_per_second"])


def beside(runners: Runners, memory: Memory, header: list[int], book: list[int], tokens: int) -> dict:
    """Seconds between tokens of an answer, alone and beside a reader."""

    def gaps(call: Callable[..., Any]) -> list[float]:
        at: list[float] = []

        def heard(token: int) -> None:
            at.append(time.perf_counter())

        call("generate", memory, header, Options(max_new_tokens=tokens), heard)
        return [after - before for before, after in itertools.pairwise(at)]

    def told(found: list[float]) -> dict[str, float]:
        return {"median": statistics.median(found), "most": max(found)}

    with runners.running(True) as call:
        alone = told(gaps(call))
        done, ended = [0], threading.Event()

        def progress(more: int) -> None:
            done[0] = more
            if ended.is_set():
                raise InterruptedError

        def reads() -> None:
            try:
                call("read", None, book, progress)
            except InterruptedError:
                pass

        reader = threading.Thread(target=reads)
        reader.start()
        while not done[0]:
            time.sleep(0.01)
        began, before = time.perf_counter(), done[0]
        busy = told(gaps(call))
        speed = (done[0] - before) / (time.perf_counter() - began)
        ended.set()
        reader.join()
    return {"alone": alone, "while_reading": busy, "read_tokens_per_second_meanwhile": speed}


@torch.no_grad()
def rows(model: Any, memories: list[Memory], header: list[int]) -> dict[str, float]:
    """How far logits of streams in one batch are from those of each alone."""
    ids = torch.tensor([header])
    alone = torch.cat([model(ids, past_key_values=one.copy(), logits_to_keep=1).logits for one in memories])
    many = ids.expand(len(memories), -1)
    batch = model(many, past_key_values=Memory.cat([one.copy() for one in memories]), logits_to_keep=1).logits
    two = alone.float()[:, -1].topk(2).values
    return {
        "largest_difference": float((alone.float() - batch.float()).abs().max()),
        "median_lead": float((two[:, 0] - two[:, 1]).median()),
        "largest_logit": float(alone.float().abs().max()),
    }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--segments", type=int, default=8, help="of each text")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    direct = DirectRunner(hmt.load_model(args.model))
    direct.tokenizer.model_max_length = 10**9
    direct.model.generation_config.eos_token_id = None  # all answers have one length
    runners, length = Runners(direct), direct.model.segment_length
    books = [record["text"] for record in itertools.islice(lines(args.data), max(SESSIONS))]
    size = args.segments * length
    texts = [direct.tokenizer(text[20_000 : 20_000 + 8 * size]).input_ids[:size] for text in books]
    book = direct.tokenizer(books[0]).input_ids * 4
    asked = question_ids(direct.tokenizer, "What happens here, and to whom?")
    header = answer_header(direct.tokenizer)
    memories = [direct.close(direct.read(direct.close(direct.read(None, one)), asked)) for one in texts]
    result: dict[str, Any] = {"read": {}, "write": {}}
    for number in SESSIONS:
        found: dict[str, dict[str, list]] = {"read": {}, "write": {}}
        for _ in range(args.rounds):
            for together in (False, True):
                name = "together" if together else "in turn"
                with runners.running(together) as call:
                    found["read"].setdefault(name, []).append(read(call, texts[:number]))
                    written = write(call, memories[:number], header, args.tokens)
                    found["write"].setdefault(name, []).append(written)
        for what, by_name in found.items():
            row = {name: best(rounds) for name, rounds in by_name.items()}
            if what == "write":
                answers = [row[name].pop("written") for name in ("in turn", "together")]
                row["same"] = sum(a == b for a, b in zip(*answers, strict=True)) / number
            result[what][str(number)] = row
            print(what, number, json.dumps(row), flush=True)
    result["beside"] = beside(runners, memories[0], header, book, args.tokens)
    print("beside", json.dumps(result["beside"]), flush=True)
    with torch.no_grad():
        result["rows"] = {
            str(direct.model.dtype).removeprefix("torch."): rows(direct.model, memories, header)
        }
        direct.model.float()
        again = [direct.close(direct.read(direct.close(direct.read(None, one)), asked)) for one in texts]
        result["rows"]["float32"] = rows(direct.model, again, header)
    print("rows", json.dumps(result["rows"]), flush=True)
    if args.output:
        settings = {k: v for k, v in vars(args).items() if k != "output"} | {"data": args.data.name}
        whole = {"run": run_facts(0), "settings": settings, **result}
        write_atomically(args.output, (json.dumps(whole, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
