"""Sessions that last: saved, opened, listed, forked, exported, deleted, and nobody else's."""

import errno
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cli.models import SENTENCES, save_asked

from hmt import load_model
from hmt.sessions import (
    Conflict,
    Damaged,
    DirectRunner,
    Limits,
    Missing,
    Options,
    Session,
    Store,
    default_url,
    export_session,
)
from hmt.sessions import record as records
from hmt.sessions.places import LocalFiles

ONE, TWO = SENTENCES[0] * 2, SENTENCES[3]


@pytest.fixture
def filled(store, session):
    """A session with two documents and a turn, saved three times."""
    now = store.save(session.append(ONE, name="one.txt"))
    now = store.save(now.append(TWO, name="two.txt", keep="offsets"))
    return store.save(now.ask("the whale", options=Options(max_new_tokens=3))[1])


def files(store, name="whales"):
    folder = Path(store.url) / store.namespace / name
    return sorted(folder.iterdir()) if folder.is_dir() else []


def facts(session):
    return session.name, session.version, session.uid, session.documents, session.turns, session.made


@pytest.fixture(params=["local", "memory"])
def anywhere(request, tmp_path):
    return Store(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}/sessions")


def test_what_was_saved_is_opened(anywhere, session, runner, same):
    now = anywhere.create("whales", runner)
    assert now.version == 1 and now.uid
    now = anywhere.save(now.append(ONE, name="one.txt"))
    now = anywhere.save(now.append(TWO, name="two.txt", keep="offsets"))
    now = anywhere.save(now.ask("the whale", top=9, options=Options(max_new_tokens=3))[1])
    again = anywhere.open("whales", runner)
    assert facts(again) == facts(now) and again.version == 4
    same(now.memory, again.memory)
    assert again.recall("boat") == now.recall("boat")
    assert again.turns[0].passages and all(one.text for one in again.turns[0].passages)
    (listed,) = anywhere.list()
    assert (listed.name, listed.version, listed.documents, listed.turns) == ("whales", 4, 2, 1)
    assert listed.tokens == now.info()["tokens"] and listed.damaged is None
    older = anywhere.open("whales", runner, version=3)
    assert older.version == 3 and older.turns == ()
    with pytest.raises(Missing, match="has no version 1; there are 3, 4"):
        anywhere.open("whales", runner, version=1)


def test_of_two_writers_of_a_version_one_is_told(anywhere, session, runner):
    first = anywhere.save(session)
    second = anywhere.open("whales", runner)
    saved = anywhere.save(first.append(ONE))
    with pytest.raises(Conflict, match="saved by somebody else"):
        anywhere.save(second.append(TWO))
    assert facts(anywhere.open("whales", runner)) == facts(saved)
    with pytest.raises(Conflict, match="there is a session whales already"):
        anywhere.create("whales", runner)
    anywhere.delete("whales")
    with pytest.raises(Conflict, match="was deleted since"):
        anywhere.save(saved)
    other = anywhere.create("whales", runner)
    with pytest.raises(Conflict, match="saved by somebody else"):  # the same number, another session
        anywhere.save(replace(first, version=1).append(ONE))
    assert anywhere.open("whales", runner).uid == other.uid


def test_a_manifest_is_never_replaced(anywhere, session, monkeypatch):
    """Two writers that have both looked before either wrote."""
    saved = anywhere.save(session)
    before = anywhere._shelf._before
    rival = Store(anywhere.url)

    def looked(record):
        found = before(record)
        monkeypatch.setattr(anywhere._shelf, "_before", before)
        if isinstance(anywhere._shelf.files, LocalFiles):  # the lock of the first would be waited for
            monkeypatch.setattr(rival._shelf.files, "locked", lambda folder: open(os.devnull))
        rival.save(saved.append(TWO))
        return found

    monkeypatch.setattr(anywhere._shelf, "_before", looked)
    with pytest.raises(Conflict):
        anywhere.save(saved.append(ONE))
    names = anywhere._shelf.files.names("default/whales")
    assert sum(name.endswith(".json") for name in names) == 2
    assert rival.open("whales", session.runner).documents[0].text == TWO
    parts = {p.file for v in (1, 2) for p in rival._shelf.record("whales", v).parts.values()}
    assert {name for name in names if name.endswith(".part")} == parts  # nothing is left of the other


