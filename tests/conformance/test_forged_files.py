"""What a memory file may say: nothing that no reading leaves behind, whoever made its checksum right."""

import io
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from backbones import random_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from hmt import Memory

from .cases import SYSTEMS, J, L, pad, ragged, shared
from .forge import SKETCH, forge, load, parse, seal

QUESTION = random_ids(J, seed=5)[None]
FUZZED = ["hmt-previous", "rmt-2-sensory", "armt", "transformer_xl-short"]


@cache
def true_file(system: str) -> bytes:
    """Two streams: one that has filled everything, one that has just begun."""
    memory = shared(system).read(*pad(ragged([5 * L + J, 1]), "left"))
    with tempfile.TemporaryDirectory() as folder:
        memory.save(Path(folder) / "true.hmt")
        return (Path(folder) / "true.hmt").read_bytes()


def put(name, at, value):
    def change(metadata, tensors):
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[at] = value

    return change


def cast(name, dtype):
    return lambda metadata, tensors: tensors.update({name: tensors[name].to(dtype)})


def of_first(kind, change):
    """The change of the first tensor of the state of that kind, where there is one."""

    def changed(metadata, tensors):
        names = [n for n in sorted(tensors) if n.startswith("state.") and n != "state.segments"]
        for name in names:
            if tensors[name].is_floating_point() == (kind == "floats") and tensors[name].numel():
                return change(name)(metadata, tensors)
        return False

    return changed


FORGED = {
    "open length -3": (put("open.lengths", 0, -3), "open lengths holds -3, and should hold 0 to 7"),
    "open length L": (put("open.lengths", 1, L), "open lengths holds 8, and should hold 0 to 7"),
    "open id 10^9": (put("open.ids", 0, 10**9), "open ids holds 1000000000, and should hold 0 to 96"),
    "open id beyond": (put("open.ids", -1, -1), "open ids holds -1"),
    "segments -5": (put("state.segments", 0, -5), "segments holds -5"),
    "segments 2^62": (put("state.segments", 0, 2**62), "segments holds 4611686018427387904"),
    "segments int32": (cast("state.segments", torch.int32), "segments holds torch.int32"),
    "segments int8": (cast("state.segments", torch.int8), "of I8, and should be of"),
    "segments float": (cast("state.segments", torch.float32), "segments holds torch.float32"),
    "open ids bool": (cast("open.ids", torch.bool), "open ids holds torch.bool"),
    "nan": (of_first("floats", lambda n: put(n, -1, float("nan"))), "not finite"),
    "infinity": (of_first("floats", lambda n: put(n, 0, float("inf"))), "not finite"),
    "floats as integers": (of_first("floats", lambda n: cast(n, torch.int64)), "model needs torch.float32"),
    "id of the state": (of_first("ids", lambda n: put(n, -1, 97)), "holds 97, and should hold 0 to 96"),
    "id -1 of the state": (of_first("ids", lambda n: put(n, -1, -1)), "holds -1, and should hold 0 to 96"),
    "fewer streams": (lambda m, t: t.update({"open.ids": t["open.ids"][:1]}), "numbers of streams"),
    "no stream": (lambda m, t: t.update({n: v[:0] for n, v in t.items()}), "numbers of streams"),
    "narrow": (lambda m, t: t.update({"open.ids": t["open.ids"][:, :5].contiguous()}), "room for 5 tokens"),
    "rank": (lambda m, t: t.update({"state.segments": t["state.segments"][:, None]}), r"the shape \[2, 1\]"),
    "unknown": (lambda m, t: t.update(more=t["open.ids"].clone()), "that no memory has, such as more"),
    "unknown state": (lambda m, t: t.update({"state.more": t["open.ids"].clone()}), "stream's more is"),
    "missing": (lambda m, t: t.pop("open.ids"), "'open.ids' is missing"),
    "missing segments": (lambda m, t: t.pop("state.segments"), "counts segments|stream's segments"),
    "fields a list": (lambda m, t: m.update(fields="[]"), "'fields' is missing"),
    "fields no JSON": (lambda m, t: m.update(fields="{"), "missing or unreadable"),
    "fields nested": (lambda m, t: m.update(fields="[" * 10**5), "missing or unreadable"),
    "half a number": (
        lambda m, t: m.update(fingerprint=SKETCH.format(m["fingerprint"][:16])), "missing or unreadable",
    ),
    "no model": (lambda m, t: m.pop("model"), "'model' is missing"),
    "version 3": (lambda m, t: m.update(format_version="3"), "version '3', this library reads 1 and 2"),
}  # fmt: skip


