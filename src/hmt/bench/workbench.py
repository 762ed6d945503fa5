"""What all parts of a benchmark share: one backbone, the systems around it, and what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hmt import backbone as bb
from hmt.bench.readers import FullAttentionReader, MemoryReader, Reader, build_model, chosen_systems
from hmt.bench.settings import Settings
from hmt.bench.shapes import build_backbone, resolve
from hmt.bench.timing import Case, Clock
from hmt.model.base import BackboneMemory

BACKBONE = "backbone"  # the case that the bound is made of
Progress = Callable[[int, int], None]


@dataclass
class Workbench:
    """One run.

    Attributes:
        settings: resolved. backbone: shared by all systems. models: the systems with memory, by name.
        cases: what was timed, by part. peaks: points of the part "memory", by kind.
        skipped: what was left out, each with the reason. finished: parts that ran to their end.
        stored: bytes that a segment keeps for the backward pass, where they were counted.
    """

    settings: Settings
    backbone: PreTrainedModel
    models: dict[str, BackboneMemory]
    full: FullAttentionReader | None
    cases: dict[str, list[Case]] = field(default_factory=dict)
    peaks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    stored: dict[BackboneMemory, int] = field(default_factory=dict)

    @classmethod
    def build(cls, settings: Settings) -> Workbench:
        """Backbone and systems as the settings say, resolved. ValueError for settings that cannot be."""
        settings = resolve(settings)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        chosen = chosen_systems(settings)
        backbone = build_backbone(settings)
        models = {name: build_model(name, backbone, settings) for name in chosen if name != "full"}
        full = None
        if "full" in chosen:
            full = FullAttentionReader(backbone, settings.segment_length, settings.compile)
        return cls(settings, backbone, models, full)

    @property
    def device(self) -> str:
        """Name of the device that is measured, as in `torch.device`."""
        return self.settings.device or "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA one."""
        return self.device.startswith("cuda")

    @property
    def warms_whole(self) -> bool:
        """Whether a case is warmed up at its own size: allocators and compilers learn the shapes."""
        return self.on_gpu or self.settings.compile

    @cached_property
    def clock(self) -> Clock:
        """The clock of the device."""
        return Clock(self.device)

    @property
    def readers(self) -> dict[str, Reader]:
        """The systems, and full attention where it was chosen ("full"), by name."""
        systems: dict[str, Reader] = {
            name: MemoryReader(model, self.settings.chunk) for name, model in self.models.items()
        }
        return systems if self.full is None else systems | {"full": self.full}

    def ids(self, tokens: int) -> Tensor:
        """Random token ids, int64 [batch, tokens]; the same ones for every system."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        vocabulary = self.backbone.config.get_text_config().vocab_size
        drawn = torch.randint(vocabulary, (self.settings.batch, tokens), generator=generator)
        return drawn.to(self.device)

    def plain_pass(self) -> Callable[[Tensor], Tensor]:
        """The backbone alone on ids [B, L], without a cache: outputs [B, L, d]. Compiled with --compile."""
        embed = partial(bb.embed, self.backbone)
        call: Any = bb.body(self.backbone)
        if self.settings.compile:
            call = torch.compile(call)
        return lambda ids: call(inputs_embeds=embed(ids), use_cache=False, return_dict=True).last_hidden_state

    def skip(self, facts: dict[str, Any], why: str) -> None:
        """Note that what `facts` describe was left out, and why."""
        self.skipped.append({**facts, "why": why})

    def too_long(self, facts: dict[str, Any], tokens: int) -> bool:
        """Whether full attention is not asked to hold so many tokens; then it is noted as skipped."""
        most = self.settings.full_attention_max
        if facts["system"] != "full" or most is None or tokens <= most:
            return False
        self.skip(facts, f"{tokens:,} tokens are more than --full-attention-max {most:,}")
        return True
