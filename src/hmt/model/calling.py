"""One call of a model with memory: new tokens in, losses, logits and the memory behind them out.

The call cuts its rows into segments, steps over them, and puts together what was asked for, so that neither
logits nor hidden states of a segment outlive its step unless somebody wants them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.utils import logging

from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.model import inputs
from hmt.model.body import taking_part
from hmt.model.outputs import MemoryOutput, StepOutput
from hmt.model.segments import Grid, make_grid, shift_labels
from hmt.util.integers import as_integers

logger = logging.get_logger(__name__)


def call(
    model: Any,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    labels: Tensor | None,
    past_key_values: Cache | None,
    *,
    use_cache: bool | None,
    logits_to_keep: int | Tensor | None,
    recall_targets: Tensor | None,
    recall_loss_weight: float,
    recall_negatives: bool,
    segment_ends: Tensor | None,
    bptt_depth: int | None,
    replay: bool,
    chunk: int | None,
    output_recall: bool,
    output_last_hidden_state: bool,
    inputs_embeds: Tensor | None,
    return_dict: bool | None,
    kwargs: dict[str, Any],
) -> MemoryOutput | tuple:
    """See `StreamingLM.forward`."""
    if inputs_embeds is not None:
        raise ValueError("pass input_ids: sensory memory keeps raw tokens, so inputs_embeds cannot be read")
    inputs.check_keywords(kwargs, model.forward)
    input_ids = inputs.check_ids(input_ids)
    mask = inputs.check_mask(attention_mask, input_ids)
    inputs.check_positions(kwargs.get("position_ids"), input_ids, mask)
    labels = None if labels is None else as_integers(labels, "labels")
    if recall_targets is not None:
        recall_targets = as_integers(recall_targets, "recall_targets")
    inputs.check_training(input_ids, labels, recall_targets, bptt_depth, chunk)
    batch, width = input_ids.shape
    given = past_key_values is not None
    memory = model.memory_for(past_key_values, batch)
    if use_cache is None:
        use_cache = given or not (model.training or labels is not None)
    columns = inputs.kept_columns(logits_to_keep, width).to(input_ids.device)

    def ended(hidden: Tensor) -> dict[str, Tensor]:
        if output_last_hidden_state:
            return {"last_hidden_state": hidden}
        return {"logits": model.head(hidden)}

    plain = labels is None and recall_targets is None and not output_recall
    ends = inputs.check_ends(segment_ends, input_ids, model)
    alone = ends is None and use_cache and plain and not (model.training or torch.is_grad_enabled())
    if alone and (mask is None or bool(mask.all())):
        # of a single token elsewhere it would wait for the device
        if width > 1 or input_ids.device.type == "cpu":
            inputs.check_vocabulary(input_ids, model.config.vocab_size)
        with memory.as_it_was_on_error():
            appended = model.append(memory, input_ids)
            found = None if appended is None else ended(appended.index_select(1, columns))
        if found is not None:
            memory.columns_fed += width
            return _output(return_dict, past_key_values=memory, **found)

    grid = _grid(model, input_ids, mask, memory, fresh=not given, ends=ends)
    targets = None if labels is None else shift_labels(grid, labels, mask)
    count: Any = kwargs.get("num_items_in_batch")
    if model.training and targets is None and count is not None:
        logger.warning_once(
            "the Trainer keeps the labels for a loss of its own: label_smoothing_factor does not shift "
            "labels for a model with memory, which learns to repeat its input; use a compute_loss_func"
        )
    if targets is not None and count is None:
        count = (targets != -100).sum().clamp(min=1)
    keeping = logits_to_keep is not None or not model.training or labels is None
    recalling = recall_targets is not None or output_recall
    # Losses of single segments are what replay needs; else the hidden states are there at the end anyway,
    # and a fused kernel then keeps one gradient of the head instead of one per segment.
    each = replay or not torch.is_grad_enabled()
    stored = keeping or (targets is not None and not each)
    score = partial(model.token_loss, count=count)

    def only_what_is_used(index: int, out: StepOutput) -> StepOutput:
        if index == 0 and model.training and torch.is_grad_enabled():
            out = replace(out, hidden=taking_part(out.hidden, model.system_weights()))
        if targets is not None and each:
            start = index * grid.segment_length
            out.loss = score(out.hidden, targets[:, start : start + out.hidden.shape[1]])
        if stored and grid.sizes is not None:  # every segment takes L places
            room = grid.segment_length - out.hidden.shape[1]
            out = replace(out, hidden=torch.nn.functional.pad(out.hidden, (0, 0, 0, room)))
        return replace(
            out,
            # not a slice, which would keep the whole
            hidden=out.hidden if stored else out.hidden.new_zeros(0),
            recall=out.recall if recalling else None,
            query=out.query if recall_negatives else None,
        )

    state, kept, losses = memory.state, [], []
    recalls: list[Tensor | None] = []
    queries: list[Tensor | None] = []
    options: dict[str, Any] = {"bptt_depth": bptt_depth, "replay": replay, "chunk": chunk}
    if model.writes_alone and targets is not None and not (keeping or output_recall):
        wanted = (targets != -100).view(batch, -1, grid.segment_length).any(2).any(0)
        if recall_targets is not None:
            aimed = (recall_targets[:, : len(wanted)] >= 0).any(0)
            wanted[: len(aimed)] |= aimed.to(wanted.device)
            wanted[-1] = True  # so that there is a recall loss, of nothing
        options["asked"] = wanted.tolist().__getitem__
    for _, out in model.run(grid, state, after=only_what_is_used, **options):
        state = out.state
        kept.append(out.hidden)
        recalls.append(out.recall)
        queries.append(out.query)
        if out.loss is not None:
            losses.append(out.loss)
    state = state.consolidated()

    stream = torch.cat(kept, dim=1) if stored else None
    loss = torch.stack(losses).sum() if losses else None
    if targets is not None and stream is not None and not each:
        loss = score(stream, targets[:, : stream.shape[1]])
    found = {}
    if keeping:
        assert stream is not None
        at = grid.positions.index_select(1, columns).clamp(min=0)
        found = ended(stream.gather(1, at.unsqueeze(-1).expand(-1, -1, stream.shape[-1])))

    recall = _together(recalls)
    recall_loss = None
    if recall_targets is not None and recall is not None:
        assert model.retrieval is not None  # a system that recalls knows what its slots hold
        negatives = _together(queries) if recall_negatives else None
        recall_loss = model.retrieval.loss(recall, negatives, recall_targets, memory.state, state, grid)
        if loss is not None and recall_loss_weight:
            loss = loss + recall_loss_weight * recall_loss
    if use_cache:
        _advance(memory, state, grid, width)
    return _output(
        return_dict,
        loss=loss,
        past_key_values=memory if use_cache else None,
        recall=recall.exp() if output_recall and recall is not None else None,
        recall_loss=recall_loss,
        **found,
    )


def _grid(
    model: Any, ids: Tensor, mask: Tensor | None, memory: Memory, fresh: bool, ends: Tensor | None
) -> Grid:
    length = model.config.segment_length
    grid = make_grid(ids, mask, memory.open_ids, memory.open_lengths, length, ends)
    inputs.check_vocabulary(grid.ids, model.config.vocab_size)
    if fresh and grid.shortest == 0:
        inputs.check_rows(grid.lengths.tolist())
    return grid


def _advance(memory: Memory, state: MemoryState, grid: Grid, columns: int) -> None:
    memory.state = state
    memory.open_ids, memory.open_lengths = grid.tail()
    memory.open = None
    memory.columns_fed += columns


def _output(return_dict: bool | None, **fields: Any) -> MemoryOutput | tuple:
    output = MemoryOutput(**fields)
    return output.to_tuple() if return_dict is False else output


def _together(found: list[Tensor | None]) -> Tensor | None:
    """What segments gave, [B, ...] each, as [B, S, ...]: zeros of those that were not asked; None of none."""
    like = next((one for one in found if one is not None), None)
    if like is None:
        return None
    return torch.stack([torch.zeros_like(like) if one is None else one for one in found], dim=1)
