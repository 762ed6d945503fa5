"""A stage of a recipe as `transformers.TrainingArguments`."""

from __future__ import annotations

import torch
from transformers import TrainingArguments

from hmt.training.recipe import Recipe, Stage


def training_arguments(
    stage: Stage,
    recipe: Recipe,
    output_dir,
    seed: int | None,
    evaluate: bool,
    run_name: str | None = None,
) -> TrainingArguments:
    """Those of one stage; `seed` overrides the recipe's; evaluate: whether there is text to evaluate on.

    ValueError where the environment (`accelerate launch`) asks for another precision than the recipe.
    """
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size or recipe.batch_size,
        per_device_eval_batch_size=stage.batch_size or recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="constant" if stage.lr_schedule == "steps" else stage.lr_schedule,
        warmup_steps=0 if stage.lr_schedule == "steps" else stage.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.bf16,
        seed=recipe.seed if seed is None else seed,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=recipe.keep_checkpoints,
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,  # it waits for the device at every step, and hides divergence
        eval_strategy="steps" if evaluate and recipe.eval_steps else "no",
        eval_steps=recipe.eval_steps if evaluate else None,
        remove_unused_columns=False,
        use_cpu=not torch.accelerator.is_available(),  # bf16 on a CPU must be asked for in so many words
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",  # see `hmt.training.reporting`
        run_name=run_name,
    )
    if arguments.mixed_precision != ("bf16" if recipe.bf16 else "no"):
        raise ValueError(
            f"the environment asks for mixed precision in {arguments.mixed_precision} (accelerate launch "
            f"--mixed_precision), and the recipe has bf16={recipe.bf16}: say it in the recipe (--bf16)"
        )
    return arguments
