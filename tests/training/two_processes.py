"""Training on two devices: run by `test_distributed.py`, in this process as one and in two that talk by gloo.

python two_processes.py FOLDER, with WORLD_SIZE and where to meet set, leaves FOLDER/CASE-RANK.pt.
"""

import multiprocessing
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hmt.data import SegmentCollator
from hmt.systems import get
from hmt.training import paper_recipe, train

L = 8


def rows(count, longest):
    """Samples of whatever length: those at odd places have one segment, or less."""
    generator = torch.Generator().manual_seed(0)
    lengths = [L - 3 if index % 2 else longest - index for index in range(count)]
    return [{"input_ids": torch.randint(3, 43, (length,), generator=generator)} for length in lengths]


def model(system, **fields):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=43, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    backbone = LlamaForCausalLM(config)
    return get(system).model.from_backbone(backbone, segment_length=L, sensory_length=2, **fields)


def stock(found, folder, samples, world, **options):
    """Losses and weights of two steps of `transformers.Trainer` on a global batch of two."""
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=2 // world, learning_rate=1e-2, logging_steps=1,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, weight_decay=0.1, **options,
    )  # fmt: skip
    trainer = Trainer(found, arguments, train_dataset=samples, data_collator=SegmentCollator())
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], found


def checkpointed(folder, world):
    """The paper's first stage, in which recall is not used, with gradient checkpointing."""
    found = model("hmt", memory_size=4, recall=False, write_prompt="learned")
    return stock(found, folder, rows(4, 30), world, activation_checkpointing=True)


def short(folder, world):
    """Texts that end within a segment: nothing is written to memory, and nothing waits for its weights."""
    return stock(model("armt"), folder, rows(4, L - 1), world, ddp_find_unused_parameters=False)


def recipe(folder, world):
    """A whole run of two stages, with replay and a recall loss."""
    found = model("hmt", memory_size=4)
    chosen = paper_recipe(
        stage1_steps=2, stage2_steps=2, bptt_depth=3, learning_rate=1e-2, batch_size=2 // world, replay=True,
        recall_targets="ngram", recall_loss_weight=0.5, logging_steps=1, min_segments=0,
    )  # fmt: skip
    time.sleep(int(os.environ.get("RANK", 0)))  # one comes late, to a folder that the other may have begun
    ready = [{"input_ids": torch.cat([row["input_ids"]] * 2)} for row in rows(6, 20)]
    result = train(found, None, ready, chosen, folder / "run", progress=False)
    return [stage["loss"] for stage in result.stages], found


CASES = {case.__name__: case for case in (checkpointed, short, recipe)}


def outcome(case, folder, world):
    """What a case gives: losses, and the weights at the end."""
    losses, found = CASES[case](folder / case, world)
    return {"losses": losses, "weights": found.state_dict()}


def run(rank, folder):
    """All cases, as one of the two processes."""
    from accelerate import PartialState

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    world = PartialState(cpu=True, timeout=timedelta(seconds=100)).num_processes
    for name in CASES:
        found = outcome(name, folder, world)
        torch.save(found, folder / f"{name}-{rank}.pt")


if __name__ == "__main__":
    # what takes longest is importing, which is done by now
    both = [
        multiprocessing.get_context("fork").Process(target=run, args=(rank, Path(sys.argv[1])))
        for rank in (0, 1)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    sys.exit(max(abs(one.exitcode) for one in both))
