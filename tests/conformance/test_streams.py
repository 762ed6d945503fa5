"""How a text is cut, padded and batched changes nothing; nor does what comes later; what was read does."""

import pytest
import torch
from backbones import FAMILIES, VOCAB, random_ids, tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

from hmt import HMTForCausalLM, Memory
from hmt.model.reading import owned, read_plainly

from .cases import (
    CASES,
    SYSTEMS,
    J,
    K,
    L,
    build,
    close,
    pad,
    ragged,
    reference,
    same_state,
    shared,
)

SYSTEM = pytest.mark.parametrize("system", SYSTEMS)
CASE = pytest.mark.parametrize("system,family", CASES, ids=[f"{s}-{f}" for s, f in CASES])
LONG = 4 * L + 5


def comparable(model, start: int, end: int, total: int) -> torch.Tensor:
    """Positions start..end-1 whose frame is final when only `end` tokens are there."""
    at = torch.arange(start, end)
    if not model.lookahead:
        return at
    seen, all_of_it = end - at // L * L, total - at // L * L
    return at[seen.clamp(max=J) == all_of_it.clamp(max=J)]


@SYSTEM
@settings(max_examples=6)
@given(data=st.data())
def test_read_in_pieces(system, data):
    model = shared(system)
    lengths = data.draw(st.lists(st.integers(1, LONG), min_size=1, max_size=3), "lengths")
    rows = ragged(lengths, seed=data.draw(st.integers(0, 99), "seed"))
    order = torch.tensor(data.draw(st.permutations(range(len(rows))), "order"))
    ids, mask = pad(rows, data.draw(st.sampled_from(["left", "right", "middle"]), "where"))
    whole = model.read(*pad(rows, "right", extra=0))
    cuts = sorted(data.draw(st.lists(st.integers(1, ids.shape[1] - 1), max_size=4, unique=True), "cuts"))
    memory = model.new_memory(len(rows))
    for start, end in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
        memory = model.read(ids[order, start:end], mask[order, start:end], memory=memory, chunk=2)
    same_state(memory, whole.select(order))


@SYSTEM
@settings(max_examples=6)
@given(cuts=st.lists(st.integers(1, LONG - 1), min_size=1, max_size=5, unique=True).map(sorted))
def test_forward_in_pieces(system, cuts):
    model = shared(system)
    rows = torch.stack(ragged([LONG, LONG]))
    with torch.no_grad():
        whole = model(rows)
        memory, edges = None, [0, *cuts, LONG]
        for start, end in zip(edges, edges[1:], strict=False):
            out = model(rows[:, start:end], past_key_values=memory)
            memory = out.past_key_values
            at = comparable(model, start, end, LONG)
            close(out.logits[:, at - start], whole.logits[:, at])
    same_state(memory, whole.past_key_values)


@CASE
def test_token_by_token_equals_the_reference_of_every_prefix(system, family):
    """Streams of different age share the key-value cache, and cross segment ends at different times."""
    model = shared(system, family)
    ages, steps = [L - 2, 2 * L + J + 1, J + 1], L + 4 if family == "llama" else L
    rows = ragged([age + 1 + steps for age in ages])
    memory = model.read(*pad([row[: age + 1] for row, age in zip(rows, ages, strict=True)], "left"))
    cached = 0
    with torch.no_grad():
        for step in range(steps):
            at = [age + 1 + step for age in ages]
            ids = torch.stack([row[t] for row, t in zip(rows, at, strict=True)])[:, None]
            logits = model(ids, past_key_values=memory).logits[:, -1]
            for b, (row, t) in enumerate(zip(rows, at, strict=True)):
                close(logits[b], reference(model, row[: t + 1]).logits[-1])
            cached += memory.open is not None and memory.open.mask is not None
    # a question inside the segment stands at another place in every stream: no cache then
    assert cached or "inline" in system or system in ("window-0", "toy_step"), "the padded cache was not used"
    same_state(memory, model.read(*pad(rows, "right")))


def test_decoding_does_use_the_key_value_cache():
    model = shared("hmt-segment")
    memory = model.read(random_ids(2 * L + J))
    with torch.no_grad():
        for token in random_ids(3):
            model(token.view(1, 1), past_key_values=memory)
    assert memory.open.cache.get_seq_length() == 1 + 2 + J + 3  # recall prompt, sensory tokens, open segment


@SYSTEM
def test_batch_order_does_not_matter(system):
    model = shared(system)
    ids, mask = pad(ragged([LONG, 3, 2 * L, L + 1]), "middle")
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        one = model(ids, attention_mask=mask)
        two = model(ids[order], attention_mask=mask[order])
    close(two.logits[mask[order].bool()], one.logits[order][mask[order].bool()])
    same_state(two.past_key_values, one.past_key_values.select(order))


