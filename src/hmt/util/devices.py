"""Where to compute."""

from __future__ import annotations

from typing import Any


def find_device(name: str | None = None) -> Any:
    """The `torch.device` of that name; None: a GPU where there is one. ValueError where it cannot be used."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # RuntimeError: unknown, no such index or driver; AssertionError: PyTorch was built without it
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here: {reason}") from None
    return device
