"""Hierarchical Memory Transformer (He et al., NAACL 2025, arXiv 2405.06067), equations 1 to 5.

Per segment n of L new tokens H_n:
    S_n = BBM([T | H_n[0, j) | T]) at the trailing T                                 (1)
    P_n = softmax(S_n W_q (M W_k)^T / sqrt(d_h)) M   over the last N memory embeddings   (2, 3)
    H   = BBM([P_n | H_{n-1}[L-k, L) | H_n | P_n])                                  (4)
    token outputs = H at H_n;  M_n = H at the trailing P_n                          (5)
Without recall (training stage 1) P_n is the last memory embedding, as in RMT.

Ours, `recall_query="inline"`: one pass, asked in the middle; the recall prompt sees only what is before it.
    H   = BBM([H_{n-1}[L-k, L) | H_n[0, j) | T | P_n | H_n[j, L) | P_n]),  S_n = H at T
With the last memory embedding in front, recall did not learn to choose (docs/performance.md).

Ours, `embeddings_per_segment=m`: P_n and M_n are blocks of m vectors. Equation 2 compares the query with the
first of each block, equation 3 mixes whole blocks; m = 1 is the paper.

Ours, `write_prompt="learned"`: equation 4 ends in learned vectors W instead of P_n, and M_n = H at W. What
stands at the end then does not depend on what was recalled: writing is the same task in every segment.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init
from typing_extensions import Self

from hmt.backbone import Vectors
from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.model.layout import Block, Embeds, Ids, Layout, Part, Probe, Tokens, join, slide
from hmt.model.outputs import SegmentRecord
from hmt.model.retrieval import Retrieval
from hmt.systems.hmt.config import HMTConfig


def floor(like: Tensor | torch.dtype) -> float:
    """Log weight of a slot that holds nothing; scores are half precision under autocast."""
    return torch.finfo(like.dtype if isinstance(like, Tensor) else like).min


class Recall(nn.Module):
    """Equations 2 and 3: single head, no value and no output projection."""

    def __init__(self, width: int, recall_dim: int):
        super().__init__()
        self.query = nn.Linear(width, recall_dim, bias=False)
        self.key = nn.Linear(width, recall_dim, bias=False)
        self.scale = recall_dim**-0.5

    def fold(self, summary: Tensor) -> Tensor:
        """S W_q W_k^T / sqrt(d_h), float32 [..., d]: its inner products with the bank are the scores.

        (S W_q)(M W_k)^T = (S W_q W_k^T) M^T: the query is folded instead of projecting the bank, so no keys
        are stored, and none are projected again at every segment. ValueError where W_k is no weight.
        """
        if not isinstance(self.key, nn.Linear):
            raise ValueError(
                f"recall uses the weight of its key projection, which is a {type(self.key).__name__} now: "
                'adapt the backbone only (LoraConfig(exclude_modules="recall.*", ...)) and train the memory '
                "itself (modules_to_save)"
            )
        return nn.functional.linear(self.query(summary), self.key.weight.t()).float() * self.scale

    def forward(self, folded: Tensor, bank: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """Recall prompt [B, m d] and log weights [B, N].

        folded: query [B, d]. bank: [B, N, m d]. filled: bool [B, N].
        """
        scores = torch.einsum("bd,bnd->bn", folded, keys(bank, folded.shape[-1]).float())
        log_weights = scores.masked_fill(~filled, floor(scores)).log_softmax(-1)
        log_weights = log_weights.masked_fill(~filled, floor(log_weights))
        prompt = torch.einsum("bn,bnd->bd", log_weights.exp(), bank.float())
        return prompt.to(bank.dtype), log_weights


def keys(bank: Tensor, width: int) -> Tensor:
    """What a query is compared with: the first vector [..., d] of every block [..., m d]."""
    return bank[..., :width]


class HMTForCausalLM(BackboneMemory):
    """A backbone with sensory, short-term and long-term memory.

    State: bank [B, N, m d] (ring buffer), latest [B, m d], query [B, d] (only `recall_query="previous"`),
    sensory ids [B, k], segments [B].
    """

    config_class = HMTConfig
    sizes = ("memory_size",)
    stage_fields = ("recall",)  # the paper trains without, first

    def add_modules(self, width: int) -> None:
        """T [1, d], the first prompt [m, d] (nothing to recall yet), W_q and W_k; W [m, d] if "learned"."""
        config = self.config
        self.summary_prompt = Vectors(1, width)  # T
        # stands for P_n while there is nothing to recall
        self.first_prompt = Vectors(config.embeddings_per_segment, width)
        if config.write_prompt == "learned":
            self.write_prompt = Vectors(config.embeddings_per_segment, width)
        self.recall = Recall(width, config.recall_dim or width)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Recall):
            # Equal orthonormal projections: recall starts as the similarity of summary and memory embedding.
            # The paper leaves the start open; from independent random projections addressing takes far longer
            # to appear.
            init.orthogonal_(module.query.weight)
            init.copy_(module.key.weight, module.query.weight)

    # -- what it declares -----------------------------------------------------------------------------------

    @property
    def lookahead(self) -> int:
        """j where equation 1 summarises the head of the segment being read, else 0."""
        return self.config.summary_length if self._summarises("segment") else 0

    @property
    def retrieval(self) -> Retrieval:
        """The slots of the bank, scored as in equation 2 before the softmax."""
        return Retrieval(self._held, self._scores, head=self.config.summary_length)

    @property
    def encodes(self) -> bool:
        """Whether equation 1 is a pass of its own: recall with the queries "segment" and "previous"."""
        return self._summarises("segment", "previous")

    def passes(self) -> list[int]:
        """The segment, and the summary of j tokens between two summary prompts."""
        return super().passes() + ([self.config.summary_length + 2] if self.encodes else [])

    def at_budget(self, nbytes: int) -> Self:
        """With the largest bank that fits after the rest of the state."""
        return self.largest_within(nbytes)

    def _summarises(self, *queries: str) -> bool:
        return self.config.recall and self.config.recall_query in queries

    # -- the recurrence -------------------------------------------------------------------------------------

    def initial_state(self, batch_size: int) -> MemoryState:
        """Zeros in the dtype of the prompts; sensory ids and segments int64."""
        config, like = self.config, self.first_prompt.weight
        tensors = {
            "bank": like.new_zeros(batch_size, config.memory_size, like.numel()),
            "latest": like.new_zeros(batch_size, like.numel()),
            "sensory": torch.zeros(batch_size, config.sensory_length, dtype=torch.long, device=like.device),
            "segments": torch.zeros(batch_size, dtype=torch.long, device=like.device),
        }
        if config.recall_query == "previous":
            tensors["query"] = like.new_zeros(batch_size, like.shape[1])
        return MemoryState({name: tensor.detach() for name, tensor in tensors.items()})

    def summarise(self, ids: Tensor, lengths: Tensor | None) -> Tensor:
        """Equation 1 for R runs of tokens at once: int64 [R, w], lengths [R] or None: all w -> [R, d]."""
        prompt = self.summary_prompt(len(ids))
        tokens = self.embed(ids)
        blocks = [Block(prompt.to(tokens.dtype)), Block(tokens, lengths), Block(prompt.to(tokens.dtype))]
        row = join(blocks, "behind")
        return row.read(self.run_pass(row.vectors, None).hidden, 2, 1)[:, 0].clone()

    def encode(self, segments: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Summaries [B, S, d] of all segments in one pass: of their heads, or of their tails ("previous")."""
        config = self.config
        if not self.encodes:
            return None
        ids = segments.flatten(0, 1)
        j = min(config.summary_length, ids.shape[1])
        covered = None if lengths is None else lengths.flatten().clamp(max=j)
        if config.recall_query == "segment":
            ids = ids[:, :j]
        elif lengths is None:
            ids = ids[:, ids.shape[1] - j :]
        else:  # the last j real tokens of each row
            start = (lengths.flatten() - j).clamp(min=0)[:, None]
            index = start + torch.arange(j, device=ids.device)
            ids = ids.gather(1, index.clamp(max=ids.shape[1] - 1))
        return self.summarise(ids, covered).view(*segments.shape[:2], -1)

    def layout(self, state: MemoryState, encoded: Tensor | None) -> Layout:
        """Equation 4, [P_n | sensory | tokens | P_n or W], with P_n by equations 2 and 3; or "inline".

        encoded: S_n of equation 1, [B, d], for the query "segment".
        """
        config = self.config
        sensory = Ids(state["sensory"], state.number(config.segment_length, config.sensory_length))
        if config.recall and config.recall_query == "inline":
            ask = Probe(self.summary_prompt(state.batch_size), self._answer)
            parts: list[Part] = [sensory, Tokens(until=config.summary_length), ask]
            # until the question is reached, nothing is recalled
            unasked = torch.full_like(self._held(state.segments), floor(torch.float32), dtype=torch.float32)
            return Layout(parts, unasked)
        recalled, log_weights, folded = state["latest"], None, None
        if config.recall:
            query = {"segment": encoded, "previous": state.tensors.get("query")}.get(
                config.recall_query, self._keys(state["latest"])
            )
            assert query is not None
            recalled, log_weights, folded = self._recall(state, query)
        prompt = self._prompt(state, recalled)
        return Layout(
            [Embeds(prompt), sensory, Tokens(), Embeds(self._written(prompt), keep="write")],
            log_weights,
            folded,
        )

    def _answer(self, state: MemoryState, question: Tensor, reached: Tensor) -> Layout:
        """What stands behind the summary prompt inside a segment, whose output is `question` [B, d]."""
        recalled, log_weights, folded = self._recall(state, question)
        log_weights = log_weights.masked_fill(~reached[:, None], floor(log_weights))
        prompt = self._prompt(state, recalled)
        written = Embeds(self._written(prompt), keep="write")
        return Layout([Embeds(prompt), Tokens(), written], log_weights, folded)

    def update(self, state: MemoryState, record: SegmentRecord) -> MemoryState:
        """Equation 5: the outputs at the trailing prompt join the bank."""
        embedding = record.kept["write"].flatten(1)
        new = {
            "latest": embedding,
            "sensory": slide(state["sensory"], record.ids),
            "segments": state.segments + 1,
        }
        if "query" in state.tensors and record.encoded is not None:
            new["query"] = record.encoded
        return state.push(record.full, bank=embedding).updated(record.full, **new)

    # -- recall ---------------------------------------------------------------------------------------------

    def _recall(self, state: MemoryState, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Recalled vectors [B, m d], log weights [B, N] and folded query [B, d] for queries [B, d]."""
        folded, bank = self.recall.fold(query), state.ring("bank")
        held = self._held(state.segments)
        recalled, log_weights = self.recall(folded, bank, (held >= 0)[:, : bank.shape[1]])
        unwritten = held.shape[1] - bank.shape[1]
        return recalled, nn.functional.pad(log_weights, (0, unwritten), value=floor(log_weights)), folded

    def _prompt(self, state: MemoryState, recalled: Tensor) -> Tensor:
        """[B, m, d] of vectors [B, m d] out of memory, as they are fed in; learned ones where none are."""
        first = self.first_prompt(state.batch_size)
        scaled = recalled.view(first.shape) * self.config.memory_scale
        return torch.where((state.segments > 0)[:, None, None], scaled, first)

    def _written(self, prompt: Tensor) -> Tensor:
        """What stands at the end of a segment that was read with the recall prompt [B, m, d]."""
        return self.write_prompt(len(prompt)) if self.config.write_prompt == "learned" else prompt

    def _keys(self, blocks: Tensor) -> Tensor:
        return keys(blocks, self.first_prompt.weight.shape[1])

    def _scores(self, queries: Tensor, state: MemoryState) -> Tensor:
        return torch.einsum("bsd,cnd->bscn", queries, self._keys(state["bank"]).float())

    def _held(self, segments: Tensor) -> Tensor:
        """The newest segment that was written to each slot, int64 [B, N], after `segments` [B] were read."""
        size = self.config.memory_size
        slot = torch.arange(size, device=segments.device)
        last = segments[:, None] - 1
        held = last - (last - slot) % size
        return torch.where((held >= 0) & (last >= 0), held, -1)
