"""Measuring memory: perplexity against history, recall of hidden facts, bytes carried, and the report on all
of it.

    result = history_perplexity({"HMT": model, "window": baseline}, documents, histories=(0, 1, 4, 16))
    result.perplexity("HMT", 16), result.paired("HMT", "window", 16)
    write_report({"title": "Books", "perplexity": result}, "report.html")

Names are imported when they are first used, so that `import hmt.evaluation` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hmt.lazy import lazy_names

if TYPE_CHECKING:
    from hmt.evaluation.memory_use import MemoryUse as MemoryUse
    from hmt.evaluation.memory_use import measure_memory as measure_memory
    from hmt.evaluation.perplexity import history_perplexity as history_perplexity
    from hmt.evaluation.recall_task import RecallResult as RecallResult
    from hmt.evaluation.recall_task import recall_accuracy as recall_accuracy
    from hmt.evaluation.recall_weights import recall_map as recall_map
    from hmt.evaluation.report import write_report as write_report
    from hmt.evaluation.results import HistoryResult as HistoryResult

_MODULE_OF = {
    "HistoryResult": "results",
    "MemoryUse": "memory_use",
    "RecallResult": "recall_task",
    "history_perplexity": "perplexity",
    "measure_memory": "memory_use",
    "recall_accuracy": "recall_task",
    "recall_map": "recall_weights",
    "write_report": "report",
}
__all__ = sorted(_MODULE_OF)
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
