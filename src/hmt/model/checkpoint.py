"""A model around a backbone: building it, saving it and loading it.

A checkpoint holds the whole model, or only what was trained beside a frozen or LoRA-tuned backbone.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import cached_file
from typing_extensions import Self

from hmt import backbone as bb
from hmt.config import MemoryConfig
from hmt.model.losses import token_loss
from hmt.model.streaming import StreamingLM
from hmt.util.files import write_atomically

MEMORY_WEIGHTS = "memory.safetensors"
ADAPTER_FOLDER = "adapter"
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class BackboneWrapper(StreamingLM):
    """A model with memory around a Hugging Face one. A subclass defines `initial_state` and `step`.

    `BackboneMemory` makes `step`, and decoding on a cache, from what stands in a segment.
    """

    config_class: type[MemoryConfig] = MemoryConfig
    config: Any
    backbone: PreTrainedModel
    base_model_prefix = "backbone"

    def __init__(self, config: MemoryConfig, backbone: PreTrainedModel | None = None):
        if config.memory_scale == "embedding":
            if backbone is None:
                raise ValueError('memory_scale="embedding" is measured: build with from_backbone')
            config.memory_scale = bb.input_scale(backbone)
        super().__init__(config)
        if backbone is None:
            backbone = AutoModelForCausalLM.from_config(config.text_config)
            bb.check_backbone(backbone)
        else:
            parts: list[Any] = [*backbone.modules(), *backbone.parameters()]
            for part in parts:
                part._is_hf_initialized = True  # post_init must not initialise trained weights again
        self.backbone = backbone
        self.compiled = None  # see `BackboneMemory.compile_steps`
        self.add_modules(bb.embedding_table(backbone).embedding_dim)
        self.post_init()
        self._init_containers()

    @torch.no_grad()
    def _init_containers(self) -> None:
        """`_init_weights` of modules that hold others and no parameter of their own.

        transformers passes over these in classes that are not its own, without a word.
        """
        for module in self.memory_modules().values():
            for part in module.modules():
                own = list(part.parameters(recurse=False))
                if not own and not any(p.is_meta for p in part.parameters()):
                    self._init_weights(part)

    # -- what a system defines ------------------------------------------------------------------------------

    def add_modules(self, width: int) -> None:
        """Create the system's own modules; `width` is d, the width of embeddings and memory vectors."""

    def check_backbone(self) -> None:
        """ValueError, with the reason, for a backbone that the system cannot work in."""

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Systems with modules of other kinds extend this."""
        if isinstance(module, bb.Vectors):
            init.normal_(module.weight, 0.0, getattr(self.config.text_config, "initializer_range", 0.02))

    def positions_around(self) -> int:
        """Positions that a segment takes beside its new tokens, at most."""
        return 0

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of the backbone's outputs [..., d]."""
        return bb.head(self.backbone, hidden)

    def token_loss(self, hidden: Tensor, goal: Tensor, count: Tensor | int) -> Tensor:
        """As `StreamingLM.token_loss`, never with all logits at once."""
        return token_loss(self.backbone, hidden, goal, count, self.loss_function)

    @property
    def input_device(self) -> torch.device:
        """Where token ids are looked up."""
        return bb.embedding_table(self.backbone).weight.device

    # -- construction -------------------------------------------------------------------------------------

    @classmethod
    def from_backbone(cls, source: Any, *, backbone_kwargs: dict | None = None, **fields: Any) -> Self:
        """Give a causal LM a (still untrained) memory.

        Args:
            source: hub id, folder, or a loaded `PreTrainedModel` (which is wrapped, not copied).
            backbone_kwargs: passed to `AutoModelForCausalLM.from_pretrained` (dtype, device_map, revision,
                ...).
            fields: fields of the system's config, such as `segment_length`.
        ValueError for a backbone that cannot be wrapped, by this system or by any, and for wrong fields.
        """
        backbone = bb.load_backbone(source, **(backbone_kwargs or {}))
        bb.check_head(backbone)
        name = backbone.name_or_path or (str(source) if not isinstance(source, PreTrainedModel) else "")
        fields.setdefault("base_model_name_or_path", name or None)
        fields.setdefault("base_model_revision", (backbone_kwargs or {}).get("revision"))
        config = cls.config_class(text_config=backbone.config, **fields)
        model = cls(config, backbone=backbone)
        model.check_backbone()
        bb.check_causal(backbone)  # only now: its config has become part of another
        model.match_backbone()
        model.start_vectors(bb.embedding_table(backbone).weight)
        model.generation_config = backbone.generation_config
        model.config.dtype = backbone.dtype
        model.training = backbone.training  # the backbone's own modules keep their modes
        for module in model.memory_modules().values():
            module.train(backbone.training)
        bb.check_length(backbone, config.segment_length, model.positions_around())
        return model

    def match_backbone(self) -> None:
        """Bring the system's own modules to the device and precision of the embeddings."""
        like = bb.embedding_table(self.backbone).weight
        for module in self.memory_modules().values():
            module.to(device=like.device, dtype=like.dtype if like.is_floating_point() else None)

    @torch.no_grad()
    def start_vectors(self, embeddings: Tensor) -> None:
        """Start learned vectors at the scale of token embeddings [V, d]: ordinary inputs at first."""
        std = embeddings.float().std().item()
        for module in self.modules():
            if isinstance(module, bb.Vectors):
                module.weight.normal_(0.0, std)

    def memory_modules(self) -> dict[str, torch.nn.Module]:
        """The modules that the system adds to the backbone."""
        return {name: module for name, module in self.named_children() if name != "backbone"}

    def get_input_embeddings(self) -> Any:
        """The backbone's token embeddings, weight [V, d]."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the token embeddings of the backbone."""
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """The backbone's head, without what some families apply after it; see `head`."""
        return self.backbone.get_output_embeddings()

    def set_output_embeddings(self, value: Any) -> None:
        """Replace the head of the backbone."""
        self.backbone.set_output_embeddings(value)

    # -- checkpoints --------------------------------------------------------------------------------------

    def has_lora(self) -> bool:
        """Whether the backbone holds adapters (`add_lora`, or those of a checkpoint)."""
        return bool(getattr(self.backbone, "_hf_peft_config_loaded", False))

    def backbone_is_frozen(self) -> bool:
        """Whether the backbone's own weights stay: it has adapters, or nothing in it requires gradients."""
        return self.has_lora() or not any(p.requires_grad for p in self.backbone.parameters())

    def add_lora(
        self, *, r: int = 8, alpha: int = 32, dropout: float = 0.1, target_modules: Any = None
    ) -> None:
        """Freeze the backbone and put LoRA adapters into it (the paper: r = 8); the memory stays trainable.

        target_modules: as in peft's LoraConfig; None takes peft's defaults for the model type, or every
            linear layer where peft knows none.
        """
        from peft import LoraConfig
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

        if target_modules is None:
            target_modules = KNOWN.get(self.backbone.config.model_type, "all-linear")
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules)
        self.backbone.requires_grad_(False)
        self.backbone.add_adapter(config)

    def freeze_backbone(self) -> None:
        """Train only what the system adds."""
        self.backbone.requires_grad_(False)

    def save_pretrained(
        self, save_directory: Any, *args: Any, adapter_only: bool | None = None, **kwargs: Any
    ) -> None:
        """Save to a folder.

        adapter_only: save the memory modules and LoRA adapters without the backbone, and refer to it by name.
            None does so when the backbone is frozen or LoRA-tuned and came from a named place.
        ValueError for an adapter without the name of its backbone, and for LoRA weights in a whole model.
        """
        base = self.config.base_model_name_or_path
        if adapter_only is None:
            adapter_only = self.backbone_is_frozen() and bool(base)
        if adapter_only and not base:
            raise ValueError(
                "an adapter-only checkpoint must name its backbone: save the backbone with "
                "`backbone.save_pretrained(folder)` and build the model with `from_backbone(folder)`"
            )
        if not adapter_only and self.has_lora():
            raise ValueError(
                "LoRA weights are saved beside a named backbone: pass `base_model_name_or_path=` to "
                "from_backbone, "
                "or merge the adapters into the backbone first"
            )
        if not adapter_only:
            self.config.adapter_only = False
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = kwargs.get("state_dict") or self.state_dict()
        tensors = {n: t for n, t in state.items() if not n.startswith("backbone.")}
        tensors = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        write_atomically(folder / MEMORY_WEIGHTS, save(tensors, {"format": "pt"}))
        if self.has_lora():
            self.backbone.save_pretrained(folder / ADAPTER_FOLDER)
        config = copy.deepcopy(self.config)
        config.adapter_only = True
        config.architectures = [type(self).__name__]
        config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Load what `save_pretrained` wrote; an adapter-only checkpoint fetches its backbone by name.

        ValueError where that backbone cannot be loaded, or what was trained beside it does not fit.
        """
        hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        known = config
        if known is None and pretrained_model_name_or_path is not None:
            known = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        if not getattr(known, "adapter_only", False):
            load = partial(super().from_pretrained, pretrained_model_name_or_path, *args, config=config)
            loaded = bb.load_with_attention(load, kwargs)
            bb.align(loaded[0] if isinstance(loaded, tuple) else loaded)  # with output_loading_info a pair
            return loaded
        options = {k: v for k, v in kwargs.items() if k not in (*_HUB_OPTIONS, "output_loading_info")}
        if known.base_model_revision:
            options["revision"] = known.base_model_revision
        try:
            backbone = bb.load_backbone(known.base_model_name_or_path, **options)
        except OSError as error:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds only the memory; its backbone "
                f"{known.base_model_name_or_path!r} could not be loaded: {error}"
            ) from error
        adapter = Path(str(pretrained_model_name_or_path)) / ADAPTER_FOLDER
        if adapter.is_dir():
            backbone.load_adapter(str(adapter))
        elif not Path(str(pretrained_model_name_or_path)).exists():  # a hub repository
            file = cached_file(
                pretrained_model_name_or_path,
                f"{ADAPTER_FOLDER}/adapter_config.json",
                _raise_exceptions_for_missing_entries=False,
                **hub,
            )
            if file is not None:
                backbone.load_adapter(
                    pretrained_model_name_or_path, adapter_kwargs={"subfolder": ADAPTER_FOLDER, **hub}
                )
        backbone.requires_grad_(False)
        model = cls(known, backbone=backbone)
        model.load_memory_weights(cached_file(pretrained_model_name_or_path, MEMORY_WEIGHTS, **hub))
        try:
            model.generation_config = GenerationConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        except OSError:  # a folder without one
            model.generation_config = backbone.generation_config
        model.config.name_or_path = str(pretrained_model_name_or_path)
        bb.align(model)  # the adapter's weights; those of the backbone are
        return model.eval()

    @torch.no_grad()
    def load_memory_weights(self, file: Any) -> None:
        """Fill the system's own modules from `memory.safetensors`; ValueError when they do not fit."""
        weights = load_file(file)
        own = {n: p for n, p in self.named_parameters() if not n.startswith("backbone.")}
        if own.keys() != weights.keys():
            raise ValueError(f"{file} holds {sorted(weights)}, this model has {sorted(own)}")
        self.match_backbone()
        for name, parameter in own.items():
            parameter.copy_(weights[name])
