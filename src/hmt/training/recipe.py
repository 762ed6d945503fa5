"""What is trained, for how long and how: stages, and the recipe that holds them. Plain data, without torch.

The paper's recipe (App. F and Table 7): 200 steps without recall on samples of 2 segments, then 500 steps
with recall on samples of as many segments as fit (3 to 15), batch size 2, learning rate 1e-5 (1e-4 for Llama
2 7B, RWKV's RMT and Mamba, 2e-4 for Yi and Mistral), times 0.9 or 0.7 every 100 steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hmt.training.checks import at_least, build, check_types

# The table's, and those of transformers that a number of steps and a warm-up are enough for.
SCHEDULES = (
    "steps",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of optimizer steps, with a fresh optimizer and learning-rate schedule.

    Args:
        name: letters, digits, - and _; part of the stage's folder name.
        segments: length of a sample, in segments.
        steps: optimizer steps.
        recall: False is the paper's stage 1. Systems without recall train the same either way.
        learning_rate: at the first step (after the warm-up, if there is one).
        lr_schedule: "steps" multiplies by `lr_decay` every `lr_decay_every` steps (Table 7: 0.9 or 0.7, 100);
            the other `SCHEDULES` are transformers' ("constant", "linear", "cosine", ...).
        lr_decay: factor of the schedule "steps" (the paper: 0.9 or 0.7).
        lr_decay_every: steps after which it is applied again.
        lr_start_step: with "steps", how many steps the decay has already counted: a curriculum is one decay.
        warmup_steps: steps over which the learning rate grows linearly to `learning_rate`.
        bptt_depth: segments that gradients flow through; None means all of the sample.
        batch_size: samples per device and step in this stage; None takes the recipe's.
        recall_loss_weight: weight of the recall loss, added to the language-model loss ...
        recall_loss_until: ... during this fraction of the steps, 0 afterwards.
        recall_negatives: the memory embeddings of the other samples of a batch join the recall loss as wrong
            answers.
        repetition: share of the segments that repeat an earlier one of their sample (`RepeatedSamples`):
            repetition augmentation. Where the earlier one stood is a recall target, for
            `recall_targets="given"`. 1 with samples of 2 segments is autoencoding: the second is the first.
    ValueError for values that cannot work.
    """

    name: str
    segments: int
    steps: int
    recall: bool = True
    learning_rate: float = 1e-5
    lr_schedule: str = "steps"
    lr_decay: float = 0.9
    lr_decay_every: int = 100
    lr_start_step: int = 0
    warmup_steps: int = 0
    bptt_depth: int | None = None
    batch_size: int | None = None
    recall_loss_weight: float = 0.0
    recall_loss_until: float = 1.0
    recall_negatives: bool = False
    repetition: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"the stage name {self.name!r} must be made of letters, digits, - and _")
        at_least(self, 1, "segments", "steps", "lr_decay_every", "bptt_depth", "batch_size")
        at_least(self, 0, "lr_start_step", "warmup_steps", "recall_loss_weight")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 < self.lr_decay <= 1:
            raise ValueError(f"lr_decay must be above 0 and at most 1, got {self.lr_decay}")
        if not 0 <= self.recall_loss_until <= 1:
            raise ValueError(f"recall_loss_until is a fraction from 0 to 1, got {self.recall_loss_until}")
        if not 0 <= self.repetition <= 1:
            raise ValueError(f"repetition is a share of segments from 0 to 1, got {self.repetition}")
        if self.repetition and self.segments < 2:
            raise ValueError("repetition repeats an earlier segment: samples need at least 2 segments")
        _check_schedule(self)

    def lr_factor(self, step: int) -> float:
        """What "steps" multiplies `learning_rate` by at optimizer step `step` (0 is the first)."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warm * self.lr_decay ** ((self.lr_start_step + step) // self.lr_decay_every)

    def recall_weight(self, step: int) -> float:
        """Weight of the recall loss at optimizer step `step` (0 is the first)."""
        return self.recall_loss_weight if step < self.recall_loss_until * self.steps else 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages and what they share.

    Args:
        tuning: "full" trains everything, "lora" the memory and LoRA adapters in the backbone (Llama 2 7B,
            Mamba, Yi and Mistral in the paper, r = 8), "frozen" the memory alone.
        lora_r, lora_alpha, lora_dropout: rank, scale and dropout of the adapters.
        lora_targets: names of the layers that get adapters (peft's `target_modules`); None: peft's choice.
        lora_from_layer: the first of the backbone's layers that gets any.
        keep: parts of the memory that are not trained, by name ("recall").
        batch_size: samples per device and step (2 in the paper); times `gradient_accumulation` per optimizer
            step.
        gradient_accumulation: batches per optimizer step.
        max_grad_norm: gradient clipping, 0 for none.
        weight_decay: of AdamW.
        bf16: compute in bfloat16; what is trained is kept in float32.
        replay: recompute segments in the backward pass: memory no longer grows with their number.
        compile: compile the backbone's pass over a segment (`compile_steps`), which takes minutes once.
        recall_targets: what the recall loss points at: "ngram" guesses from what the text repeats, "given"
            takes it from the samples, or from what they `repetition`, None leaves it out. Wanted as soon as a
            stage has a recall_loss_weight.
        min_segments: the shortest sample that is kept, in segments (0: anything of two tokens or more).
        seed: of new weights, the order of samples, and dropout.
        save_steps: optimizer steps between checkpoints; a stage also saves at its end.
        logging_steps: optimizer steps between lines of the log.
        eval_steps: optimizer steps between held-out losses, None for none of them.
        keep_checkpoints: newest checkpoints of a stage that stay on disk.
        eval_samples: how many of the first evaluation samples are scored.
    ValueError for values that cannot work.
    """

    stages: tuple[Stage, ...]
    tuning: Literal["full", "lora", "frozen"] = "full"
    lora_r: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_targets: tuple[str, ...] | None = None
    lora_from_layer: int = 0
    keep: tuple[str, ...] = ()
    batch_size: int = 2
    gradient_accumulation: int = 1
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    bf16: bool = False
    replay: bool = False
    compile: bool = False
    recall_targets: Literal["ngram", "given"] | None = None
    min_segments: int = 1
    seed: int = 0
    save_steps: int = 100
    keep_checkpoints: int = 2
    logging_steps: int = 10
    eval_steps: int | None = None
    eval_samples: int = 32

    def __post_init__(self) -> None:
        stages = tuple(s if isinstance(s, Stage) else build(Stage, s) for s in self.stages)
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "keep", tuple(self.keep))
        if self.lora_targets is not None:
            object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        check_types(self)
        if not stages:
            raise ValueError("a recipe needs at least one stage with steps to make")
        if self.tuning not in ("full", "lora", "frozen"):
            raise ValueError(f"tuning is 'full', 'lora' or 'frozen', got {self.tuning!r}")
        if self.recall_targets not in (None, "ngram", "given"):
            raise ValueError(f"recall_targets is 'ngram', 'given' or None, got {self.recall_targets!r}")
        if self.recall_targets is None and any(stage.recall_loss_weight for stage in stages):
            raise ValueError(
                "a recall_loss_weight needs recall_targets: 'ngram' guesses them from the text, 'given' "
                "takes them from the samples"
            )
        positive = ("lora_r", "batch_size", "gradient_accumulation", "save_steps", "keep_checkpoints")
        at_least(self, 1, *positive, "logging_steps", "eval_steps", "eval_samples")
        at_least(self, 0, "max_grad_norm", "weight_decay", "min_segments", "seed", "lora_dropout")
        if self.min_segments > min(stage.segments for stage in stages):
            raise ValueError(f"min_segments is {self.min_segments}, more than the samples of a stage have")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them: stages are dicts, tuples lists."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """ValueError for unknown fields, missing ones and wrong types."""
        return build(cls, values)

    def save(self, path) -> None:
        """Write as JSON."""
        from hmt.util.files import write_atomically

        write_atomically(path, (json.dumps(self.to_dict(), indent=2) + "\n").encode(), "recipe")

    @classmethod
    def load(cls, path) -> Recipe:
        """Read what `save` wrote. ValueError for what is not JSON or not a recipe."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error


