"""Keys: what is kept of them, and that nobody sees another's memories."""

import json
import os
import stat

import httpx2
import pytest
from typer.testing import CliRunner

from hmt.cli import app
from hmt.serving import Keys
from hmt.serving.keys import add_key, revoke_key
from serving.live import live

SECRET = "The treasure is buried under the third oak behind the mill."


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def test_a_file_knows_keys_and_not_their_secrets(file):
    one, key = add_key(file, "ada")
    two, other = add_key(file, "ben", namespace=key.namespace)
    text = file.read_text()
    assert one not in text and one.split("-", 2)[2] not in text
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = Keys(file)
    assert keys.find(one) == key and keys.find(two) == other
    assert key.namespace == other.namespace and key.salt != other.salt
    for wrong in ("", "hmt-", one[:-1], one + "a", one[:17] + two[17:], one.upper(), "é", "x" * 10000):
        assert keys.find(wrong) is None


def test_what_is_no_file_of_keys_is_refused(file):
    with pytest.raises(ValueError, match="hmt keys add"):
        Keys(file)
    file.write_text("my diary")
    for call in (lambda: Keys(file), lambda: add_key(file), lambda: revoke_key(file, "a")):
        with pytest.raises(ValueError, match="no file of API keys"):
            call()
    assert file.read_text() == "my diary"


def test_the_commands(file):
    run = CliRunner().invoke
    made = run(app, ["keys", "add", str(file), "--name", "ada"])
    assert made.exit_code == 0
    secret = made.stdout.strip()
    key = Keys(file).find(secret)
    listed = run(app, ["keys", "list", str(file)]).stdout
    assert key.id in listed and "ada" in listed and secret not in listed
    assert run(app, ["keys", "revoke", str(file), key.id]).exit_code == 0
    assert Keys(file).find(secret) is None
    missing = run(app, ["keys", "revoke", str(file), key.id])
    assert missing.exit_code == 2 and "hmt keys list" in missing.stderr


@pytest.fixture
def two(runner, file, tmp_path):
    """Clients of two keys of one server."""
    secrets = [add_key(file, name)[0] for name in ("ada", "ben")]
    with live(runner, tmp_path / "store", keys=Keys(file)) as (url, _):
        with (
            httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {secrets[0]}"}) as ada,
            httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {secrets[1]}"}) as ben,
        ):
            yield ada, ben


def without_id(response):
    """Status, body, and headers without those that differ between any two responses."""
    headers = {n: v for n, v in response.headers.items() if n not in ("x-request-id", "date")}
    return response.status_code, response.content, headers


def test_anothers_memory_is_like_one_that_is_not_there(two):
    ada, ben = two
    assert ada.post("/v1/memories", json={"id": "secret", "text": SECRET}).status_code == 201
    message = {"messages": [{"role": "user", "content": "Where is the treasure?"}], "max_tokens": 5}
    file = ada.get("/v1/memories/secret/file")
    assert file.status_code == 200

    def everything(client, name):
        path = f"/v1/memories/{name}"
        yield client.get(path)
        yield client.delete(path)
        yield client.get(f"{path}/file")
        yield client.post(f"{path}/fork", json={"id": "mine"})
        yield client.post(f"{path}/recall", json={"text": "treasure"})
        yield client.post(f"{path}/documents", json={"text": "More."})
        yield client.post(
            f"{path}/documents", files={"file": ("a", "b")}, headers={"Accept": "text/event-stream"}
        )
        yield client.put(f"{path}/documents/d1", json={"text": "More."})
        yield client.delete(f"{path}/documents/d1")
        yield client.get(f"{path}/documents/d1/text")
        yield client.get(f"{path}/segments/0")
        for stream in (False, True):
            body = {**message, "memory": name, "stream": stream}
            yield client.post("/v1/chat/completions", json=body)
            yield client.post("/v1/chat/completions", json={**body, "remember": True})
            yield client.post("/v1/completions", json={"prompt": "a", "memory": name, "stream": stream})
            yield client.post("/v1/responses", json={"input": "a", "memory": name, "stream": stream})

    theirs, nobodys = list(everything(ben, "secret")), list(everything(ben, "nobody"))
    for one, other in zip(theirs, nobodys, strict=True):
        status, content, headers = without_id(one)
        assert status == 404, one.text
        assert content.replace(b"secret", b"nobody") == without_id(other)[1]
        assert (status, headers) == (without_id(other)[0], without_id(other)[2])
        assert b"treasure" not in content and b"oak" not in content
    assert ben.get("/v1/memories").json()["data"] == []
    # the same name is free for another
    assert ben.post("/v1/memories", json={"id": "secret"}).json()["documents"] == []
    assert ada.get("/v1/memories/secret").json()["tokens"] > 0
    assert [one["id"] for one in ada.get("/v1/memories").json()["data"]] == ["secret"]


def test_without_a_key_nothing_is_told(two, file):
    ada, _ = two
    ada.post("/v1/memories", json={"id": "secret", "text": SECRET})
    wrong = [{}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer hmt-1-2"}]
    wrong.append({"Authorization": ada.headers["Authorization"].replace("Bearer", "Basic")})
    wrong.append({"Authorization": ada.headers["Authorization"][:-1]})
    with httpx2.Client(base_url=ada.base_url) as nobody:
        for headers in wrong:
            for path in ("/v1/memories", "/v1/memories/secret", "/v1/models", "/metrics", "/v1/nothing"):
                told = nobody.get(path, headers=headers)
                assert told.status_code == 401, path
                assert told.json()["error"]["code"] == "invalid_api_key"
                assert told.headers["www-authenticate"] == "Bearer"
        for path in ("/health", "/ready", "/openapi.json"):
            assert nobody.get(path).status_code == 200


def test_a_key_that_was_revoked_is_refused(runner, file, tmp_path, monkeypatch):
    monkeypatch.setattr("hmt.serving.keys._LOOK", 0.0)
    secret, key = add_key(file)
    with live(runner, tmp_path / "store", keys=Keys(file)) as (url, _):
        headers = {"Authorization": f"Bearer {secret}"}
        assert httpx2.get(f"{url}/v1/models", headers=headers).status_code == 200
        revoke_key(file, key.id)
        assert json.loads(file.read_text())["keys"] == []
        assert httpx2.get(f"{url}/v1/models", headers=headers).status_code == 401
