"""Too much, too slow, gone away, stopped."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx2
import pytest
from cli.models import TEXT

from hmt.serving import Settings
from serving.live import live


class Held:
    """A runner whose model waits until it is told to go on."""

    def __init__(self, runner):
        self.runner, self.model, self.tokenizer = runner, runner.model, runner.tokenizer
        self.go, self.begun = threading.Event(), threading.Event()
        self.tokens = 0
        self.ended = threading.Event()

    def read(self, memory, ids, progress=None):
        return self.runner.read(memory, ids, progress)

    def close(self, memory):
        return self.runner.close(memory)

    def recalled(self, memory, top):
        return self.runner.recalled(memory, top)

    def generate(self, memory, header_ids, options, on_token=None):
        self.begun.set()
        try:
            while not self.go.is_set():
                self.tokens += 1
                if self.tokens > 5 and on_token(40):
                    return [40]
                time.sleep(0.01)
            return self.runner.generate(memory, header_ids, options, on_token)
        finally:
            self.ended.set()


ASK = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 4}


def until(condition, seconds=20):
    """Wait for something that is to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def in_thread(function):
    """What a call returns in the end, in a list."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    yield found
    thread.join(30)
    assert not thread.is_alive()


def test_more_than_can_wait_is_told_to_come_back(runner, tmp_path):
    held = Held(runner)
    settings = Settings(max_running=1, max_queue=1)
    with live(held, tmp_path, settings=settings) as (url, server):
        work = server.app.state.services.model

        def ask():
            return httpx2.post(f"{url}/v1/chat/completions", json=ASK, timeout=30)

        with in_thread(ask) as first, in_thread(ask) as second:
            until(lambda: work.there == 2)
            refused = ask()
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "busy")
            assert httpx2.get(f"{url}/v1/memories").status_code == 200  # the rest goes on
            held.go.set()
        assert [one.status_code for one in (*first, *second)] == [200, 200]
        assert ask().status_code == 200 and work.there == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_answer(runner, tmp_path, stream):
    held = Held(runner)
    with live(held, tmp_path) as (url, server):
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({**ASK, "max_tokens": 1000, "stream": stream}).encode()
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert held.begun.wait(20)
            if stream:
                assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert held.ended.wait(20)
        assert not held.go.is_set()
        until(lambda: server.app.state.services.model.there == 0)


def test_a_client_that_goes_away_keeps_what_was_saved(runner, tmp_path):
    settings = Settings(save_seconds=0)
    with live(runner, tmp_path, settings=settings) as (url, server):
        httpx2.post(f"{url}/v1/memories", json={"id": "book"})
        seen = []
        with httpx2.stream(
            "POST",
            f"{url}/v1/memories/book/documents",
            files={"file": ("b.txt", TEXT * 40)},
            headers={"Accept": "text/event-stream"},
            timeout=60,
        ) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line[6:]))
                if len(seen) == 3:
                    break
        until(lambda: server.app.state.services.model.there == 0)
        (document,) = httpx2.get(f"{url}/v1/memories/book").json()["documents"]
        whole = len(runner.tokenizer(TEXT * 40, add_special_tokens=False).input_ids)
        assert seen[-1]["tokens"] <= document["tokens"] < whole
        text = httpx2.get(f"{url}/v1/memories/book/documents/d1/text").json()["text"]
        assert (TEXT * 40).startswith(text) and len(text) == document["characters"]
        # and it is a document like any other
        assert httpx2.post(f"{url}/v1/memories/book/recall", json={"text": "whale"}).json()["data"]


def test_what_is_running_is_finished_when_the_server_stops(runner, tmp_path):
    held = Held(runner)
    with live(held, tmp_path) as (url, server):
        with in_thread(lambda: httpx2.post(f"{url}/v1/chat/completions", json=ASK, timeout=30)) as found:
            assert held.begun.wait(20)
            server.should_exit = True
            until(lambda: server.app.state.services.stopping)
            held.go.set()
        assert found[0].status_code == 200


def test_what_takes_longer_than_the_grace_is_saved_and_told(runner, tmp_path):
    settings = Settings(save_seconds=0, grace_seconds=1)
    with live(runner, tmp_path, settings=settings) as (url, server):
        httpx2.post(f"{url}/v1/memories", json={"id": "book"})
        told = []
        with httpx2.stream(
            "POST",
            f"{url}/v1/memories/book/documents",
            files={"file": ("b.txt", TEXT * 150)},
            headers={"Accept": "text/event-stream"},
            timeout=60,
        ) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line[6:]))
                    server.should_exit = True
    assert told[-1]["error"]["code"] == "stopping"
    with live(runner, tmp_path) as (url, _):
        (document,) = httpx2.get(f"{url}/v1/memories/book").json()["documents"]
        assert document["tokens"] >= told[-2]["tokens"]


@pytest.fixture(scope="module")
def small(runner, tmp_path_factory):
    """The address of a server with little room."""
    settings = Settings(
        max_body_bytes=2000,
        max_upload_bytes=3000,
        max_text_tokens=100,
        max_new_tokens=10,
        max_choices=2,
        max_memories=2,
        max_connections=20,
        slow_seconds=1,
    )
    with live(runner, tmp_path_factory.mktemp("small"), settings=settings) as (url, _):
        yield url


def test_what_is_too_large_is_refused(small):
    def post(path, body, **options):
        return httpx2.post(f"{small}{path}", json=body, **options)

    assert post("/v1/memories", {"id": "one"}).status_code == 201
    assert post("/v1/chat/completions", {**ASK, "max_tokens": 11}).status_code == 400
    assert post("/v1/chat/completions", {**ASK, "n": 3}).json()["error"]["param"] == "n"
    assert post("/v1/responses", {"input": "a", "max_output_tokens": 11}).status_code == 400
    long = {"messages": [{"role": "user", "content": "whale " * 200}], "max_tokens": 2}
    assert post("/v1/chat/completions", long).status_code == 413
    assert post("/v1/memories/one/documents", {"text": "whale " * 200}).status_code == 413
    assert post("/v1/memories", {"text": "a" * 3000}).status_code == 413
    file = {"file": ("a.txt", b"a" * 80_000)}
    assert httpx2.post(f"{small}/v1/memories/one/documents", files=file).status_code == 413
    chunks = httpx2.post(
        f"{small}/v1/memories",
        content=(b"x" * 1000 for _ in range(9)),
        headers={"content-type": "application/json"},
    )
    assert chunks.status_code == 413
    assert httpx2.get(f"{small}/v1/memories/one").json()["tokens"] == 0
    assert post("/v1/memories", {"id": "two"}).status_code == 201
    full = post("/v1/memories", {"id": "three"})
    assert full.status_code == 413 and full.json()["error"]["code"] == "memory_full"


def test_slow_clients_are_let_go(small):
    host, port = small.removeprefix("http://").split(":")
    head = f"POST /v1/memories HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    for sent, told in (
        (b"", b""),  # nothing at all
        (b"GET /health HTTP/1.1\r\nhost: a", b""),  # half a head
        (f"{head}content-length: 100\r\n\r\n{{".encode(), b"HTTP/1.1 408"),  # half a body
    ):
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(sent)
            assert client.recv(1000).startswith(told)
            while client.recv(1000):
                pass


def test_connections_are_counted(small):
    host, port = small.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
        with socket.create_connection((host, int(port)), timeout=20) as client:
            answer = b""
            while part := client.recv(1000):
                answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503") and b"retry-after" in head
        assert json.loads(body)["error"]["code"] == "connections"
    finally:
        for one in idle:
            one.close()
    until(lambda: _alive(small))


def _alive(url):
    try:
        return httpx2.get(f"{url}/health").status_code == 200
    except httpx2.TransportError:
        return False
