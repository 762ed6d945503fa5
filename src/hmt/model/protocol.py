"""What the functions that drive a model need of it: reading, decoding and compiling ask for no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from hmt.memory.identity import LiveIdentity
from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.model.outputs import StepOutput


class Stepper(Protocol):
    """A recurrence over segments; every method as in `hmt.model.streaming.StreamingLM`."""

    config: Any
    training: bool

    @property
    def device(self) -> torch.device: ...

    @property
    def input_device(self) -> torch.device: ...

    @property
    def segment_length(self) -> int: ...

    @property
    def lookahead(self) -> int: ...

    def initial_state(self, batch_size: int) -> MemoryState: ...

    def encode(self, segments: Tensor, lengths: Tensor | None) -> Tensor | None: ...

    @property
    def writes_alone(self) -> bool: ...

    def write(self, segments: Tensor, lengths: Tensor | None) -> Tensor | None: ...

    def pass_over(
        self,
        segment: Tensor,
        state: MemoryState,
        lengths: Tensor | None,
        written: Tensor | None,
        ended: Tensor | None = None,
    ) -> StepOutput: ...

    def close(self, segment: Tensor, state: MemoryState, lengths: Tensor | None = None) -> MemoryState: ...

    def step(
        self,
        segment: Tensor,
        state: MemoryState,
        lengths: Tensor | None = None,
        encoded: Tensor | None = None,
    ) -> StepOutput: ...

    @property
    def compiled(self) -> Any: ...

    def memory_for(self, cache: Any, batch: int) -> Memory: ...

    def identity(self) -> LiveIdentity: ...

    def modules(self) -> Any: ...

    def eval(self) -> Any: ...


Progress = Callable[[int], object]
