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
With "alone" M_n = BBM([T | H_n | W]) at W, a pass of its own: what is remembered of a segment depends on
nothing but its tokens, many are written in one pass, and reading needs no other. With a `recall_layer` l, M_n
and S_n are the mean over the tokens of the states after the first l layers, and no other layer is run.

Ours, exact recall (`passages=p`): the bank keeps the tokens of its segments, and those of the p that recall
weighs most, in the order of the text, are read again: H = BBM([P_n | passages | sensory | H_n | ...]). Asked
with the tail of the segment before (`recall_query="previous"`), that segment itself is left out: its end
stands there anyway, and a question would find itself. `lexical` adds a BM25 score to the learned one,
`recency` how late a segment was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import initialization as init
from typing_extensions import Self

from hmt import backbone as bb
from hmt.backbone import Vectors
from hmt.memory.check import MOST_SEGMENTS
from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.model.layout import Block, Embeds, Ids, Layout, Part, Probe, Tokens, join, slide
from hmt.model.outputs import SegmentRecord
from hmt.model.retrieval import Retrieval
from hmt.systems.hmt import forgetting, passages
from hmt.systems.hmt.config import HMTConfig
from hmt.systems.hmt.recall import Recall, floor, keys, lateness, standardised


class HMTForCausalLM(BackboneMemory):
    """A backbone with sensory, short-term and long-term memory.

    State: bank [B, N, m d] (ring buffer), latest [B, m d], query [B, d] (only `recall_query="previous"`
    without passages), sensory ids [B, k], segments [B]; with passages also their codes [B, N, L] (ring
    buffer) and the tokens read [B].
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
        if config.write_prompt != "recall":
            self.write_prompt = Vectors(config.embeddings_per_segment, width)
        self.recall = Recall(width, config.recall_dim or width)

    def check_backbone(self) -> None:
        """ValueError, by name, also for layers that cannot be run alone where a `recall_layer` needs that."""
        super().check_backbone()
        if self.config.recall_layer is not None and self.input_device.type != "meta":
            bb.check_first_layers(self.backbone, self.config.recall_layer)

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
        return Retrieval(self._held, self._scores, head=self.config.summary_length, gap=self._gap)

    @property
    def encodes(self) -> bool:
        """Whether equation 1 is made of a segment as it is read: recall with "segment" and "previous".

        With passages the query "previous" is made when it is needed, from the ids that the bank holds.
        """
        return self._summarises("segment", *([] if self.config.passages else ["previous"]))

    @property
    def writes_alone(self) -> bool:
        """Whether what a segment leaves behind needs neither its pass nor its summary."""
        kept = self.config.recall_query == "previous" and not self.config.passages
        return self.config.write_prompt == "alone" and not (kept and self.config.recall)

    @property
    def closes_early(self) -> bool:
        """With passages, whose state counts tokens."""
        return self.config.passages > 0

    @property
    def forgets(self) -> bool:
        """Where segments are written alone, and their tokens are kept."""
        return self.writes_alone and self.config.passages > 0

    @property
    def state_limits(self) -> Mapping[str, tuple[int, int]]:  # type: ignore[override]
        """Codes of passages, and tokens, which count."""
        if not self.config.passages:
            return {}
        return {"passages": passages.code_limits(self.config.vocab_size), "tokens": (0, MOST_SEGMENTS)}

    def passes(self) -> list[int]:
        """The segment, the summary of j tokens between two summary prompts, and what is written alone."""
        found = super().passes()
        if self._summarises("segment", "previous"):
            found.append(self.config.summary_length + 2 * (self.config.recall_layer is None))
        return found + self.reading_passes() if self.config.write_prompt == "alone" else found

    def reading_passes(self) -> list[int]:
        """Of a segment that is only read: the one in which it is written, where that is all it takes."""
        if not self.writes_alone:
            return self.passes()
        if self.config.recall_layer is not None:
            layers = self.backbone.config.get_text_config().num_hidden_layers
            return [-(-self.config.segment_length * self.config.recall_layer // layers)]
        return [1 + self.config.segment_length + self.config.embeddings_per_segment]

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
        if config.passages:
            size, vocabulary = (config.memory_size, config.segment_length), config.vocab_size
            tensors["passages"] = passages.no_passages(batch_size, *size, vocabulary, like.device)
            tensors["tokens"] = torch.zeros_like(tensors["segments"])
        elif config.recall_query == "previous":
            tensors["query"] = like.new_zeros(batch_size, like.shape[1])
        return MemoryState({name: tensor.detach() for name, tensor in tensors.items()})

    def summarise(self, ids: Tensor, lengths: Tensor | None) -> Tensor:
        """Equation 1 for R runs of tokens at once: int64 [R, w], lengths [R] or None: all w -> [R, d]."""
        prompt = self.summary_prompt(len(ids))
        tokens = self.embed(ids)
        blocks = [Block(prompt.to(tokens.dtype)), Block(tokens, lengths), Block(prompt.to(tokens.dtype))]
        row = join(blocks, "behind")
        return row.read(self.run_pass(row.vectors, None).hidden, 2, 1)[:, 0].clone()

    def write(self, segments: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Memory embeddings [B, S, m d] of whole segments in one pass, where they are written alone."""
        if self.config.write_prompt != "alone":
            return None
        ids = segments.flatten(0, 1)
        if self.config.recall_layer is not None:
            written = self._mean(ids, None if lengths is None else lengths.flatten())
            return written.view(*segments.shape[:2], -1)
        tokens = self.embed(ids)
        ends = [self.summary_prompt(len(ids)), self.write_prompt(len(ids))]
        covered = None if lengths is None else lengths.flatten()
        blocks = [Block(ends[0].to(tokens.dtype)), Block(tokens, covered), Block(ends[1].to(tokens.dtype))]
        row = join(blocks, "behind")
        written = row.read(self.run_pass(row.vectors, None).hidden, 2, ends[1].shape[1])
        # it outlives the segment: a slice would keep all outputs with it
        return written.flatten(1).clone().view(*segments.shape[:2], -1)

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
        sensory = Ids(state["sensory"], self._sensory_number(state))
        if config.recall and config.recall_query == "inline":
            ask = Probe(self.summary_prompt(state.batch_size), self._answer)
            parts: list[Part] = [sensory, Tokens(until=config.summary_length), ask]
            # until the question is reached, nothing is recalled
            unasked = torch.full_like(self._held(state.segments), floor(torch.float32), dtype=torch.float32)
            return Layout(parts, unasked)
        recalled, log_weights, folded, search = state["latest"], None, None, self._search(state)
        if config.recall:
            query: Tensor | None
            if config.recall_query == "previous":
                query = self._asked_before(state)
            else:
                query = encoded if config.recall_query == "segment" else self._keys(state["latest"])
            assert query is not None
            recalled, log_weights, folded = self._recall(state, query, search)
        prompt = self._prompt(state, recalled)
        read_again, slots = self._passages(state, log_weights, search)
        parts = [Embeds(prompt), *read_again, sensory, Tokens(), *self._written(prompt)]
        return Layout(parts, log_weights, folded, slots)

    def _answer(self, state: MemoryState, question: Tensor, reached: Tensor) -> Layout:
        """What stands behind the summary prompt inside a segment, whose output is `question` [B, d]."""
        recalled, log_weights, folded = self._recall(state, question)
        log_weights = log_weights.masked_fill(~reached[:, None], floor(log_weights))
        prompt = self._prompt(state, recalled)
        read_again, slots = self._passages(state, log_weights)
        parts = [Embeds(prompt), *read_again, Tokens(), *self._written(prompt)]
        return Layout(parts, log_weights, folded, slots)

    def update(self, state: MemoryState, record: SegmentRecord) -> MemoryState:
        """Equation 5: the outputs at the trailing prompt join the bank."""
        written = record.written
        if written is None and self.config.write_prompt == "alone":
            covered = None if record.lengths is None else record.lengths[:, None]
            written = self.write(record.ids[:, None], covered)[:, 0]  # type: ignore[index]
        embedding = record.kept["write"].flatten(1) if written is None else written
        ring = {"bank": embedding}
        new = {
            "latest": embedding,
            "sensory": slide(state["sensory"], record.ids, record.lengths),
            "segments": state.segments + 1,
        }
        if "query" in state.tensors and record.encoded is not None:
            new["query"] = record.encoded
        if "tokens" in state.tensors:
            number = record.ids.shape[1] if record.lengths is None else record.lengths
            new["tokens"] = state["tokens"] + number
            length, vocabulary = self.config.segment_length, self.config.vocab_size
            ring["passages"] = passages.encode_ids(record.ids, record.lengths, length, vocabulary)
        return state.push(record.full, **ring).updated(record.full, **new)

    # -- recall ---------------------------------------------------------------------------------------------

    def _recall(
        self, state: MemoryState, query: Tensor, search: passages.Search | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Recalled vectors [B, m d], log weights [B, N] and folded query [B, d] for queries [B, d]."""
        folded, bank = self.recall.fold(query), state.ring("bank")
        held = self._recallable(state)
        filled, further = (held >= 0)[:, : bank.shape[1]], None
        if search is not None:
            further = self.config.lexical * standardised(search.bm25(), filled)
        if self.config.recency:
            late = self.config.recency * lateness(held[:, : bank.shape[1]])
            further = late if further is None else further + late
        recalled, log_weights = self.recall(folded, bank, filled, further)
        unwritten = held.shape[1] - bank.shape[1]
        return recalled, nn.functional.pad(log_weights, (0, unwritten), value=floor(log_weights)), folded

    def _prompt(self, state: MemoryState, recalled: Tensor) -> Tensor:
        """[B, m, d] of vectors [B, m d] out of memory, as they are fed in; learned ones where none are."""
        first = self.first_prompt(state.batch_size)
        scaled = recalled.view(first.shape) * self.config.memory_scale
        gap = self._gap if self.config.recall else 0
        return torch.where((state.segments > gap)[:, None, None], scaled, first)

    def _written(self, prompt: Tensor) -> list[Part]:
        """What stands at the end of a segment that was read with the recall prompt [B, m, d]."""
        if self.config.write_prompt == "alone":
            return []
        learned = self.config.write_prompt == "learned"
        return [Embeds(self.write_prompt(len(prompt)) if learned else prompt, keep="write")]

    def _keys(self, blocks: Tensor) -> Tensor:
        return keys(blocks, self.first_prompt.weight.shape[1])

    # -- exact recall ---------------------------------------------------------------------------------------

    @property
    def _gap(self) -> int:
        """Newest segments that are not recalled: with passages, the one that the query is made of."""
        return int(bool(self.config.passages) and self.config.recall_query == "previous")

    def _recallable(self, state: MemoryState) -> Tensor:
        """The segment in each slot, int64 [B, N]; -1 in one that is empty or not to be recalled."""
        held = self._held(state.segments)
        return torch.where(held < state.segments[:, None] - self._gap, held, -1)

    def _sensory_number(self, state: MemoryState) -> Tensor | int:
        """Sensory tokens there are, of each row; those that were read where segments may be shorter."""
        most = self.config.sensory_length
        if "tokens" in state.tensors:
            return state["tokens"].clamp(max=most)
        return state.number(self.config.segment_length, most)

    def _newest(self, state: MemoryState) -> Tensor:
        """Codes [B, L] of the segment that was read last."""
        codes = state.ring("passages")
        slot = ((state.segments - 1) % self.config.memory_size).clamp(min=0, max=max(codes.shape[1] - 1, 0))
        if not codes.shape[1]:
            codes = state["passages"][:, :1]
        return codes.gather(1, slot[:, None, None].expand(-1, 1, codes.shape[2]))[:, 0]

    def _asked_before(self, state: MemoryState) -> Tensor:
        """Equation 1 for the tail of the segment that was read last: [B, d]."""
        if "query" in state.tensors:
            return state["query"]
        words = passages.decode_ids(self._newest(state))[:, -self.config.summary_length :]
        lengths = (words > 0).sum(1)
        index = torch.arange(words.shape[1], device=words.device) + (words.shape[1] - lengths)[:, None]
        ids = (words.gather(1, index.clamp(max=words.shape[1] - 1)) - 1).clamp(min=0)  # to the left
        if self.config.recall_layer is not None:
            return self._mean(ids, lengths)
        return self.summarise(ids, lengths)

    def _mean(self, ids: Tensor, lengths: Tensor | None) -> Tensor:
        """Mean state [R, d] of the tokens int64 [R, w] after the first layers; lengths [R] or None: all w."""
        hidden = bb.run(self.backbone, self.embed(ids), first=self.config.recall_layer).hidden
        if lengths is None:
            return hidden.float().mean(1).to(hidden.dtype)
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        total = torch.where(inside[..., None], hidden, 0).float().sum(1)
        return (total / lengths.clamp(min=1)[:, None]).to(hidden.dtype)

    def _search(self, state: MemoryState) -> passages.Search | None:
        """The words of the segment that was read last in those that can be recalled, where they count."""
        if not (self.config.lexical and self.config.recall):
            return None
        codes = state.ring("passages")
        filled = (self._recallable(state) >= 0)[:, : codes.shape[1]]
        return passages.Search(self._newest(state), codes, filled, self.config.vocab_size)

    def _passages(
        self, state: MemoryState, log_weights: Tensor | None, search: passages.Search | None = None
    ) -> tuple[list[Ids], Tensor | None]:
        """The tokens of what is recalled, in the order of the text, and its slots [B, p], -1 for none."""
        if not self.config.passages or log_weights is None:
            return [], None
        codes = state.ring("passages")
        if not codes.shape[1]:
            return [], None
        held = self._recallable(state).masked_fill(log_weights <= floor(log_weights), -1)[:, : codes.shape[1]]
        scores = log_weights[:, : codes.shape[1]]
        if self.config.hops > 1 and search is not None:
            scores = self._asked_again(scores.masked_fill(held < 0, -torch.inf), search)
        slots, there = passages.choose(scores, held, self.config.passages)
        chosen = codes.gather(1, slots[..., None].expand(-1, -1, codes.shape[2]))
        empty = passages.code_limits(self.config.vocab_size)[0]
        parts = passages.as_parts(chosen.masked_fill(~there[..., None], empty))
        return parts, slots.masked_fill(~there, -1)

    def _asked_again(self, scores: Tensor, search: passages.Search) -> Tensor:
        """Scores [B, n] by which the passages are chosen that include one of a second hop."""
        best = scores.topk(min(self.config.passages - 1, scores.shape[1]), dim=1).indices
        found = search.again(best[:, 0]).bm25() + 1e-3 * scores.softmax(1)  # of equal ones
        # those of the first hop before all others, then the one that is found
        return found.scatter(1, best, float("inf"))

    def remembered(self, memory: Memory, row: int, slots: list[int]) -> list[list[int] | None]:
        """The tokens of the segments in these slots, with passages."""
        if not self.config.passages:
            return super().remembered(memory, row, slots)
        words = passages.decode_ids(memory.state["passages"][row, slots]).tolist()
        return [[word - 1 for word in passage if word] for passage in words]

    def without(self, memory: Memory, segments: Iterable[int]) -> Memory:
        """See `StreamingLM.without`; of a model that `forgets`."""
        if not self.forgets:
            return super().without(memory, segments)
        return forgetting.without(self, memory, segments)

    def _scores(self, queries: Tensor, state: MemoryState) -> Tensor:
        return torch.einsum("bsd,cnd->bscn", queries, self._keys(state["bank"]).float())

    def _held(self, segments: Tensor) -> Tensor:
        """The newest segment that was written to each slot, int64 [B, N], after `segments` [B] were read."""
        size = self.config.memory_size
        slot = torch.arange(size, device=segments.device)
        last = segments[:, None] - 1
        held = last - (last - slot) % size
        return torch.where((held >= 0) & (last >= 0), held, -1)
