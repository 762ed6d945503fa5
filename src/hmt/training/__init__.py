"""Training: the paper's two stages on `transformers.Trainer`.

    recipe = paper_recipe(bptt_depth=8, learning_rate=1e-5)
    result = train(model, tokenizer, documents, recipe, "run/")     # run/ is then a folder for hmt.load_model
    result = train(model, tokenizer, documents, recipe, "run/", resume=True)     # after a crash or Ctrl-C

Names are imported when they are first used, so that `import hmt.training` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hmt.util.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
