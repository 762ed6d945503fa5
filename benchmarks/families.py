"""Every causal LM family of transformers as a backbone: what works, what is refused, and why.

    python benchmarks/families.py [--processes 2]

Builds a tiny random model of each family, in a process of its own, and runs the checks below on it. Goes on
where it was stopped; --again begins anew, and names of families run only these. Writes
benchmarks/results/families.json, and docs/families.md from it. Sizes that shrink a family's config, and what
single families need beside, are in benchmarks/family_sizes.json.

A family passes when every check passes or is refused with a reason (a ValueError of this library that names
it). A crash anywhere, and a number that differs, fails.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

import hmt
from hmt import HMTForCausalLM
from hmt import backbone as bb
from hmt.systems.hmt.reference import reference
from hmt.systems.streaming_llm.model import StreamingLLMForCausalLM
from hmt.systems.transformer_xl.model import TransformerXLForCausalLM
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
DATA = json.loads(Path(__file__).with_name("family_sizes.json").read_text())
SIZES = {name: int(size) for size, names in DATA["sizes"].items() for name in names}
WINDOWS = [name for name, size in SIZES.items() if size == SIZES["sliding_window"]]
VOCABULARY, ORDINARY = 97, 90  # ids from ORDINARY on are those with a meaning (images, padding, ...)
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LARGEST = 6_000_000  # parameters
CLOSE = 2e-4  # of the spread of the logits: of sums of another order in float32, on models of this size

# -- tiny models --------------------------------------------------------------------------------------------


def shrunk(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """Fields that make a config of this class tiny, and multipliers something else than 1."""
    fields: dict[str, Any] = {}
    ids = iter(range(ORDINARY, VOCABULARY))
    for name, value in vars(cls()).items():
        if name in cls.sub_configs and value is not None:
            fields[name] = shrunk(type(value)) | {"model_type": type(value).model_type}
        elif name in SPECIAL:
            fields[name] = SPECIAL[name]
        elif name.endswith("_token_id") and isinstance(value, int):
            fields[name] = next(ids, ORDINARY)
        elif name in SIZES and isinstance(value, int) and not isinstance(value, bool):
            fields[name] = SIZES[name] if name == "vocab_size" else min(value, SIZES[name])
        elif (
            name.endswith(("_multiplier", "logits_scaling", "embedding_scale"))
            and value == 1.0
            and type(value) is float
        ):
            fields[name] = 0.75
    return fields


def build(family: str, *, window: int | None = None) -> PreTrainedModel:
    """A tiny causal LM of a family, in eval mode, no parameter at a value that it begins at.

    window: the length of windows of attention, where the family has some.
    """
    fields = shrunk(CONFIG_MAPPING[family])
    for name, value in DATA["families"].get(family, {}).items():
        *path, last = name.split(".")
        place = fields
        for part in path:
            place = place[part]
        place[last] = value
    if window is not None:
        _set_window(fields, window)
    config = CONFIG_MAPPING[family](**fields)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if size > LARGEST:
        raise ValueError(f"its config could not be shrunk: {size:,} parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model.eval()


def _set_window(fields: dict[str, Any], window: int) -> None:
    for name, value in fields.items():
        if isinstance(value, dict):
            _set_window(value, window)
        elif name in WINDOWS:
            fields[name] = window


def random_ids(length: int, seed: int = 0) -> Tensor:
    """int64 [length], of ordinary tokens."""
    return torch.randint(3, ORDINARY, (length,), generator=torch.Generator().manual_seed(seed))


# -- checks -------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A check found another number than it should."""


class Upstream(Exception):
    """The family cannot do it without this library either."""


def need(fact: Any, text: str) -> None:
    if not fact:
        raise Failed(text)


def close(found: Tensor, want: Tensor, what: str, tolerance: float = CLOSE) -> None:
    need(found.isfinite().all(), f"{what}: not finite")
    difference = (found.float() - want.float()).abs().max().item() / max(1e-6, want.float().std().item())
    need(difference <= tolerance, f"{what}: off by {difference:.1e} of the logits' spread")


