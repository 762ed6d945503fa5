"""Weights of a backbone packed in 4 bits, beside its own, for passes of a few positions on a CPU.

One token costs one product of every weight with one vector, so decoding is bound by the bytes that are read.
PyTorch's kernel for groups of 32 weights of 4 bits reads a third of what bfloat16 takes. A weight gets

* 4 bits where these say what it is to within the rounding of bfloat16, as they do of weights that were
  stored in 4 bits (GGUF's Q4_0 and Q4_1) and then unpacked;
* 8 bits otherwise, as two halves of 4 bits each.

Passes of many positions, gradients, checkpoints and fingerprints use the weights themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_GROUP = 32  # weights that share a scale and a zero
_ROWS = 16  # outputs have to be a multiple of this
_MOST = 4  # positions of a pass up to which reading fewer bytes pays
_ROUNDING = (
    2.0**-6
)  # of the largest weight of a group: four roundings of bfloat16, a quarter of a step of 4 bits


class PackedLinear(nn.Linear):
    """A linear layer that keeps its parameters, and has its weight in 4 or 8 bits too.

    Attributes:
        bits: 4 or 8.
    """

    bits: int
    halves: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, linear: nn.Linear) -> PackedLinear:
        """Around the parameters of `linear`, which stay the same objects."""
        with torch.device("meta"):
            packed = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        packed.weight, packed.bias = linear.weight, linear.bias
        packed.train(linear.training)
        packed._pack()
        return packed

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`; up to `_MOST` vectors without gradients go through the packed weight."""
        few = input.numel() <= _MOST * self.in_features
        if not few or torch.is_grad_enabled() or input.dtype != torch.bfloat16:
            return super().forward(input)
        if not torch.compiler.is_compiling() and self._packed != _version(self.weight):
            self._pack()  # it was written to or replaced since; what is written to `.data` is not seen
        rows = input.reshape(-1, self.in_features)
        parts = [torch._weight_int4pack_mm_for_cpu(rows, *half) for half in self._arguments()]
        out = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return (out if self.bias is None else out + self.bias).view(*input.shape[:-1], self.out_features)

    def _arguments(self) -> list[Any]:
        return [(codes, _GROUP, scales) for codes, scales in self.halves]

    @torch.no_grad()
    def _pack(self) -> None:
        weight = self.weight.detach().float().unflatten(1, (-1, _GROUP))
        low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-12).bfloat16().float()
        zero = (low + 8 * scale).bfloat16().float()
        codes = ((weight - zero) / scale).round().add(8).clamp(0, 15)
        error = ((codes - 8) * scale + zero - weight).abs().amax(-1)
        largest = torch.maximum(low.abs(), high.abs())[..., 0]
        if (error <= _ROUNDING * largest).all():
            self.bits, self.halves = 4, [_half(codes, scale, zero)]
        else:
            scale = (weight.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12).bfloat16().float()
            codes = (weight / scale).round().clamp(-128, 127).to(torch.int32) + 128
            upper, lower = codes // 16, codes % 16
            nothing = torch.zeros_like(scale)
            self.bits = 8  # (upper - 8) * 16 s + (lower - 8) s + 8 s
            self.halves = [_half(upper, 16 * scale, nothing), _half(lower, scale, 8 * scale)]
        self._packed = _version(self.weight)


def _half(codes: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """codes 0 to 15 [N, G, 32], scale and zero [N, G, 1] -> what the kernel takes of them."""
    packed = torch._convert_weight_to_int4pack_for_cpu(codes.flatten(1).to(torch.int32), 1)
    return packed, torch.cat([scale, zero], -1).transpose(0, 1).contiguous().bfloat16()


def _version(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr(), weight._version


def pack_linears(backbone: nn.Module) -> dict[int, int]:
    """Replace the linear layers of a backbone in bfloat16 on a CPU -> number of weights by bits.

    Layers whose shape the kernel does not take stay. ValueError where there is none that it does.
    """
    counts: dict[int, int] = {}
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear and not isinstance(child, PackedLinear):
                continue
            fits = child.in_features % _GROUP == 0 and child.out_features % _ROWS == 0
            if child.weight.dtype != torch.bfloat16 or child.weight.device.type != "cpu" or not fits:
                continue
            packed = child if isinstance(child, PackedLinear) else PackedLinear.of(child)
            setattr(parent, name, packed)
            counts[packed.bits] = counts.get(packed.bits, 0) + packed.weight.numel()
    if not counts:
        raise ValueError(
            "no weights to pack: they have to be bfloat16, on a CPU, and in linear layers of multiples of 32"
        )
    return counts