def paper_recipe(
    *,
    stage1_steps: int = 200,
    stage2_steps: int = 500,
    bptt_depth: int = 8,
    segments: int | None = None,
    curriculum: Sequence[int] = (),
    recall_loss_weight: float = 0.0,
    recall_loss_until: float = 1.0,
    recall_negatives: bool = False,
    repetition: float = 0.0,
    copy_steps: int = 0,
    repetition_steps: int = 0,
    learning_rate: float = 1e-5,
    lr_schedule: str = "steps",
    lr_decay: float = 0.9,
    lr_decay_every: int = 100,
    warmup_steps: int = 0,
    **options,
) -> Recipe:
    """The paper's two stages from flat options, and two of ours that come before them.

    Stage 1 ("recurrence"): no recall, 2 segments. Stage 2 ("memory"): recall, samples of `segments` segments
    (default: `bptt_depth`), gradients through `bptt_depth` of them. No steps, no stage.

    Args:
        stage1_steps: steps without recall, on samples of 2 segments; 0 leaves the stage out.
        stage2_steps: steps with recall; 0 leaves the stage out.
        bptt_depth: segments that gradients flow through in stage 2.
        segments: segments of a sample in stage 2; None: the BPTT depth.
        curriculum: depths, such as [2, 4, 8], that share the steps of stage 2 and take the place of
            `bptt_depth`: each is a stage of its own, the learning rate (of "steps"; other schedules begin
            anew) and the recall loss go on as in one.
        recall_loss_until: fraction of the steps of all of stage 2.
        copy_steps: steps of a stage "copying" ahead of all: samples of two segments, the second of which
            repeats the first and can only be had from memory, as many tokens to a batch as in stage 2. It
            teaches to write down what a segment says, which text alone does not (docs/results.md).
        repetition_steps: steps of a stage "repetition" after it: samples as in stage 2 in which a share of
            the segments, `repetition` or else 0.3, repeats an earlier one. Both have a recall loss of
            `recall_loss_weight` or else 0.1 with `recall_negatives`, on targets that are "given".
        warmup_steps: at the beginning of each of our stages, of stage 1, and of the first part of stage 2.
        options: the other fields of `Recipe`.
    What is not named here is of `Stage`: of the paper's two, and `repetition` of "repetition" too.
    ValueError for options that cannot work, alone or together.
    """
    rates: dict[str, Any] = {
        "learning_rate": learning_rate,
        "lr_schedule": lr_schedule,
        "lr_decay": lr_decay,
        "lr_decay_every": lr_decay_every,
    }
    stages: list[Stage] = []
    depths = list(curriculum) or [bptt_depth]
    if copy_steps or repetition_steps:
        if options.setdefault("recall_targets", "given") != "given":
            raise ValueError(
                "copy_steps and repetition_steps teach recall with recall_targets='given', "
                f"not {options['recall_targets']!r}"
            )
        stages += _taught_stages(
            copy_steps,
            repetition_steps,
            length=segments or depths[-1],
            bptt_depth=depths[-1],
            batch_size=options.get("batch_size", Recipe.batch_size),
            repetition=repetition or 0.3,
            recall_loss_weight=recall_loss_weight or 0.1,
            warmup_steps=warmup_steps,
            **rates,
        )
    rates["repetition"] = repetition
    if stage1_steps:
        first: dict[str, Any] = {"recall": False, "segments": 2, "warmup_steps": warmup_steps}
        stages.append(Stage(name="recurrence", steps=stage1_steps, **first, **rates))
    if curriculum and 0 < stage2_steps < len(depths):
        raise ValueError(
            f"stage 2 has {stage2_steps} steps, fewer than the {len(depths)} depths of its curriculum"
        )
    done = 0
    for number, depth in enumerate(depths if stage2_steps else (), start=1):
        steps = stage2_steps * number // len(depths) - done
        supervised = (recall_loss_until * stage2_steps - done) / steps
        stages.append(
            Stage(
                name=f"memory-{depth}" if curriculum else "memory",
                segments=segments or depth,
                steps=steps,
                bptt_depth=depth,
                recall_loss_weight=recall_loss_weight,
                recall_loss_until=min(1.0, max(0.0, supervised)),
                recall_negatives=recall_negatives,
                lr_start_step=done if lr_schedule == "steps" else 0,
                warmup_steps=0 if done else warmup_steps,
                **rates,
            )
        )
        done += steps
    return Recipe.from_dict({**options, "stages": stages})


