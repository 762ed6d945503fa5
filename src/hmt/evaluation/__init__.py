"""Measuring memory: readers do tasks, and a page shows what came of it.

    readers = rows_at(model, [2**16, 2**18], tokenizer, ("sensory", "window", "bm25", "full"))
    tasks = [make_task("text", source="books/"), make_task("passkey", lengths=(4, 64))]
    evaluate(readers, tasks, Setting(tokenizer, segment_length=512), "results")
    write_runs(load_runs("results"), "report.html")

The names are those of `__init__.pyi`, imported when they are first used, so that `import hmt.evaluation`
costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
