"""A model around a backbone: building it, saving it and loading it.

A checkpoint holds the whole model, or only what was trained beside a frozen or LoRA-tuned backbone.
"""

from __future__ import annotations

import copy
import shutil
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file, logging
from typing_extensions import Self

from hmt import backbone as bb
from hmt.config import MemoryConfig
from hmt.model.generation import without_cache_options
from hmt.model.losses import token_loss
from hmt.model.streaming import StreamingLM
from hmt.util.files import write_atomically

logger = logging.get_logger(__name__)

# Adapter-only checkpoints of before 0.3 held two files: the memory's, and what peft writes
_OLD_MEMORY, _OLD_ADAPTER = "memory.safetensors", "adapter"
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
        given = backbone is not None
        if backbone is None:
            backbone = AutoModelForCausalLM.from_config(config.text_config)
            bb.check_backbone(backbone)
        if config.lora is not None and not bb.has_adapters(backbone):
            bb.add_adapters(backbone, config.lora)
        if given:
            parts: list[Any] = [*backbone.modules(), *backbone.parameters()]
            for part in parts:
                part._is_hf_initialized = True  # post_init must not initialise trained weights again
        self.backbone = backbone
        self.compiled = None  # see `BackboneMemory.compile_steps`
        self.add_modules(bb.embedding_table(backbone).embedding_dim)
        self.post_init()
        self._init_containers()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialise what is not loaded, and buffers that a container of the backbone fills in its layers.

        transformers passes over containers in classes that are not its own, and takes all of a model for what
        its outermost class is: such buffers (Falcon H1) would hold anything after loading.
        """
        if hasattr(self, "backbone") and not self.backbone.is_custom_code():
            owner = {
                part: model
                for model in self.backbone.modules()  # from the outside to the inside
                if isinstance(model, PreTrainedModel)
                for part in model.modules()
            }
            for part, model in owner.items():
                tensors = chain(part.parameters(recurse=False), part.buffers(recurse=False))
                if next(tensors, None) is None and not getattr(part, "_is_hf_initialized", False):
                    model._init_weights(part)
        super().initialize_weights()

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

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Of mixtures of experts: whether they can, the backbone decides when it is built."""
        return True

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
        return bb.input_device(self.backbone)

    # -- construction -------------------------------------------------------------------------------------

    @classmethod
    def from_backbone(cls, source: Any, *, backbone_kwargs: dict | None = None, **fields: Any) -> Self:
        """Give a causal LM a (still untrained) memory.

        Args:
            source: hub id, folder, GGUF file, short name of a package (`hmt.backbone.PACKAGED`), or a loaded
                `PreTrainedModel` (which is wrapped, not copied).
            backbone_kwargs: passed to `AutoModelForCausalLM.from_pretrained` (dtype, device_map, revision,
                ...). Left open, precision and attention on a CPU are those of `hmt.backbone.cpu_choice`.
            fields: fields of the system's config, such as `segment_length`.
        ValueError for a backbone that cannot be wrapped, by this system or by any, and for wrong fields.
        """
        backbone = bb.load_backbone(source, **(backbone_kwargs or {}))
        name = backbone.name_or_path or (str(source) if not isinstance(source, PreTrainedModel) else "")
        fields.setdefault("base_model_name_or_path", name or None)
        if name := fields["base_model_name_or_path"]:
            fields["base_model_name_or_path"] = bb.lasting_name(name)
            fields["base_model_fingerprint"] = str(backbone_print(backbone))
        fields.setdefault("base_model_revision", (backbone_kwargs or {}).get("revision"))
        config = cls.config_class(text_config=backbone.config, **fields)
        model = cls(config, backbone=backbone)
        model.match_backbone()
        model.check_wrapped()
        ((_, embeddings),) = bb.tensors(bb.embedding_table(backbone))
        model.start_vectors(embeddings)
        model.generation_config = without_cache_options(backbone.generation_config)
        model.config.dtype = backbone.dtype
        model.training = backbone.training  # the backbone's own modules keep their modes
        for module in model.memory_modules().values():
            module.train(backbone.training)
        bb.check_length(backbone, config.segment_length, model.positions_around())
        return model

    def check_wrapped(self) -> None:
        """ValueError for a backbone that this system, or any, computes something else with than it should.

        To be called when its config has become part of the model's, which can change what it does.
        """
        bb.check_head(self.backbone)
        bb.check_causal(self.backbone)
        self.check_backbone()

    def match_backbone(self) -> None:
        """Bring the system's own modules to the device and precision of the embeddings."""
        like = bb.embedding_table(self.backbone).weight
        for module in self.memory_modules().values():
            module.to(device=self.input_device, dtype=like.dtype if like.is_floating_point() else None)

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

    def system_weights(self) -> list[torch.nn.Parameter]:
        """As `StreamingLM.system_weights`: the backbone needs all of its own in every pass."""
        own = [p for module in self.memory_modules().values() for p in module.parameters()]
        return [parameter for parameter in own if parameter.requires_grad]

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
        return bb.has_adapters(self.backbone)

    def backbone_is_frozen(self) -> bool:
        """Whether the backbone's own weights stay: it has adapters, or nothing in it requires gradients."""
        return self.has_lora() or not any(p.requires_grad for p in self.backbone.parameters())

    def add_lora(
        self,
        *,
        r: int = 8,
        alpha: int = 32,
        dropout: float = 0.1,
        target_modules: Any = None,
        from_layer: int = 0,
    ) -> None:
        """Freeze the backbone and put LoRA adapters into it (the paper: r = 8); the memory stays trainable.

        target_modules: as in peft's LoraConfig; None takes peft's defaults for the model type, or the linear
            layers where peft knows none (`hmt.backbone.lora.linear_layers`).
        from_layer: the first layer that gets any: those of an HMT's `recall_layer` stay as they are, and with
            them what is remembered.
        """
        if target_modules is None:
            target_modules = bb.lora_targets(self.backbone)
        settings = {"r": r, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": target_modules}
        if from_layer:
            number = len(bb.decoder_layers(self.backbone))
            settings["layers_to_transform"] = list(range(from_layer, number))
        bb.add_adapters(self.backbone, settings)

    def merge_adapters(self) -> None:
        """Add the adapters to the backbone's weights and take them out: the same outputs without them.

        The model is saved whole from then on. ValueError where there are none, or a sum is not finite.
        """
        if not self.has_lora():
            raise ValueError("the backbone has no adapters to merge")
        bb.merge_adapters(self.backbone)

    def freeze_backbone(self) -> None:
        """Train only what the system adds."""
        self.backbone.requires_grad_(False)

    def pack_weights(self) -> dict[int, int]:
        """Keep the backbone's linear weights in 4 or 8 bits too, for decoding on a CPU in bfloat16.

        Passes of more than a few positions, training and checkpoints use the weights themselves, so decoding
        on a cache then differs from reading by about as much as bfloat16 rounds (`hmt.backbone.packed`).
        Returns how many weights got how many bits. ValueError where there are none to pack.
        """
        getattr(self, "caching", None)  # found out while few and many positions still go one way
        return bb.pack_linears(self.backbone)

    def trained_names(self) -> list[str]:
        """Names in `state_dict` of what an adapter-only checkpoint holds: the system's own, and adapters."""
        base = bb.base_name(self.backbone)
        return [
            name
            for name in self.state_dict()
            if not name.startswith("backbone.") or base(name.removeprefix("backbone.")) is None
        ]

    def why_whole(self, state: dict[str, Tensor] | None = None) -> str | None:
        """Why a checkpoint must hold the backbone too; None where its name stands for it.

        state: as of `save_pretrained`, where weights are spread over processes.
        """
        base = self.config.base_model_name_or_path
        if not base:
            return (
                "an adapter-only checkpoint must name its backbone: save the backbone with "
                "`backbone.save_pretrained(folder)` and build the model with `from_backbone(folder)`"
            )
        named = self.config.base_model_fingerprint
        if named is None or not bb.Fingerprint.parse(named).same(backbone_print(self.backbone, state)):
            return (
                f"the backbone's weights are no longer those of {base!r} (they were trained, merged, resized "
                "or edited), so an adapter-only checkpoint would lose them: save the model whole, with "
                "adapter_only=False"
            )
        return None

    def save_pretrained(
        self, save_directory: Any, *args: Any, adapter_only: bool | None = None, **kwargs: Any
    ) -> None:
        """Save to a folder; of an earlier checkpoint there, nothing stays that is not written again.

        adapter_only: save the memory modules and LoRA adapters without the backbone, and refer to it by name
            and fingerprint. None does so when the backbone is frozen or LoRA-tuned, came from a named place
            and still has the weights it had there.
        ValueError for adapter_only=True where that does not hold, for several sets of adapters, and for a
        quantised backbone that would have to be saved.
        """
        state = kwargs.get("state_dict")
        if adapter_only is None:
            adapter_only = self.backbone_is_frozen() and self.why_whole(state) is None
        elif adapter_only and (reason := self.why_whole(state)):
            raise ValueError(reason)
        folder = Path(save_directory)
        self.config.lora = bb.adapter_settings(self.backbone)
        if adapter_only:
            self._save_trained(folder, self.state_dict() if state is None else state)
        elif bb.is_quantised(self.backbone):
            raise ValueError(
                "a quantised backbone is not saved, only what was trained beside one that has a name and "
                "was quantised as it was loaded: "
                "from_backbone(name, backbone_kwargs={'quantization_config': ...})"
            )
        else:
            self.config.adapter_only = False
            super().save_pretrained(save_directory, *args, **kwargs)
            if (
                folder / f"{SAFE_WEIGHTS_NAME}.index.json"
            ).is_file():  # shards: a single file would be read first
                (folder / SAFE_WEIGHTS_NAME).unlink(missing_ok=True)
        (folder / _OLD_MEMORY).unlink(missing_ok=True)
        shutil.rmtree(folder / _OLD_ADAPTER, ignore_errors=True)

    def _save_trained(self, folder: Path, state: dict[str, Tensor]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: state[name].detach().cpu().contiguous() for name in self.trained_names()}
        write_atomically(folder / SAFE_WEIGHTS_NAME, save(tensors, {"format": "pt"}))
        for shard in (*folder.glob("model-*-of-*.safetensors"), folder / f"{SAFE_WEIGHTS_NAME}.index.json"):
            shard.unlink(missing_ok=True)
        config = copy.deepcopy(self.config)
        config.adapter_only = True
        config.architectures = [type(self).__name__]
        config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        config: Any = None,
        backbone: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Load what `save_pretrained` wrote; an adapter-only checkpoint fetches its backbone by name.

        backbone: where that backbone is now, or itself, as in `from_backbone`; None: where it was.
        ValueError where it cannot be loaded or has other weights than it had, and where what was trained
        beside it does not fit.
        """
        hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        known = config
        if known is None and pretrained_model_name_or_path is not None:
            known = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        if not getattr(known, "adapter_only", False):
            if backbone is not None:
                raise ValueError(f"{pretrained_model_name_or_path} holds its backbone: leave `backbone` out")
            load = partial(super().from_pretrained, pretrained_model_name_or_path, *args, config=config)
            loaded = bb.load_with_attention(load, kwargs)
            model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info a pair
            bb.suit_cpu(model.backbone, {"dtype": model.dtype} | kwargs)  # the precision is the checkpoint's
            bb.align(model)
            model.check_wrapped()
            return loaded
        options = {k: v for k, v in kwargs.items() if k not in (*_HUB_OPTIONS, "output_loading_info")}
        backbone = _load_base(pretrained_model_name_or_path, known, backbone, options)
        adapter = Path(str(pretrained_model_name_or_path)) / _OLD_ADAPTER
        if known.lora is None and adapter.is_dir():
            _load_old_adapter(backbone, adapter)
        model = cls(known, backbone=backbone)
        backbone.requires_grad_(False)
        file = cached_file(
            pretrained_model_name_or_path,
            SAFE_WEIGHTS_NAME,
            _raise_exceptions_for_missing_entries=False,
            **hub,
        ) or cached_file(pretrained_model_name_or_path, _OLD_MEMORY, **hub)
        model.load_trained(file)
        try:
            saved = GenerationConfig.from_pretrained(pretrained_model_name_or_path, **hub)
            model.generation_config = without_cache_options(saved)
        except OSError:  # a folder without one
            model.generation_config = without_cache_options(backbone.generation_config)
        model.config.name_or_path = str(pretrained_model_name_or_path)
        bb.align(model)  # an old adapter's weights are where they stand in its file
        model.check_wrapped()
        return model.eval()

    @torch.no_grad()
    def load_trained(self, file: Any) -> None:
        """Fill what an adapter-only checkpoint holds from its file; ValueError where it does not fit."""
        weights, state = load_file(file), self.state_dict()
        names = self.trained_names()
        if Path(file).name == _OLD_MEMORY:
            names = [name for name in names if not name.startswith("backbone.")]
        have = {name: tuple(value.shape) for name, value in weights.items()}
        want = {name: tuple(state[name].shape) for name in names}
        if have != want:
            odd = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
            raise ValueError(
                f"{file} does not fit this model: it holds {[(n, have.get(n)) for n in odd[:3]]}, and the "
                f"model has {[(n, want.get(n)) for n in odd[:3]]} ({len(odd)} such tensors)"
            )
        self.match_backbone()
        state = self.state_dict()
        for name, value in weights.items():
            state[name].copy_(value)


def backbone_print(backbone: PreTrainedModel, state: dict[str, Tensor] | None = None) -> bb.Fingerprint:
    """Of a backbone's own weights, whatever adapters stand beside them.

    state: of the model around it, where the weights are to be taken from that.
    """
    if state is None:
        found = bb.tensors(backbone)
    else:
        found = ((n.removeprefix("backbone."), t) for n, t in state.items() if n.startswith("backbone."))
    base = bb.base_name(backbone)
    own = ((name, tensor) for whole, tensor in found if (name := base(whole)) is not None)
    return bb.fingerprint(backbone.config.get_text_config(), own)


def _load_base(folder: Any, config: MemoryConfig, given: Any, options: dict[str, Any]) -> PreTrainedModel:
    """The backbone of an adapter-only checkpoint in `folder`, found to be the one it was made with."""
    source: Any = config.base_model_name_or_path if given is None else given
    if given is None and config.base_model_revision:
        options = options | {"revision": config.base_model_revision}
    try:
        backbone = bb.load_backbone(source, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds only the memory; its backbone {source!r} could not be loaded, say where it is "
            f"with from_pretrained(..., backbone=...): {error}"
        ) from error
    found = backbone_print(backbone)
    if config.base_model_fingerprint is None:  # saved before there were any
        config.base_model_fingerprint = str(found)
    made = bb.Fingerprint.parse(config.base_model_fingerprint)
    if not made.same(found):
        if made.precision == found.precision or not (made.quantised or found.quantised):
            raise ValueError(
                f"{folder} was trained beside a backbone with other weights than {source!r} has now: say "
                "where the right one is with from_pretrained(..., backbone=...)"
            )
        logger.warning(
            f"{folder} was trained beside a backbone in {made.precision}, and {source!r} is loaded in "
            f"{found.precision}: whether it is the same one cannot be told"
        )
    if given is not None and backbone.name_or_path:
        config.base_model_name_or_path, config.base_model_revision = backbone.name_or_path, None
    return backbone


def _load_old_adapter(backbone: PreTrainedModel, folder: Path) -> None:
    """LoRA weights as peft writes them. ValueError where some are missing or have no place."""
    report = backbone.load_adapter(str(folder))
    if report.missing_keys or report.unexpected_keys:
        raise ValueError(
            f"the adapter in {folder} does not fit its backbone: it lacks {sorted(report.missing_keys)[:3]}, "
            f"and has no place for {sorted(report.unexpected_keys)[:3]}"
        )