@SYSTEM
@pytest.mark.parametrize("length", [3 * L, 3 * L + J - 1])
def test_no_token_sees_the_future(system, length):
    """One row per perturbed token. In "segment" mode the heads of segments are excepted, and shown to leak as
    soon as there are two memory embeddings to choose from."""
    model = shared(system)
    ids = random_ids(length)
    changed = ids.repeat(length, 1)
    diagonal = torch.arange(length)
    changed[diagonal, diagonal] = (ids - 3 + 1) % (VOCAB - 3) + 3
    with torch.no_grad():
        base = model(ids[None].repeat(length, 1)).logits
        difference = (model(changed).logits - base).abs().amax(-1)  # [perturbed token, position]
    for t in range(length):
        head = t // L * L
        leaks = model.lookahead and head > L and 0 < t - head < J
        earlier = difference[t, :t]
        assert difference[t, t] > 1e-3
        assert (difference[t, :head] == 0).all(), f"a change at {t} shows in an earlier segment"
        if leaks:
            assert (earlier[head:] > 1e-4).all(), f"a change at {t} should show in the head of its segment"
        else:
            assert (earlier == 0).all(), f"a change at {t} shows at {earlier.nonzero().flatten().tolist()}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "system", ["hmt-segment", "hmt-previous", "hmt-memory", "hmt-norecall", "rmt-2-sensory"]
)
def test_memory_reaches_the_output(system, family):
    """Only the first token of the text differs: the later segments read nothing of it but memory."""
    model = shared(system, family)
    texts = random_ids(2 * L + J).repeat(2, 1)
    texts[1, 0] += 1 if texts[1, 0] < VOCAB - 1 else -1
    tail = random_ids(L + 2, seed=1).repeat(2, 1)
    memory = model.read(texts)
    with torch.no_grad():
        whole = model(tail, past_key_values=memory.copy()).logits
        decoded = torch.cat([model(t[:, None], past_key_values=memory).logits for t in tail.unbind(1)], dim=1)
    for logits in (whole, decoded):
        assert (logits[0] - logits[1]).abs().amax(-1).min() > 1e-4, "the output does not depend on the memory"


