"""A server that is killed at random moments: what it had acknowledged is there afterwards.

    python benchmarks/kill_server.py --kills 50 --output benchmarks/results/kill_server.json

A server process (a tiny model behind the real engine and a real store) is asked to read long texts, whose
events say what has been saved, shorter ones, whose answer says it, and to answer questions and remember
them. It gets SIGKILL at a random moment of a read or of an answer, and is started again. Of every memory is
then checked that

* it opens: every byte of it has its checksum;
* each document has at least the tokens that were acknowledged, its text begins what was sent, and is as long
  as its tokens;
* each answer that was given is among its turns, and nothing is there that was never sent;

and at the end that it recalls and answers what a memory does that has read the same tokens of the same texts
without interruption, in a process that never met the server or its store.

`--unsafe` acknowledges before it saves: a run that must find faults, or these checks would see none.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import httpx2  # noqa: E402
import torch  # noqa: E402
from cli.models import ASKED, SENTENCES, make_tokenizer, save_model  # noqa: E402

from hmt import HMTForCausalLM, load_model  # noqa: E402
from hmt.asking.places import ReadDocument  # noqa: E402
from hmt.asking.reading import batches  # noqa: E402
from hmt.serving import Engine, Settings, create_app  # noqa: E402
from hmt.serving.appending import Appending  # noqa: E402
from hmt.serving.server import Server, began, bound  # noqa: E402
from hmt.sessions import DirectRunner, Options, Session, Store  # noqa: E402
from hmt.sessions.session import turn_text  # noqa: E402
from hmt.util.environment import run_facts  # noqa: E402
from hmt.util.files import write_atomically  # noqa: E402

MEMORIES = 3
QUESTIONS = ("the boat?", "who turned, and when?", "what is naïve?")


def forgetful(self: Appending, step: Any) -> None:
    """In the place of `Appending._keep`: what is told is saved with the end of the text only."""
    if step.done:
        KEEP(self, step)


KEEP = Appending._keep


def serve(model: Any, tokenizer: Any, store: str, unsafe: bool, place: Any) -> None:
    """The server, in a process of its own."""
    if unsafe:
        Appending._keep = forgetful  # type: ignore[method-assign]
    settings = Settings(save_seconds=0, max_new_tokens=400)
    app = create_app(
        store=store, runner=Engine(model, tokenizer), model_id="tiny", began=began, settings=settings
    )
    port = place.getsockname()[1]
    Server(app, "127.0.0.1", port, settings).run([place])


class Killed:
    """A server that is started, killed and started again. Args: of `serve`."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.forks = multiprocessing.get_context("fork")  # torch is loaded once
        self.process: Any = None

    def start(self) -> httpx2.Client:
        """A client of a new process."""
        place = bound("127.0.0.1", 0)
        port = place.getsockname()[1]
        self.process = self.forks.Process(target=serve, args=(*self.arguments, place), daemon=True)
        self.process.start()
        place.close()
        client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        while True:
            assert self.process.is_alive()
            try:
                if client.get("/ready").status_code == 200:
                    return client
            except httpx2.TransportError:
                time.sleep(0.02)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)

    def kill_in(self, seconds: float) -> None:
        threading.Timer(seconds, self.kill).start()


