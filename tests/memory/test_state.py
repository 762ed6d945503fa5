"""Rings written entry by entry, and the same entries kept pending: one content, one gradient."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmt.memory.state import MemoryState

B, N, D = 3, 4, 2


def start(ages: list[int], seed: int) -> MemoryState:
    generator = torch.Generator().manual_seed(seed)
    ring = torch.randn(B, N, D, generator=generator) * (torch.tensor(ages) > 0)[:, None, None]
    return MemoryState({"bank": ring, "segments": torch.tensor(ages)})


def filled(state: MemoryState) -> torch.Tensor:
    """bool [B, N]: slots that hold an entry."""
    return torch.arange(N) < state.segments[:, None]


@settings(max_examples=60, deadline=None)
@given(
    ages=st.lists(st.integers(0, 9), min_size=B, max_size=B),
    pushes=st.lists(st.lists(st.booleans(), min_size=B, max_size=B), max_size=3 * N),
    fresh=st.booleans(),
)
def test_pending_writes_are_the_ring(ages, pushes, fresh):
    if fresh:
        ages = [0] * B
        # a stream that has ended in a call does not go on in it
        pushes = [[all(p[b] for p in pushes[: n + 1]) for b in range(B)] for n in range(len(pushes))]
    direct = start(ages, 0)
    recorded = direct.recording(fresh)
    entries = torch.randn(len(pushes), B, D, generator=torch.Generator().manual_seed(1))
    mine, theirs = entries.clone().requires_grad_(), entries.clone().requires_grad_()
    total = [torch.zeros(()), torch.zeros(())]
    for n, active in enumerate(pushes):
        full = torch.tensor(active)
        direct = direct.push(full, bank=mine[n]).updated(full, segments=direct.segments + 1)
        recorded = recorded.push(full, bank=theirs[n]).updated(full, segments=recorded.segments + 1)
        assert torch.equal(direct.segments, recorded.segments)
        want, got = direct.ring("bank"), recorded.ring("bank")
        known = filled(direct)
        assert not known[:, got.shape[1] :].any()
        known = known[:, : got.shape[1], None]
        weight = torch.arange(1.0, got.shape[1] + 1)[:, None]
        for at, ring in enumerate((want[:, : got.shape[1]], got)):
            total[at] = total[at] + (torch.where(known, ring, 0) * weight).square().sum()
        torch.testing.assert_close(torch.where(known, got, 0), torch.where(known, want[:, : got.shape[1]], 0))
    end = recorded.consolidated()
    assert end.pending is None and end.tensors.keys() == direct.tensors.keys()
    torch.testing.assert_close(end["bank"], direct["bank"])
    if any(any(p) for p in pushes):
        for loss in total:
            loss.backward()
        torch.testing.assert_close(theirs.grad, mine.grad)


def test_rows_and_detach_reach_pending_writes():
    state = start([0, 0, 0], 0).recording(fresh=True)
    value = torch.randn(B, D, requires_grad=True)
    state = state.push(torch.ones(B, dtype=torch.bool), bank=value)
    assert state.ring("bank").requires_grad and not state.detach().ring("bank").requires_grad
    assert torch.equal(state.select(torch.tensor([2, 0])).ring("bank")[:, 0], value[[2, 0]])


def test_pending_writes_keep_entries_not_rings():
    """What training through many segments stores: one entry each, however large the ring."""
    state = MemoryState({"bank": torch.zeros(1, 1000, D), "segments": torch.zeros(1, dtype=torch.long)})
    state = state.recording(fresh=True)
    yes = torch.ones(1, dtype=torch.bool)
    kept = set()
    for _ in range(5):
        state = state.push(yes, bank=torch.randn(1, D)).updated(yes, segments=state.segments + 1)
        tensors = [*state.tensors.values(), *(value for e in state.pending for value in e.values.values())]
        kept |= {t.untyped_storage().nbytes() for t in tensors if t.untyped_storage().nbytes() > 8 * D}
    assert kept == {1000 * D * 4}
    assert len({t.untyped_storage().data_ptr() for t in (state["bank"],)}) == 1


@settings(max_examples=40, deadline=None)
@given(
    ages=st.lists(st.integers(0, 9), min_size=B, max_size=B),
    pushes=st.lists(st.lists(st.booleans(), min_size=B, max_size=B), max_size=3 * N),
)
def test_written_in_place_is_the_same(ages, pushes):
    """`settled` after every push gives what copies give, in the very same memory."""
    direct = start(ages, 0)
    own = direct.map(torch.Tensor.clone).recording()
    place = own["bank"].data_ptr()
    for n, active in enumerate(pushes):
        full, value = torch.tensor(active), torch.full((B, D), float(n + 1))
        direct = direct.push(full, bank=value).updated(full, segments=direct.segments + 1)
        own = own.push(full, bank=value).updated(full, segments=own.segments + 1).settled()
    assert torch.equal(direct["bank"], own["bank"]) and own["bank"].data_ptr() == place
