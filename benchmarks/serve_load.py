"""Many sessions at once: how fast they are served, batched and one at a time, and that none sees another.

    python benchmarks/serve_load.py --sessions 100 --requests 10000 --engines together --output OUT.json
    python benchmarks/serve_load.py --model smollm2-135m --text BOOK.txt --sessions 8 --requests 64

Every session is a memory that has read a text of its own, full of a word that no other has; some API keys
share them out. `--clients` clients ask and never wait: a question to a session drawn by chance, its answer
streamed; one in ten of them recalls, one in twenty appends a text. Looked at are every passage and every
answer (a word of another session: a leak), every list of memories (those of another key: a leak), every
document that was acknowledged (gone at the end: lost). The engines are asked the same in the same order: one
that works on all requests together, and one that works on one answer and one segment at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import httpx2  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from cli.models import ASKED, SENTENCES, make_tokenizer, save_model  # noqa: E402

from hmt import HMTForCausalLM, load_model  # noqa: E402
from hmt.serving import Engine, Keys, Settings, create_app  # noqa: E402
from hmt.serving.keys import add_key  # noqa: E402
from hmt.serving.server import Server, began, bound  # noqa: E402
from hmt.systems import load_tokenizer  # noqa: E402
from hmt.util.environment import run_facts  # noqa: E402
from hmt.util.files import write_atomically  # noqa: E402

ENGINES = {"together": {"answers": 16}, "one at a time": {"answers": 1, "segments": 1}}
MARK = re.compile(r"mark(\d+)x")


def serve(model: Any, tokenizer: Any, options: dict[str, int], store: str, keys: str, place: Any) -> None:
    """The server, in a process of its own."""
    settings = Settings(max_new_tokens=64)
    app = create_app(
        store=store, runner=Engine(model, tokenizer, **options), model_id="m", began=began,
        settings=settings, keys=Keys(keys),
    )  # fmt: skip
    Server(app, "127.0.0.1", place.getsockname()[1], settings).run([place])


class Load:
    """Clients and what they saw. Args: clients: at once. tokens: of an answer. text: what sessions read."""

    def __init__(self, url: str, secrets: list[str], args: argparse.Namespace, text: str):
        self.url, self.secrets, self.args, self.text = url, secrets, args, text
        self.first: list[float] = []
        self.whole: list[float] = []
        self.recalls: list[float] = []
        self.kept: dict[int, list[str]] = {n: [] for n in range(args.sessions)}
        self.counts = dict.fromkeys(("answers", "recalls", "appends", "busy", "failed", "leaks", "lost"), 0)

    def of(self, session: int) -> dict[str, str]:
        """The headers of the key that a session belongs to."""
        return {"Authorization": f"Bearer {self.secrets[session % len(self.secrets)]}"}

    def words(self, session: int, draw: random.Random) -> str:
        """A text with the mark of a session in every sentence."""
        if self.text:
            start = draw.randrange(max(1, len(self.text) - 6000))
            pieces = self.text[start : start + 6000].split(". ")
        else:
            pieces = [draw.choice(SENTENCES) for _ in range(12)]
        return f" mark{session}x ".join(pieces)

    def look(self, session: int, said: str) -> None:
        """A word of another session is a leak."""
        self.counts["leaks"] += any(int(found) != session for found in MARK.findall(said))

    async def run(self) -> float:
        """Everything; the seconds of the requests."""
        limits = httpx2.Limits(max_connections=self.args.clients + 4)
        async with httpx2.AsyncClient(base_url=self.url, timeout=600, limits=limits) as http:
            draw = random.Random(self.args.seed)
            plan = [(n, draw.randrange(self.args.sessions), draw.random()) for n in range(self.args.requests)]
            for session in range(self.args.sessions):
                made = await http.post("/v1/memories", json={"id": f"s{session}"}, headers=self.of(session))
                assert made.status_code == 201, made.text
                await self.append(http, session, draw)
            begun, waiting = time.monotonic(), iter(plan)
            await asyncio.gather(*(self.client(http, waiting) for _ in range(self.args.clients)))
            seconds = time.monotonic() - begun
            await self.at_the_end(http)
        return seconds

    async def client(self, http: Any, plan: Any) -> None:
        for number, session, chance in plan:
            draw = random.Random(number)
            try:
                if chance < 0.05:
                    await self.append(http, session, draw)
                elif chance < 0.15:
                    await self.recall(http, session)
                else:
                    await self.ask(http, session, number)
            except (httpx2.HTTPError, AssertionError) as error:
                self.counts["failed"] += 1
                print("failed:", repr(error)[:200], file=sys.stderr)

    async def append(self, http: Any, session: int, draw: random.Random) -> None:
        text = self.words(session, draw)
        sent = {"text": text, "name": f"text {len(self.kept[session])}"}
        path = f"/v1/memories/s{session}/documents"
        while (done := await http.post(path, json=sent, headers=self.of(session))).status_code in (409, 429):
            self.counts["busy"] += 1
            await asyncio.sleep(0.2)
        assert done.status_code == 201, done.text
        self.kept[session].append(sent["name"])
        self.counts["appends"] += 1

    async def recall(self, http: Any, session: int) -> None:
        begun = time.monotonic()
        body = {"text": "the boat?", "top": 4}
        found = await http.post(f"/v1/memories/s{session}/recall", json=body, headers=self.of(session))
        if found.status_code == 429:
            self.counts["busy"] += 1
            return
        assert found.status_code == 200, found.text
        self.recalls.append(time.monotonic() - begun)
        self.look(session, json.dumps(found.json()))
        self.counts["recalls"] += 1

    async def ask(self, http: Any, session: int, number: int) -> None:
        message = {"role": "user", "content": f"who turned {number % 7}?"}
        body = {
            "messages": [message],
            "memory": f"s{session}",
            "max_tokens": self.args.tokens,
            "stream": True,
        }
        begun, first = time.monotonic(), None
        async with http.stream(
            "POST", "/v1/chat/completions", json=body, headers=self.of(session)
        ) as response:
            if response.status_code == 429:
                self.counts["busy"] += 1
                return
            assert response.status_code == 200, await response.aread()
            said = ""
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                assert "error" not in event, event
                self.look(session, json.dumps(event.get("memory") or {}))
                choice = (event.get("choices") or [{}])[0].get("delta", {}).get("content") or ""
                if choice and first is None:
                    first = time.monotonic() - begun
                said += choice
        self.look(session, said)
        self.whole.append(time.monotonic() - begun)
        if first is not None:
            self.first.append(first)
        self.counts["answers"] += 1

    async def at_the_end(self, http: Any) -> None:
        """Keys see their own memories alone, and every document that was acknowledged is there."""
        for number, secret in enumerate(self.secrets):
            headers, ids, after = {"Authorization": f"Bearer {secret}"}, [], None
            while True:
                more = {"limit": 1000} | ({"after": after} if after else {})
                page = (await http.get("/v1/memories", params=more, headers=headers)).json()
                ids += [one["id"] for one in page["data"]]
                after = page["last_id"]
                if not page["has_more"]:
                    break
            mine = {f"s{n}" for n in self.kept if n % len(self.secrets) == number}
            self.counts["leaks"] += len(set(ids) - mine)
            self.counts["lost"] += len(mine - set(ids))
            other = next(f"s{n}" for n in self.kept if n % len(self.secrets) != number)
            foreign = await http.get(f"/v1/memories/{other}", headers=headers)
            self.counts["leaks"] += foreign.status_code != 404
        for session, names in self.kept.items():
            there = (await http.get(f"/v1/memories/s{session}", headers=self.of(session))).json()
            self.counts["lost"] += len(set(names) - {one["name"] for one in there["documents"]})


def spread(values: list[float]) -> dict[str, float] | None:
    """Median and the 95th of a hundred, in seconds."""
    if len(values) < 2:
        return None
    parts = quantiles(values, n=100, method="inclusive")
    return {"p50": round(parts[49], 4), "p95": round(parts[94], 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="None: a tiny one that knows nothing.")
    parser.add_argument("--text", type=Path, help="What sessions read; None: a few sentences.")
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text = args.text.read_text(encoding="utf-8") if args.text else ""
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        if args.model is None:
            tokenizer = make_tokenizer()
            save_model(Path(place) / "model", HMTForCausalLM, tokenizer, **ASKED)
            model = load_model(Path(place) / "model")
        else:
            model, tokenizer = load_model(args.model), load_tokenizer(args.model)
        for name, options in ((name, ENGINES[name]) for name in args.engines):
            keys = Path(place) / f"{name}.json"
            secrets = [add_key(keys, f"key {n}")[0] for n in range(args.keys)]
            listening = bound("127.0.0.1", 0)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            store = str(Path(place) / name)
            server = multiprocessing.get_context("fork").Process(
                target=serve, args=(model, tokenizer, options, store, str(keys), listening), daemon=True
            )
            server.start()
            listening.close()
            process, load = psutil.Process(server.pid), Load(url, secrets, args, text)
            while True:
                try:
                    if httpx2.get(f"{url}/ready").status_code == 200:
                        break
                except httpx2.TransportError:
                    time.sleep(0.05)
            before = process.memory_info().rss
            seconds = asyncio.run(load.run())
            rows[name] = {
                **load.counts,
                "seconds": round(seconds, 1),
                "requests_per_second": round(args.requests / seconds, 2),
                "first_token": spread(load.first),
                "answer": spread(load.whole),
                "recall": spread(load.recalls),
                "server_mib": [round(before / 2**20), round(process.memory_info().rss / 2**20)],
            }
            print(name, json.dumps(rows[name]), flush=True)
            server.terminate()
            server.join()
    if args.output:
        words = [
            f"--{name} {value}"
            for name, value in vars(args).items()
            if name not in ("output", "text", "engines")
        ]
        command = " ".join(["python benchmarks/serve_load.py", *(w for w in words if "None" not in w)])
        command += " --engines " + " ".join(f"'{name}'" for name in args.engines)
        if args.text:
            command += " --text BOOK.txt"
        whole = {"command": command, **run_facts(args.seed), "rows": rows}
        write_atomically(args.output, (json.dumps(whole, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
