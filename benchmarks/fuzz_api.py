"""The HTTP API fuzzed from its own schema: right and wrong requests, all answered, none with a 5xx.

    python benchmarks/fuzz_api.py --seconds 240 --output benchmarks/results/fuzz_api.json

schemathesis makes requests of the schema that the server gives out (a tiny model behind the real engine and a
real store), half of them right and half wrong by it. Counted by operation and status; of each is checked that

* there is no 5xx, and an error is OpenAI's: {"error": {"message", "type", "param", "code"}};
* status, kind and body of the answer are what the schema says, and what is wrong by it is refused;
* at the end the server is there, and a memory that was made first is what it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import httpx2  # noqa: E402
import hypothesis  # noqa: E402
import schemathesis  # noqa: E402
from cli.models import ASKED, TEXT, make_tokenizer, save_model  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.core.failures import FailureGroup  # noqa: E402
from serving.live import live  # noqa: E402
from serving.test_schema import CHECKS  # noqa: E402

from hmt import HMTForCausalLM, load_model  # noqa: E402
from hmt.serving import Engine, Settings  # noqa: E402
from hmt.util.environment import run_facts  # noqa: E402
from hmt.util.files import write_atomically  # noqa: E402

ROUND = 25  # requests of one kind to one operation before the next has its turn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as place:
        tokenizer = make_tokenizer()
        save_model(Path(place) / "model", HMTForCausalLM, tokenizer, **ASKED)
        engine = Engine(load_model(Path(place) / "model"), tokenizer)
        settings = Settings(max_new_tokens=8, max_text_tokens=1000, max_memories=1000)
        with live(engine, Path(place) / "store", settings=settings) as (url, _):
            facts = fuzz(url, args.seconds, args.seed)
        engine.shutdown()
    facts = {**run_facts(args.seed), "seconds": args.seconds, **facts}
    print(json.dumps({name: facts[name] for name in ("requests", "statuses", "wrong")}, indent=1)[:4000])
    if args.output:
        write_atomically(args.output, json.dumps(facts, indent=1).encode())
    sys.exit(bool(facts["wrong"]))


def fuzz(url: str, seconds: float, seed: int) -> dict[str, Any]:
    """What came back, by operation and status, and what should not have."""
    http = httpx2.Client(base_url=url, timeout=60)
    http.post("/v1/memories", json={"id": "kept-out-of-it", "text": TEXT[:800]}).raise_for_status()
    before = http.get("/v1/memories/kept-out-of-it").json()
    api = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in api.get_all_operations()]
    counts: dict[str, Counter[str]] = {}
    wrong: dict[str, str] = {}
    end, round_ = time.monotonic() + seconds, seed
    while time.monotonic() < end:
        for operation in operations:
            made = http.post("/v1/memories", json={"id": "fuzzed", "text": TEXT[:500]})
            assert made.status_code in (201, 409), made.text
            for mode in GenerationMode:
                name = f"{operation.method.upper()} {operation.path}"
                attack(operation, mode, round_, counts.setdefault(name, Counter()), wrong, name)
            if time.monotonic() > end:
                break
        round_ += 1
    if http.get("/v1/memories/kept-out-of-it").json() != before:
        wrong["the memory"] = "is not what it was"
    statuses: Counter[str] = Counter()
    for one in counts.values():
        statuses += one
    by_operation = {name: dict(sorted(one.items())) for name, one in counts.items()}
    told = {"requests": sum(statuses.values()), "statuses": dict(sorted(statuses.items()))}
    return {**told, "operations": by_operation, "wrong": wrong}


def attack(
    operation: Any, mode: Any, seed: int, counts: Counter[str], wrong: dict[str, str], name: str
) -> None:
    """Some requests to one operation; every second of the right ones is to a memory that is there."""
    turns = itertools.count()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=ROUND, deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and next(turns) % 2:
            aim(case)
        response = case.call()
        counts[str(response.status_code)] += 1
        try:
            case.validate_response(response, checks=CHECKS)
            if response.status_code >= 400 and case.method.upper() != "HEAD":
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        except (Exception, FailureGroup) as error:
            kind = f"{name} {response.status_code} {type(error).__name__}"
            wrong.setdefault(kind, f"{error}\n{case.as_curl_command()}"[:2000])

    try:
        send()
    except hypothesis.errors.Unsatisfiable:
        pass  # nothing is wrong with what has no parameters


def aim(case: Any) -> None:
    """Let a request be to a memory that has read something."""
    there = {"id": "fuzzed", "document": "d1", "segment": 0}
    for name in set(case.path_parameters or {}) & set(there):
        case.path_parameters[name] = there[name]
    if isinstance(case.body, dict) and "memory" in case.body:
        case.body["memory"] = "fuzzed"


if __name__ == "__main__":
    main()