def test_versions_that_are_old_go(store, filled, runner):
    names = [path.name for path in files(store)]
    assert [name for name in names if name.endswith(".json")] == ["00000002.json", "00000003.json"]
    # the text did not change since version 1, the memory since version 2
    assert [name[:8] for name in names if name.endswith(".part")] == ["00000001", "00000002"]


def test_what_was_forgotten_is_in_no_version(store, filled, runner):
    text = ONE.encode()
    assert any(text in path.read_bytes() for path in files(store))
    codes = filled.memory.state["passages"][0, 0].numpy().tobytes()
    assert any(codes in path.read_bytes() for path in files(store))
    now = store.save(filled.forget("d1"))
    assert [path.name for path in files(store) if path.suffix == ".json"] == ["00000004.json"]
    for path in files(store):
        data = path.read_bytes()
        assert text not in data and codes not in data and b"one.txt" not in data, path
    now = store.save(store.save(now.append(TWO)).undo())
    assert b"the whale" not in b"".join(path.read_bytes() for path in files(store))
    assert facts(store.open("whales", runner)) == facts(now)


def test_deleted_is_gone(store, filled, runner):
    (Path(store.url) / "default/whales/.x.abcdefgh.hmt-part").write_bytes(b"of a writer that was killed")
    store.save(Session.new("other", runner))
    store.delete("whales")
    assert not (Path(store.url) / "default/whales").exists()
    assert [path.name for path in (Path(store.url) / "default").iterdir()] == ["other"]
    assert not store.exists("whales") and [one.name for one in store.list()] == ["other"]
    for act in (store.delete, lambda name: store.open(name, runner), lambda name: store.fork(name, "new")):
        with pytest.raises(Missing, match="there is no session whales"):
            act("whales")
    assert store.create("whales", runner).version == 1


