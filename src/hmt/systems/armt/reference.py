"""The Associative Recurrent Memory Transformer as a plain loop: hooks around every layer of the backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hmt.backbone import decoder_layers
from hmt.systems.loops import Reference, collect, embed, run_backbone, segments


def phi(x: Tensor) -> Tensor:
    """DPFP-3 of vectors [n, d_mem]."""
    x = torch.cat([torch.relu(x), torch.relu(-x)], -1)
    return torch.cat([x * torch.roll(x, j, -1) for j in (1, 2, 3)], -1)


def reader(W: Any, A: Tensor, z: Tensor) -> Any:
    """A hook that adds what is read from A and z to a layer's input."""

    def read(module: Any, args: Any, kwargs: Any) -> Any:
        h = args[0] if args else kwargs["hidden_states"]
        q = phi(W.query(h[0]))
        h = h + ((q @ A) / ((q @ z)[:, None] + 1e-5))[None]
        return ((h, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": h})

    return read


def keeper(outputs: list[Tensor]) -> Any:
    """A hook that keeps a layer's outputs."""

    def keep(module: Any, args: Any, output: Any) -> None:
        outputs.append((output if isinstance(output, Tensor) else output[0])[0])

    return keep


def reference(model: Any, ids: Tensor, labels: Tensor | None = None) -> Reference:
    """ARMT (arXiv 2407.04841), one stream; ids and labels int64 [T]."""
    config, eps = model.config, 1e-5
    L, k, m = config.segment_length, config.sensory_length, config.num_memory_tokens
    layers = list(decoder_layers(model.backbone))
    n, d = len(layers), model.memory_tokens.weight.shape[1]
    A = [torch.zeros(6 * config.memory_dim, d) for _ in range(n)]
    z = [torch.zeros(6 * config.memory_dim) for _ in range(n)]
    logits: list[Tensor] = []
    closed = 0

    for start, segment in segments(ids, L):
        outputs: list[Tensor] = []
        handles = []
        for layer, W, A_l, z_l in zip(layers, model.associations, A, z, strict=True):
            if closed:
                handles.append(layer.register_forward_pre_hook(reader(W, A_l, z_l), with_kwargs=True))
            handles.append(layer.register_forward_hook(keeper(outputs)))
        sensory = embed(model, ids[max(0, start - k) : start])
        full = len(segment) == L
        memory = model.memory_tokens.weight if full else model.memory_tokens.weight[:0]
        _, out = run_backbone(model, [sensory, embed(model, segment), memory])
        for handle in handles:
            handle.remove()
        logits.append(out[len(sensory) : len(sensory) + len(segment)])
        if not full:
            break
        for at, W in enumerate(model.associations):
            h = outputs[at][-m:]
            K, V, b = phi(W.key(h)), W.value(h), torch.sigmoid(W.strength(h))
            old, gamma = torch.zeros_like(V), torch.ones(m, 1)
            if closed:
                kz = (K @ z[at])[:, None]
                old = (K @ A[at]) / (kz + eps)
                gamma = (1 - kz / (K.square().sum(-1, keepdim=True) + eps)).clamp(0, 1).detach()
            A[at] = A[at] + K.t() @ (b * (V - old))
            z[at] = z[at] + (gamma * K).sum(0)
        closed += 1

    state = {"matrix": torch.stack(A), "norm": torch.stack(z)}
    return collect(logits, labels, [], [], state)
