"""Documents to segments: loading, tokenizing, cutting samples, and what training and evaluation need beside.

    documents = load_documents("books/")
    tokenized = tokenize_documents(documents, tokenizer)
    samples = cut_samples(tokenized, segment_length=512, num_segments=8)
    collator = SegmentCollator(tokenizer.pad_token_id, segment_length=512, recall_targets="ngram")

Nothing here knows a model. Names are imported when they are first used, so that `import hmt.data` costs
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hmt.util.lazy import lazy_names

if TYPE_CHECKING:
    from hmt.data.cache import cache_directory as cache_directory
    from hmt.data.collate import SegmentCollator as SegmentCollator
    from hmt.data.documents import load_documents as load_documents
    from hmt.data.documents import read_text as read_text
    from hmt.data.key_value import KeyValueDataset as KeyValueDataset
    from hmt.data.key_value import KeyValueTask as KeyValueTask
    from hmt.data.recall_targets import ngram_recall_targets as ngram_recall_targets
    from hmt.data.recitation import RecitedSamples as RecitedSamples
    from hmt.data.samples import SegmentSamples as SegmentSamples
    from hmt.data.samples import cut_samples as cut_samples
    from hmt.data.samples import dilate as dilate
    from hmt.data.samples import dilate_documents as dilate_documents
    from hmt.data.samples import interleave as interleave
    from hmt.data.samples import interleave_documents as interleave_documents
    from hmt.data.tokens import check_ids as check_ids
    from hmt.data.tokens import tokenize_documents as tokenize_documents

_MODULE_OF = {
    "RecitedSamples": "recitation",
    "SegmentCollator": "collate",
    "KeyValueDataset": "key_value",
    "KeyValueTask": "key_value",
    "SegmentSamples": "samples",
    "cache_directory": "cache",
    "check_ids": "tokens",
    "cut_samples": "samples",
    "dilate": "samples",
    "dilate_documents": "samples",
    "interleave": "samples",
    "interleave_documents": "samples",
    "load_documents": "documents",
    "ngram_recall_targets": "recall_targets",
    "read_text": "documents",
    "tokenize_documents": "tokens",
}
__all__ = sorted(_MODULE_OF)
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
