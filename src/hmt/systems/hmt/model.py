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

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init
from typing_extensions import Self

from hmt.backbone import Vectors
from hmt.config import MemoryConfig, strict
from hmt.memory.state import MemoryState
from hmt.model.base import SegmentMemoryModel
from hmt.model.layout import Frame, assemble, read_out, slide, tokens_seen
from hmt.model.retrieval import Retrieval


@strict
class HMTConfig(MemoryConfig):
    """Configuration of an HMT. Paper's symbols in brackets; see `MemoryConfig` for the shared fields.

    Args:
        summary_length: leading tokens of a segment that its summary covers [j]; None means L/2.
        sensory_length: raw tokens of the previous segment that are read again [k].
        memory_size: memory embeddings kept, first in first out [N].
        recall_dim: width of W_q and W_k [d_h]; None means the width of the embeddings.
        recall_query: where the query comes from: "segment" (head of the segment being read: the paper; its
            recall prompt sees the first j tokens, so only positions >= j are scored fairly), "previous" (tail
            of the segment before: strictly causal), "memory" (the last memory embedding: causal, and no
            summary pass) or "inline" (ours: the summary prompt stands after the first j tokens of the segment
            and the recall prompt behind it: causal, and no summary pass; the first j tokens are read without
            memory).
        recall: False is training stage 1.
        embeddings_per_segment: vectors that a segment leaves behind [1 in the paper]. A bank of N segments
            holds N times as many; recall chooses segments, by the first vector of each.
        write_prompt: what stands at the end of a segment, whose outputs become the memory embedding: "recall"
            (the recall prompt again: the paper) or "learned" (ours: learned vectors).
    """

    model_type = "hmt"

    summary_length: int | None = None
    sensory_length: int = 32
    memory_size: int = 300
    recall_dim: int | None = None
    recall_query: Literal["segment", "previous", "memory", "inline"] = "segment"
    recall: bool = True
    embeddings_per_segment: int = 1
    write_prompt: Literal["recall", "learned"] = "recall"

    def __post_init__(self, **kwargs):
        if self.summary_length is None:
            self.summary_length = max(1, self.segment_length // 2)
        super().__post_init__(**kwargs)

    def check(self) -> None:
        super().check()
        assert self.summary_length is not None  # filled in by __post_init__
        if not 1 <= self.summary_length <= self.segment_length:
            raise ValueError(
                f"summary_length must be between 1 and segment_length ({self.segment_length}), "
                f"got {self.summary_length}"
            )
        if self.sensory_length < 0:
            raise ValueError(f"sensory_length must not be negative, got {self.sensory_length}")
        if self.memory_size < 1:
            raise ValueError(f"memory_size must be at least 1, got {self.memory_size}")
        if self.embeddings_per_segment < 1:
            raise ValueError(f"embeddings_per_segment must be at least 1, got {self.embeddings_per_segment}")
        if self.recall_dim is not None and self.recall_dim < 1:
            raise ValueError(f"recall_dim must be at least 1, got {self.recall_dim}")


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
        are stored, and none are projected again at every segment.
        """
        return nn.functional.linear(self.query(summary), self.key.weight.t()).float() * self.scale

    def forward(self, folded: Tensor, bank: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """Recall prompt [B, m d] and log weights [B, N].

        folded: query [B, d]. bank: [B, N, m d]. filled: bool [B, N].
        """
        scores = torch.einsum("bd,bnd->bn", folded, keys(bank, folded.shape[-1]).float())
        log_weights = scores.masked_fill(~filled, torch.finfo(scores.dtype).min).log_softmax(-1)
        log_weights = log_weights.masked_fill(~filled, torch.finfo(scores.dtype).min)
        prompt = torch.einsum("bn,bnd->bd", log_weights.exp(), bank.float())
        return prompt.to(bank.dtype), log_weights


def keys(bank: Tensor, width: int) -> Tensor:
    """What a query is compared with: the first vector [..., d] of every block [..., m d]."""
    return bank[..., :width]


class HMTForCausalLM(SegmentMemoryModel):
    """A backbone with sensory, short-term and long-term memory.

    State: bank [B, N, m d] (ring buffer), latest [B, m d], query [B, d] (only `recall_query="previous"`),
    sensory ids [B, k], segments [B].
    """

    config_class = HMTConfig
    sizes = ("memory_size",)

    def add_modules(self, width: int) -> None:
        config = self.config
        self.summary_prompt = Vectors(1, width)  # T
        self.first_prompt = Vectors(
            config.embeddings_per_segment, width
        )  # stands for P_n while there is nothing to recall
        if config.write_prompt == "learned":
            self.write_prompt = Vectors(config.embeddings_per_segment, width)
        self.recall = Recall(width, config.recall_dim or width)

    @property
    def frame_reads_prepared(self) -> bool:  # type: ignore[override]
        return self.config.recall and self.config.recall_query == "segment"

    @property
    def absorb_reads_prepared(self) -> bool:  # type: ignore[override]
        return self.config.recall and self.config.recall_query == "previous"

    @property
    def asks_inside(self) -> bool:  # type: ignore[override]
        return self.config.recall and self.config.recall_query == "inline"

    def initial_state(self, batch_size: int) -> MemoryState:
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

    def _init_weights(self, module) -> None:
        super()._init_weights(module)
        if isinstance(module, Recall):
            # Equal orthonormal projections: recall starts as the similarity of summary and memory embedding.
            # The paper leaves the start open; from independent random projections addressing takes far longer
            # to appear.
            init.orthogonal_(module.query.weight)
            init.copy_(module.key.weight, module.query.weight)

    def summarise(self, ids: Tensor, lengths: Tensor | None) -> Tensor:
        """Equation 1 for R runs of tokens at once: int64 [R, w], lengths [R] or None: all w -> [R, d]."""
        prompt = self.summary_prompt(ids.shape[0])
        frame = Frame(prompt, prompt, ids[:, :0], ids.new_zeros(len(ids)))
        tokens = self.embed(ids)
        hidden = self.hidden(assemble(frame, tokens[:, :0], tokens, lengths, seen=0))
        return read_out(hidden, frame, ids.shape[1], lengths, seen=0)[1][:, 0]

    def prepare(self, segments: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Summaries [B, S, d] of all segments in one pass: of their heads, or of their tails ("previous")."""
        config = self.config
        if not (self.frame_reads_prepared or self.absorb_reads_prepared):
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

    @property
    def lookahead(self) -> int:
        return self.config.summary_length if self.frame_reads_prepared else 0

    @property
    def retrieval(self) -> Retrieval:
        return Retrieval(self._held, self._scores)

    def passes(self) -> list[int]:
        """The segment, and the summary of j tokens between two summary prompts."""
        summary = self.frame_reads_prepared or self.absorb_reads_prepared
        return super().passes() + ([self.config.summary_length + 2] if summary else [])

    def at_budget(self, nbytes: int) -> Self:
        """With the largest bank that fits after the rest of the state."""
        least, more = (self.resized(memory_size=size).new_memory(1).nbytes for size in (1, 2))
        if nbytes < least:
            raise ValueError(
                f"hmt cannot work in {nbytes:,} bytes: with a single memory embedding it carries {least:,}"
            )
        return self.resized(memory_size=1 + (nbytes - least) // (more - least))

    def frame(self, state: MemoryState, prepared: Tensor | None) -> Frame:
        config = self.config
        seen = tokens_seen(state.segments, config.segment_length, config.sensory_length)
        if self.asks_inside:
            ask = self.summary_prompt(state.batch_size)
            # the suffix until the question is answered
            suffix = self._written(self._prompt(state, state["latest"]))
            return Frame(ask[:, :0], suffix, state["sensory"], seen, ask=ask, split=config.summary_length)
        recalled, log_weights, folded = state["latest"], None, None
        if config.recall_query == "segment":
            query = prepared
        else:
            query = state["query"] if config.recall_query == "previous" else self._keys(state["latest"])
        if config.recall:
            assert query is not None
            recalled, log_weights, folded = self._recall(state, query)
        prompt = self._prompt(state, recalled)
        return Frame(prompt, self._written(prompt), state["sensory"], seen, log_weights, folded)

    def answer(self, state: MemoryState, frame: Frame, question: Tensor, asked: Tensor) -> Frame:
        recalled, log_weights, folded = self._recall(state, question)
        log_weights = log_weights.masked_fill(~asked[:, None], torch.finfo(log_weights.dtype).min)
        prompt = self._prompt(state, recalled)
        suffix = self._written(prompt)
        return replace(frame, answer=prompt, suffix=suffix, recall=log_weights, query=folded)

    def _recall(self, state: MemoryState, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Recalled vectors [B, m d], log weights [B, N] and folded query [B, d] for queries [B, d]."""
        folded, bank = self.recall.fold(query), state.ring("bank")
        held = self._held(state.segments)
        recalled, log_weights = self.recall(folded, bank, (held >= 0)[:, : bank.shape[1]])
        unwritten = held.shape[1] - bank.shape[1]
        floor = torch.finfo(log_weights.dtype).min
        return recalled, nn.functional.pad(log_weights, (0, unwritten), value=floor), folded

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

    def absorb(self, state, outputs, segment, full, prepared) -> MemoryState:
        embedding = outputs.flatten(1)
        new = {
            "latest": embedding,
            "sensory": slide(state["sensory"], segment),
            "segments": state.segments + 1,
        }
        if "query" in state.tensors and prepared is not None:
            new["query"] = prepared
        return state.push(full, bank=embedding).updated(full, **new)

    def settled(self, open_lengths: Tensor) -> Tensor:
        if self.frame_reads_prepared:
            return open_lengths >= self.config.summary_length
        return super().settled(open_lengths)

    def _scores(self, queries: Tensor, state: MemoryState) -> Tensor:
        return torch.einsum("bsd,cnd->bscn", queries, self._keys(state["bank"]).float())

    def _held(self, segments: Tensor) -> Tensor:
        size = self.config.memory_size
        slot = torch.arange(size, device=segments.device)
        last = segments[:, None] - 1
        held = last - (last - slot) % size  # the newest segment that was written to this slot
        return torch.where((held >= 0) & (last >= 0), held, -1)