def wrapped(
    backbone: PreTrainedModel, query: str = "segment", system: type = HMTForCausalLM, **fields: Any
) -> Any:
    """A system around a backbone, segments of 16 tokens, that generates without an end."""
    torch.manual_seed(1)
    if system is HMTForCausalLM:
        fields = {"sensory_length": 4, "memory_size": 8, "recall_query": query} | fields
    model = system.from_backbone(backbone, segment_length=16, **fields).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


class Plainly:
    """A backbone as the plain loops call it: its own logits, and beside them the outputs without a cache.

    Not every family gives its outputs after the final norm where transformers has them (`hidden_states`).
    """

    def __init__(self, backbone: PreTrainedModel):
        self.backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def __call__(self, inputs_embeds: Tensor, **kwargs: Any) -> Any:
        logits = self.backbone(inputs_embeds=inputs_embeds, use_cache=False).logits
        return SimpleNamespace(logits=logits, hidden_states=[bb.run(self.backbone, inputs_embeds).hidden])


@torch.no_grad()
def oracle(model: Any, ids: Tensor) -> Tensor:
    """Logits [T, V] of HMT from the paper's equations."""
    plain = SimpleNamespace(**model._modules | {"config": model.config, "backbone": Plainly(model.backbone)})
    return reference(plain, ids).logits


def check_equal(family: str) -> None:
    """The fast path computes the paper's equations."""
    model, ids = wrapped(build(family)), random_ids(55)
    with torch.no_grad():
        close(model(ids[None]).logits[0], oracle(model, ids), "logits")


@torch.no_grad()
def check_memory(family: str) -> None:
    """What was read three segments ago matters, and what comes later does not."""
    model, ids = wrapped(build(family), "previous"), random_ids(55)
    want = model(ids[None]).logits[0]
    for at in (2, 15, 16, 40):
        other = ids.clone()
        other[at] = 3 + (other[at] - 3 + 11) % (ORDINARY - 3)
        found = model(other[None]).logits[0]
        close(found[:at], want[:at], f"before token {at}")
        if at == 2:
            need((found[48:] - want[48:]).abs().max() > 1e-6, "a token of the first segment changes nothing")


@torch.no_grad()
def check_rows(family: str) -> None:
    """A row in a ragged batch is what it is alone, wherever the padding stands."""
    model, one, two = wrapped(build(family)), random_ids(55), random_ids(37, seed=5)
    alone = model(one[None]).logits[0], model(two[None]).logits[0]
    for begin in (0, 18):
        ids, mask = torch.zeros(2, 55, dtype=torch.long), torch.zeros(2, 55, dtype=torch.long)
        ids[0], mask[0] = one, 1
        ids[1, begin : begin + 37], mask[1, begin : begin + 37] = two, 1
        found = model(ids, attention_mask=mask).logits
        close(found[0], alone[0], "the longer row")
        close(found[1, begin : begin + 37], alone[1], "the shorter row")


@torch.no_grad()
def check_pieces(family: str, query: str = "previous", window: int | None = None) -> None:
    """Text in pieces is the same text, wherever it is cut, and on any path of decoding."""
    model, ids = wrapped(build(family, window=window), query), random_ids(55)
    want, memory, found = model(ids[None]).logits[0], None, []
    cuts = (0, 21, 22, 30, 31, 32, 33, 36, 37, 50, 55)
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        output = model(ids[None, start:stop], past_key_values=memory, use_cache=True)
        memory = output.past_key_values
        found.append(output.logits[0])
    close(torch.cat(found), want, "in pieces")


GREEDY = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


@torch.no_grad()
def check_generate(family: str) -> None:
    """Generation with a cache is generation without: one prompt, a ragged batch, beams."""
    model, ids, short = wrapped(build(family)), random_ids(27), random_ids(9, seed=5)
    alone = [model.generate(prompt[None], use_cache=False, **GREEDY) for prompt in (ids, short)]
    want = [torch.stack(output.logits, 1)[0] for output in alone]
    close(torch.stack(model.generate(ids[None], **GREEDY).logits, 1)[0], want[0], "cached", 1e-3)
    batch, mask = torch.zeros(2, 27, dtype=torch.long), torch.ones(2, 27, dtype=torch.long)
    batch[0], batch[1, 18:], mask[1, :18] = ids, short, 0
    ragged = torch.stack(model.generate(batch, attention_mask=mask, **GREEDY).logits, 1)
    for row, logits in enumerate(want):
        close(ragged[row], logits, f"row {row} of a ragged batch", 1e-3)
    beams = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False}
    found = [model.generate(ids[None], use_cache=cached, **beams) for cached in (True, False)]
    need(torch.equal(*found), "beams differ with a cache and without")


