"""Moving cached keys to other positions, where positions are rotations of keys, or not in them.

Rotary embeddings (Su et al. 2021, arXiv 2104.09864) turn pairs of a key's values by position x frequency, so
a key is taken from position p to q by turning it on. Frequencies come from the backbone's own rotary module;
which values are pairs is found out by looking at keys, layer by layer (some layers have no positions, nor has
any with ALiBi).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from hmt.backbone.run import body, embed, embedding_table, evaluating, run, takes_position_ids

_PROBED = 8  # positions at which keys are looked at
_CHANGING = ("dynamic", "longrope")  # frequencies that depend on the length of the input


@dataclass(frozen=True)
class KeyPositions:
    """How a backbone's keys depend on their positions. Make it with `KeyPositions.of`.

    Attributes:
        module: the backbone's rotary module; None where keys have no positions.
        layers: per layer its arguments beside the positions (a kind of layer), and which values are pairs:
            "halves" (i and i + n/2), "interleaved" (2i and 2i + 1) or "" (keys are not rotated).
        sizes: per layer heads and head size of its keys, and of its values.
    """

    module: nn.Module | None
    layers: tuple[tuple[tuple[str, ...], str], ...]
    sizes: tuple[tuple[tuple[int, int], tuple[int, int]], ...]

    @classmethod
    @torch.no_grad()
    def of(cls, backbone: PreTrainedModel) -> KeyPositions:
        """Looked up on the backbone, by one pass over a token.

        ValueError, naming the family, where keys cannot be moved (learned positions, no KV cache).
        """
        name = backbone.config.model_type
        cannot = (
            f"cached keys of {name} cannot be moved to other positions, which a rolling cache needs: "
            "{}. Read the ids again (window-ids), or choose a backbone with rotary or no positions"
        )
        rotary = _rotary_module(backbone)
        if kind := _changing(backbone):
            raise ValueError(cannot.format(f"its {kind} frequencies depend on the length of the input"))
        text_config = backbone.config.get_text_config()
        if any(hasattr(layer, "recurrent_states") for layer in DynamicCache(config=text_config).layers):
            raise ValueError(cannot.format("some of its layers keep no keys and values"))
        try:
            every = _probed(backbone)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what takes no such cache, or keeps something else beside
            raise ValueError(cannot.format(f"it takes no plain cache of keys and values: {error}")) from error
        if not every:
            raise ValueError(cannot.format("it keeps no keys and values"))
        kinds = getattr(text_config, "layer_types", None) or []
        takes_kind = rotary is not None and "layer_type" in inspect.signature(rotary.forward).parameters
        layers, sizes = [], []
        for number, probed in enumerate(every):
            if probed is None:
                raise ValueError(cannot.format(f"layer {number} keeps no keys and values of every token"))
            keys, values = probed
            arguments = (kinds[number],) if takes_kind else ()
            pairs = _pairs(rotary, arguments, keys)
            if pairs is None or not _same(values):
                raise ValueError(
                    cannot.format("its positions are not rotations of keys (learned vectors, for instance)")
                )
            layers.append((arguments, pairs))
            sizes.append(((keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3])))
        return cls(rotary, tuple(layers), tuple(sizes))

    def turned(self, every: Sequence[Tensor], positions: Tensor, back: bool = False) -> list[Tensor]:
        """Keys of all layers, [B, heads, n, d] each, put at `positions` (int64 [n]); or `back` from there."""
        kinds = {arguments for arguments, pairs in self.layers if pairs and len(positions)}
        tables = {arguments: _angles(self.module, arguments, positions) for arguments in kinds}
        return [
            _turn(tables[arguments], pairs, keys, back) if pairs and len(positions) else keys
            for (arguments, pairs), keys in zip(self.layers, every, strict=True)
        ]


def _rotary_module(backbone: PreTrainedModel) -> nn.Module | None:
    """The module that computes the rotary tables, called `rotary_emb` all over transformers."""
    found = (m for name, m in body(backbone).named_modules() if name.split(".")[-1] == "rotary_emb")
    return next(found, None)


def _probed(backbone: PreTrainedModel) -> list[tuple[Tensor, Tensor] | None]:
    """Per layer keys and values [1, heads, n, d] of one and the same token, alone at each of n positions.

    None of a layer without such. Families that take no positions read n equal tokens: what a token reads
    there is its like, so that its output is the same wherever positions are in keys alone.
    """
    weight = embedding_table(backbone).weight
    ids = torch.full((1, _PROBED), min(3, weight.shape[0] - 1), device=weight.device)
    where = takes_position_ids(backbone)
    positions = torch.arange(_PROBED, device=weight.device)[:, None] if where else None
    cache = DynamicCache()  # without the config no layer has a window of its own
    with evaluating(backbone):
        vectors = embed(backbone, ids.T if where else ids)
        run(backbone, vectors, cache=cache, positions=positions)
    return [_of_layer(layer, where) for layer in cache.layers]


def _of_layer(layer: Any, rows: bool) -> tuple[Tensor, Tensor] | None:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if not (isinstance(keys, Tensor) and isinstance(values, Tensor) and keys.dim() == values.dim() == 4):
        return None
    if rows:
        keys, values = keys.transpose(0, 2), values.transpose(0, 2)
    return (keys, values) if keys.shape[2] == values.shape[2] == _PROBED else None


def _changing(backbone: PreTrainedModel) -> str | None:
    rope = getattr(backbone.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    return next((part["rope_type"] for part in kinds if part.get("rope_type") in _CHANGING), None)


def _angles(module: Any, arguments: tuple[str, ...], positions: Tensor) -> tuple[Tensor, Tensor] | None:
    """cos and sin, float32 [n, pairs]; None where the module makes other tables."""
    like = torch.empty(0, dtype=torch.float32, device=positions.device)
    tables = module(like, positions[None], *arguments)
    if not (isinstance(tables, tuple) and len(tables) == 2 and all(t.dim() == 3 for t in tables)):
        return None
    cos, sin = (table[0].float() for table in tables)
    half = cos.shape[-1] // 2
    if torch.equal(sin[:, :half], sin[:, half:]):  # every angle twice, as most modules have it
        cos, sin = cos[:, :half], sin[:, :half]
    elif torch.equal(sin[:, ::2], sin[:, 1::2]):
        cos, sin = cos[:, ::2], sin[:, ::2]
    size = (cos.square() + sin.square()).sqrt()  # some scale their tables (YaRN), which keys keep
    return cos / size, sin / size


def _turn(angles: Any, pairs: str, keys: Tensor, back: bool) -> Tensor:
    cos, sin = angles
    width = 2 * cos.shape[-1]
    rotated, rest = keys[..., :width].float(), keys[..., width:]
    a, b = rotated.chunk(2, dim=-1) if pairs == "halves" else (rotated[..., ::2], rotated[..., 1::2])
    sin = -sin if back else sin
    turned = (a * cos - b * sin, b * cos + a * sin)
    joined = torch.cat(turned, dim=-1) if pairs == "halves" else torch.stack(turned, dim=-1).flatten(-2)
    return torch.cat([joined.to(keys.dtype), rest], dim=-1)


def _same(moved: Tensor) -> bool:
    """Whether [1, heads, n, d] is the same at all n positions."""
    close = 1e-3 if moved.dtype in (torch.float32, torch.float64) else 5e-2
    size = moved[:, :, :1].float().norm(dim=1)  # of each value, as some are much smaller than others
    change = (moved - moved[:, :, :1]).float().norm(dim=1)
    return bool((change <= close * (size + 0.01 * size.max())).all())


def _pairs(module: nn.Module | None, arguments: tuple[str, ...], keys: Tensor) -> str | None:
    """Which pairs explain keys [1, heads, n, d] of one token at positions 0 to n - 1; None if no pairs do."""
    if _same(keys):
        return ""
    if module is None:
        return None
    angles = _angles(module, arguments, torch.arange(keys.shape[2], device=keys.device))
    if angles is None or 2 * angles[0].shape[-1] > keys.shape[-1]:
        return None
    return next((p for p in ("halves", "interleaved") if _same(_turn(angles, p, keys, back=True))), None)
