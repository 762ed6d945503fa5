"""Training: the paper's two stages on `transformers.Trainer`.

    recipe = paper_recipe(bptt_depth=8, learning_rate=1e-5)
    result = train(model, tokenizer, documents, recipe, "run/")     # run/ is then a folder for hmt.load_model
    result = train(model, tokenizer, documents, recipe, "run/", resume=True)     # after a crash or Ctrl-C

Names are imported when they are first used, so that `import hmt.training` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hmt.training.recipe import Recipe as Recipe
    from hmt.training.recipe import Stage as Stage
    from hmt.training.recipe import paper_recipe as paper_recipe
    from hmt.training.run import TrainingResult as TrainingResult
    from hmt.training.run import train as train
    from hmt.training.stops import TrainingDiverged as TrainingDiverged
    from hmt.training.stops import TrainingStopped as TrainingStopped
    from hmt.training.trainer import MemoryTrainer as MemoryTrainer

_MODULE_OF = {
    "MemoryTrainer": "trainer",
    "Recipe": "recipe",
    "Stage": "recipe",
    "TrainingDiverged": "stops",
    "TrainingResult": "run",
    "TrainingStopped": "stops",
    "paper_recipe": "recipe",
    "train": "run",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hmt.training' has no attribute '{name}'")
    return getattr(importlib.import_module(f"hmt.training.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
