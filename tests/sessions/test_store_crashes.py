"""Writers that die, and writers that meet: what was acknowledged is there, and nothing is half there."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from cli.models import SENTENCES

from hmt.sessions import Conflict, Session, Store

ONE, TWO = SENTENCES[0] * 2, SENTENCES[3]


class Killed(BaseException):
    """As SIGKILL: nothing of the process runs after it."""


def dies_at(files, number):
    """Files whose `number`-th change, from 0, is never made, nor anything after it."""
    count = [0]

    class Dying(type(files)):
        pass

    def dying(name):
        def change(self, *arguments):
            if count[0] >= number:
                raise Killed
            count[0] += 1
            return getattr(super(Dying, self), name)(*arguments)

        return change

    for name in ("write", "create", "remove", "remove_folder"):
        setattr(Dying, name, dying(name))
    dead = Dying.__new__(Dying)
    dead.__dict__.update(files.__dict__)
    return dead, count


def state(store, runner):
    if not store.exists("whales"):
        return None
    now = store.open("whales", runner)
    return [one.text for one in now.documents], len(now.turns)


@pytest.mark.parametrize("url", ["local", "memory"])
def test_a_writer_that_dies_between_any_two_changes(url, runner, tmp_path):
    """Create, append, forget, delete: after each death the state is the old or the new one, and work goes
    on."""
    ended, number = False, 0
    while not ended:
        place = tmp_path / str(number) if url == "local" else f"memory://{tmp_path.name}/{number}"
        writer, store = Store(place), Store(place)
        writer._shelf.files, count = dies_at(writer._shelf.files, number)
        acknowledged, allowed = None, [None]
        try:
            allowed = [None, ([], 0)]
            now = writer.create("whales", runner)
            acknowledged, allowed = ([], 0), [([], 0), ([ONE], 0)]
            now = writer.save(now.append(ONE))
            acknowledged, allowed = ([ONE], 0), [([ONE], 0), ([ONE, TWO], 0)]
            now = writer.save(now.append(TWO))
            acknowledged, allowed = ([ONE, TWO], 0), [([ONE, TWO], 0), ([TWO], 0)]
            now = writer.save(now.forget("d1"))
            acknowledged, allowed = ([TWO], 0), [([TWO], 0), None]
            writer.delete("whales")
            acknowledged, allowed = None, [None]
            ended = True
        except Killed:
            pass
        found = state(store, runner)
        assert found in allowed and (found == acknowledged or found == allowed[-1]), number
        # the next one goes on, and removes what is left over
        if found is None:
            again = store.create("whales", runner)
        else:
            again = store.save(store.open("whales", runner).append("More."))
        again = store.save(again.append("And more."))
        names = store._shelf.files.names("default/whales")
        used = {
            part.file
            for v in store._shelf.versions("whales")
            for part in store._shelf.record("whales", v).parts.values()
        }
        assert {one for one in names if one.endswith(".part")} == used and len(names) == len(used) + 2
        store.delete("whales")
        assert store._shelf.files.names("default/whales") == []
        number += 1
    assert number > 12 and count[0] < number


def in_children(number, work):
    """Run `work(index)` in processes of their own; what each of them wrote to its pipe."""
    children = []
    for index in range(number):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(read)
                work(index, write)
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        children.append((child, read))
    return children


def ended(children):
    told = []
    for child, read in children:
        with os.fdopen(read, "rb") as pipe:
            told.append(pipe.read().decode())
        os.waitpid(child, 0)
    return told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_of_many_processes_that_save_a_version_one_succeeds(store, session, runner):
    for round in range(3):
        base = store.save(Session.new(f"s{round}", runner)).append(ONE)
        start = time.time() + 0.2

        def save(index, write, base=base, start=start):
            time.sleep(max(0.0, start - time.time()))
            try:
                store.save(base)
                os.write(write, b"saved")
            except Conflict:
                os.write(write, b"conflict")

        told = ended(in_children(6, save))
        assert sorted(told) == ["conflict"] * 5 + ["saved"]
        assert store.open(f"s{round}", runner).version == 2
        assert len(store._shelf.files.names(f"default/s{round}")) == 5  # two manifests, two memories, a text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_of_many_processes_that_append_nothing_is_lost(store, session, runner):
    """Each opens, appends and saves, and tries again after a conflict."""
    store.save(session)

    def work(index, write):
        for number in range(3):
            while True:
                now = store.open("whales", runner)
                try:
                    store.save(now.append(f"Document {index}.{number}"))
                    break
                except Conflict:
                    continue

    ended(in_children(3, work))
    now = store.open("whales", runner)
    assert now.version == 10
    assert sorted(one.text for one in now.documents) == [
        f"Document {i}.{n}" for i in range(3) for n in range(3)
    ]
    assert len({one.id for one in now.documents}) == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment(store, session, runner):
    """SIGKILL in the middle of saving: every version that was acknowledged is there or has a successor."""
    chance = random.Random(0)
    now = store.save(session)

    def work(index, write):
        saved = now
        for number in range(1000):
            saved = store.save(saved.append(f"Document {number}"))
            os.write(write, f"{saved.version}\n".encode())

    for _ in range(8):
        (child,) = in_children(1, work)
        time.sleep(chance.uniform(0.02, 0.25))
        os.kill(child[0], signal.SIGKILL)
        (told,) = ended([child])
        last = int((told.split() or [str(now.version)])[-1])
        now = store.open("whales", runner)
        assert now.version in (last, last + 1)
        now = store.save(now.append("Somebody else."))
        assert (
            len(store._shelf.files.names("default/whales")) <= 4 + now.version
        )  # two versions, texts, no leftovers
        left = [p.name for p in (Path(store.url) / "default/whales").iterdir() if p.name.startswith(".")]
        assert left == []