def test_a_fork_and_an_import_are_sessions_of_their_own(anywhere, session, runner, same, tmp_path):
    now = anywhere.save(session.append(ONE, name="one.txt"))
    assert anywhere.fork("whales", "copy").version == 1
    anywhere.delete("whales")
    copy = anywhere.open("copy", runner)
    assert copy.uid != now.uid and copy.documents == now.documents
    same(now.memory, copy.memory)
    anywhere.export("copy", tmp_path / "copy.session")
    anywhere.import_(tmp_path / "copy.session", "third")
    third = anywhere.open("third", runner)
    assert third.documents == now.documents and third.version == 1
    export_session(now, tmp_path / "fourth.session")  # without a store
    assert Store(tmp_path / "elsewhere").import_(tmp_path / "fourth.session").name == "whales"
    for name in ("copy", "third"):
        with pytest.raises(Conflict, match=f"there is a session {name} already"):
            anywhere.import_(tmp_path / "copy.session", name)
    (tmp_path / "book.txt").write_text("a book")
    with pytest.raises(ValueError, match="is there and is no session file"):
        export_session(now, tmp_path / "book.txt")
    with pytest.raises(Damaged, match="book.txt is no session file"):
        anywhere.import_(tmp_path / "book.txt")


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_flipped_bit_anywhere_is_found(store, filled, runner, which):
    newest = [path for path in files(store) if path.name != "00000002.json"]
    path = newest[which]
    data, chance = path.read_bytes(), random.Random(which)
    for at in {0, len(data) - 1, *range(which, len(data), max(1, len(data) // 150))}:
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(Damaged, match="session whales is damaged: its .* is not what was written"):
            store.open("whales", runner)
        with pytest.raises(Damaged):
            store.fork("whales", "copy")
    for cut in (b"", data[:-1], data + b"\n"):
        path.write_bytes(cut)
        with pytest.raises(Damaged):
            store.open("whales", runner)
    path.unlink()
    if path.suffix == ".part":
        with pytest.raises(Damaged, match="which is missing, is not what was written; version 2 is there"):
            store.open("whales", runner)
    path.write_bytes(data)
    assert facts(store.open("whales", runner)) == facts(filled)
    assert store.list()[0].damaged is None


def test_a_damaged_session_is_listed_and_the_version_before_opens(store, filled, runner):
    path = files(store)[-1]
    assert path.name == "00000003.json"
    path.write_bytes(path.read_bytes().replace(b'"made":2', b'"made":3'))
    assert "damaged" in store.list()[0].damaged
    with pytest.raises(Damaged, match="its manifest is not what was written; version 2 is there, too"):
        store.open("whales", runner)
    older = store.open("whales", runner, version=2)
    assert [one.id for one in older.documents] == ["d1", "d2"]
    store.delete("whales")
    assert not files(store)


def test_a_flipped_bit_of_an_exported_session_is_found(store, filled, tmp_path):
    data = store.export_bytes("whales")
    target = Store(tmp_path / "target")
    for at in [*range(0, len(data), max(1, len(data) // 400)), len(data) - 1]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        with pytest.raises(ValueError):
            target.import_(bytes(flipped))
    for cut in (b"", data[:9], data[:-1], data + b"x"):
        with pytest.raises(Damaged):
            target.import_(cut)
    assert target.list() == [] and target.import_(data).documents == 2


def forged(filled, change):
    """An exported session whose checksums are right and whose contents are not."""
    from hmt.sessions.archive import archived

    return archived(change(records.to_snapshot(filled)))


@pytest.mark.parametrize(
    "what, message",
    [
        ({"name": "../x"}, "cannot be the name of a session"),
        ({"format": "hmt-memory"}, "it is none"),
        ({"format_version": 2}, "has session format version 2, this library reads 1"),
        ({"turns": "all"}, "no manifest of a session"),
        ({"documents": ()}, "its documents are not those of its memory"),
        ({"version": "x"}, "no manifest"),
    ],
)
def test_forged_records_are_refused(store, filled, runner, tmp_path, what, message):
    target, name = Store(tmp_path / "target"), None if "name" in what else "copy"
    with pytest.raises(ValueError, match=message):
        if "version" in what:
            record, parts = records.to_snapshot(filled)
            data = records.record_bytes(replace(record, **what))
            records.parse_record(data, "it")
        target.import_(forged(filled, lambda s: s._replace(record=replace(s.record, **what))), name)
        target.open("copy", runner)


def test_forged_documents_are_refused(store, filled, runner, tmp_path):
    target = Store(tmp_path / "target")
    one, two = filled.documents
    changes = [
        replace(one, first=1), replace(one, id="d2"), replace(one, read=replace(one.read, tokens=9999)),
        replace(one, read=replace(one.read, tokens=0)), replace(one, digest="0" * 64),
        replace(one, read=replace(one.read, begins=tuple(reversed(one.read.begins)))),
        replace(one, read=replace(one.read, begins=(0, 10**9))),
        replace(one, read=replace(one.read, begins=one.read.begins[:1])),
    ]  # fmt: skip
    for number, change in enumerate(changes):

        def put(snapshot, change=change):
            documents = (replace(change, text=None), replace(two, text=None))
            return snapshot._replace(record=replace(snapshot.record, documents=documents))

        target.import_(forged(filled, put), f"copy{number}")
        with pytest.raises(Damaged):
            target.open(f"copy{number}", runner)


def test_a_memory_of_another_model_is_refused_or_read_again(store, session, runner, tmp_path_factory):
    store.save(session.append(ONE, name="one.txt"))
    other = DirectRunner(load_model(save_asked(tmp_path_factory)))
    with pytest.raises(ValueError, match="the memory of session whales was made with another configuration"):
        store.open("whales", other)
    again = store.open("whales", other, reread=True)
    assert again.recall("whale")[0].text == ONE and again.documents[0].segments == 1
    saved = store.save(again)
    assert saved.version == 2 and store.open("whales", other).documents == again.documents


BAD = [
    "", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "A", "Whales", "é", "ｗhales", "a\u200b", "a\n",
    "a ", " a", "-a", ".a", "_a", "a.", "a..b", "con", "nul.txt", "com1", "lpt9.x.y", "a" * 65, "a\0b", "~",
    "a:b", "%2e%2e", "a*", "$HOME", None, 3,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_names_that_could_be_something_else_are_refused(store, runner, name, tmp_path):
    acts = [
        lambda: store.create(name, runner), lambda: store.open(name, runner), lambda: store.delete(name),
        lambda: store.exists(name), lambda: store.fork("x", name), lambda: store.fork(name, "x"),
        lambda: store.export(name, tmp_path / "x"), lambda: Store(tmp_path, namespace=name),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(ValueError, match="cannot be the name of|is a string|there is no session x"):
            act()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "0", "mem_1f0c-2", "a.b.c", "a" * 64, "console", "com", "a-", "a_"])
def test_usual_names_are_taken(store, runner, name):
    store.create(name, runner)
    assert [one.name for one in store.list()] == [name]


def test_namespaces_know_nothing_of_each_other(tmp_path, session, runner):
    mine, theirs = (Store(tmp_path / "store", namespace=name) for name in ("mine", "theirs"))
    mine.save(session.append(ONE))
    assert theirs.list() == [] and not theirs.exists("whales")
    for act in (lambda: theirs.open("whales", runner), lambda: theirs.delete("whales"),
                lambda: theirs.fork("whales", "x"), lambda: theirs.export_bytes("whales")):  # fmt: skip
        with pytest.raises(Missing, match="there is no session whales$"):
            act()
    other = theirs.save(session.append(TWO))
    assert theirs.open("whales", runner).documents[0].text == TWO
    theirs.delete("whales")
    assert mine.open("whales", runner).documents[0].text == ONE and other.uid


def test_limits(tmp_path, session, runner, monkeypatch):
    url = tmp_path / "store"
    few = Store(url, limits=Limits(sessions=1))
    saved = few.create("a", runner)
    with pytest.raises(ValueError, match="there are 1 sessions, the most here"):
        few.create("b", runner)
    few.save(saved.append(ONE))  # what is there may grow
    with pytest.raises(ValueError, match="there are 1 sessions"):
        few.fork("a", "b")
    short = Store(url, "short", Limits(tokens=30))
    now = short.create("a", runner)
    with pytest.raises(ValueError, match=r"session a has \d+ tokens, and 30 are the most here"):
        short.save(now.append(ONE + TWO))
    small = Store(url, "small", Limits(bytes=200))
    with pytest.raises(ValueError, match=r"bytes, and 200 are the most here"):
        small.create("a", runner)
    assert small.list() == [] and not (url / "small").exists()
    idle = Store(url, limits=Limits(idle_days=2))
    assert [one.name for one in idle.list()] == ["a"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3 * 86400)
    with pytest.raises(Missing):
        idle.open("a", runner)
    assert not few.exists("a")
    few.create("c", runner)
    monkeypatch.setattr(time, "time", lambda: now + 6 * 86400)
    assert idle.expire() == ["c"] and idle.list() == []


def test_where_sessions_are_kept_by_default(monkeypatch, tmp_path):
    assert default_url() == str(tmp_path / "home" / "sessions")
    monkeypatch.delenv("HMT_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_url() == str(tmp_path / "data" / "hmt" / "sessions")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_url() == str(tmp_path / ".local" / "share" / "hmt" / "sessions")
    monkeypatch.setenv("HMT_HOME", str(tmp_path / "private"))
    store = Store()
    assert store.list() == [] and not (tmp_path / "private").exists()


def test_what_is_remembered_is_nobody_elses(store, filled):
    assert Path(store.url).stat().st_mode & 0o077 == 0


def test_a_store_that_cannot_be_reached_is_an_error(runner):
    with pytest.raises(ValueError, match="nowhere://x"):
        Store("nowhere://x")
    store = Store("memory://lost")

    def lost(*arguments, **options):
        raise ConnectionError("the network is gone")

    store.create("a", runner)
    for name in ("ls", "cat_file", "pipe_file"):
        whole = getattr(store._shelf.files.fs, name)
        setattr(store._shelf.files.fs, name, lost)
        with pytest.raises(ValueError, match="memory://lost: the network is gone"):
            store.save(store.open("a", runner))
        setattr(store._shelf.files.fs, name, whole)
    assert store.open("a", runner).version == 1


def test_a_full_disk_leaves_the_version_before(store, filled, runner, monkeypatch):
    before = {path.name: path.read_bytes() for path in files(store)}

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    now = filled.append("Something else.", name="three")
    real = os.fsync
    for last in range(3):  # the memory, the text, the manifest
        count = iter(range(9))  # of files and of their folder
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda h, n=count, k=last: full(h) if next(n) // 2 >= k else real(h))
            with pytest.raises(OSError, match="No space left"):
                store.save(now)
        assert {path.name: path.read_bytes() for path in files(store)} == before
        assert facts(store.open("whales", runner)) == facts(filled)
    assert store.save(now).version == 4


def test_manifests_are_json(store, filled):
    manifest = json.loads(files(store)[-1].read_bytes())
    assert manifest["body"]["name"] == "whales" and set(manifest) == {"body", "sha256"}
    assert "text" in manifest["body"]["documents"][0] and ONE not in json.dumps(manifest)