class Life:
    """What was sent to memories, and what of it was acknowledged."""

    def __init__(self, draw: random.Random, tokenizer: Any):
        self.draw, self.tokenizer = draw, tokenizer
        self.sent: dict[str, dict[str, str]] = {f"m{n}": {} for n in range(MEMORIES)}  # by document name
        self.told: dict[str, dict[str, int]] = {f"m{n}": {} for n in range(MEMORIES)}  # tokens
        self.asked: dict[str, set[str]] = {f"m{n}": set() for n in range(MEMORIES)}
        self.answered: dict[str, list[tuple[str, str]]] = {f"m{n}": [] for n in range(MEMORIES)}
        self.number = 0
        self.faults: list[str] = []

    def text(self, memory: str, sentences: int) -> tuple[str, str]:
        """The name of a text and the text, to be sent."""
        self.number += 1
        name = f"text {self.number}"
        said = (f"{self.draw.choice(SENTENCES)} ({self.number}.{n})" for n in range(sentences))
        self.sent[memory][name] = " ".join(said).strip()
        return name, self.sent[memory][name]

    def post(self, client: httpx2.Client, memory: str) -> None:
        """A short text is sent; that it was answered is the acknowledgement."""
        name, text = self.text(memory, 20)
        answer = client.post(f"/v1/memories/{memory}/documents", json={"name": name, "text": text})
        assert answer.status_code == 201, answer.text
        self.told[memory][name] = answer.json()["documents"][-1]["tokens"]

    def read(self, client: httpx2.Client, memory: str) -> None:
        """A long text is sent; each event is an acknowledgement."""
        name, text = self.text(memory, 150)
        with client.stream(
            "POST",
            f"/v1/memories/{memory}/documents",
            files={"file": (name, text.encode())},
            headers={"Accept": "text/event-stream"},
        ) as response:
            assert response.status_code == 201 or response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    assert "error" not in event, event
                    self.told[memory][name] = event["tokens"]

    def ask(self, client: httpx2.Client, memory: str) -> None:
        """A question that is to be remembered; the whole answer is the acknowledgement."""
        self.number += 1
        question = f"who turned {self.number}?"
        self.asked[memory].add(question)
        response = client.post("/v1/chat/completions", json=body(memory, question, remember=True))
        assert response.status_code == 200, response.text
        said = response.json()["choices"][0]["message"]["content"]
        self.answered[memory].append((question, said))

    def check(self, client: httpx2.Client) -> None:
        """Everything that was acknowledged is there, and nothing that was never sent."""
        for memory in self.sent:
            found = client.get(f"/v1/memories/{memory}", params={"turns": True})
            if found.status_code != 200:
                self.faults.append(f"{memory}: {found.text}")
                continue
            here = {one["name"]: one for one in found.json()["documents"] if one["kind"] == "document"}
            for name, tokens in self.told[memory].items():
                if name not in here or here[name]["tokens"] < tokens:
                    self.faults.append(f"{memory}, {name}: {tokens} acknowledged, {here.get(name)} there")
            for name, one in here.items():
                text = client.get(f"/v1/memories/{memory}/documents/{one['id']}/text").json()["text"]
                if not self.sent[memory].get(name, "").startswith(text):
                    self.faults.append(f"{memory}, {name}: its text is not what was sent")
                # a cut may part a word, and with it a token or two
                long = len(self.tokenizer(text, add_special_tokens=False).input_ids)
                if abs(long - one["tokens"]) > 3:
                    self.faults.append(f"{memory}, {name}: {one['tokens']} tokens with a text of {long}")
            turns = [(turn["question"], turn["answer"]) for turn in found.json()["turns"]]
            for turn in self.answered[memory]:
                if turn not in turns:
                    self.faults.append(f"{memory}: {turn} was answered and is not there")
            if {question for question, _ in turns} - self.asked[memory]:
                self.faults.append(f"{memory}: a turn that was never asked")


