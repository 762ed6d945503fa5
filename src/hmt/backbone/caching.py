"""What can be run behind what on a cache of a backbone: found out on the backbone, not looked up by its name.

Families keep keys and values, recurrent states, both, or nothing. Some take a cache and read nothing of it,
some lose their state where several positions are run at once, some count positions without looking at the
mask; none of them says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from hmt.backbone.checks import plain_ids
from hmt.backbone.run import embed, evaluating, input_device, run

_ROW = 8  # positions that are compared
_PADDING = 2


@dataclass(frozen=True)
class Caching:
    """How a backbone may be continued on its cache, called as `hmt.model.open_segment` calls it.

    Attributes:
        works: whether it may at all. Else what was read is run again.
        one_by_one: whether only position by position (`run(one_by_one=True)`).
        padded: whether rows may be of different length, with padding on their left and a mask.
        recurrent: whether states are written in place, so that no gradient can flow through them.
    """

    works: bool
    one_by_one: bool = False
    padded: bool = False
    recurrent: bool = False

    @property
    def plain(self) -> bool:
        """Whether everything can be run behind everything: what a KV cache gives."""
        return self.works and self.padded and not (self.one_by_one or self.recurrent)

    def check_plain(self, backbone: PreTrainedModel) -> None:
        """ValueError, by name, where a backbone has no KV cache that several positions can be run behind."""
        if not self.plain:
            raise ValueError(
                f"{backbone.config.model_type} keeps no keys and values that several positions, in rows of "
                "different length, can be run behind, which this system needs: choose one without a cache "
                '(HMT with recall_query="segment", RMT), or another backbone'
            )

    @classmethod
    @torch.no_grad()
    def of(cls, backbone: PreTrainedModel, longest: int) -> Caching:
        """Compared on two rows of a few vectors, cached and not, in as many passes.

        longest: positions that are run on one cache. A window of attention that is shorter is filled first.
        """
        if input_device(backbone).type == "meta":
            return cls(works=False)
        recurrent = any(hasattr(layer, "recurrent_states") for layer in new_cache(backbone).layers)
        with evaluating(backbone):
            probe = _Probe(backbone, longest)
            # with several on one state Mamba is off by so little that half precision would hide it
            for one_by_one in (True,) if recurrent else (False, True):
                if probe.agrees(one_by_one, padded=False):
                    return cls(True, one_by_one, probe.agrees(one_by_one, padded=True), recurrent)
        return cls(works=False)


class _Probe:
    """Rows of vectors, and the outputs that they have without a cache."""

    def __init__(self, backbone: PreTrainedModel, longest: int):
        self.backbone = backbone
        windows = [layer.get_max_length() for layer in new_cache(backbone).layers]
        filled = max((window for window in windows if 0 < window < longest), default=0)
        self.first = filled + 3  # positions of the first pass: fewer than a convolution reaches, if no window
        length = self.first + _ROW - 3
        ids = plain_ids(backbone, length)
        self.rows = embed(backbone, torch.stack([ids, ids.flip(0)]))
        # noise: untrained tokens can share one embedding, and equal vectors look alike in attention
        noise = torch.randn(self.rows.shape, generator=torch.Generator().manual_seed(0)).to(self.rows)
        self.rows += noise * self.rows.float().square().mean().sqrt().to(self.rows)
        self.want = run(backbone, self.rows).hidden

    def agrees(self, one_by_one: bool, padded: bool) -> bool:
        """Whether the outputs on a cache are those without; False too where it is refused or fails."""
        try:
            found, want = self._cached(one_by_one, _PADDING if padded else 0)
            change = (found - want).float().norm(dim=-1) / want.float().norm(dim=-1).clamp(min=1e-30)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return False
        return bool(change.max() <= (1e-3 if want.dtype in (torch.float32, torch.float64) else 0.1))

    def _cached(self, one_by_one: bool, padding: int) -> tuple[Tensor, Tensor]:
        """Outputs of the first row from its middle on, and of the second, which begins after `padding`."""
        length = self.rows.shape[1]
        # in the second row everything stands so many places further right: the last ones are left out
        rows = torch.stack([self.rows[0], self.rows[1].roll(padding, 0)])
        mask = None
        ahead = torch.tensor([[0], [padding]], device=rows.device)
        slots = torch.arange(length, device=rows.device)
        places = (slots - ahead).clamp(min=0)
        cache, order, found = new_cache(self.backbone), torch.arange(2, device=rows.device), []
        for start, stop in _pieces(self.first, length):
            if padding:
                mask = (slots[:stop] >= ahead).long().index_select(0, order)
            positions = places[:, start:stop].index_select(0, order)
            part = rows[:, start:stop].index_select(0, order)
            hidden = run(
                self.backbone,
                part,
                cache=cache,
                mask=mask,
                positions=positions,
                one_by_one=one_by_one and start > 0,
            ).hidden
            found.append(hidden.index_select(0, order))
            if start == self.first:  # beams change places
                order = order.flip(0)
                cache.reorder_cache(cast(torch.LongTensor, order))
        outputs = torch.cat(found, dim=1)
        kept = length - padding
        return (
            torch.cat([outputs[0], outputs[1, padding:]]),
            torch.cat([self.want[0], self.want[1, :kept]]),
        )


def _pieces(first: int, length: int) -> Sequence[tuple[int, int]]:
    """What is run at once, as (start, stop): the first positions, one, two, and the rest."""
    cuts = [0, first, first + 1, first + 3, length]
    return list(zip(cuts[:-1], cuts[1:], strict=True))


def new_cache(backbone: PreTrainedModel) -> DynamicCache:
    """An empty cache of the kind the backbone's layers need."""
    return DynamicCache(config=backbone.config.get_text_config())
