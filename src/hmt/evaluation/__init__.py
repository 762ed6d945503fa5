"""Measuring memory: readers do tasks, and a page shows what came of it.

    readers = rows_at(model, [2**16, 2**18], tokenizer, ("sensory", "window", "bm25", "full"))
    tasks = [make_task("text", source="books/"), make_task("passkey", lengths=(4, 64))]
    evaluate(readers, tasks, Setting(tokenizer, segment_length=512), "results")
    write_runs(load_runs("results"), "report.html")

Names are imported when they are first used, so that `import hmt.evaluation` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hmt.util.lazy import lazy_names

if TYPE_CHECKING:
    from hmt.evaluation.readers.base import Reader as Reader
    from hmt.evaluation.readers.budget import rows_at as rows_at
    from hmt.evaluation.readers.memory import MemoryReader as MemoryReader
    from hmt.evaluation.recall_weights import recall_map as recall_map
    from hmt.evaluation.report import load_runs as load_runs
    from hmt.evaluation.report import write_runs as write_runs
    from hmt.evaluation.run import evaluate as evaluate
    from hmt.evaluation.tasks import make_task as make_task
    from hmt.evaluation.tasks.base import AnswerTask as AnswerTask
    from hmt.evaluation.tasks.base import Item as Item
    from hmt.evaluation.tasks.base import Metric as Metric
    from hmt.evaluation.tasks.base import Setting as Setting
    from hmt.evaluation.tasks.base import Task as Task

_MODULE_OF = {
    "AnswerTask": "tasks.base",
    "Item": "tasks.base",
    "MemoryReader": "readers.memory",
    "Metric": "tasks.base",
    "Reader": "readers.base",
    "Setting": "tasks.base",
    "Task": "tasks.base",
    "evaluate": "run",
    "load_runs": "report",
    "make_task": "tasks",
    "recall_map": "recall_weights",
    "rows_at": "readers.budget",
    "write_runs": "report",
}
__all__ = sorted(_MODULE_OF)
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
