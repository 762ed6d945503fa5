"""Sessions on real books: time and bytes of each operation, and what remembering turns does to later answers.

    python benchmarks/sessions.py BOOKS.jsonl.xz --documents 3 --output benchmarks/results/sessions.json

Operations: a book is appended, saved, opened, asked, forgotten, forked and exported; seconds of each, and the
bytes that lie on the disk.

Turns: questions that each book answers (as of benchmarks/questions.py) are asked twice, the second time with
half of their words replaced by near ones, in a session that keeps turns in its history only, and in one that
remembers them. Printed for both: whether the answer stands in the passages that were read again ("found"),
exact match as in SQuAD ("exact"), and how many of these passages are earlier turns ("turns"), with bootstrap
intervals of 95% over books.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from questions import interval, lines, normal, scores

import hmt
from hmt.data.questions import ask_document, in_tokens, reword, word_neighbours
from hmt.data.questions.samples import question_samples
from hmt.sessions import DirectRunner, Options, Session, Store
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically

SHARE = 0.5  # of a question's words that are replaced when it is asked again


def timed(
    times: dict[str, list[float]], name: str, work: Callable[..., Any], *given: Any, **more: Any
) -> Any:
    """What `work` gives; its seconds are noted."""
    started = time.perf_counter()
    found = work(*given, **more)
    times[name].append(time.perf_counter() - started)
    return found


def operations(store: Store, session: Session, text: str, title: str) -> dict[str, Any]:
    """Seconds of everything that is done with one book, and bytes."""
    times: dict[str, list[float]] = defaultdict(list)
    runner, name = session.runner, session.name
    session = timed(times, "append", session.append, text, name=title)
    session = timed(times, "save of what was read", store.save, session)
    for question in ("Who is it about?", "Where do they live?", "What happens at the end?"):
        _, session = timed(times, "ask", session.ask, question, options=Options(max_new_tokens=16))
        timed(times, "recall", session.recall, question)
        session = timed(times, "save of a turn", store.save, session)
        session = timed(times, "open", store.open, name, runner)
    timed(times, "fork", store.fork, name, f"{name}-fork")
    timed(times, "export", store.export_bytes, name)
    timed(times, "append of a note", session.append, "The meeting is on Monday at nine.")
    timed(times, "forget", session.forget, "d1")
    (stored,) = [one for one in store.list() if one.name == name]
    info = session.info()
    timed(times, "delete", store.delete, name)
    return {
        "title": title,
        "tokens": info["tokens"],
        "seconds": {key: sum(many) / len(many) for key, many in times.items()},
        "bytes": {
            "stored": stored.bytes,
            "text": len(text.encode()),
            "memory": info["memory_bytes"],
            "kv_cache": info["kv_cache_bytes"],
        },
    }


def questions_of(
    text: str, number: int, runner: DirectRunner, args: argparse.Namespace
) -> tuple[str, list[Any]]:
    """The text with facts hidden in it, and questions that it answers."""
    rng = random.Random(number)
    text, made = ask_document(text, rng, facts=args.facts, document=number)
    tokenizer = runner.tokenizer
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    by_kind: dict[str, list[Any]] = defaultdict(list)
    spans = in_tokens(made, encoded.offset_mapping)
    length = runner.model.segment_length
    for sample in question_samples(encoded.input_ids, spans, tokenizer, length, rng, hard=0, longest=50):
        by_kind[sample["kind"]].append(sample)
    chosen = [s for found in by_kind.values() for s in rng.sample(found, min(args.each, len(found)))]
    rng.shuffle(chosen)
    return text, chosen


def ask_twice(
    session: Session, samples: list[Any], remember: bool, table: Any, tokens: int
) -> dict[str, list[tuple[float, float, float]]]:
    """(found, exact, share of turns) of every question, by round."""
    rng, found = random.Random(0), defaultdict(list)
    again = session.runner.model.config.passages
    for round in ("first", "again"):
        for sample in samples:
            question = sample["question"]
            if round == "again":
                question = reword(question, table, rng, SHARE)
            try:
                answer, session = session.ask(
                    question, top=again, remember=remember, options=Options(max_new_tokens=tokens)
                )
            except ValueError:  # other words may take more tokens than a question can have
                continue
            shown = " ".join(one.text or "" for one in answer.passages)
            held = float(" ".join(normal(sample["answer"])) in " ".join(normal(shown)))
            kinds = [session.document(one.document).kind for one in answer.passages]
            turns = kinds.count("turn") / max(1, len(kinds))
            found[round].append((held, scores(answer.answer, [sample["answer"]])[0], turns))
    return found


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=3)
    parser.add_argument("--characters", type=int, default=300_000, help="of each book")
    parser.add_argument("--facts", type=int, default=10, help="hidden in each book")
    parser.add_argument("--each", type=int, default=3, help="questions of each kind and book")
    parser.add_argument("--tokens", type=int, default=16, help="of an answer, at most")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runner = DirectRunner(hmt.load_model(args.model))
    runner.tokenizer.model_max_length = 10**9  # it is read segment by segment
    table = word_neighbours(runner.model.get_input_embeddings().weight, runner.tokenizer)
    done, groups = [], defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for number, record in enumerate(itertools.islice(lines(args.data), args.documents)):
            title = record.get("title") or record.get("short_book_title") or f"book {number}"
            text, samples = questions_of(record["text"][: args.characters], number, runner, args)
            done.append(operations(store, store.create(f"book{number}", runner), text, str(title)))
            print(json.dumps(done[-1]), flush=True)
            book = Session.new("book", runner).append(text, name=str(title))
            for remember in (False, True):
                for round, rows in ask_twice(book, samples, remember, table, args.tokens).items():
                    groups["remembered" if remember else "history", round].append(rows)
                    print(remember, round, [sum(column) / len(rows) for column in zip(*rows, strict=True)])
    results = {}
    for (mode, round), many in groups.items():
        row = {
            name: interval([[one[place] for one in rows] for rows in many])
            for place, name in enumerate(("found", "exact", "turns"))
        }
        results[f"{mode} | {round}"] = row | {"questions": sum(map(len, many))}
        shown = "  ".join(
            f"{name} {100 * m:5.1f} [{100 * a:.0f}, {100 * b:.0f}]" for name, (m, a, b) in row.items()
        )
        print(f"{mode:10s} {round:5s} {shown}  n={sum(map(len, many))}")
    if args.output:
        settings = {k: v for k, v in vars(args).items() if k != "output"} | {"data": args.data.name}
        result = {"run": run_facts(0), "settings": settings, "operations": done, "turns": results}
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
