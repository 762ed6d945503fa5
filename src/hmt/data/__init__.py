"""Documents to segments: loading, tokenizing, cutting samples, and what training and evaluation need beside.

    documents = load_documents("books/")
    tokenized = tokenize_documents(documents, tokenizer)
    samples = cut_samples(tokenized, segment_length=512, num_segments=8)
    collator = SegmentCollator(tokenizer.pad_token_id, segment_length=512, recall_targets="ngram")

Nothing here knows a model. The names are those of `__init__.pyi`, imported when they are first used, so that
`import hmt.data` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
