"""A KV cache of the first tokens of a stream and its last ones, for streams of any length.

Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv 2309.17453. A token
is read once; its keys and values then stay until newer ones push them out, except those of the first tokens
(attention sinks). Positions are places in the cache (their section 3.2), so they never grow. Without sinks it
is the plain rolling cache, or the memory of Transformer-XL (arXiv 1901.02860).

    places = KeyPositions.of(backbone)           # once; refuses backbones it cannot be done for
    cache = RollingCache(places, window=512, sinks=4, content=kept)      # None at the beginning
    hidden = run(backbone, embeddings, cache=cache, mask=cache.attention_mask(embeddings.shape[1])).hidden
    cache.evict(lengths)                         # after a pass: tokens of it that count, per row
    kept = cache.content()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from hmt.backbone.rotary import KeyPositions


@dataclass(frozen=True)
class KeptKV:
    """What a rolling cache holds, as plain tensors, batch first.

    Attributes:
        keys, values: per layer [B, heads, n, head_dim]. Keys are without positions: no rotation is applied.
        lengths: int64 [B], how many of a row's n slots are filled. They are the last ones: sinks, then the
            window, in the order of the stream. What stands in the others means nothing.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def select(self, rows: Tensor | Sequence[int]) -> KeptKV:
        """These rows, in this order, repeats allowed."""
        at = torch.as_tensor(rows, device=self.lengths.device)
        return KeptKV(
            tuple(keys.index_select(0, at) for keys in self.keys),
            tuple(values.index_select(0, at) for values in self.values),
            self.lengths.index_select(0, at),
        )

    def detach(self) -> KeptKV:
        """The same, without gradient."""
        return KeptKV(
            tuple(keys.detach() for keys in self.keys),
            tuple(values.detach() for values in self.values),
            self.lengths,
        )


class _Layer(DynamicLayer):
    """Keys at the positions of their slots, and beside them those that were kept, without positions."""

    def __init__(self) -> None:
        super().__init__()
        self.plain: Tensor | None = None  # [B, heads, kept, head_dim]

    def fill(self, plain: Tensor, keys: Tensor, values: Tensor) -> None:
        self.lazy_initialization(keys, values)
        self.plain, self.keys, self.values = plain, keys, values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.plain is not None:
            self.plain = self.plain.repeat_interleave(repeats, dim=0)

    def _rows(self, at: Tensor) -> None:
        if self.plain is not None:
            self.plain = self.plain[at.to(self.plain.device)]


