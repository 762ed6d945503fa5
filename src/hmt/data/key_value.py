"""The hidden key-value task: every segment hides a pair, and a question asks for one of the pairs of earlier
segments.

It can only be solved by recalling one particular segment by its content. Chance is 1 / num_values; a model
that mixes all memories evenly stays near 1 / (segments so far).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hmt.data.collate import IGNORED_LABEL
from hmt.data.recall_targets import NO_TARGET

_PAIR, _QUESTION, _REPLY = 4, 3, 2  # tokens of [KEY k1 k2 v], [ASK k1 k2] and [ANSWER v]


@dataclass(frozen=True)
class KeyValueTask:
    """Segments of `segment_length` tokens, each with a pair [KEY k1 k2 v] at a random place among noise.

    A segment that asks begins with [ASK k1 k2], in the half that the summary covers, and ends with [ANSWER
    v], v being its very last token; its own pair stands between. The pair asked for was stored in one of the
    earlier segments, each equally likely (the one before included). With `ask_every` all segments but the
    first ask (dense supervision), otherwise only the last. Segments of 6 to 8 tokens have no room for both:
    then only the last may ask, and it stores no pair.

    A key is two of `num_symbols` symbols and occurs once per sample; a value is one of `num_values` and may
    recur. Token ids: 0 padding, then ASK, KEY, ANSWER, `num_noise` noise tokens, the symbols, the values.
    """

    segment_length: int = 16
    num_symbols: int = 32
    num_values: int = 32
    num_noise: int = 16
    ask_every: bool = True

    pad, ask, key, answer, first_noise = 0, 1, 2, 3, 4  # token ids (not fields)

    def __post_init__(self) -> None:
        if min(self.num_symbols, self.num_values, self.num_noise) < 1:
            raise ValueError("num_symbols, num_values and num_noise must be at least 1.")
        if self.segment_length // 2 < _QUESTION:
            raise ValueError(
                f"segment_length is {self.segment_length}; it must be at least {2 * _QUESTION}, so that the "
                "question fits into the first half of a segment."
            )
        if self.ask_every and not self._pair_beside_question:
            raise ValueError(
                f"segment_length is {self.segment_length}; with ask_every it must be at least "
                f"{_PAIR + _QUESTION + _REPLY}, so that a segment that asks can store its own pair too."
            )

    @property
    def first_symbol(self) -> int:
        """Token id of the first symbol; the others follow."""
        return self.first_noise + self.num_noise

    @property
    def first_value(self) -> int:
        """Token id of the first value; the others follow."""
        return self.first_symbol + self.num_symbols

    @property
    def vocab_size(self) -> int:
        """Token ids that can occur: 0 to `vocab_size` - 1."""
        return self.first_value + self.num_values

    @property
    def num_keys(self) -> int:
        """Different keys, and with that the largest number of segments of a sample."""
        return self.num_symbols**2

    @property
    def _pair_beside_question(self) -> bool:
        return self.segment_length >= _PAIR + _QUESTION + _REPLY

    def sample(
        self, batch_size: int, num_segments: int, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """A batch, on the CPU, all int64; B = batch_size, S = num_segments, L = segment_length.

        * `input_ids` [B, S * L]
        * `labels` [B, S * L]: the answer's value where a segment asks, -100 elsewhere; aligned with input_ids
          (not shifted)
        * `recall_targets` [B, S]: index of the segment that holds the pair asked for, -100 where none is
        * `answers` [B], `evidence` [B]: the value (a token id) asked for by the last segment, and its segment

        ValueError for fewer than 2 segments, or more than there are keys.
        """
        if not 2 <= num_segments <= self.num_keys:
            raise ValueError(
                f"num_segments is {num_segments}; it must lie between 2 (one to store, one to ask) and "
                f"the number of keys, {self.num_keys}: raise num_symbols for more."
            )
        shape = (batch_size, num_segments)
        length = self.segment_length
        number = torch.arange(num_segments)
        asks = number > 0 if self.ask_every else number == num_segments - 1

        keys = self._distinct_keys(*shape, generator)
        values = self.first_value + torch.randint(self.num_values, shape, generator=generator)
        ids = self.first_noise + torch.randint(self.num_noise, (*shape, length), generator=generator)

        stores = ~asks | self._pair_beside_question
        start = self._pair_starts(shape, asks, generator)
        marker = torch.full(shape, self.key)
        pairs = torch.stack([marker, *keys, values], dim=-1)[:, stores]
        places = start[:, stores, None] + torch.arange(_PAIR)
        ids[:, stores] = ids[:, stores].scatter(-1, places, pairs)

        # Uniform over the segments before; double, so that rounding never reaches the segment itself.
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        evidence = (uniform * number).long()
        asked_keys = torch.stack([key.gather(1, evidence) for key in keys], dim=-1)
        asked_values = values.gather(1, evidence)
        ids[:, asks, 0] = self.ask
        ids[:, asks, 1:_QUESTION] = asked_keys[:, asks]
        ids[:, asks, -2] = self.answer
        ids[:, asks, -1] = asked_values[:, asks]

        labels = torch.full((*shape, length), IGNORED_LABEL)
        labels[:, asks, -1] = asked_values[:, asks]
        return {
            "input_ids": ids.flatten(1),
            "labels": labels.flatten(1),
            "recall_targets": torch.where(asks, evidence, NO_TARGET),
            "answers": asked_values[:, -1],
            "evidence": evidence[:, -1],
        }

    def _distinct_keys(
        self, batch_size: int, num_segments: int, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two symbols [B, S] each, no key twice in a row: the largest of random numbers, one per possible
        key."""
        order = torch.rand(batch_size, self.num_keys, generator=generator).topk(num_segments, dim=1).indices
        # topk sorts by the random numbers themselves, so that the order is random too.
        return self.first_symbol + order // self.num_symbols, self.first_symbol + order % self.num_symbols

    def _pair_starts(
        self, shape: tuple[int, int], asks: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        """[B, S]: where the pair begins, uniform over the places that question and answer leave free."""
        first = torch.where(asks, _QUESTION, 0)
        end = torch.where(asks, self.segment_length - _REPLY, self.segment_length)
        choices = (end - _PAIR - first + 1).clamp(min=1)
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        return first + (uniform * choices).long()


class KeyValueDataset(torch.utils.data.Dataset):
    """`num_samples` samples of a task, each made on access from (seed, index): the same in every epoch and
    process.

    `num_segments` is a number, or a range (smallest, largest) from which each sample draws its own. A sample
    is that of `KeyValueTask.sample` without the batch dimension; collate with
    `SegmentCollator(segment_length=task.segment_length, recall_targets="given")`. ValueError for fewer than 2
    segments, or more than there are keys.
    """

    def __init__(
        self, task: KeyValueTask, num_samples: int, num_segments: int | tuple[int, int], seed: int = 0
    ):
        shortest, longest = (num_segments, num_segments) if isinstance(num_segments, int) else num_segments
        if not 2 <= shortest <= longest <= task.num_keys:
            raise ValueError(
                f"num_segments is {num_segments}; give a number, or (smallest, largest), from 2 to the "
                f"number of keys, {task.num_keys}."
            )
        self.task, self.num_samples, self.seed = task, num_samples, seed
        self.num_segments = (shortest, longest)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"There are {self.num_samples} samples, and {index} is not the index of one.")
        # Odd multipliers keep (seed, index) and (seed + 1, index - 1) apart, which a sum would not.
        mixed = self.seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9
        generator = torch.Generator().manual_seed(mixed % 2**63)
        shortest, longest = self.num_segments
        num_segments = int(torch.randint(shortest, longest + 1, (), generator=generator))
        batch = self.task.sample(1, num_segments, generator)
        return {name: values[0] for name, values in batch.items()}
