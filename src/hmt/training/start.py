"""From names to what `train` takes: a model, its tokenizer, and text. What `hmt train` begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hmt.training.recipe import Recipe

# system -> class, and what its config calls the sizes of the command line
_SYSTEMS: dict[str, tuple[str, dict[str, str]]] = {
    "hmt": ("HMTForCausalLM", {}),
    "rmt": ("RMTForCausalLM", {"memory_size": "num_memory_tokens"}),
    "window": ("WindowForCausalLM", {"sensory_length": "window_length"}),
}


def open_for_training(
    source: str, recipe: Recipe, system: str | None, fields: dict[str, Any], attn: str | None = None
) -> Any:
    """A model with memory: the one in `source`, or a new one around the backbone in `source`.

    Args:
        system: "hmt" (also for None), "rmt" or "window"; only for a new model.
        fields: fields of its config; entries that are None are left out.
        attn: the backbone's attention ("sdpa", "eager", "flash_attention_2", ...); None: its own choice.

    Weights are loaded in float32, and in their own precision where they stay frozen and `recipe.bf16` allows
    it. ValueError for fields that the system does not have, or that would be those of a model that exists
    already.
    """
    from transformers import AutoConfig, set_seed

    import hmt
    from hmt.systems import of_type, register

    register()
    fields = {name: value for name, value in fields.items() if value is not None}
    options: dict[str, Any] = {} if attn is None else {"attn_implementation": attn}
    options["dtype"] = "auto" if recipe.bf16 and recipe.tuning != "full" else torch.float32
    if Path(source).is_dir():
        source = str(Path(source).resolve())  # an adapter-only checkpoint will refer to it, from anywhere
    try:
        if of_type(AutoConfig.from_pretrained(source).model_type):
            given = sorted([*fields, *(["system"] if system else [])])
            if given:
                wrong = ", ".join("--" + name.replace("_", "-") for name in given)
                raise ValueError(f"{source} has a memory already: {wrong} cannot change it; leave them out")
            return hmt.load_model(source, **options)
        name, names = _SYSTEMS[system or "hmt"]
        cls = getattr(hmt, name)
        fields = {names.get(field, field): value for field, value in fields.items()}
        known = {field.name for field in cls.config_class.__dataclass_fields__.values()}
        if unknown := sorted(fields.keys() - known):
            wrong = ", ".join("--" + field.replace("_", "-") for field in unknown)
            raise ValueError(f"the system {system or 'hmt'!r} has no {wrong}")
        set_seed(recipe.seed)
        return cls.from_backbone(source, backbone_kwargs=options, **fields)
    except OSError as error:
        raise ValueError(f"{source} cannot be loaded as a causal LM: {str(error).splitlines()[0]}") from error


def load_text(source: Any, tokenizer, interleave: int = 0, dilate: int = 0, **options) -> Any:
    """Tokenized documents; see `hmt.data.load_documents` for `source` and `options`.

    Args:
        interleave: mix pairs of documents, so many tokens of each in turn; 0 leaves them alone (paper, App.
            H).
        dilate: insert so many "$" after every so many tokens; 0 inserts none.
    """
    from hmt.data import dilate_documents, interleave_documents, load_documents, tokenize_documents

    documents = load_documents(source, **options)
    tokenized = tokenize_documents(documents, tokenizer, append_eos=tokenizer.eos_token_id is not None)
    if interleave:
        tokenized = interleave_documents(tokenized, interleave)
    if dilate:
        filler = tokenizer("$", add_special_tokens=False).input_ids
        tokenized = dilate_documents(tokenized, dilate, filler[-1], dilate)
    return tokenized
