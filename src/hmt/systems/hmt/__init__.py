"""Hierarchical Memory Transformer."""

from hmt.systems.registry import System

_SMALL = {"summary_length": 3, "sensory_length": 2, "memory_size": 3, "recall_dim": 16}

SYSTEM = System(
    name="hmt",
    config_class="HMTConfig",
    model_class="HMTForCausalLM",
    title="Hierarchical Memory Transformer",
    paper="He et al., NAACL 2025, arXiv 2405.06067",
    examples={
        "segment": _SMALL,
        "previous": _SMALL | {"recall_query": "previous", "memory_scale": 0.7},
        "memory": _SMALL | {"recall_query": "memory"},
        "inline": _SMALL | {"recall_query": "inline", "memory_scale": 0.7},
        "segment-3": _SMALL | {"embeddings_per_segment": 3},
        "memory-2": _SMALL | {"recall_query": "memory", "embeddings_per_segment": 2},
        "inline-2": _SMALL | {"recall_query": "inline", "embeddings_per_segment": 2},
        "segment-write": _SMALL | {"write_prompt": "learned", "embeddings_per_segment": 2},
        "inline-write": _SMALL | {"recall_query": "inline", "write_prompt": "learned"},
        "alone": _SMALL | {"write_prompt": "alone", "embeddings_per_segment": 2},
        "segment-passages": _SMALL | {"passages": 2},
        "memory-passages": _SMALL | {"recall_query": "memory", "passages": 1},
        "inline-passages": _SMALL | {"recall_query": "inline", "write_prompt": "learned", "passages": 2},
        "asked": _SMALL
        | {"recall_query": "previous", "write_prompt": "alone", "passages": 2, "lexical": 0.3},
        "asked-twice": _SMALL
        | {"recall_query": "previous", "write_prompt": "alone", "passages": 2, "lexical": 1.0, "hops": 2},
        "asked-mean": _SMALL
        | {
            "recall_query": "previous",
            "write_prompt": "alone",
            "passages": 2,
            "lexical": 2.0,
            "recall_layer": 1,
            "recency": 0.5,
        },
        "norecall": _SMALL | {"recall": False},
    },
    bench={query: {"recall_query": query} for query in ("segment", "previous", "memory", "inline")},
)
