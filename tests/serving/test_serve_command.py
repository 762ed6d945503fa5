"""`hmt serve` as a process: what it says, how it ends, and what a kill leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx2
import pytest
from cli.models import TEXT
from typer.testing import CliRunner

from hmt.cli import app

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


@contextmanager
def served(folder, store, *options):
    """The process, its URL, and what it has said so far."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    words = ["serve", str(folder), "--port", "0", "--store", str(store), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "hmt", *words], stderr=subprocess.PIPE, text=True, env=variables
    )
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"at (http://\S+)", line):
                break
        assert found, "".join(said)
        rest = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
        rest.start()
        url = found[1]
        with httpx2.Client(base_url=url, timeout=60) as http:
            yield process, http, said
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_killed_server_has_kept_what_it_told(folder, tmp_path):
    with served(folder, tmp_path, "--save-seconds", "0") as (process, http, said):
        assert http.post("/v1/memories", json={"id": "book", "text": "A first text."}).status_code == 201
        told = []
        with pytest.raises(httpx2.TransportError):
            with http.stream(
                "POST",
                "/v1/memories/book/documents",
                files={"file": ("b.txt", TEXT * 100)},
                headers={"Accept": "text/event-stream"},
            ) as response:
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        told.append(json.loads(line[6:]))
                    if len(told) == 4:
                        process.kill()
    with served(folder, tmp_path) as (process, http, said):
        one, two = http.get("/v1/memories/book").json()["documents"]
        assert one["tokens"] > 0 and two["tokens"] >= told[-1]["tokens"]
        text = http.get("/v1/memories/book/documents/d2/text").json()["text"]
        assert (TEXT * 100).startswith(text) and text
        ask = {"messages": [{"role": "user", "content": "Who turned?"}], "max_tokens": 3}
        assert http.post("/v1/chat/completions", json={**ask, "memory": "book"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    text = "".join(said)
    assert "all memories are saved" in text and str(tmp_path) in text
    assert "POST /v1/chat/completions 200" in text and "Who turned" not in text and "Traceback" not in text


def refused(*words):
    """The line of an error that a user can put right."""
    told = CliRunner().invoke(app, ["serve", *map(str, words)])
    assert told.exit_code == 2, told.output
    return " ".join(told.stderr.split())


def test_what_cannot_be_served(folder, tmp_path):
    assert "hmt keys add" in refused(folder, "--host", "0.0.0.0")
    assert "hmt keys add" in refused(folder, "--keys", tmp_path / "none.json")
    assert "--max-running must be at least 1" in refused(folder, "--max-running", "0")
    assert "is not there" in refused(tmp_path / "none", "--port", "0")
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(folder, "--port", port)