# the last example of each system, and the one of HMT that keeps a query
EXAMPLES = {found.name: example for example, (found, _) in SYSTEMS.items()} | {"query": "hmt-previous"}


@pytest.mark.parametrize("system", sorted(EXAMPLES.values()))
def test_what_no_reading_leaves_is_refused(system, tmp_path):
    model, path, tried = shared(system), tmp_path / "forged.hmt", 0
    for case, (change, message) in FORGED.items():
        metadata, tensors = parse(true_file(system))
        if change(metadata, tensors) is False:
            continue  # the system keeps nothing of this kind
        path.write_bytes(seal(metadata, tensors))
        with pytest.raises(ValueError, match=message) as refused:
            Memory.load(path, model=model)
        assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value), case
        tried += 1
    assert tried >= len(FORGED) - 5


def test_without_a_model_it_is_refused_where_it_is_used(tmp_path):
    model, path = shared("hmt-previous"), tmp_path / "forged.hmt"
    metadata, tensors = parse(true_file("hmt-previous"))
    put("state.sensory", 0, 97)(metadata, tensors)
    path.write_bytes(seal(metadata, tensors))
    memory = Memory.load(path)  # no vocabulary is known here
    with pytest.raises(ValueError, match="holds 97, and should hold 0 to 96"):
        model(QUESTION.repeat(2, 1), past_key_values=memory)


def test_metadata_are_covered_by_the_checksum(tmp_path):
    data = true_file("hmt-previous")
    assert b'"hmt-memory"' in data
    for old, new in ((b'"system":"hmt"', b'"system":"rmt"'), (b"sensory_length", b"sensory_lengti")):
        assert old in data
        (tmp_path / "m.hmt").write_bytes(data.replace(old, new, 1))
        with pytest.raises(ValueError, match="do not match their checksum"):
            Memory.load(tmp_path / "m.hmt")


def test_integers_that_are_no_token_ids_are_as_the_system_says(tmp_path, monkeypatch):
    model, path = shared("hmt-previous"), tmp_path / "m.hmt"
    metadata, tensors = parse(true_file("hmt-previous"))
    put("state.sensory", 0, 1000)(metadata, tensors)
    path.write_bytes(seal(metadata, tensors))
    monkeypatch.setattr(type(model), "state_limits", {"sensory": (0, 1000)})
    assert Memory.load(path, model=model).state["sensory"].max() == 1000


def test_a_memory_that_overflowed_is_not_saved(tmp_path):
    memory = shared("hmt-previous").read(random_ids(2 * L))
    memory.state["bank"][0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="bank holds numbers that are not finite"):
        memory.save(tmp_path / "m.hmt")
    assert not list(tmp_path.iterdir())


def empty(number):
    return ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(number))


ABSURD = {
    "200,000 empty tensors": (f"{{{empty(200_000)}}}", "its header has"),
    "empty tensors": (f"{{{empty(4_000)}}}", "is not a memory file"),
    "2^60 bytes": ('{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,1152921504606846976]}}', "speaks of"),
    "a list": ("[]", "no JSON object"),
    "nested": ("[" * 100_000, "no plain JSON"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_headers_cost_nothing(case, tmp_path, monkeypatch):
    text, message = ABSURD[case]
    path = tmp_path / "absurd.hmt"
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())
    monkeypatch.setattr("hmt.memory.file.load", lambda data: pytest.fail("tensors are made"))
    with pytest.raises(ValueError, match=f"absurd.hmt.*{message}"):
        Memory.load(path)


def test_a_header_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "absurd.hmt"
    with path.open("wb") as file:
        file.write((2**30).to_bytes(8, "little"))
        file.truncate(2**31)  # takes no room on the disk
    asked = []
    reader = type(
        "Reader", (io.FileIO,), {"read": lambda self, n=-1: asked.append(n) or io.FileIO.read(self, n)}
    )
    monkeypatch.setattr(Path, "open", lambda self, mode: reader(str(self)))
    with pytest.raises(ValueError, match="its header has 1,073,741,824 bytes, and 262,144 are the most"):
        Memory.load(path)
    assert asked == [8]


@given(st.sampled_from(FUZZED), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_forged_files(system, draw):
    true = true_file(system)
    data = forge(Random(draw.getrandbits(64)), true)
    with tempfile.TemporaryDirectory() as folder:
        outcome = load(shared(system), QUESTION, data, true, Path(folder) / "m.hmt")
    assert outcome in ("refused", "equal")
