"""What a system must not be is refused when its class is made, or before any work starts."""

import copy
from collections.abc import Mapping

import pytest
import torch
from backbones import random_ids, tiny_backbone

import hmt.systems
from hmt import BackboneMemory, HMTForCausalLM, StreamingLM
from hmt.backbone import decoder_layers
from hmt.model.checkpoint import BackboneWrapper
from hmt.model.layout import Embeds, Ids, Layout, Probe, Tokens
from hmt.training import Recipe, Stage, train

from .cases import SYSTEMS, L, build, shared

BODY = {
    "initial_state": lambda self, n: None,
    "layout": lambda self, s, e: None,
    "update": lambda self, s, r: s,
}


@pytest.mark.parametrize("half", ["step", "append"])
def test_half_a_step_is_refused(half):
    with pytest.raises(TypeError, match=f"Half overrides {half}.*layout and update"):
        type("Half", (BackboneMemory,), {**BODY, half: lambda self, *a: None})
    with pytest.raises(TypeError, match=f"Half overrides {half}"):
        type("Half", (HMTForCausalLM,), {half: lambda self, *a: None})


@pytest.mark.parametrize("missing", list(BODY))
def test_a_part_that_is_missing_is_named(missing):
    with pytest.raises(TypeError, match=f"Half does not define {missing}"):
        type("Half", (BackboneMemory,), {name: part for name, part in BODY.items() if name != missing})


def test_a_whole_system_and_one_with_a_step_of_its_own_are_made():
    assert issubclass(type("Whole", (BackboneMemory,), dict(BODY)), StreamingLM)
    assert issubclass(type("Step", (BackboneWrapper,), {"step": lambda self, *a: None}), StreamingLM)


