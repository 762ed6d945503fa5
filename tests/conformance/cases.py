"""The systems under test, and the small tools that every file of this suite needs."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from backbones import FAMILIES, random_ids, tiny_backbone
from same_memory import close, same_state  # noqa: F401  what every file of the suite takes from here
from torch import Tensor

import hmt.systems
from hmt import BackboneMemory
from hmt.systems import systems
from hmt.systems.loops import Reference

L, J, K, N = 8, 3, 2, 3  # segment, summary, sensory and bank; N is small so that the ring buffer wraps around

# systems of three kinds that no published one is of: in this suite they are found as those of the library are
TOYS = str(Path(__file__).parent / "toys")


@contextmanager
def with_toys():
    """The folders of the library and those of the toys."""
    hmt.systems.__path__.append(TOYS)
    try:
        yield
    finally:
        hmt.systems.__path__.remove(TOYS)


# every example of every system that is registered
with with_toys():
    hmt.systems.register()
    SYSTEMS = {
        f"{system.name}-{example}".rstrip("-"): (system, dict(fields))
        for system in systems().values()
        for example, fields in system.examples.items()
    }
CASES = [(system, "llama") for system in SYSTEMS] + [
    (system, family)
    for family in FAMILIES
    if family != "llama"
    for system in ("hmt-segment", "rmt-2-sensory")
]
ODD_LENGTHS = [1, L - 1, L, L + 1, 3 * L + 2, 5 * L]


def build(system: str, family: str = "llama", seed: int = 0, **fields) -> BackboneMemory:
    """A new model that the test may change."""
    found, defaults = SYSTEMS[system]
    backbone = tiny_backbone(family, seed)
    return wrap(found.model, backbone, seed, **({"segment_length": L} | defaults | fields))


def wrap(cls, backbone, seed: int = 0, **fields) -> BackboneMemory:
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        model = cls.from_backbone(backbone, **fields)
        for module in model.memory_modules().values():
            for name, parameter in module.named_parameters():
                # what every layer adds must not grow from layer to layer
                inside = name.count(".") > 1 and parameter.dim() == 2
                torch.nn.init.normal_(parameter, 0.0, 0.3 * parameter.shape[1] ** -0.5 if inside else 0.5)
    return model.eval()


@cache
def shared(system: str, family: str = "llama") -> BackboneMemory:
    """A model that many tests use; none may change it."""
    return build(system, family)


def reference(model: BackboneMemory, ids: Tensor, labels: Tensor | None = None) -> Reference:
    system = next(found for found, _ in SYSTEMS.values() if found.model is type(model))
    return system.reference(model, ids, labels)


def pad(rows: list[Tensor], where: str, extra: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as one batch: ids and mask int64 [B, T]; padding stands left, right or in the middle (scattered).

    It holds a real token id, which must never be read.
    """
    width = max(len(row) for row in rows) + extra
    ids = torch.full((len(rows), width), 7)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    for b, row in enumerate(rows):
        columns = {
            "left": torch.arange(width - len(row), width),
            "right": torch.arange(len(row)),
            "middle": torch.randperm(width, generator=generator)[: len(row)].sort().values,
        }[where]
        ids[b, columns] = row
        mask[b, columns] = 1
    return ids, mask


def ragged(lengths: list[int], seed: int = 0) -> list[Tensor]:
    return [random_ids(length, seed + i) for i, length in enumerate(lengths)]
