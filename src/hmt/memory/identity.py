"""Identity: which model a memory belongs to, and how that is checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel

from hmt.backbone.fingerprint import Fingerprint, fingerprint, sampled, tensors

_STEPS = "_hmt_optimizer_steps"


@dataclass(frozen=True)
class Identity:
    """What a memory file says of the model that wrote it.

    fingerprint: of its weights. system: its `model_type`. model: where it came from.
    fields: `MemoryConfig.memory_fields`.
    """

    fingerprint: Fingerprint
    system: str
    model: str
    fields: dict = field(default_factory=dict)


class LiveIdentity:
    """The identity of a memory whose model is at hand.

    The weights are hashed when it is made, unless under gradients: a memory belongs to the weights that read,
    and weights can be changed without a sound (`.data`, an EMA swap, `load_state_dict(assign=True)`).
    """

    def __init__(self, owner: PreTrainedModel):
        self.owner = owner
        self._version = weights_version(owner)
        self._made_by = None if torch.is_grad_enabled() else live_fingerprint(owner)

    def __deepcopy__(self, memo: Any) -> LiveIdentity:
        return self  # a copied memory belongs to the same model, which is not copied

    def __reduce__(self) -> Any:
        return Identity, (self.verified(), self.system, self.model, self.fields)  # nor pickled

    @property
    def outdated(self) -> bool:
        """Whether the weights were changed since: they are no longer those that made the memory."""
        if self._made_by is None:
            return weights_version(self.owner) != self._version
        return not self._made_by.same(live_fingerprint(self.owner))

    @property
    def fingerprint(self) -> Fingerprint:
        """That of the weights. ValueError when they were changed since, as far as a look can tell."""
        if self.outdated:
            raise ValueError(
                "the model was trained (or loaded other weights) after this memory was read, and no model "
                "has the weights it belongs to; read the text again"
            )
        return self._made_by or live_fingerprint(self.owner)

    def verified(self) -> Fingerprint:
        """`fingerprint`, with every weight read again: for what outlives the process."""
        live_fingerprint(self.owner, again=True)
        return self.fingerprint

    @property
    def system(self) -> str:
        """`model_type` of the model's config."""
        return self.owner.config.model_type

    @property
    def model(self) -> str:
        """Where the model, or else its backbone, came from; "" where neither has a name."""
        config = self.owner.config
        return config.name_or_path or config.base_model_name_or_path or ""

    @property
    def fields(self) -> dict:
        """`MemoryConfig.memory_fields` of the model, as they are now."""
        return self.owner.config.memory_fields()


def check_same(theirs: Identity | LiveIdentity, mine: LiveIdentity, source: Any) -> None:
    """ValueError that says in what two models differ."""
    if theirs.system != mine.system:
        raise ValueError(f"{source} belongs to a {theirs.system} model, this is {mine.system}")
    here = mine.fields
    # what its writer did not know of yet was as it is by default
    there = {name: default for name, default in mine.owner.config.defaults().items() if name in here}
    there |= theirs.fields
    if there != here:
        pairs = ((name, there.get(name), here.get(name)) for name in sorted(there.keys() | here.keys()))
        text = ", ".join(f"{name}={value!r} (here {ours!r})" for name, value, ours in pairs if value != ours)
        raise ValueError(f"{source} was made with another configuration: {text}")
    told = theirs.fingerprint
    if not told.structure:  # of a file of format version 1
        same = told.values == sampled(mine.owner)
    else:
        same = told.same(mine.fingerprint)
    if not same:
        precision = ""
        if told.precision != mine.fingerprint.precision and (told.quantised or mine.fingerprint.quantised):
            precision = f" in {told.precision} (this one is in {mine.fingerprint.precision})"
        raise ValueError(
            f"{source} was made by a model with other weights or another architecture "
            f"({theirs.model or 'unnamed'}){precision}; a memory only means something to the model that "
            "wrote it, so read the text again with this one"
        )


# -- the weights of a live model ----------------------------------------------------------------------------

_known: WeakKeyDictionary[nn.Module, tuple[tuple, Fingerprint]] = WeakKeyDictionary()


def live_fingerprint(model: PreTrainedModel, again: bool = False) -> Fingerprint:
    """Of a model with memory, everything that is its own and its backbone's, adapters included.

    It is kept as long as a look finds nothing changed (`_look`); `again` reads every weight anyway.
    """
    look = _look(model)
    if not again and model in _known and _known[model][0] == look:
        return _known[model][1]
    config = getattr(model, "backbone", model).config.get_text_config()
    found = fingerprint(config, tensors(model))
    _known[model] = look, found
    return found


@torch.no_grad()
def _look(model: nn.Module) -> tuple:
    """What changes whenever weights are trained, moved or replaced; costs a millisecond.

    Where each parameter lies, its version, and one of its values: an EMA swap writes over all, and past the
    versions.
    """
    plain = [p for p in model.parameters() if type(p) in (nn.Parameter, torch.Tensor) and p.numel()]
    values: dict[tuple, list[torch.Tensor]] = {}
    for p in plain:
        if not p.is_meta:
            middle = p[tuple(size // 2 for size in p.shape)]
            values.setdefault((p.device, p.dtype), []).append(middle)
    seen = [torch.stack(column).double().cpu().numpy().tobytes() for column in values.values()]
    return weights_version(model), tuple(p.data_ptr() for p in plain), *seen


def weights_version(model: nn.Module) -> tuple[int, int]:
    """Changes whenever a parameter is written to, added or removed. Waits for no device."""
    parameters = [p for p in model.parameters() if not p.is_inference()]
    for parameter in parameters:
        if not hasattr(parameter, _STEPS):
            setattr(parameter, _STEPS, 0)  # from here on `_count_step` counts for it
    return len(parameters), sum(p._version + getattr(p, _STEPS) for p in parameters)


def _count_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Fused optimizers (the Trainer's default) write to parameters without raising their version.

    Only parameters of models that have made a memory are counted, and nothing of autograd's own is touched.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and hasattr(parameter, _STEPS):
                setattr(parameter, _STEPS, getattr(parameter, _STEPS) + 1)


register_optimizer_step_post_hook(_count_step)