def check_inline(family: str) -> None:
    """Segments that are read in two passes on one cache, or a refusal."""
    model, ids = wrapped(build(family), "inline"), random_ids(55)
    with torch.no_grad():
        close(model(ids[None]).logits[0], oracle(model, ids), "inline")
    check_pieces(family, query="inline")
    model.train()
    model(ids[None], labels=ids[None]).loss.backward()
    need(finite_gradients(model), "gradients are not finite")


def check_kv(family: str) -> None:
    """Systems that keep keys and values: read in pieces is read at once, or a refusal."""
    ids = random_ids(55)
    refused = None
    for system, fields in (
        (TransformerXLForCausalLM, {"memory_length": 16}),
        (StreamingLLMForCausalLM, {"window_length": 16, "sinks": 2}),
    ):
        try:
            model = wrapped(build(family), system=system, **fields)
        except ValueError as error:
            refused = error
            continue
        with torch.no_grad():
            want = model(ids[None]).logits[0]
            output = model(ids[None, :25], use_cache=True)
            rest = model(ids[None, 25:], past_key_values=output.past_key_values).logits[0]
            close(torch.cat([output.logits[0], rest]), want, system.__name__)
    if refused:
        raise refused


def finite_gradients(model: Any) -> bool:
    return all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def check_train(family: str) -> None:
    """Every weight of the memory gets a gradient, and replay gives the same ones."""
    model, ids, found = wrapped(build(family)), random_ids(55)[None], []
    for replay in (False, True):
        model.zero_grad()
        loss = model(ids, labels=ids, replay=replay).loss
        loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    need(loss.isfinite() and finite_gradients(model), "loss or gradients are not finite")
    lost = [n for n in dict(model.named_parameters()) if n[:9] != "backbone." and not found[0][n].any()]
    need(not lost, f"no gradient: {lost}")
    need(any(n.startswith("backbone.") for n in found[0]), "no gradient reaches the backbone")
    need(found[0].keys() == found[1].keys(), "replay: other weights have gradients")
    for name, grad in found[0].items():
        close(found[1][name], grad, f"replay, {name}", 1e-2)
    model.train()
    model(ids, labels=ids).loss.backward()
    need(finite_gradients(model), "gradients in training mode are not finite")


def check_save(family: str) -> None:
    """What is loaded is what was saved."""
    model, ids = wrapped(build(family)), random_ids(55)[None]
    with torch.no_grad():
        want = model(ids).logits
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    need(type(loaded) is type(model), f"loaded as {type(loaded).__name__}")
    for name, tensor in model.state_dict().items():
        need(torch.equal(tensor, loaded.state_dict()[name]), f"{name} differs after loading")
    with torch.no_grad():
        close(loaded(ids).logits, want, "loaded", 1e-5)


def check_half(family: str) -> None:
    """bfloat16 runs and decodes, where it does without memory."""
    backbone = build(family).to(torch.bfloat16)
    with torch.no_grad():
        try:
            backbone(random_ids(55)[None], use_cache=False)
        except Exception as error:
            raise Upstream(f"transformers: {error}") from error
        model = wrapped(backbone)
        logits = model(random_ids(55)[None]).logits
        need(logits.isfinite().all(), "bfloat16: not finite")
        found = model.generate(random_ids(25)[None], max_new_tokens=10, do_sample=False)
    need(found.shape == (1, 35), f"bfloat16: generated {found.shape}")


