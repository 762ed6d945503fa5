"""Memories over HTTP."""

import json
import threading

import pytest
from cli.models import TEXT

from hmt.sessions import Store
from serving.live import live

PASSAGE = {"segment", "weight", "document", "document_id", "page", "line", "characters", "tokens", "text"}


def events(response):
    """The data of each event; the last one is [DONE]."""
    data = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    return [json.loads(one) if one != "[DONE]" else one for one in data]


def upload(http, memory, content, name="a.txt", **options):
    files = {"file": (name, content)}
    return http.post(f"/v1/memories/{memory}/documents", files=files, **options)


def test_a_memory_from_its_first_to_its_last_day(http):
    made = http.post("/v1/memories", json={"name": "Moby Dick.txt"})
    assert made.status_code == 201 and made.json()["id"] == "moby-dick.txt"
    assert http.post("/v1/memories", json={"name": "Moby Dick.txt"}).json()["id"] == "moby-dick.txt-2"
    assert http.post("/v1/memories", json={"id": "moby-dick.txt"}).status_code == 409
    path = "/v1/memories/moby-dick.txt"
    read = http.post(f"{path}/documents", json={"text": TEXT, "name": "first"})
    assert read.status_code == 201
    there = read.json()
    assert there["tokens"] == there["documents"][0]["tokens"] > 2000
    assert there["segments"] > there["capacity"] == there["segments_held"] == 60
    assert there["documents"][0]["segments"] == [there["segments"] - 60, there["segments"]]
    assert there["kv_cache_bytes"] > there["bytes"] > 0
    assert http.get(path).json() == there

    assert upload(http, "moby-dick.txt", b"A second text, shorter.\r\nIt ends.").status_code == 201
    one, two = http.get(path).json()["documents"]
    assert (two["id"], two["name"], two["characters"]) == ("d2", "a.txt", 32)
    assert one["segments"][1] == two["segments"][0]
    said = http.get(f"{path}/documents/d2/text", params={"start": 2, "end": 8}).json()
    assert said == {"text": "second", "start": 2, "end": 8, "characters": 32}

    passage = http.get(f"{path}/segments/{two['segments'][0]}").json()
    assert PASSAGE <= set(passage) and passage["weight"] is None
    assert passage["document_id"] == "d2" and passage["characters"][0] == 0 and passage["line"] == 1
    lost = http.get(f"{path}/segments/0")
    assert lost.status_code == 404 and lost.json()["error"]["code"] == "segment_not_found"

    replaced = http.put(f"{path}/documents/d2", json={"text": "Another second text."}).json()
    assert [d["name"] for d in replaced["documents"]] == ["first", "a.txt"]
    assert http.get(f"{path}/documents/d2/text").json()["text"] == "Another second text."

    forgot = http.delete(f"{path}/documents/d1").json()
    assert [d["id"] for d in forgot["documents"]] == ["d2"]
    listed = http.get("/v1/memories", params={"limit": 1}).json()
    assert [one["id"] for one in listed["data"]] == ["moby-dick.txt"] and listed["has_more"]
    rest = http.get("/v1/memories", params={"after": listed["last_id"]}).json()
    assert [one["id"] for one in rest["data"]] == ["moby-dick.txt-2"] and not rest["has_more"]
    for name in ("moby-dick.txt", "moby-dick.txt-2"):
        assert http.delete(f"/v1/memories/{name}").json()["deleted"]
    assert http.get(path).status_code == 404 and http.delete(path).status_code == 404


def test_forks_go_their_own_ways(http, memory):
    copy = http.post(f"/v1/memories/{memory}/fork", json={"name": "copy"}).json()
    assert copy["id"] == "copy" and copy["tokens"] == http.get(f"/v1/memories/{memory}").json()["tokens"]
    http.post("/v1/memories/copy/documents", json={"text": "Only in the copy."})
    assert len(http.get("/v1/memories/copy").json()["documents"]) == 2
    assert len(http.get(f"/v1/memories/{memory}").json()["documents"]) == 1
    assert http.post(f"/v1/memories/{memory}/fork", json={"id": "copy"}).status_code == 409
    other = http.post(f"/v1/memories/{memory}/fork").json()["id"]
    assert other not in (memory, "copy")
    for name in (other, "copy"):
        http.delete(f"/v1/memories/{name}")


