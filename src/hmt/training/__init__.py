"""Training: the paper's two stages on `transformers.Trainer`.

    recipe = paper_recipe(bptt_depth=8, learning_rate=1e-5)
    result = train(model, tokenizer, documents, recipe, "run/")     # run/ is then a folder for hmt.load_model
    result = train(model, tokenizer, documents, recipe, "run/", resume=True)     # after a crash or Ctrl-C

The names are those of `__init__.pyi`, imported when they are first used, so that `import hmt.training` costs
nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
