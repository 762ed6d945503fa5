"""From names to what `train` takes: a model, its tokenizer, and text. What `hmt train` begins with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hmt.training.recipe import Recipe

DEFAULT_SYSTEM = __name__.partition(".")[0]  # the system that the library is named after
# `MemoryConfig.of_the_backbone`, for a command line that waits for no import.
OF_THE_BACKBONE = (
    "text_config",
    "base_model_name_or_path",
    "base_model_revision",
    "base_model_fingerprint",
    "adapter_only",
    "lora",
)


def open_for_training(
    source: str, recipe: Recipe, system: str | None, fields: dict[str, Any], attn: str | None = None
) -> Any:
    """A model with memory: the one in `source`, or a new one around the backbone in `source`.

    Args:
        source: as in `hmt.backbone.locate`.
        system: one of `hmt.systems.names()`, None for `DEFAULT_SYSTEM`; only for a new model.
        fields: fields of its config, also by the names in the config's `option_names`; entries that are None
            are left out.
        attn: the backbone's attention in transformers: "sdpa", "eager" (take it in bf16 on a CPU),
            "flash_attention_2", ...; None: its own choice.

    Weights are loaded in float32, and in their own precision where they stay frozen and `recipe.bf16` allows
    it. ValueError for fields that the system does not have, or that would be those of a model that exists
    already.
    """
    import torch
    from transformers import AutoConfig, set_seed

    from hmt.backbone import locate
    from hmt.systems import get, load_model, of_type, register

    register()
    fields = {name: value for name, value in fields.items() if value is not None}
    options: dict[str, Any] = {} if attn is None else {"attn_implementation": attn}
    options["dtype"] = "auto" if recipe.bf16 and recipe.tuning != "full" else torch.float32
    try:
        if of_type(AutoConfig.from_pretrained(locate(source)).model_type):
            if given := sorted([*fields, *(["system"] if system else [])]):
                raise ValueError(
                    f"{source} has a memory already: {_listed(given)} cannot change it; leave them out"
                )
            return load_model(source, **options)
        cls = get(system or DEFAULT_SYSTEM).model
        names = cls.config_class.option_names
        fields = {names.get(field, field): value for field, value in fields.items()}
        if unknown := sorted(fields.keys() - cls.config_class.__dataclass_fields__.keys()):
            raise ValueError(f"the system {system or DEFAULT_SYSTEM!r} has no {_listed(unknown)}")
        set_seed(recipe.seed)
        return cls.from_backbone(source, backbone_kwargs=options, **fields)
    except OSError as error:
        raise ValueError(f"{source} cannot be loaded as a causal LM: {str(error).splitlines()[0]}") from error


def read_recipe(path: Any) -> tuple[Recipe, str | None, dict[str, Any]]:
    """Recipe, system and fields of its configuration, from a file of `hmt train --recipe`.

    A JSON object of `recipe` (as `Recipe.save` writes it), and, for a new model, `system` and `fields`;
    `about` is for people. ValueError for anything else; whether the system has those fields is for
    `open_for_training` to say.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"the recipe {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"the recipe {path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
        raise ValueError(
            f"{path} is no recipe: it is a JSON object with recipe, and for a new model system and fields"
        )
    if unknown := sorted(found.keys() - {"recipe", "system", "fields", "about"}):
        raise ValueError(f"the recipe {path} has {unknown[0]!r}; it takes recipe, system, fields and about")
    system, fields = found.get("system"), found.get("fields", {})
    if not isinstance(fields, dict) or not isinstance(system, str | None):
        raise ValueError(f"the recipe {path}: system is a name, and fields an object of names and values")
    try:
        return Recipe.from_dict(found["recipe"]), system, fields
    except ValueError as error:
        raise ValueError(f"the recipe {path}: {error}") from error


def _listed(fields: list[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in fields)


def load_text(source: Any, tokenizer, interleave: int = 0, dilate: int = 0, **options) -> Any:
    """Tokenized documents; see `hmt.data.load_documents` for `source` and `options`.

    Args:
        interleave: mix pairs of documents, so many tokens of each in turn; 0 leaves them alone (paper,
            App. H).
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
