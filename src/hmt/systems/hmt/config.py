"""Configuration of a Hierarchical Memory Transformer."""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

from typing import Any, Literal

from hmt.config import MemoryConfig, strict


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
            (the recall prompt again: the paper), "learned" (ours: learned vectors) or "alone" (ours: learned
            vectors behind the segment's tokens in a pass of its own, so that what is remembered depends on
            these tokens only, and reading takes no other pass).
        passages: ours, exact recall: so many of the segments that are recalled are read again, token by
            token, between the recall prompt and the sensory tokens. The bank then keeps the ids of every
            segment (2 bytes each below a vocabulary of 65,535). 0: the paper.
        lexical: weight of BM25 (k1 0.9, b 0.4, over the ids in the bank) in the score of a segment: each of
            the two, over the segments that can be recalled, is brought to mean 0 and deviation 1, and so much
            of this one is added to the learned one. Needs passages and `recall_query="previous"`.
        recency: weight of how late a segment was read, 0 for the oldest one that can be recalled to 1 for the
            newest, in the score of a segment, the learned score being standardised as for `lexical`. Of facts
            that say the same in equal words the later ones are then read again.
        hops: 2: the last of the passages is found by asking again, by BM25, with the question and the tokens
            around its words in the best passage, so that what is said of somebody in one place finds what is
            said of him in another. Needs lexical and at least 2 passages.
        recall_layer: ours: memory embedding and query are the means over the tokens of a segment of what the
            backbone's first so many layers give (and its last norm), not outputs at learned prompts. Needs
            passages, `recall_query="previous"`, `write_prompt="alone"` and one embedding per segment.
    """

    model_type = "hmt"

    summary_length: int | None = None
    sensory_length: int = 32
    memory_size: int = 300
    recall_dim: int | None = None
    recall_query: Literal["segment", "previous", "memory", "inline"] = "segment"
    recall: bool = True
    embeddings_per_segment: int = 1
    write_prompt: Literal["recall", "learned", "alone"] = "recall"
    passages: int = 0
    lexical: float = 0.0
    recency: float = 0.0
    hops: int = 1
    recall_layer: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.summary_length is None:
            self.summary_length = max(1, self.segment_length // 2)
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """ValueError also for a summary that does not fit into the segment, or sizes too small to work."""
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
        if self.passages < 0:
            raise ValueError(f"passages must not be negative, got {self.passages}")
        if self.lexical < 0:
            raise ValueError(f"lexical must not be negative, got {self.lexical}")
        if self.recency < 0:
            raise ValueError(f"recency must not be negative, got {self.recency}")
        if self.lexical and not (self.passages and self.recall_query == "previous"):
            raise ValueError(
                "lexical compares the tokens of the segment before with those in the bank: set passages "
                'to at least 1 and recall_query to "previous"'
            )
        if self.hops not in (1, 2):
            raise ValueError(f"hops must be 1 or 2, got {self.hops}")
        if self.hops == 2 and not (self.lexical and self.passages > 1):
            raise ValueError(
                "a second hop asks by BM25 for one more passage: set lexical, and passages to 2 or more"
            )
        if self.recall_layer is not None:
            if self.recall_layer < 1:
                raise ValueError(f"recall_layer must be at least 1, got {self.recall_layer}")
            asked = self.passages and self.recall_query == "previous" and self.write_prompt == "alone"
            if not asked or self.embeddings_per_segment > 1:
                raise ValueError(
                    'a recall_layer makes one embedding of a segment\'s tokens: set write_prompt="alone", '
                    'recall_query="previous", passages to at least 1 and embeddings_per_segment=1'
                )
        if self.recall_dim is not None and self.recall_dim < 1:
            raise ValueError(f"recall_dim must be at least 1, got {self.recall_dim}")
