"""How big and how long everything in the demo is."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TextSettings:
    """The language model and its memories.

    Lengths in tokens, histories in segments, steps of the optimizer. The sensory tokens are 1/16 of a
    segment, as in the paper (32 of 512). The summary is short so that much of a segment can be scored: the
    recall prompt has seen what the summary covers.
    """

    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 4
    context: int = 256
    backbone_steps: int = 500
    backbone_batch: int = 8
    backbone_rate: float = 3e-3
    segment: int = 32
    summary: int = 8
    sensory: int = 2
    bank: int = 300
    stage1_steps: int = 40
    stage2_steps: int = 180
    stage2_segments: int = 16
    batch: int = 4
    rate: float = 2e-3
    histories: tuple[int, ...] = (0, 1, 4, 16, 64)
    targets_per_document: int = 16


@dataclass(frozen=True)
class KeySettings:
    """The hidden key-value task. `curriculum`: (segments, batch, steps) one after another.

    With two segments the bank holds one memory embedding, so there is nothing to choose: the model first
    learns to write an answer into memory and to read it back. Choosing the right embedding comes after.
    """

    segment: int = 12
    sensory: int = 2
    hidden: int = 128
    layers: int = 2
    bank: int = 300
    curriculum: tuple[tuple[int, int, int], ...] = ((2, 128, 25), (4, 64, 25), (8, 32, 75), (16, 16, 125))
    rate: float = 2e-3
    recall_gain: float = 2.0
    query: str = "segment"
    lengths: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)
    samples: int = 128

    @property
    def trained(self) -> int:
        """Segments of the longest samples in training."""
        return max(segments for segments, _, _ in self.curriculum)


@dataclass(frozen=True)
class Settings:
    """systems: names in the registry, each trained on text and on keys; the first one reads the document."""

    text: TextSettings = TextSettings()
    keys: KeySettings = KeySettings()
    systems: tuple[str, ...] = ("hmt", "rmt")
    seed: int = 0


def smoke(settings: Settings) -> Settings:
    """A run of seconds that goes through everything and proves nothing."""
    text = TextSettings(
        vocabulary=400, hidden=32, layers=1, context=64, backbone_steps=4, segment=16, summary=4, sensory=4,
        stage1_steps=2, stage2_steps=2, stage2_segments=3, batch=2, histories=(0, 1, 4),
        targets_per_document=2,
    )  # fmt: skip
    keys = KeySettings(hidden=32, curriculum=((2, 8, 2), (4, 4, 2)), lengths=(2, 4), samples=8)
    return replace(settings, text=text, keys=keys)
