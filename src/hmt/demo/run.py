"""The demo from beginning to end: what runs when, what is kept, and the page about it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hmt.demo.corpus import Corpus
from hmt.demo.settings import Settings
from hmt.demo.summary import SYSTEMS, summarise
from hmt.util.files import write_atomically

# The order matters: the two halves share the processor, and recall is the first thing worth seeing.
RECALL = ("hmt", "rmt")
TRAINED = ("hmt", "rmt", "sensory", "window", "alone")

_queue: Any = None


@dataclass
class Demo:
    """One folder of results. A job whose result is there, made with the same settings, is not run again.

    Args:
        folder: everything is left here. workers: processes; each gets its share of the cores.
        show: called as show(event, **values) for whatever displays the demo ("begin", "progress", "end").
    """

    folder: Path
    corpus: Corpus
    settings: Settings
    workers: int = 2
    show: Callable[..., None] = lambda event, **values: None
    results: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Do everything; returns what `results.json` holds."""
        began = time.perf_counter()
        work = self.folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        corpus = work / "corpus.json"
        documents = {"train": self.corpus.train, "held_out": self.corpus.held_out}
        write_atomically(corpus, json.dumps(documents).encode())
        self._key = hashlib.sha256(
            json.dumps(self.settings.to_dict()).encode() + corpus.read_bytes()
        ).hexdigest()[:16]
        self._train_and_score(corpus)
        self._read_and_continue()
        self._collect(time.perf_counter() - began)
        return self.results

    # -- training and scoring, in worker processes --------------------------------------------------------

    def _train_and_score(self, corpus: Path) -> None:
        context = multiprocessing.get_context("spawn")
        queue = context.Manager().Queue()
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        pool = ProcessPoolExecutor(self.workers, context, _start_worker, (queue, threads))
        self._pool, self._events = pool, queue
        waiting: dict[str, Future] = {}
        try:
            waiting["backbone"] = self._submit("backbone", "pretrain", str(corpus))
            waiting["recall-hmt"] = self._submit("recall-hmt", "train_recall", "hmt")
            after = {f"recall-{s}": [(f"ask-{s}", "ask_recall", s)] for s in RECALL}
            after["recall-hmt"].append(("recall-rmt", "train_recall", "rmt"))
            after["backbone"] = [(f"text-{s}", "train_text", s) for s in TRAINED]
            after |= {f"text-{s}": [(f"score-{s}", "score_text", s)] for s in TRAINED}
            while waiting:
                self._drain(0.1)
                for name in [name for name, future in waiting.items() if future.done()]:
                    self._keep(name, waiting.pop(name).result())
                    for job, function, argument in after.get(name, ()):
                        waiting[job] = self._submit(job, function, argument)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(getattr(pool, "_processes", {}).values()):
                process.terminate()
            raise
        pool.shutdown()

    def _submit(self, job: str, function: str, argument: str) -> Future:
        kept = self._kept(job)
        if kept is not None:
            future: Future = Future()
            future.set_result(kept)
            return future
        return self._pool.submit(_work, job, function, str(self.folder), argument, self.settings)

    def _kept(self, job: str) -> dict | None:
        path = self.folder / "work" / f"{job}.json"
        if not path.is_file():
            return None
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["result"] if stored["key"] == self._key else None

    def _keep(self, job: str, result: dict) -> None:
        stored = {"key": self._key, "result": result}
        write_atomically(self.folder / "work" / f"{job}.json", json.dumps(stored).encode())
        self.results[job] = result
        self.show("end", job=job, result=result)

    def _drain(self, wait: float) -> None:
        """Show what the workers have posted, waiting a moment for the first of it."""
        import queue

        try:
            while True:
                event, values = self._events.get(timeout=wait)
                self.show(event, **values)
                wait = 0.001
        except queue.Empty:
            pass

    # -- the main job, by the commands a user types -------------------------------------------------------

    def _read_and_continue(self) -> None:
        name, text = self.corpus.longest
        document = self.folder / "document.txt"
        document.write_text(text, encoding="utf-8")
        model, memory = self.folder / "hmt", self.folder / "document.hmt"
        prompt = "\n    def " if name.endswith(".py") else "\n"
        self.show("begin", job="read", text=f"reading {name}")
        read = _hmt("read", model, document, "--memory", memory, "--overwrite")
        self.show("end", job="read", result=read)
        self.show("begin", job="continue", text="continuing in a new process")
        tokens = str(min(96, 3 * self.settings.text.segment))
        written = _hmt("generate", model, "--memory", memory, "--prompt", prompt, "--max-new-tokens", tokens)
        from hmt.memory.memory import Memory

        info = Memory.load(memory).info()
        self.results["read"] = {
            "name": name,
            "characters": len(text),
            "tokens": info["tokens_read"][0],
            "segments": info["segments_read"][0],
            "state_bytes": info["bytes"],
            "file_bytes": memory.stat().st_size,
            "said": read.strip(),
            "prompt": prompt,
            "continuation": written,
        }
        self.show("end", job="continue", result=self.results["read"])

    # -- the page -----------------------------------------------------------------------------------------

    def _collect(self, seconds: float) -> None:
        from transformers.utils import logging

        from hmt.evaluation import HistoryResult, RecallResult, measure_memory, recall_map, write_report
        from hmt.systems import load_model
        from hmt.util.environment import run_facts

        logging.disable_progress_bar()
        scored = {s: HistoryResult.from_dict(self.results[f"score-{s}"]) for s in TRAINED}
        perplexity = replace(scored["hmt"], nll={SYSTEMS[s]: result.nll[s] for s, result in scored.items()})
        recall = {SYSTEMS[s]: RecallResult.from_dict(self.results[f"ask-{s}"]) for s in RECALL}
        model = load_model(self.folder / "hmt")
        asked = load_model(self.folder / "recall-hmt")
        setup = {**run_facts(self.settings.seed), "seconds in all": round(seconds)}
        summary = summarise(perplexity, recall, self.results, self.settings)
        write_report(
            {
                "title": "hmt demo: does it remember?",
                "summary": summary,
                "perplexity": perplexity,
                "baseline": SYSTEMS["sensory"],
                "recall": recall,
                "memory": {"HMT": measure_memory(model)},
                "recall_map": {
                    "Hidden key-value task: what is recalled": recall_map(asked, self._questions())
                },
                "setup": setup,
            },
            self.folder / "report.html",
        )
        self.results |= {
            "summary": summary,
            "setup": setup,
            "settings": self.settings.to_dict(),
            "perplexity": {
                name: {str(h): perplexity.perplexity(name, h) for h in perplexity.histories}
                for name in perplexity.models
            },
            "scored_tokens": perplexity.tokens,
            "recall_accuracy": {
                name: {str(n): result.accuracy(n) for n in result.segments} for name, result in recall.items()
            },
        }
        write_atomically(self.folder / "results.json", (json.dumps(self.results, indent=1) + "\n").encode())

    def _questions(self) -> list[int]:
        """One stream of the key-value task in which every segment asks, for the recall map."""
        import torch

        from hmt.demo.keys import recall_task

        generator = torch.Generator().manual_seed(self.settings.seed)
        segments = min(32, max(self.settings.recall.lengths))
        return recall_task(self.settings.recall).sample(1, segments, generator)["input_ids"][0].tolist()


def _hmt(*words) -> str:
    """What an `hmt` command prints in a new process; ValueError with its words if it failed."""
    command = [sys.executable, "-m", "hmt", *map(str, words)]
    # a model this small is faster on one thread than on several that wait for each other
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment
    )
    if done.returncode:
        raise ValueError(f"`hmt {' '.join(map(str, words))}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _start_worker(queue, threads: int) -> None:
    global _queue
    _queue = queue
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends the workers
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()


def _work(job: str, function: str, folder: str, argument: str, settings: Settings) -> dict:
    from hmt.demo import keys, language

    last = 0.0

    def post(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done in (0, total) or now - last > 0.2:
            last = now
            _queue.put(("progress", {"job": job, "done": done, "total": total, "text": text}))

    _queue.put(("begin", {"job": job, "text": "starting"}))
    module = keys if function.endswith("recall") else language
    return getattr(module, function)(folder, argument, settings, post)