def test_a_whole_memory_is_downloaded_and_uploaded(http, memory):
    data = http.get(f"/v1/memories/{memory}/file")
    assert data.headers["content-type"] == "application/octet-stream"
    kind = {"content-type": "application/octet-stream"}
    made = http.put("/v1/memories/again/file", content=data.content, headers=kind)
    assert made.status_code == 201
    asked = {"text": "Who turned after the whale?"}
    one, two = (http.post(f"/v1/memories/{m}/recall", json=asked).json()["data"] for m in (memory, "again"))
    assert one == two
    assert http.put("/v1/memories/again/file", content=data.content, headers=kind).status_code == 409
    for bad in (data.content[:-9], b"", b"hmt-session\n", b"x" * 100):
        refused = http.put("/v1/memories/bad/file", content=bad, headers=kind)
        assert refused.status_code == 422, refused.text
    assert http.get("/v1/memories/bad").status_code == 404
    http.delete("/v1/memories/again")


def test_recall_gives_passages_by_weight(http, memory):
    found = http.post(f"/v1/memories/{memory}/recall", json={"text": "a smile besides", "top": 3}).json()
    assert len(found["data"]) == 3 and all(PASSAGE <= set(one) for one in found["data"])
    assert all(0 <= one["weight"] <= 1 for one in found["data"])
    first = found["data"][0]
    begin, end = first["characters"]
    said = http.get(f"/v1/memories/{memory}/documents/d1/text", params={"start": begin, "end": end}).json()
    assert said["text"] == first["text"]


def test_progress_is_told_of_what_is_saved(runner, tmp_path):
    import httpx2

    from hmt.serving import Settings

    settings = Settings(save_seconds=0)
    with live(runner, tmp_path, settings=settings) as (url, _), httpx2.Client(base_url=url) as http:
        http.post("/v1/memories", json={"id": "book"})
        accept = {"Accept": "text/event-stream"}
        with http.stream(
            "POST", "/v1/memories/book/documents", files={"file": ("b.txt", TEXT)}, headers=accept
        ) as response:
            assert response.status_code == 200
            *told, last, done = events(response)
        assert done == "[DONE]" and len(told) > 3
        assert last["done"] and last["document_id"] == "d1" and last["tokens"] == last["total_tokens"]
        counts = [one["tokens"] for one in told]
        assert counts == sorted(set(counts))
        keys = {"tokens", "total_tokens", "tokens_per_second", "bytes", "kv_cache_bytes", "memory_tokens"}
        assert all(keys <= set(one) for one in told)
        there = http.get("/v1/memories/book").json()
        assert there["tokens"] == last["memory_tokens"]
        # one version for each that was told, and the empty one
        assert there["version"] == len(told) + 1


def test_an_upload_keeps_its_pages_and_sections(http):
    http.post("/v1/memories", json={"id": "pages"})
    markdown = b"# The Ship\n\nIt had two masts.\n\n# The Whale\n\nNobody had seen one like it.\n"
    upload(http, "pages", markdown, "notes.md")
    page = b"<html><body><h1>The Boat</h1><p>It turned after it.</p><script>no()</script></body></html>"
    upload(http, "pages", page, "page.html")
    one, two = http.get("/v1/memories/pages").json()["documents"]
    first, last = (http.get(f"/v1/memories/pages/segments/{n}").json()["page"] for n in (0, 1))
    assert first.startswith("section: The Ship") and "The Whale" in last
    text = http.get("/v1/memories/pages/documents/d2/text").json()["text"]
    assert "It turned after it." in text and "<" not in text and "no()" not in text
    http.delete("/v1/memories/pages")


