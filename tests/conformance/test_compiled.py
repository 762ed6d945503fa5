"""Compiled reading and training: the same results, few graphs, and none for tails and ragged batches."""

import copy
import logging
import pickle

import pytest
import torch
from backbones import random_ids

from .cases import K, L, build, close, pad, ragged, same_state
from .test_training import gradients

ROWS = [3 * L + 2, L - 1, L + 1]
COMPILED = ["hmt-segment", "hmt-previous", "hmt-memory-2", "hmt-inline-write", "rmt-2-sensory"]


@pytest.fixture(autouse=True)
def forget():
    """Graphs of other tests count towards the limit of torch; a record of every trace would take minutes."""
    torch.compiler.reset()
    logging.getLogger("torch.__trace").setLevel(logging.WARNING)


class Backend:
    """A torch.compile backend that runs the traced graph as it is, and counts."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def compiled(system, family="llama"):
    model, backend = build(system, family), Backend()
    model.compile_steps(backend=backend)
    return model, backend


@pytest.mark.parametrize(
    "system,family",
    # compiling takes most of a test's time: one system of each kind of layout, and one other family
    [(system, "llama") for system in COMPILED] + [("hmt-segment", "gemma2")],
)
def test_reading(system, family, caplog):
    plain, (model, backend) = build(system, family), compiled(system, family)
    ids, mask = pad(ragged(ROWS), "left")
    same_state(model.read(ids, mask), plain.read(ids, mask))
    assert backend.graphs and "cannot be compiled" not in caplog.text


@pytest.mark.parametrize("system", ["hmt-segment", "hmt-inline"])
def test_one_graph_for_all_lengths(system):
    """After one text, and one batch of each power of two, nothing is compiled again."""
    model, backend = compiled(system)
    for batch in (2, 1):
        model.read(random_ids(9 * L, seed=batch).expand(batch, -1))
        model.read(random_ids(L, seed=batch).expand(batch, -1))  # shorter than a chunk
    known = backend.graphs
    memory = model.read(*pad(ragged(ROWS[:2]), "left"))
    model.read(random_ids(3 * L + 5).expand(2, -1), memory=memory)
    for rows in ([5 * L + 3], [2 * L, 7 * L + 1], [17 * L, 2 * L + 1]):
        model.read(*pad(ragged(rows), "right"))
    list(model.read_many([random_ids(n) for n in (3, 2 * L, 11 * L + 1, 4 * L)], batch_size=2))
    assert backend.graphs == known


@pytest.mark.parametrize("system", ["hmt-segment", "hmt-previous", "rmt-2-sensory"])
def test_training(system, caplog):
    plain, (model, backend) = build(system).train(), compiled(system)
    model.train()
    for length in (4 * L, 5 * L + 3):
        ids = random_ids(length).expand(2, -1)
        for replay in (False, True):
            want = gradients(plain, ids, labels=ids, replay=replay)
            got = gradients(model, ids, labels=ids, replay=replay)
            for name in want:
                close(got[name], want[name])
    assert backend.graphs and "cannot be compiled" not in caplog.text
    known = backend.graphs
    for length in (4 * L + 1, 6 * L + K, 7 * L):
        ids = random_ids(length).expand(2, -1)
        gradients(model, ids, labels=ids, replay=True)
    assert backend.graphs == known


@pytest.mark.parametrize("system", ["hmt-segment", "hmt-inline", "rmt-2-sensory"])
def test_decoding(system, caplog):
    """On a static cache: the same tokens, for two memories in turn, with beams; no graph per segment."""
    plain, (model, backend) = build(system), compiled(system)
    ids, start = random_ids(2 * L + 3)[None], torch.tensor([[5]])
    options = {"max_new_tokens": 2 * L, "do_sample": False, "pad_token_id": 0}
    memories = [model.read(ids), model.read(random_ids(L + 5, seed=1))]
    assert torch.equal(model.generate(ids, **options), plain.generate(ids, **options))
    known = backend.graphs
    assert known and "cannot be compiled" not in caplog.text
    expected = [plain.generate(start, past_key_values=memory, **options)[0, 1:] for memory in memories]
    answers: list[list[int]] = [[], []]
    new = [start, start]
    with torch.no_grad():
        for turn in range(4 * L):  # three tokens of one, then three of the other
            which = turn // 3 % 2
            logits = model(new[which], past_key_values=memories[which]).logits[:, -1]
            new[which] = logits.argmax(-1, keepdim=True)
            answers[which].append(int(new[which]))
    for answer, want in zip(answers, expected, strict=True):
        length = min(len(answer), len(want))
        assert length > L and answer[:length] == want[:length].tolist()
    assert backend.graphs == known
    beams = options | {"num_beams": 3, "max_new_tokens": L}
    assert torch.equal(model.generate(ids, **beams), plain.generate(ids, **beams))


def test_what_cannot_be_compiled_runs_as_before(caplog):
    def broken(graph, inputs):
        raise RuntimeError("no such instruction")

    plain, model = build("hmt-segment"), build("hmt-segment")
    model.compile_steps(backend=broken)
    ids = random_ids(20 * L)
    for _ in range(2):
        same_state(model.read(ids), plain.read(ids))
    assert caplog.text.count("cannot be compiled here and runs without") == 1
    assert "no such instruction" in caplog.text


def test_a_copy_is_not_compiled():
    model, _ = compiled("hmt-segment")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.compiled is None
        same_state(other.read(random_ids(3 * L)), build("hmt-segment").read(random_ids(3 * L)))