@pytest.mark.parametrize("system", ["rmt-2", "hmt-segment", "hmt-memory"])
@pytest.mark.parametrize("family", FAMILIES)
def test_memory_alone_reaches_the_output(system, family):
    """The same tokens everywhere; one memory's vectors are turned around."""
    model = shared(system, family)
    memory = model.read(random_ids(2 * L + J))
    turned = memory.copy()
    turned.state = memory.state.map(lambda t: t.flip(-1) if t.is_floating_point() else t)
    with torch.no_grad():
        logits = [model(random_ids(1)[None], past_key_values=m).logits for m in (memory, turned)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("system", ["window-0", "window-short"])
def test_a_window_forgets(system):
    model = shared(system)
    texts = random_ids(3 * L).repeat(2, 1)
    texts[1, :L] = random_ids(L, seed=1)
    with torch.no_grad():
        # two calls and not two rows, which a product may round differently
        one, two = (model(text[None]).logits[0, 2 * L :] for text in texts)
    assert torch.equal(one, two)


@SYSTEM
def test_memory_size_does_not_depend_on_what_was_read(system):
    model = shared(system)
    sizes = {model.read(random_ids(length)).nbytes for length in (1, L, 5 * L + 3, 20 * L)}
    assert sizes == {model.new_memory(1).nbytes}
    assert model.new_memory(3).nbytes == 3 * sizes.pop()


@SYSTEM
def test_step_is_pure(system):
    model = shared(system)
    ids = torch.stack(ragged([L, L]))
    state = model.step(ids, model.initial_state(2)).state
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = model.step(ids, state), model.step(ids, state)
    assert torch.equal(first.hidden, second.hidden)
    assert not torch.equal(first.state.segments, state.segments)
    for name, tensor in before.items():
        assert torch.equal(tensor, state[name]), name
        assert torch.equal(first.state[name], second.state[name]), name
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_reading_leaves_the_given_memory_alone():
    model = shared("hmt-segment")
    memory = model.read(random_ids(L + 3))
    before = memory.state.map(torch.clone), memory.open_ids.clone(), memory.open_lengths.clone()
    model.read(random_ids(2 * L), memory=memory)
    same_state(memory, Memory(*before, memory.identity), exact=True)


@pytest.mark.parametrize("width", [1, 2, L + 3])
def test_use_cache_false_leaves_the_given_memory_alone(width):
    model = shared("hmt-segment")
    memory = model.read(random_ids(L + J))
    before = memory.copy()
    with torch.no_grad():
        out = model(random_ids(width)[None], past_key_values=memory, use_cache=False)
    assert out.past_key_values is None
    same_state(memory, before, exact=True)


def test_rows_and_cat_move_streams_between_batches():
    model = shared("hmt-previous")
    rows = ragged([3 * L + 1, 5, 2 * L])
    together = model.read(*pad(rows, "left"))
    apart = Memory.cat([model.read(row) for row in rows])
    same_state(together, apart)
    same_state(together.select([2, 0]), Memory.cat([model.read(rows[2]), model.read(rows[0])]))


def test_read_reports_progress():
    seen = []
    shared("hmt-segment").read(random_ids(3 * L + 2), progress=seen.append)
    assert seen == [L, 2 * L, 3 * L]


def test_modes_of_all_modules_are_kept():
    """Building and reading need eval mode; what was in another one before is in it afterwards."""
    backbone = tiny_backbone().train()
    backbone.get_submodule("model.layers.0").eval()
    modes = {name: module.training for name, module in backbone.named_modules()}
    model = HMTForCausalLM.from_backbone(backbone, segment_length=L, sensory_length=2)
    assert model.training and model.recall.training
    model.recall.eval()
    model.read(random_ids(3 * L))
    assert {name: module.training for name, module in backbone.named_modules()} == modes
    assert model.training and model.summary_prompt.training and not model.recall.training


@pytest.mark.parametrize("system", ["hmt-segment", "hmt-inline", "rmt-2-sensory", "window-long"])
def test_many_documents(system):
    """Documents share a batch and leave it as they end; each memory is that of the document alone."""
    model, taken, done = shared(system), [], []
    rows = ragged([4 * L + 1, 3, 2 * L, L + 5, 7 * L, L - 1, 2 * L + 2])

    def documents():
        for number, row in enumerate(rows):
            taken.append(number)
            yield row.tolist() if number % 2 else row

    for index, memory in model.read_many(documents(), batch_size=3, chunk=2):
        same_state(memory, model.read(rows[index]))
        done.append(index)
        assert len(taken) <= len(done) + 3, "documents are taken when there is a place for them"
    assert sorted(done) == list(range(len(rows)))
    assert done[0] == 1, "the shortest of the first three is the first to end"


def test_many_documents_refuses():
    model = shared("hmt-segment")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        list(model.read_many([[1, 2]], batch_size=0))
    with pytest.raises(ValueError, match="document 1 is a batch of 2 rows"):
        list(model.read_many([[1, 2], [[1, 2], [3, 4]]]))
    with pytest.raises(ValueError, match="chunk is a number of segments"):
        model.read([1, 2], chunk=0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_state_holds_nothing_but_itself(system):
    """No tensor of a state is a piece of a larger one, which would stay in memory with it."""
    model = shared(system)
    state = model.initial_state(2).recording(fresh=True)
    with torch.no_grad():
        for age in (0, 1):
            state = model.step(random_ids(2 * L).view(2, L), state.aged(age, age)).state
            pending = [value for entry in state.pending or () for value in entry.values.values()]
            for tensor in [*state.tensors.values(), *pending]:
                assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_reading_wastes_no_position():
    """Streams of different length: no pass of the backbone holds padding."""
    model = build("hmt-memory")
    seen = []
    model.backbone.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    model.read(*pad(ragged([3 * L + 2, L, 2 * L - 1]), "left"))
    assert seen == [(3, 1 + L + 1), (1, 1 + K + L + 1), (1, 1 + K + L + 1)]


@torch.no_grad()
def test_rings_are_written_in_place_while_reading():
    """A bank of 65,000 embeddings is not copied for every segment; what was handed in stays as it was."""
    model, ids = shared("hmt-memory"), random_ids(5 * L)
    states = list(read_plainly(model, ids.view(1, 5, L), owned(model.initial_state(1)), 0, 0))
    assert len({state["bank"].data_ptr() for state in states}) == 1
    memory = model.read(ids)
    before = memory.state["bank"].clone()
    model.read(ids, memory=memory)
    assert torch.equal(memory.state["bank"], before)


@CASE
@settings(max_examples=1)
@given(data=st.data())
def test_streams_join_and_leave_while_they_are_decoded(system, family, data):
    """Each token's logits, and the memory in the end, are those of the stream decoded alone."""
    model = shared(system, family)
    starts = data.draw(st.lists(st.integers(1, 3 * L), min_size=2, max_size=2), "read before")
    texts = [random_ids(length + L + 3, seed=length) for length in starts]
    alone, waiting = [], list(range(len(texts)))
    with torch.no_grad():
        for text, start in zip(texts, starts, strict=True):
            memory = model.read(text[:start])
            logits = [model(token[None, None], past_key_values=memory).logits[0, 0] for token in text[start:]]
            alone.append((torch.stack(logits), memory))
        batch, rows, done = None, [], [0] * len(texts)
        while waiting or rows:
            if waiting and (not rows or data.draw(st.booleans(), "join")):
                new = waiting.pop()
                memory = model.read(texts[new][: starts[new]])
                first = model(texts[new][starts[new]][None, None], past_key_values=memory)
                close(first.logits[0, 0], alone[new][0][0], atol=5e-4)
                done[new] = 1
                batch = memory if batch is None else Memory.cat([batch, memory])
                rows.append(new)
            ids = torch.stack([texts[row][starts[row] + done[row]] for row in rows])[:, None]
            out = model(ids, past_key_values=batch)
            for place, row in enumerate(rows):
                close(out.logits[place, 0], alone[row][0][done[row]], atol=5e-4)
                done[row] += 1
            staying = [place for place, row in enumerate(rows) if done[row] < (L + 3)]
            if len(staying) < len(rows):
                for place in set(range(len(rows))) - set(staying):
                    same_state(batch.select([place]), alone[rows[place]][1])
                batch = batch.select(staying) if staying else None
                rows = [rows[place] for place in staying]