def check_lora(family: str) -> None:
    """LoRA trains, and is loaded as it was saved."""
    ids = random_ids(55)[None]
    with tempfile.TemporaryDirectory() as folder:
        build(family).save_pretrained(f"{folder}/backbone")
        model = wrapped(f"{folder}/backbone")
        model(ids, labels=ids).loss.backward()
        # some weights get no gradient in any family: what chooses places to look at, for instance
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        model.zero_grad()
        model.add_lora()
        adapters = {n: p for n, p in model.named_parameters() if "lora_" in n}
        need(adapters and all(p.requires_grad for p in adapters.values()), "LoRA: no weights to train")
        before = {name: p.detach().clone() for name, p in adapters.items()}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            model.train()(ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        still = [name for name, p in adapters.items() if "lora_B" in name and torch.equal(p, before[name])]
        still = [name for name in still if f"{name.split('.lora_')[0]}.weight" not in without]
        need(not still, f"LoRA: not trained: {still[:2]} and {len(still) - 2} more" if still else "")
        model.eval().save_pretrained(f"{folder}/model")
        loaded = AutoModelForCausalLM.from_pretrained(f"{folder}/model").eval()
        with torch.no_grad():
            close(loaded(ids).logits, model(ids).logits, "LoRA, loaded", 1e-4)


def check_window(family: str) -> None:
    """Windows of attention that are shorter than a segment."""
    check_pieces(family, window=8)


CHECKS: dict[str, Callable[[str], None]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name[:6] == "check_"
}
CHECKS.pop("window")
# What may be refused where the rest works, and how the table calls it
OPTIONAL = {"inline": "inline query", "kv": "Transformer-XL, StreamingLLM", "half": "bfloat16"}


def windowed(backbone: PreTrainedModel) -> bool:
    """Whether the config names windows of attention."""
    values = vars(backbone.config.get_text_config())
    return any(values.get(name) for name in WINDOWS)


def check_family(family: str) -> dict[str, Any]:
    """All checks of one family: its verdict, the reason of a refusal, and what failed."""
    record: dict[str, Any] = {"family": family, "class": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]}
    try:
        backbone = build(family)
    except Exception as error:
        return record | {"verdict": "not built", "reason": told(error)}
    try:
        model = wrapped(backbone)
    except Exception as error:
        return record | {"verdict": "refused" if refuses(error) else "fails", "reason": told(error)}
    caching = model.caching
    record |= {"cached": caching.works, "one_by_one": caching.one_by_one, "padded": caching.padded}
    failures, refusals = {}, {}
    checks = CHECKS | ({"window": check_window} if windowed(backbone) else {})
    for name, check in checks.items():
        try:
            check(family)
        except Exception as error:
            optional = name in OPTIONAL and (refuses(error) or isinstance(error, Upstream))
            (refusals if optional else failures)[name] = told(error)
    record |= {"checks": len(checks), "failures": failures, "refusals": refusals}
    works = "works" if caching.works else "works without cached decoding"
    return record | {"verdict": "fails" if failures else works}


def refuses(error: Exception) -> bool:
    """Whether it is a ValueError that this library raised."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, ValueError) and Path(last).is_relative_to(Path(hmt.__file__).parent)


def told(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if refuses(error) else f"{type(error).__name__}: {text[:300]}"


# -- all families -------------------------------------------------------------------------------------------


def quiet() -> None:
    """One thread, no warnings."""
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)


def in_processes(families: Iterable[str], processes: int, limit: float) -> Iterator[dict[str, Any]]:
    """`check_family` of each, in a process of its own, ended after `limit` seconds; records as they come."""
    context = multiprocessing.get_context("fork")
    waiting, running = iter(families), dict[Any, tuple[str, Any, float]]()
    while True:
        for family in itertools.islice(waiting, processes - len(running)):
            receive, send = context.Pipe(duplex=False)
            child = context.Process(
                target=lambda family, send: send.send(check_family(family)), args=(family, send)
            )
            child.start()
            send.close()
            running[receive] = family, child, time.perf_counter()
        if not running:
            return
        wait(running, timeout=1)
        for receive, (family, child, begun) in list(running.items()):
            seconds, record, why = time.perf_counter() - begun, None, f"it takes more than {limit:.0f} s"
            if receive.poll():
                try:
                    record = receive.recv()
                except EOFError:
                    why = "its process died"
            elif seconds < limit:
                continue
            child.kill()
            child.join()
            del running[receive]
            if record is None:
                name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]
                record = {"family": family, "class": name, "verdict": "fails", "reason": why}
            yield record | {"seconds": round(seconds, 1)}


PAGE = """\
# Backbone families