def test_an_upload_that_is_refused_is_an_event(http, memory):
    before = http.get(f"/v1/memories/{memory}").json()
    refused = upload(http, memory, b"%PDF-1.4 ...", "a.pdf", headers={"Accept": "text/event-stream"})
    assert refused.status_code == 415 and "a.pdf" in refused.json()["error"]["message"]
    for content in (b"", b"  \n", b"caf\xe9", b"\x00\x01"):
        assert upload(http, memory, content).status_code in (400, 415)
    assert http.get(f"/v1/memories/{memory}").json() == before


def test_a_turn_is_kept_only_where_that_is_asked(http, memory):
    body = {
        "messages": [{"role": "user", "content": "Who turned?"}],
        "memory": memory,
        "max_tokens": 8,
        "temperature": 1,
        "seed": 3,
    }
    http.post("/v1/chat/completions", json=body)
    assert http.get(f"/v1/memories/{memory}", params={"turns": True}).json()["turns"] == []
    answer = http.post("/v1/chat/completions", json={**body, "remember": True}).json()
    there = http.get(f"/v1/memories/{memory}", params={"turns": True}).json()
    (turn,) = there["turns"]
    assert turn["question"] == "Who turned?"
    assert turn["answer"] == answer["choices"][0]["message"]["content"]
    assert [one["segment"] for one in turn["passages"]] == [
        one["segment"] for one in answer["memory"]["passages"]
    ]
    assert there["documents"][-1]["kind"] == "turn"


def test_two_servers_write_to_one_memory(runner, tmp_path):
    """Whoever comes second reads again on top of what the first has saved."""
    import httpx2

    with live(runner, tmp_path) as (one, _), live(runner, tmp_path) as (two, _):
        httpx2.post(f"{one}/v1/memories", json={"id": "shared"})
        answers = []

        def add(url, name):
            for number in range(3):
                body = {"text": f"{name} {number}. " + TEXT[:300], "name": f"{name}{number}"}
                answers.append(httpx2.post(f"{url}/v1/memories/shared/documents", json=body, timeout=60))

        threads = [threading.Thread(target=add, args=each) for each in ((one, "a"), (two, "b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        kept = [a for a in answers if a.status_code == 201]
        assert all(a.status_code in (201, 409) for a in answers) and len(kept) >= 3
        views = [httpx2.get(f"{url}/v1/memories/shared").json() for url in (one, two)]
        assert views[0] == views[1]
        told = {d["name"] for answer in kept for d in answer.json()["documents"]}
        assert {d["name"] for d in views[0]["documents"]} == told
        assert len(views[0]["documents"]) == len(kept)


def test_a_memory_of_another_model_is_refused(http, runner, tmp_path_factory, url):
    from cli.models import make_tokenizer, save_asked

    from hmt import load_model
    from hmt.sessions import DirectRunner

    folder = save_asked(tmp_path_factory, segment_length=24, sensory_length=40, memory_size=9)
    store = Store(tmp_path_factory.mktemp("other"))
    store.create("theirs", DirectRunner(load_model(folder), make_tokenizer()))
    refused = http.put(
        "/v1/memories/theirs/file",
        content=store.export_bytes("theirs"),
        headers={"content-type": "application/octet-stream"},
    )
    assert refused.status_code == 422 and refused.json()["error"]["code"] == "other_model"
    assert http.get("/v1/memories/theirs").status_code == 404


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../b", "A", "nul", "a" * 65, "é", "a\x00", ".lock", "%2e%2e"]
)
def test_no_name_becomes_a_path(http, name):
    from urllib.parse import quote

    quoted = quote(name, safe="")
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/fork"), ("GET", "/file")):
        told = http.request(method, f"/v1/memories/{quoted}{path}")
        assert told.status_code in (404, 405), (method, path, told.text)
        assert "error" in told.json()
    made = http.post("/v1/memories", json={"id": name})
    assert made.status_code == 400 and made.json()["error"]["param"] == "id"
    asked = {"messages": [{"role": "user", "content": "a"}], "memory": name}
    assert http.post("/v1/chat/completions", json=asked).status_code == 404
