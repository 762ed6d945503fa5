"""Associative Recurrent Memory Transformer (Rodkin et al. 2024, arXiv 2407.04841).

Every layer l has a matrix A [6 d_mem, d] and a normaliser z [6 d_mem], both zero at first. phi is DPFP-3:
x+ = [relu x, relu -x], phi(x) = [x+ * roll(x+, 1), x+ * roll(x+, 2), x+ * roll(x+, 3)].

    before layer l, from the second segment on, at every position:
        h <- h + phi(W_q h) A / (phi(W_q h) z + eps)
    after it, at the m memory tokens that end a segment, of the outputs h there:
        k = phi(W_k h),  v = W_v h,  b = sigmoid(w h + c),  old = k A / (k z + eps)
        gamma = clip(1 - k z / (|k|^2 + eps), 0, 1), without gradient; 1 in the first write, where old = 0
        A <- A + sum_i b_i k_i (v_i - old_i)^T,    z <- z + sum_i gamma_i k_i

A and z are kept in float32 whatever the backbone computes in: they are sums without bound. W_v begins at
zero, so an untrained model is the backbone, segment by segment. `sensory_length` is not in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hmt.backbone import Vectors, decoder_layers
from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.model.layout import Embeds, Ids, Layout, Tokens, slide
from hmt.model.outputs import SegmentRecord
from hmt.systems.armt.config import ARMTConfig

_EPSILON = 1e-5
_FEATURES = 6  # per entry of a key: two signs, three rolls


def features(keys: Tensor) -> Tensor:
    """DPFP-3 (Schlag et al. 2021): [..., n] -> [..., 6 n], none of them negative."""
    signed = torch.cat([keys.relu(), (-keys).relu()], dim=-1)
    return torch.cat([signed * signed.roll(shift, dims=-1) for shift in (1, 2, 3)], dim=-1)


class Association(nn.Module):
    """What one layer reads from and writes to its matrix; everything in float32."""

    def __init__(self, width: int, memory_dim: int):
        super().__init__()
        self.query = nn.Linear(width, memory_dim, bias=False)
        self.key = nn.Linear(width, memory_dim, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.strength = nn.Linear(width, 1)

    def read(self, hidden: Tensor, matrix: Tensor, norm: Tensor) -> Tensor:
        """What hidden [B, T, d] finds in matrix [B, 6 d_mem, d] with norm [B, 6 d_mem]: [B, T, d]."""
        query = features(self.query(hidden).float())
        found = torch.einsum("btk,bkd->btd", query, matrix)
        return found / (torch.einsum("btk,bk->bt", query, norm)[..., None] + _EPSILON)

    def write(self, outputs: Tensor, matrix: Tensor, norm: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Matrix and norm after outputs [B, m, d] were written; first: bool [B], nothing was before."""
        key = features(self.key(outputs).float())
        value, strength = self.value(outputs).float(), torch.sigmoid(self.strength(outputs).float())
        held = torch.einsum("bmk,bk->bm", key, norm)[..., None]
        old = torch.einsum("bmk,bkd->bmd", key, matrix) / (held + _EPSILON)
        new = (1 - held / (key.square().sum(-1, keepdim=True) + _EPSILON)).clamp(0, 1).detach()
        new = torch.where(first[:, None, None], 1.0, new)
        matrix = matrix + torch.einsum("bmk,bmd->bkd", key, strength * (value - old))
        return matrix, norm + (new * key).sum(1)


class ReadBeforeLayers:
    """Adds what each layer's matrix holds to its input; streams that have written nothing read nothing."""

    def __init__(self, associations: nn.ModuleList, state: MemoryState):
        self.associations, self.state = associations, state

    def read(self, layer: int, hidden: Tensor) -> Tensor:
        """h + phi(W_q h) A / (phi(W_q h) z + eps) of hidden [B, T, d], in its dtype."""
        state, association = self.state, self.associations[layer]
        assert isinstance(association, Association)
        found = association.read(hidden, state["matrix"][:, layer], state["norm"][:, layer])
        return hidden + torch.where((state.segments > 0)[:, None, None], found, 0.0).to(hidden.dtype)


class ARMTForCausalLM(BackboneMemory):
    """A backbone with an associative memory in every layer.

    State: matrix [B, layers, 6 d_mem, d] and norm [B, layers, 6 d_mem], float32; sensory ids [B, k],
    segments [B].
    """

    config_class = ARMTConfig

    def add_modules(self, width: int) -> None:
        """The memory tokens [m, d], and W_q, W_k, W_v, w and c of every layer."""
        config, layers = self.config, self.config.text_config.num_hidden_layers
        self.memory_tokens = Vectors(config.num_memory_tokens, width)
        self.associations = nn.ModuleList(Association(width, config.memory_dim) for _ in range(layers))

    def check_backbone(self) -> None:
        """ValueError for a backbone whose layers cannot be tapped."""
        decoder_layers(self.backbone)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Association):
            for layer in (module.query, module.key):
                init.normal_(layer.weight, 0.0, layer.in_features**-0.5)
            init.zeros_(module.value.weight)
            init.zeros_(module.strength.weight)
            init.zeros_(module.strength.bias)

    def flops_per_segment(self) -> int:
        """With what is read at every position (query, matrix) and written at the memory tokens."""
        config, width = self.config, self.memory_tokens.weight.shape[1]
        positions = self.segment_length + self.positions_around()
        read = 2 * positions * width * (config.memory_dim + _FEATURES * config.memory_dim)
        per_token = width * (config.memory_dim + width + 2 * _FEATURES * config.memory_dim)
        written = 2 * config.num_memory_tokens * per_token
        return super().flops_per_segment() + len(self.associations) * (read + written)

    def initial_state(self, batch_size: int) -> MemoryState:
        """A and z at zero, float32; sensory ids int64 [B, k]."""
        like, config = self.memory_tokens.weight, self.config
        shape = (batch_size, len(self.associations), _FEATURES * config.memory_dim)
        ids = torch.zeros(batch_size, dtype=torch.long, device=like.device)
        return MemoryState(
            {
                "matrix": torch.zeros(*shape, like.shape[1], device=like.device),
                "norm": torch.zeros(*shape, device=like.device),
                "sensory": ids.new_zeros(batch_size, config.sensory_length),
                "segments": ids,
            }
        )

    def layer_memory(self, state: MemoryState) -> ReadBeforeLayers:
        """A and z of every layer, read before it."""
        return ReadBeforeLayers(self.associations, state)

    def layout(self, state: MemoryState, encoded: Tensor | None) -> Layout:
        """[sensory | tokens | memory tokens]; A and z are read before every layer instead."""
        config, memory = self.config, self.memory_tokens(state.batch_size)
        sensory = Ids(state["sensory"], state.number(config.segment_length, config.sensory_length))
        return Layout([sensory, Tokens(), Embeds(memory, keep="write")])

    def update(self, state: MemoryState, record: SegmentRecord) -> MemoryState:
        """A <- A + sum_i b_i k_i (v_i - old_i)^T and z <- z + sum_i gamma_i k_i, in every layer."""
        first, written = state.segments == 0, []
        for layer, association in enumerate(self.associations):
            assert isinstance(association, Association)
            outputs = record.layers["write"][:, layer]
            matrix, norm = state["matrix"][:, layer], state["norm"][:, layer]
            written.append(association.write(outputs, matrix, norm, first))
        matrices, norms = zip(*written, strict=True)
        return state.updated(
            record.full,
            matrix=torch.stack(matrices, dim=1),
            norm=torch.stack(norms, dim=1),
            sensory=slide(state["sensory"], record.ids),
            segments=state.segments + 1,
        )
