"""Measuring memory: perplexity against history, recall of hidden facts, bytes carried, and the report on all
of it.

    result = history_perplexity({"HMT": model, "window": baseline}, documents, histories=(0, 1, 4, 16))
    result.perplexity("HMT", 16), result.paired("HMT", "window", 16)
    write_report({"title": "Books", "perplexity": result}, "report.html")

    readers = rows_at(model, [2**16, 2**18], tokenizer, ("sensory", "window", "bm25", "full"))
    evaluate(readers, [make_task("passkey", lengths=(4, 64))], Setting(tokenizer, 64), Path("results"))

Names are imported when they are first used, so that `import hmt.evaluation` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hmt.util.lazy import lazy_names

if TYPE_CHECKING:
    from hmt.evaluation.memory_use import MemoryUse as MemoryUse
    from hmt.evaluation.memory_use import measure_memory as measure_memory
    from hmt.evaluation.perplexity import history_perplexity as history_perplexity
    from hmt.evaluation.readers.base import Reader as Reader
    from hmt.evaluation.readers.budget import rows_at as rows_at
    from hmt.evaluation.readers.memory import MemoryReader as MemoryReader
    from hmt.evaluation.recall_task import RecallResult as RecallResult
    from hmt.evaluation.recall_task import recall_accuracy as recall_accuracy
    from hmt.evaluation.recall_weights import recall_map as recall_map
    from hmt.evaluation.report import write_report as write_report
    from hmt.evaluation.report import write_runs as write_runs
    from hmt.evaluation.results import HistoryResult as HistoryResult
    from hmt.evaluation.run import evaluate as evaluate
    from hmt.evaluation.tasks import make_task as make_task
    from hmt.evaluation.tasks.base import AnswerTask as AnswerTask
    from hmt.evaluation.tasks.base import Item as Item
    from hmt.evaluation.tasks.base import Metric as Metric
    from hmt.evaluation.tasks.base import Setting as Setting
    from hmt.evaluation.tasks.base import Task as Task

_MODULE_OF = {
    "AnswerTask": "tasks.base",
    "HistoryResult": "results",
    "Item": "tasks.base",
    "MemoryReader": "readers.memory",
    "MemoryUse": "memory_use",
    "Metric": "tasks.base",
    "Reader": "readers.base",
    "RecallResult": "recall_task",
    "Setting": "tasks.base",
    "Task": "tasks.base",
    "evaluate": "run",
    "history_perplexity": "perplexity",
    "make_task": "tasks",
    "measure_memory": "memory_use",
    "recall_accuracy": "recall_task",
    "recall_map": "recall_weights",
    "rows_at": "readers.budget",
    "write_report": "report",
    "write_runs": "report",
}
__all__ = sorted(_MODULE_OF)
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