VECTORS, RAW = torch.zeros(2, 1, 4), torch.zeros(2, 3, dtype=torch.long)
LAYOUTS = {
    "no tokens": ([Embeds(VECTORS)], "reads 0 of the 8 tokens"),
    "not all tokens": ([Tokens(until=5)], "reads 5 of the 8 tokens"),
    "overlap": ([Tokens(until=5), Tokens(until=3), Tokens()], "reads tokens 5 to 3"),
    "beyond the segment": ([Tokens(until=9), Tokens()], "reads tokens 0 to 9 of a segment of 8"),
    "other rows": ([Embeds(VECTORS[:1]), Tokens()], "Embeds in a layout has 1 rows, the batch 2"),
    "more than there are": ([Ids(RAW, 4), Tokens()], "Ids of 3 tokens cannot hold 4"),
    "one name twice": (
        [Embeds(VECTORS, keep="a"), Tokens(), Embeds(VECTORS, keep="a")],
        "two parts of a layout keep 'a'",
    ),
    "behind a probe": ([Probe(VECTORS, lambda *a: Layout([])), Tokens()], "a Probe ends a layout"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_that_cannot_be(case):
    parts, message = LAYOUTS[case]
    with pytest.raises(ValueError, match=message):
        Layout(parts).check(8, 2)


def test_what_stands_behind_a_probe_is_checked_too():
    model = build("hmt-inline")
    model._answer = lambda state, question, reached: Layout([Tokens(until=2), Tokens()])
    with pytest.raises(ValueError, match="reads tokens 3 to 2"):
        model(random_ids(2 * L)[None])


def test_two_systems_of_one_name(tmp_path, monkeypatch):
    package = tmp_path / "another"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from hmt.systems.registry import System\n"
        'SYSTEM = System(name="hmt", config_class="A", model_class="B", title="")\n'
    )
    monkeypatch.setattr(hmt.systems, "__path__", [*hmt.systems.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="two systems are called 'hmt'"):
        hmt.systems.names()


def test_a_system_that_is_not_there():
    with pytest.raises(ValueError, match="there is no system 'lstm'; choose among armt, hmt"):
        hmt.systems.get("lstm")


def test_what_a_system_declares_it_cannot_do(tmp_path):
    model = build("streaming_llm")
    recipe = Recipe(stages=(Stage(name="memory", segments=2, steps=1),))
    with pytest.raises(ValueError, match="streaming_llm cannot train: it has no weights of its own"):
        train(model, None, [random_ids(3 * L).tolist()], recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model.require("generate")  # nothing is said of it


def test_layers_that_cannot_be_tapped():
    backbone = tiny_backbone()
    backbone.twin = copy.deepcopy(backbone.model.layers)
    backbone.model.twin = backbone.twin
    with pytest.raises(ValueError, match="LlamaForCausalLM cannot be tapped: 2 of its module lists"):
        SYSTEMS["armt"][0].model.from_backbone(backbone, segment_length=L)
    assert len(decoder_layers(tiny_backbone("gpt2"))) == 2


@pytest.mark.parametrize("system", ["transformer_xl-short", "streaming_llm"])
def test_keys_that_cannot_be_moved(system):
    found, fields = SYSTEMS[system]
    with pytest.raises(ValueError, match="cached keys of gpt2 cannot be moved"):
        found.model.from_backbone(tiny_backbone("gpt2"), segment_length=L, **fields)


@pytest.mark.parametrize("system", ["armt", "transformer_xl-short", "hmt-inline"])
def test_checkpointing_inside_the_backbone(system):
    model = build(system).train()
    for module in model.backbone.modules():  # as transformers sets it, under whichever name
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
    with pytest.raises(ValueError, match="train with replay=True"):
        model(random_ids(2 * L)[None], labels=random_ids(2 * L)[None])


def test_checkpointing_is_looked_for_once_per_call(monkeypatch):
    """It goes through all modules, which is not to be paid for at every segment."""
    from hmt import backbone as bb

    asked, find = [], bb.is_checkpointed
    monkeypatch.setattr(bb, "is_checkpointed", lambda backbone: asked.append(1) or find(backbone))
    model, ids = build("armt").train(), random_ids(4 * L)[None]
    model(ids, labels=ids).loss.backward()
    assert len(asked) == 1


# -- declarations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_a_system_declares(system):
    """Types and bounds; that the declarations are true is for the tests of streams."""
    model = shared(system)
    assert 0 <= model.lookahead <= L and isinstance(model.cannot, Mapping)
    assert model.horizon is None or model.horizon >= 0
    assert all(row >= 1 for row in model.passes()) and max(model.passes()) >= L
    if model.retrieval is not None:
        assert model.retrieval.held(torch.tensor([0, 5])).shape[0] == 2


@pytest.mark.parametrize("system", SYSTEMS)
@torch.no_grad()
def test_the_horizon_is_one(system):
    """What lies further back than the horizon says changes nothing."""
    model = build(system)
    if model.horizon is None:
        return
    ids = random_ids((model.horizon + 3) * L)
    other = torch.cat([random_ids(2 * L, seed=9), ids[2 * L :]])
    tail = slice((model.horizon + 2) * L, None)
    one, two = model(ids[None]).logits[0, tail], model(other[None]).logits[0, tail]
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("system", SYSTEMS)
def test_budgets(system):
    """The largest of its kind that fits; or the system itself."""
    model = build(system)
    if model.at_budget(2**40) is model:  # of one size: what it was trained with
        assert model.at_budget(1) is model
        return
    size = model.sizes[0]
    least = model.resized(**{size: 1}).new_memory(1).nbytes
    fits = model.at_budget(3 * least)
    assert fits.new_memory(1).nbytes <= 3 * least
    larger = model.resized(**{size: getattr(fits.config, size) + 1})
    assert larger.new_memory(1).nbytes > 3 * least
    with pytest.raises(ValueError, match="cannot work in|bytes"):
        model.at_budget(1)
    with pytest.raises(ValueError, match="cannot be changed; fields that can"):
        model.resized(segment_length=4)