Every causal LM family of transformers {transformers}, as a tiny random model (torch {torch}, peft {peft}).
Written by `python benchmarks/families.py`. Of {number} families:

{counts}

A family that works passes every check: the fast path equals the paper's equations on the backbone's own
logits, text in pieces and in ragged batches is the same text, generation with a cache (greedy, ragged, beams)
is generation without; training, replay, saving and loading, LoRA, and windows of attention shorter than a
segment. What a backbone can do is tried out on the backbone as it is wrapped (`check_head`, `check_causal`
and `Caching` in `hmt.backbone`), so the same holds for models that are not in this table.

Decoding: *cache* is one pass of one position per token; *alike*: that for streams that are equally far in
their segments, and the open segment is run again for batches that are not; *one by one*: what stands behind a
segment is run position by position; *again*: the open segment is always run again, which is right and slower.
Systems that need keys and values (HMT's inline query, Transformer-XL, StreamingLLM) refuse a backbone without
by name. No bfloat16 is where transformers has none for a family on a CPU.

| family | verdict | decoding | {columns} |
|---|---|---|{lines}|
{rows}
"""


def table(found: dict[str, Any]) -> str:
    """docs/families.md."""
    records = [found["families"][name] for name in sorted(found["families"])]
    count = {verdict: sum(r["verdict"] == verdict for r in records) for verdict in VERDICTS}
    rows = []
    for record in records:
        if "cached" in record:
            decoding = "cache" if record["cached"] else "again"
            decoding += ", alike" if record["cached"] and not record["padded"] else ""
            decoding += ", one by one" if record["one_by_one"] else ""
            more = ["no" if name in record["refusals"] else "yes" for name in OPTIONAL]
            failed = "; ".join(f"{name}: {why}" for name, why in record["failures"].items())
            verdict = record["verdict"] + (f": {failed}" if failed else "")
        else:
            decoding, more = "", [""] * len(OPTIONAL)
            verdict = f"{record['verdict']}: {record['reason']}"
        cells = [record["family"], verdict.replace("|", "\\|"), decoding, *more]
        rows.append(f"| {' | '.join(cells)} |")
    return PAGE.format(
        **{name: found[name] for name in ("transformers", "torch", "peft")},
        number=len(records),
        counts="\n".join(f"* {number} {VERDICTS[verdict]}" for verdict, number in count.items() if number),
        columns=" | ".join(OPTIONAL.values()),
        lines="|".join("---" for _ in OPTIONAL),
        rows="\n".join(rows),
    )


VERDICTS = {
    "works": "work",
    "works without cached decoding": "work without cached decoding",
    "refused": "are refused, with the reason",
    "not built": "could not be built here (the reason is transformers')",
    "fails": "**fail**",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="only these (default: all)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/families.json")
    parser.add_argument("--table", type=Path, default=ROOT / "docs/families.md")
    parser.add_argument("--seconds", type=float, default=300, help="limit of one family")
    parser.add_argument("--processes", type=int, default=1, help="families at a time")
    parser.add_argument("--again", action="store_true", help="begin anew")
    a = parser.parse_args()
    quiet()
    unknown = set(a.families) - set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if unknown:
        parser.error(f"no causal LM families of this transformers: {', '.join(sorted(unknown))}")
    found = json.loads(a.output.read_text()) if a.output.exists() else {"families": {}}
    facts = run_facts(0)
    old = (
        found["families"] if found.get("transformers", facts["transformers"]) == facts["transformers"] else {}
    )
    records = {} if a.again and not a.families else old
    chosen = a.families or [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in records]
    for record in in_processes(chosen, a.processes, a.seconds):
        records[family := record["family"]] = record
        shown = {k: v for k, v in records[family].items() if k in ("verdict", "reason", "failures") and v}
        print(f"{family:32} {records[family]['seconds']:6.1f} s  {shown}"[:400], flush=True)
        whole = facts | {"families": dict(sorted(records.items()))}
        write_atomically(a.output, (json.dumps(whole, indent=1) + "\n").encode())
        write_atomically(a.table, table(whole).encode())
    for verdict in VERDICTS:
        print(verdict, sum(record["verdict"] == verdict for record in records.values()))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