class RollingCache(Cache):
    """transformers' cache of the first `sinks` and the last `window` tokens of every row.

    Passes append to it; `evict` takes it back to its size and gives slot i position i. A token attends to
    everything that was kept before its pass and to the pass so far: up to `sinks` + `window` tokens and what
    was appended since `evict`. Nothing is done in place: gradients flow, and what `content` gave stays as it
    was. While it is used it holds its keys twice, with positions and without; `content` has them once. Beam
    search and batches that lose rows work as with any cache (`reorder_cache`, `batch_select_indices`,
    `batch_repeat_interleave`).

    Args:
        positions: of the backbone, `KeyPositions.of(backbone)`.
        window: tokens that are kept, 0 or more. sinks: first tokens of the stream that always are.
        content: what a cache of these sizes held (`content()`); None for the beginning of a stream.
    """

    def __init__(
        self, positions: KeyPositions, window: int, sinks: int = 0, content: KeptKV | None = None
    ) -> None:
        if window < 0 or sinks < 0:
            raise ValueError(f"window and sinks are numbers of tokens, got {window} and {sinks}")
        super().__init__(layers=[_Layer() for _ in positions.layers])
        self.positions, self.window, self.sinks = positions, window, sinks
        self.lengths: Tensor | None = None  # filled slots of each row at the last `evict`; None: nothing yet
        self.kept = 0  # slots, filled or not, at the last `evict`
        if content is not None:
            if content.keys[0].shape[2] > window + sinks:
                raise ValueError(
                    f"the content has {content.keys[0].shape[2]} slots; this cache holds {window + sinks}"
                )
            self._fill(content)

    def attention_mask(self, new: int) -> Tensor | None:
        """For a pass over `new` tokens right after `evict`: int64 [B, slots + new], 0 at empty slots.

        None where all are filled. Position ids are never needed. Padding behind the tokens needs no mask.
        """
        if self.lengths is None or bool((self.lengths == self.kept).all()):
            return None
        slots = torch.arange(self.kept + new, device=self.lengths.device)
        return (slots >= (self.kept - self.lengths)[:, None]).long()

    def evict(self, lengths: Tensor | None = None, *, fixed: bool = False) -> None:
        """Forget what is older than the window.

        Args:
            lengths: int64 [B], tokens of each row among those appended since the last `evict`; what stands
                behind them is padding, and forgotten too. None: all of them.
            fixed: always `sinks` + `window` slots, with empty ones in front; else no more than are filled.
        """
        content, old = self._appended(), self.kept
        appended = content.keys[0].shape[2] - old
        batch, device = len(content.lengths), content.lengths.device
        new = torch.full((batch,), appended, device=device) if lengths is None else lengths.to(device)
        had = content.lengths
        room = self.sinks + self.window
        have = (had + new).clamp(max=room)
        slots = room if fixed else min(room, int(have.max())) if batch else 0
        # place in the row's own stream of kept and new tokens, of every slot that is filled
        place = torch.arange(slots, device=device) - (slots - have)[:, None]
        gone = (had + new - have)[:, None]
        place = torch.where(place < self.sinks, place, place + gone)
        source = ((old - had)[:, None] + place).clamp(min=0, max=max(0, old + appended - 1))
        self._fill(
            KeptKV(
                tuple(_picked(keys, source) for keys in content.keys),
                tuple(_picked(values, source) for values in content.values),
                have,
            )
        )

    def content(self) -> KeptKV:
        """What was kept at the last `evict`, for another cache; ValueError if more was read since."""
        content = self._appended()
        if content.keys[0].shape[2] != self.kept:
            raise ValueError("tokens were read since the last evict(); call it before content()")
        return content

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows named by int64 [R], in that order."""
        super().batch_select_indices(indices)
        self._rows(indices)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows in the order of int64 [B]."""
        super().reorder_cache(beam_idx)
        self._rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times, one after the other."""
        super().batch_repeat_interleave(repeats)
        if self.lengths is not None:
            self.lengths = self.lengths.repeat_interleave(repeats)

    def _rows(self, at: Tensor) -> None:
        if self.lengths is not None:
            self.lengths = self.lengths[at.to(self.lengths.device)]

    def _appended(self) -> KeptKV:
        """Everything in the cache, keys without positions; lengths are those of the last `evict`."""
        layers = cast(list[_Layer], self.layers)
        first = layers[0].keys
        if first is None:
            raise ValueError("nothing was read into this cache yet")
        slots = torch.arange(self.kept, first.shape[2], device=first.device)
        appended = [cast(Tensor, layer.keys)[:, :, self.kept :] for layer in layers]
        keys = self.positions.turned(appended, slots, back=True)
        keys = [
            new if layer.plain is None else torch.cat([layer.plain, new], dim=2)
            for layer, new in zip(layers, keys, strict=True)
        ]
        values = tuple(cast(Tensor, layer.values) for layer in layers)
        lengths = self.lengths
        if lengths is None:
            lengths = torch.zeros(len(first), dtype=torch.long, device=first.device)
        return KeptKV(tuple(keys), values, lengths)

    def _fill(self, content: KeptKV) -> None:
        self.lengths, self.kept = content.lengths, content.keys[0].shape[2]
        slots = torch.arange(self.kept, device=content.keys[0].device)
        turned = self.positions.turned(content.keys, slots)
        for layer, *tensors in zip(self.layers, content.keys, turned, content.values, strict=True):
            cast(_Layer, layer).fill(*tensors)


def _picked(tensor: Tensor, source: Tensor) -> Tensor:
    """[B, heads, n, d] at places [B, slots] of its third axis."""
    return tensor.take_along_dim(source[:, None, :, None], dim=2)