def body(memory: str, question: str, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": question}
    return {"messages": [message], "memory": memory, "max_tokens": 120, "temperature": 0, **more}


def uninterrupted(session: Session, sent: dict[str, str]) -> Session:
    """The session with a memory that has read as many tokens of what was sent, here and in one go."""
    runner, memory = session.runner, session.runner.model.new_memory(1)
    turns = {turn.remembered: turn_text(turn.question, turn.answer) for turn in session.turns}
    for one in session.documents:
        text = turns[one.id] if one.kind == "turn" else sent[one.name]
        parts = batches(runner.tokenizer, text, False, ReadDocument(), runner.model.segment_length)
        ids = [token for part in parts for token in part[0]]
        memory = runner.close(runner.read(memory, ids[: one.tokens]))
    return replace(session, memory=memory)


def compare(client: httpx2.Client, memory: str, never: Session) -> list[str]:
    """In what the memory of a server differs from one that nothing has happened to."""
    faults = []
    for question in QUESTIONS:
        answer, _ = never.ask(question, options=Options(max_new_tokens=120))
        said = client.post("/v1/chat/completions", json=body(memory, question)).json()
        if said["choices"][0]["message"]["content"].strip() != answer.answer:
            faults.append(f"{memory}: answers {question!r} otherwise than one that was not interrupted")
        passages = client.post(f"/v1/memories/{memory}/recall", json={"text": question, "top": 8}).json()
        here = {one["segment"]: one["weight"] for one in passages["data"]}
        there = {one.segment: one.weight for one in never.recall(question, 8)}
        if here.keys() != there.keys() or any(abs(here[n] - there[n]) > 1e-3 for n in here):
            faults.append(f"{memory}: recalls {here} for {question!r}, uninterrupted {there}")
    return faults


def run(place: Path, kills: int, seed: int, unsafe: bool) -> dict[str, Any]:
    """`kills` times: work, a kill in the middle of it, and a look at what is left."""
    torch.set_num_threads(1)
    draw, tokenizer = random.Random(seed), make_tokenizer()
    save_model(place / "model", HMTForCausalLM, tokenizer, **ASKED)
    model, store = load_model(place / "model"), str(place / "store")
    model.new_memory(1)
    server, life = Killed(model, tokenizer, store, unsafe), Life(draw, tokenizer)
    counts = {"kills": 0, "in a read": 0, "in an answer": 0, "ended before it": 0, "answers compared": 0}
    client = server.start()
    for memory in life.sent:
        assert client.post("/v1/memories", json={"id": memory}).status_code == 201
    begun = time.monotonic()
    life.read(client, "m0")
    reading = time.monotonic() - begun
    begun = time.monotonic()
    life.ask(client, "m0")
    answering = time.monotonic() - begun
    while counts["kills"] < kills:
        memory = draw.choice(list(life.sent))
        what = "in a read" if draw.random() < 0.5 or not life.told[memory] else "in an answer"
        expected = reading if what == "in a read" else answering
        if draw.random() < 0.5:
            life.ask(client, memory)
        if draw.random() < 0.5:
            life.post(client, memory)
        server.kill_in(draw.uniform(0, expected))
        try:
            while True:  # until it is killed
                life.read(client, memory) if what == "in a read" else life.ask(client, memory)
                counts["ended before it"] += 1
        except httpx2.TransportError:
            counts["kills"] += 1
            counts[what] += 1
        server.process.join()
        client.close()
        client = server.start()
        life.check(client)
        print(f"{counts['kills']} kills, {len(life.faults)} faults", flush=True)
    direct = DirectRunner(model, tokenizer)
    for memory, sent in life.sent.items():
        session = Store(store, namespace="default").open(memory, direct)
        try:
            life.faults += compare(client, memory, uninterrupted(session, sent))
        except (KeyError, ValueError) as error:
            life.faults.append(f"{memory}: {error!r}")
        counts["answers compared"] += len(QUESTIONS)
    server.kill()
    tokens = sum(tokens for told in life.told.values() for tokens in told.values())
    return {
        **counts,
        "acknowledged documents": sum(map(len, life.told.values())),
        "acknowledged tokens": tokens,
        "acknowledged answers": sum(map(len, life.answered.values())),
        "lost or wrong": len(life.faults),
        "faults": life.faults,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unsafe", action="store_true", help="A server that acknowledges what it loses.")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        facts = run(Path(place), args.kills, args.seed, args.unsafe)
    print(json.dumps(facts, indent=1))
    if args.output:
        whole = {**run_facts(args.seed), **facts}
        write_atomically(args.output, (json.dumps(whole, indent=1) + "\n").encode())
    sys.exit(bool(facts["faults"]))


if __name__ == "__main__":
    main()
