"""The configuration that every segment-memory system shares."""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

import difflib
import math
from dataclasses import MISSING, fields
from typing import ClassVar, Literal, TypeVar

from huggingface_hub import dataclasses as hub
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, PreTrainedConfig

# Names that transformers itself hands to a config beside its fields (file headers, loading options).
_HOUSEKEEPING = {
    "model_type", "transformers_version", "name_or_path", "_name_or_path", "_commit_hash", "torch_dtype",
    "attn_implementation", "_attn_implementation_internal", "_experts_implementation_internal", "auto_map",
    "output_attentions", "num_labels", "tie_word_embeddings", "use_cache", "experts_implementation",
}  # fmt: skip
# What some families do to their logits after the head.
AFTER_THE_HEAD = ("logit_scale", "logits_scaling", "final_logit_softcapping")

C = TypeVar("C")


class FieldError(StrictDataclassFieldValidationError, ValueError):
    """A field of the wrong type. A ValueError too, as everything else that a user can get wrong."""


def strict(cls: type[C]) -> type[C]:
    """`huggingface_hub.dataclasses.strict`: fields are checked whenever they are set. Raises `FieldError`."""
    cls = hub.strict(cls)
    checked = cls.__setattr__

    def set_field(self, name, value):
        try:
            checked(self, name, value)
        except FieldError:
            raise
        except StrictDataclassFieldValidationError as error:
            cause = error.__cause__
            raise FieldError(name, cause if isinstance(cause, Exception) else error) from None

    cls.__setattr__ = set_field  # type: ignore[method-assign]
    return cls


def _implementations(config: PreTrainedConfig, setting: str) -> dict:
    """A setting of a config ("") and of those inside of it, in the form that transformers sets them from."""
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    inside = {name: _implementations(part, setting) for name, part in parts.items() if part is not None}
    return {"": getattr(config, setting, None), **inside}


@strict
class MemoryConfig(PreTrainedConfig):
    """Fields common to all systems. ValueError for unknown names, wrong types and values that cannot work.

    Args:
        text_config: configuration of the backbone (a `PreTrainedConfig` or its dict).
        segment_length: number of *new* tokens read per step (L); memory and sensory tokens come on top.
        memory_scale: memory vectors are multiplied by this when they are fed to the backbone. 1.0 is the
            published methods; "embedding" becomes, in `from_backbone`, the number that brings them to the
            size of token embeddings.
        base_model_name_or_path: where the backbone came from; needed for adapter-only checkpoints.
        base_model_revision: revision of that repository.
        base_model_fingerprint: of the backbone's weights there (`hmt.backbone.Fingerprint`).
        adapter_only: True in a checkpoint that holds only what was trained beside a frozen or LoRA backbone.
        lora: of the adapters in the backbone, arguments of peft's LoraConfig; None where there are none.
    """

    model_type = "segment_memory"
    sub_configs = {"text_config": AutoConfig}
    option_names: ClassVar[dict[str, str]] = {}  # further names of fields for `hmt train`: name -> field
    #: Fields that follow from the backbone and from how it is kept, and are nobody's choice.
    of_the_backbone: ClassVar[tuple[str, ...]] = (
        "text_config",
        "base_model_name_or_path",
        "base_model_revision",
        "base_model_fingerprint",
        "adapter_only",
        "lora",
    )

    text_config: dict | PreTrainedConfig | None = None
    segment_length: int = 512
    memory_scale: float | int | Literal["embedding"] = 1.0
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    base_model_fingerprint: str | None = None
    adapter_only: bool = False
    lora: dict | None = None

    def __post_init__(self, **kwargs):
        known = {field.name for field in fields(self)}
        unknown = [name for name in kwargs if name not in known | _HOUSEKEEPING]
        if unknown:
            hints = [difflib.get_close_matches(name, known, 1) for name in unknown]
            text = ", ".join(
                f"{n!r}" + (f" (did you mean {h[0]!r}?)" if h else "")
                for n, h in zip(unknown, hints, strict=True)
            )
            raise ValueError(f"{type(self).__name__} has no field {text}")
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        elif isinstance(self.text_config, dict):
            values = dict(self.text_config)
            if "model_type" not in values:
                raise ValueError("text_config needs a 'model_type' (for instance 'llama')")
            self.text_config = AutoConfig.for_model(values.pop("model_type"), **values)
        # Tying is decided by the backbone; the wrapper only repeats it for transformers' own bookkeeping.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        # transformers hands these two settings down to sub-configs, None included: a living backbone whose
        # attention implementation is reset to None runs without a causal mask, and nothing says so.
        settings = ("attn_implementation", "experts_implementation")
        found = {name: _implementations(self.text_config, f"_{name}") for name in settings}
        super().__post_init__(**kwargs)
        for name, backbone in found.items():
            own = kwargs.get(name) or {"": backbone[""], "text_config": backbone}
            setattr(self, f"_{name}", own)
        self.check()

    def check(self) -> None:
        """Raise ValueError for values that cannot work. Systems extend this."""
        if self.segment_length < 1:
            raise ValueError(f"segment_length must be at least 1, got {self.segment_length}")
        if self.memory_scale != "embedding" and not 0 < self.memory_scale < math.inf:
            raise ValueError(f"memory_scale must be a number above 0, got {self.memory_scale}")

    def __getattr__(self, name: str):
        # Stock code that makes logits of hidden states looks here for what follows the head.
        backbone = self.__dict__.get("text_config")
        if name in AFTER_THE_HEAD and isinstance(backbone, PreTrainedConfig):
            return getattr(backbone.get_text_config(), name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def vocab_size(self) -> int:
        """Vocabulary of the backbone (read by `generate` and by the loss)."""
        assert isinstance(self.text_config, PreTrainedConfig)
        return self.text_config.get_text_config().vocab_size

    @classmethod
    def defaults(cls) -> dict:
        """Field -> default, of fields that have one."""
        return {f.name: f.default for f in fields(cls) if f.default is not MISSING}

    def memory_fields(self) -> dict:
        """The fields that decide how text becomes memory, as stored in a memory file."""
        inherited = {field.name for field in fields(PreTrainedConfig)}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in inherited}
        for name in self.of_the_backbone:
            own.pop(name)
        return own
