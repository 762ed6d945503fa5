"""Whether two memories hold the same."""

import torch


def close(actual, expected, atol: float = 2e-5, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


def same_state(actual, expected, exact: bool = False) -> None:
    """Two memories hold the same: ids and counters exactly, vectors closely (or bit for bit)."""
    assert torch.equal(actual.open_ids, expected.open_ids)
    assert torch.equal(actual.open_lengths, expected.open_lengths)
    assert actual.state.tensors.keys() == expected.state.tensors.keys()
    for name, tensor in actual.state.tensors.items():
        if exact or not tensor.is_floating_point():
            assert torch.equal(tensor, expected.state[name]), name
        else:
            close(tensor, expected.state[name])