def _taught_stages(
    copy_steps: int,
    repetition_steps: int,
    *,
    length: int,
    bptt_depth: int,
    batch_size: int,
    repetition: float,
    **shared: Any,
) -> list[Stage]:
    """ "copying" on copies and "repetition" on samples of `length` segments, where they have steps."""
    shared["recall_negatives"] = True
    stages = []
    if copy_steps:
        copies = max(1, batch_size * length // 2)  # as many tokens to a batch as in stage 2
        stages.append(
            Stage(name="copying", steps=copy_steps, segments=2, repetition=1.0, batch_size=copies, **shared)
        )
    if repetition_steps:
        long: dict[str, Any] = {"segments": length, "bptt_depth": bptt_depth, "repetition": repetition}
        stages.append(Stage(name="repetition", steps=repetition_steps, **long, **shared))
    return stages


def _check_schedule(stage: Stage) -> None:
    """ValueError for a schedule that is not known, and for options that it would pass over."""
    name = stage.lr_schedule
    if name not in SCHEDULES:
        raise ValueError(f"lr_schedule {name!r} is not known; choose one of {', '.join(SCHEDULES)}")
    if name == "constant" and stage.warmup_steps:
        raise ValueError("lr_schedule 'constant' has no warm-up: choose 'constant_with_warmup'")
    for option in ("lr_decay", "lr_decay_every", "lr_start_step"):
        if name != "steps" and getattr(stage, option) != getattr(Stage, option):
            raise ValueError(f"{option} is of lr_schedule 'steps', and has no meaning in {name!r}")
