"""`hmt mcp` with the client of the official package: in this process, and as a process of its own."""

import json
import os
import sys

import anyio
import pytest
from cli.models import SENTENCES, TEXT
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from hmt.serving.answers import Answers
from hmt.serving.mcp import Tools, make_server
from hmt.serving.memories import Memories
from hmt.serving.settings import Settings
from hmt.sessions import Limits, Options, Store

PAGE = TEXT[: len(TEXT) // 3]  # the memory has room for it, and for more


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def notes(tmp_path):
    """A folder that may be read, beside one that may not."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "whales.txt").write_text(PAGE, encoding="utf-8")
    (tmp_path / "secret.txt").write_text("The password is swordfish.")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    return folder


@pytest.fixture
def use(runner, store, notes):
    """Runs a function with a client of a server."""

    def run(function, save_seconds=1.0, settings=None, **options):
        settings = settings or Settings()
        memories = Memories(str(store), "default", Limits(), runner, save_seconds)
        opened = (memories, Answers(runner, settings.max_text_tokens))
        server = make_server(Tools(lambda: opened, [notes], settings))

        async def main():
            async with Client(server, **options) as client:
                return await function(client)

        return anyio.run(main)

    return run


async def call(client, tool, **arguments):
    """What a tool returns."""
    told = await client.call_tool(tool, arguments)
    assert not told.is_error, told.content
    assert json.loads(told.content[0].text) == told.structured_content
    return told.structured_content


async def refused(client, tool, **arguments):
    """The words of an error."""
    told = await client.call_tool(tool, arguments)
    assert told.is_error
    return told.content[0].text


def test_tools_say_what_they_do(use):
    async def main(client):
        return {tool.name: tool for tool in (await client.list_tools()).tools}

    tools = use(main)
    assert sorted(tools) == ["ask", "forget", "list", "read", "recall"]
    for tool in tools.values():
        assert tool.description and tool.output_schema and "self" not in tool.input_schema["properties"]
        assert "context" not in tool.input_schema["properties"]
    assert tools["recall"].annotations.read_only_hint and tools["list"].annotations.read_only_hint
    assert tools["forget"].annotations.destructive_hint
    assert tools["read"].input_schema["required"] == ["memory"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_read_recall_ask_and_forget(use, store, runner, mode):
    async def main(client):
        assert await call(client, "list") == {"memories": [], "documents": None}
        read = await call(client, "read", memory="whales", path="whales.txt")
        assert read["created"] and read["name"] == "whales.txt" and read["document"] == "d1"
        more = await call(client, "read", memory="whales", text="Nobody saw a kraken.", name="log")
        assert not more["created"] and more["document"] == "d2"
        assert len((await call(client, "recall", memory="whales", text="kraken", top=3))["passages"]) == 3
        found = (await call(client, "recall", memory="whales", text="kraken", top=50))["passages"]
        weights = [one["weight"] for one in found]
        assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1, abs=0.01)
        (kraken,) = (one for one in found if one["document"] == "d2")
        assert kraken["text"] == "Nobody saw a kraken." and kraken["characters"] == [0, 20]
        assert kraken["where"].startswith("log:1, ")
        pages = sorted((one["segment"], one["text"]) for one in found if one["document"] == "d1")
        assert "".join(text for _, text in pages) == PAGE
        asked = await call(client, "ask", memory="whales", question="Who turned?", max_tokens=6)
        again = await call(
            client, "ask", memory="whales", question="Who turned?", max_tokens=6, remember=True
        )
        assert again["answer"] == asked["answer"] and again["passages"] == asked["passages"]
        assert not asked["remembered"]
        listed = await call(client, "list")
        (line,) = listed["memories"]
        assert line["name"] == "whales" and line["documents"] == 2 + again["remembered"]
        replaced = await call(client, "read", memory="whales", text="All saw it.", replaces="d2")
        assert replaced["document"] == "d2" and replaced["name"] == "log"
        found = (await call(client, "recall", memory="whales", text="kraken", top=50))["passages"]
        texts = [one["text"] for one in found]
        assert not any("kraken" in text for text in texts) and "All saw it." in texts
        gone = await call(client, "forget", memory="whales", document="d1")
        assert gone == {"memory": "whales", "document": "d1"}
        left = (await call(client, "list", memory="whales"))["documents"]
        assert "d1" not in [one["id"] for one in left] and {one["held"] for one in left} == {1.0}
        return [one["id"] for one in left]

    left = use(main, mode=mode)
    session = Store(str(store)).open("whales", runner)  # it is there for everybody
    assert [one.id for one in session.documents] == left

    async def end(client):
        await call(client, "forget", memory="whales", everything=True)
        return await call(client, "list")

    assert use(end, mode=mode)["memories"] == []


def test_a_text_is_what_it_is(use):
    """A text that is JSON, or says null, is a text."""
    texts = ['{"captain": "Ahab"}', '["a", 1]', "null", "0", " indented", "line\r\nends"]

    async def main(client):
        for number, text in enumerate(texts):
            await call(client, "read", memory=f"m{number}", text=text)
            (found,) = (await call(client, "recall", memory=f"m{number}", text="captain"))["passages"]
            assert found["text"] == text

    use(main)


def test_what_cannot_be_done_is_said(use, notes):
    async def main(client):
        await call(client, "read", memory="m", text=SENTENCES[0])
        told = {
            "There is no memory 'n'": await refused(client, "ask", memory="n", question="Who?"),
            "There is no memory '../m'": await refused(client, "recall", memory="../m", text="Who?"),
            "There is no document 'd9'": await refused(client, "forget", memory="m", document="d9"),
            "one of the two": await refused(client, "forget", memory="m"),
            "give a text, or the path": await refused(client, "read", memory="m"),
            "the text is empty": await refused(client, "read", memory="new", text=" \n"),
            "cannot be the name": await refused(client, "read", memory="No Name", text="a"),
            "question is empty": await refused(client, "ask", memory="m", question=" "),
            "tokens": await refused(client, "ask", memory="m", question="Who? " * 50),
            "max_tokens": await refused(client, "ask", memory="m", question="Who?", max_tokens=0),
            "picture.png": await refused(client, "read", memory="m", path="picture.png"),
        }
        outside = ("../secret.txt", str(notes.parent / "secret.txt"), "link.txt")
        for path in (*outside, ".", "no.txt", "a\0b", "x" * 5000):
            told[f"is no file in {notes}"] = answer = await refused(client, "read", memory="m", path=path)
            assert "swordfish" not in answer
        assert await refused(client, "read", memory="m", text="a", path="whales.txt")
        names = [one["name"] for one in (await call(client, "list"))["memories"]]
        assert names == ["m"]  # nothing was made on the way to an error
        return told

    for words, told in use(main).items():
        assert words in told, told


def test_no_files_without_a_folder(runner, store, notes):
    memories = Memories(str(store), "default", Limits(), runner)
    server = make_server(Tools(lambda: (memories, Answers(runner, 1000))))

    async def main():
        async with Client(server) as client:
            return await refused(client, "read", memory="m", path=str(notes / "whales.txt"))

    assert "this server reads no files" in anyio.run(main)


def test_an_error_of_ours_is_kept_from_the_agent(notes):
    """And a model that cannot be loaded is not one."""
    for error, words in ((ZeroDivisionError("x"), "Error executing tool list"), (ValueError("no y"), "no y")):

        def opened(error=error):
            raise error

        async def main():
            async with Client(make_server(Tools(opened))) as client:  # noqa: B023
                return await refused(client, "list")

        assert anyio.run(main).endswith(words)


def test_limits(use, notes):
    async def main(client):
        assert "and 100 are the most" in await refused(client, "read", memory="m", path="whales.txt")
        assert "more than 50 tokens" in await refused(client, "read", memory="m", text=TEXT)
        assert (await call(client, "list"))["memories"] == []

    use(main, settings=Settings(max_upload_bytes=100, max_text_tokens=50))


def test_progress_is_told_and_a_cancelled_read_ends(use, runner, store):
    seen = []

    async def main(client):
        async def heard(tokens, total, message):
            seen.append((tokens, total))
            if len(seen) == most:
                scope.cancel()

        most, scope = 0, anyio.CancelScope()
        whole = await client.call_tool("read", {"memory": "all", "text": TEXT}, progress_callback=heard)
        tokens = whole.structured_content["tokens"]
        assert seen[-1][0] == tokens and [one for one, _ in seen] == sorted({one for one, _ in seen})
        seen.clear()
        most = 3
        with scope:
            await client.call_tool("read", {"memory": "some", "text": TEXT * 40}, progress_callback=heard)
        assert scope.cancelled_caught
        await call(client, "read", memory="some", text="Later.")  # waits until nobody else writes to it
        kept, _ = (await call(client, "list", memory="some"))["documents"]
        assert seen[2][0] <= kept["tokens"] < 40 * tokens  # what was told is kept, and there is an end
        return kept["id"]

    document = use(main, save_seconds=0.0, mode="legacy")
    kept = Store(str(store)).open("some", runner).document(document)
    assert kept.text and (TEXT * 40).startswith(kept.text)


def test_a_process_of_its_own(folder, runner, store, notes, tmp_path):
    """As a client starts it: nothing but the protocol on standard output, and gone when the client is."""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "HMT_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    arguments = ["-m", "hmt", "mcp", str(folder), "--store", str(store), "--files", str(notes)]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment)

    async def main():
        with (tmp_path / "errors").open("w") as errors:
            async with Client(stdio_client(server, errlog=errors), read_timeout_seconds=90) as client:
                assert "outlives" in client.instructions
                await call(client, "read", memory="whales", path="whales.txt")
                return await call(client, "ask", memory="whales", question="Who turned?", max_tokens=6)

    asked = anyio.run(main)
    here = Store(str(store)).open("whales", runner)
    answer, _ = here.ask("Who turned?", options=Options(max_new_tokens=6))
    assert asked["answer"] == answer.answer
    assert [one["text"] for one in asked["passages"]] == [one.text for one in answer.passages]
    assert "Traceback" not in (tmp_path / "errors").read_text()
