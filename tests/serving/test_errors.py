"""Whatever is wrong with a request, the answer is an error in OpenAI's schema, and the server goes on."""

import errno
import json

import httpx2
import openai
import pytest
from cli.models import TEXT

from hmt.serving.errors import ApiError, Gone, to_api_error
from hmt.serving.guard import SECURITY
from hmt.sessions import Conflict, Full, Missing
from serving.live import live

ASK = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 4}
JSON = {"content-type": "application/json"}


def error_of(response, status):
    """The error of a response, which is whole."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] and error["code"]
    assert response.headers["x-request-id"]
    return error


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"a"', b"{}", b"\xff\xfe", b'{"a": NaN}', b"[" * 5000, b'{"messages": 1}'],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_what_is_no_request(http, path, body):
    error_of(http.post(path, content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    "field, value",
    [
        ("messages", []),
        ("messages", [{"role": "robot", "content": "a"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}]),
        ("messages", [{"role": "user", "content": "  "}]),
        ("messages", [{"role": "assistant", "content": "a"}]),
        ("messages", [{"role": "user", "content": "\ud800"}]),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 10**30),
        ("max_tokens", "5"),
        ("max_tokens", 1.5),
        ("temperature", -1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("seed", 2**64),
        ("n", 0),
        ("n", 100),
        ("stop", ""),
        ("stop", ["a"] * 17),
        ("stop", [1]),
        ("stream", "yes"),
        ("top_logprobs", 3),
        ("logprobs", 1),
        ("tools", [{"type": "function"}]),
        ("frequency_penalty", 3),
        ("presence_penalty", "much"),
        ("response_format", {"type": "json_object"}),
        ("remember", True),
        ("top", 0),
        ("memory", 5),
    ],
)
def test_fields_that_cannot_be(http, field, value):
    for stream in ({}, {"stream": True}):
        body = json.dumps({**ASK, **stream, field: value})  # with half a character, too
        error = error_of(http.post("/v1/chat/completions", content=body, headers=JSON), 400)
        assert field in str(error["param"]) + error["message"]


def test_addresses_methods_and_kinds(http):
    error_of(http.get("/nothing"), 404)
    error_of(http.patch("/v1/models"), 405)
    error_of(http.get("/v1/chat/completions"), 405)
    assert error_of(http.post("/v1/chat/completions", content=b"a"), 415)
    plain = {"content-type": "text/plain"}
    error_of(http.post("/v1/memories", content=b"{}", headers=plain), 415)
    error_of(http.put("/v1/memories/a/file", content=b"{}", headers=JSON), 415)
    assert (
        error_of(http.post("/v1/chat/completions", json={**ASK, "model": "gpt-9"}), 404)["param"] == "model"
    )
    no_memory = error_of(http.post("/v1/chat/completions", json={**ASK, "memory": "no"}), 404)
    assert no_memory["code"] == "memory_not_found"


def test_a_question_that_is_too_long_for_a_memory(http, memory):
    body = {"messages": [{"role": "user", "content": TEXT}], "memory": memory}
    for stream in (False, True):
        error = error_of(http.post("/v1/chat/completions", json={**body, "stream": stream}), 400)
        assert "tokens" in error["message"]


def test_other_sites_are_kept_out(http, url):
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ):
        error_of(http.post("/v1/memories", json={}, headers=headers), 403)
    same = http.post("/v1/memories", json={"id": "mine"}, headers={"origin": url})
    assert same.status_code == 201
    http.delete("/v1/memories/mine")
    assert "access-control-allow-origin" not in same.headers
    for name in SECURITY:
        assert name.decode() in same.headers


def test_names_that_are_not_the_servers_are_refused(runner, tmp_path):
    with live(runner, tmp_path, hosts=["hmt.example"]) as (url, _), httpx2.Client(base_url=url) as http:
        for host in ("evil.example", "", "localhost.evil.example", "127.0.0.1.evil.example", "[::1"):
            told = http.get("/v1/models", headers={"host": host})
            assert told.status_code in (400, 403), host
        for host in ("localhost:80", "127.0.0.1", "[::1]:9", "HMT.example:8000"):
            assert http.get("/v1/models", headers={"host": host}).status_code == 200


def test_the_client_raises_its_own_errors(client, memory):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="tiny", messages=[], max_tokens=3)
    assert raised.value.param == "messages"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="tiny", input="a", extra_body={"memory": "no"})
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt="a", logprobs=1, echo=True)


class Broken:
    """A runner that fails when it answers, at once or later."""

    def __init__(self, runner, error, after=0):
        self.runner, self.model, self.tokenizer = runner, runner.model, runner.tokenizer
        self.error, self.after = error, after

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def generate(self, memory, header_ids, options, on_token=None):
        for _ in range(self.after):
            on_token(40)
        raise self.error


def test_a_bug_tells_nothing_of_itself(runner, tmp_path, caplog):
    secret = "the text of /home/somebody/book.txt"
    with live(Broken(runner, KeyError(secret)), tmp_path) as (url, _):
        error = error_of(httpx2.post(f"{url}/v1/chat/completions", json=ASK), 500)
        assert secret not in str(error) and "KeyError" not in str(error)
        assert httpx2.get(f"{url}/health").status_code == 200


def test_an_error_in_a_stream_is_its_last_event(runner, tmp_path):
    with live(Broken(runner, KeyError("a"), after=3), tmp_path) as (url, _):
        told = httpx2.post(f"{url}/v1/chat/completions", json={**ASK, "stream": True})
        assert told.status_code == 200
        *_, last = [line for line in told.text.splitlines() if line]
        assert '"internal_error"' in last and "[DONE]" not in told.text
        with openai.OpenAI(base_url=f"{url}/v1", api_key="a", max_retries=0) as client:
            with pytest.raises(openai.APIError):
                list(client.chat.completions.create(model="tiny", stream=True, **ASK))


@pytest.mark.parametrize(
    "error, status",
    [
        (OSError(errno.ENOSPC, "No space left on device", "/secret/place"), 507),
        (OSError(errno.EIO, "Input/output error", "/secret/place"), 503),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/place"), 503),
        (Conflict("saved by somebody else"), 409),
        (Missing("there is no session a"), 404),
        (Full("too many"), 413),
        (Gone(), 503),
        (ValueError("say something else"), 400),
        (RuntimeError("/secret/place"), 500),
        (ApiError(418, "tea"), 418),
    ],
)
def test_what_is_told_of_an_error(error, status):
    told = to_api_error(error)
    assert told.status == status and "secret" not in str(told.body())


def test_a_full_disk_changes_nothing(runner, tmp_path, monkeypatch):
    import hmt.sessions.places as places

    with live(runner, tmp_path) as (url, _), httpx2.Client(base_url=url, timeout=30) as http:
        http.post("/v1/memories", json={"id": "book", "text": "Something was read."})
        before = http.get("/v1/memories/book").json()

        def full(path, data, *more):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(places, "write_atomically", full)
            more = {"text": "And more of it."}
            assert (
                error_of(http.post("/v1/memories/book/documents", json=more), 507)["code"] == "storage_full"
            )
            events = {"accept": "text/event-stream"}
            streamed = http.post("/v1/memories/book/documents", json=more, headers=events)
            assert error_of(streamed, 507)
            error_of(http.post("/v1/memories", json={}), 507)
            error_of(http.put("/v1/memories/book/documents/d1", json=more), 507)
            error_of(http.post("/v1/memories/book/fork"), 507)
            ask = {**ASK, "memory": "book"}
            assert http.post("/v1/chat/completions", json=ask).status_code == 200
        assert http.get("/v1/memories/book").json() == before
        assert http.post("/v1/memories/book/documents", json=more).status_code == 201


def test_a_damaged_memory_is_told_and_disturbs_no_other(runner, tmp_path):
    with live(runner, tmp_path) as (url, _), httpx2.Client(base_url=url, timeout=30) as http:
        for name in ("one", "two"):
            http.post("/v1/memories", json={"id": name, "text": TEXT[:400]})
        for part in (tmp_path / "default" / "one").glob("*.part"):
            data = bytearray(part.read_bytes())
            data[len(data) // 2] ^= 1
            part.write_bytes(bytes(data))
    with live(runner, tmp_path) as (url, _), httpx2.Client(base_url=url, timeout=30) as http:
        assert error_of(http.get("/v1/memories/one"), 422)["code"] == "damaged"
        assert str(tmp_path) not in http.get("/v1/memories/one").text
        error_of(http.post("/v1/chat/completions", json={**ASK, "memory": "one"}), 422)
        assert http.post("/v1/chat/completions", json={**ASK, "memory": "two"}).status_code == 200
        assert http.delete("/v1/memories/one").status_code == 200
