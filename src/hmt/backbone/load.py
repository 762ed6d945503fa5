"""A causal LM from a name, a folder, a file or an object, with an attention that runs here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from hmt.backbone.aligned import align
from hmt.backbone.checks import check_backbone
from hmt.backbone.on_cpu import suit_cpu
from hmt.backbone.run import body, embedding_table, run
from hmt.backbone.sources import is_here, lasting_name, locate

logger = logging.get_logger(__name__)

T = TypeVar("T")


def load_backbone(source: str | PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
    """A causal LM from what `locate` takes or a model object; ValueError when it cannot be wrapped.

    Where `kwargs` leave precision and attention open, a CPU gets what is fastest on it (`suit_cpu`). What is
    found on this machine is named (`name_or_path`) so that it is found again from any folder.

    Its weights are aligned (`hmt.backbone.aligned`), those of an object too: the same parameters, moved.
    """
    if isinstance(source, PreTrainedModel):
        if kwargs:
            raise ValueError(
                f"backbone_kwargs {sorted(kwargs)} only apply when the backbone is loaded by name"
            )
        backbone = source
    elif isinstance(source, str) or hasattr(source, "__fspath__"):
        backbone = load_with_attention(partial(AutoModelForCausalLM.from_pretrained, locate(source)), kwargs)
        suit_cpu(backbone, kwargs)
        if is_here(source):
            backbone.name_or_path = backbone.config.name_or_path = lasting_name(source)
    else:
        raise ValueError(
            "a backbone is a hub id, a folder, a GGUF file, the short name of a package or a "
            f"PreTrainedModel, not {type(source).__name__}"
        )
    check_backbone(backbone)
    _keep_weights(backbone)
    align(backbone)
    return backbone


def _keep_weights(backbone: PreTrainedModel) -> None:
    """RWKV divides weights by powers of two in eval mode, and multiplies them again in training.

    What is saved, and which weights a memory belongs to, would depend on the mode; so that is switched off.
    Without it activations of deep models can exceed float16 (not bfloat16).
    """
    if not getattr(backbone.config, "rescale_every", 0):
        return
    model: Any = body(backbone)
    if model.layers_are_rescaled:  # by a pass that was made before; one in training mode takes it back
        modes = [(module, module.training) for module in model.modules()]
        model.train()
        with torch.no_grad():
            run(backbone, embedding_table(backbone).weight[:1, None])
        for module, training in modes:
            module.training = training
    backbone.config.rescale_every = 0


def load_tokenizer(path: Any, base: str | None = None) -> Any:
    """The tokenizer of `path`, or else of the backbone `base`, each as in `locate`.

    ValueError when there is none.
    """
    if path:
        locate(path)  # what is wrong with a name says more than that there is no tokenizer
    for place in filter(None, (path, base)):
        try:
            return AutoTokenizer.from_pretrained(locate(place))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise ValueError(
        f"{path} has no tokenizer that can be loaded; save the backbone's there with "
        f"tokenizer.save_pretrained({str(path)!r})"
    )


def tokenizer_of(model: Any) -> Any:
    """The tokenizer of a model with memory: that of its folder, or else of its backbone. ValueError: none."""
    config = model.config
    return load_tokenizer(config.name_or_path, getattr(config, "base_model_name_or_path", None))


def load_with_attention(load: Callable[..., T], kwargs: dict) -> T:
    """`load(**kwargs)`; with "sdpa" or "eager", and a warning, where its `attn_implementation` cannot run.

    That is one which is not installed, or which the family does not have. A name that transformers does not
    know, and any error that stays with another attention, is raised as it came.
    """
    asked = kwargs.get("attn_implementation")
    try:
        return load(**kwargs)
    except (ImportError, OSError, ValueError) as error:
        kernel = isinstance(asked, str) and "/" in asked  # fetched from the hub, and that can fail too
        if not kernel and (isinstance(error, OSError) or asked not in list(AttentionInterface())):
            raise
        for other in ("eager",) if asked == "sdpa" else ("sdpa", "eager"):
            try:
                loaded = load(**kwargs | {"attn_implementation": other})
            except (ImportError, OSError, ValueError):
                continue
            logger.warning_once(
                f"attn_implementation={asked!r} cannot be used, {other!r} is instead: {error}"
            )
            return loaded
        raise
