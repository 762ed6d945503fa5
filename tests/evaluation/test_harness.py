"""The adapter under the harness's own evaluation loop, against a plain computation."""

import copy
import importlib
import json
import math
import sys

import pytest
import torch

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from hmt.evaluation.harness import HarnessLM
from hmt.evaluation.readers import BM25Reader, MemoryReader, RollingReader, baseline

SYSTEMS = ["hmt", "previous", "inline", "rmt", "window"]
LONG = "the cat sat on the mat and the dog sat on the cat, so the mat was full: " * 2  # 18 segments of 8


def build(make_model, system):
    if system == "inline":
        return make_model("hmt", recall_query="inline")
    return make_model(system)


@pytest.fixture
def tokenizer(character_tokenizer):
    return character_tokenizer


@torch.no_grad()
def plainly(model, tokenizer, context, text):
    """(log p, likeliest) of every token of `text`, each from a new reading of all that stands before it.

    What was read last is all that the model is given, so nothing can have seen the token.
    """
    blank = " " * context.endswith(" ")  # the harness counts it to what follows
    before = tokenizer(context.rstrip())["input_ids"] or [tokenizer.bos_token_id]
    found = []
    for token in tokenizer(blank + text)["input_ids"]:
        scores = model(torch.tensor([before]), use_cache=True).logits[0, -1].log_softmax(-1)
        found.append((scores[token].item(), scores.argmax().item() == token))
        before = [*before, token]
    return found


READERS = ["hmt", "full", "window-ids", "window", "sinks", "bm25"]


def make_reader(make_model, tokenizer, kind):
    """Any reader around one and the same tiny backbone, which carries much less than LONG."""
    if kind == "hmt":
        return MemoryReader(make_model("hmt"))
    backbone = make_model("plain").backbone
    return baseline(kind, backbone, 2000 if kind != "bm25" else 60, tokenizer, chunk=8, limit=60)


def requests(kind, *arguments):
    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


def write_task(folder, name, rows, **fields):
    """A task of the harness on a local file: YAML is a superset of JSON."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        **fields,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task))


@torch.no_grad()
def write(model, tokenizer, context, number):
    """The likeliest text of `number` tokens after `context`, without any cache."""
    ids = tokenizer(context)["input_ids"]
    for _ in range(number):
        scores = model(torch.tensor([ids]), use_cache=True).logits[0, -1]
        ids = [*ids, scores.argmax().item()]
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[len(tokenizer(context)["input_ids"]) :], skip_special_tokens=True)


@pytest.mark.parametrize("system", SYSTEMS)
def test_continuations_equal_brute_force(make_model, tokenizer, system):
    model = build(make_model, system)
    contexts = [LONG[:65], LONG[:37], LONG[:7], LONG[:8], "a", "", LONG[:65]]
    texts = [" cat", "e dog sat on", " ab", "cat", " mat and so", "so it was", "0"]
    lm = HarnessLM(model, tokenizer, batch_size=2)
    found = lm.loglikelihood(requests("loglikelihood", *zip(contexts, texts, strict=True)), True)
    for context, text, (total, likeliest) in zip(contexts, texts, found, strict=True):
        want = plainly(model, tokenizer, context, text)
        assert total == pytest.approx(sum(p for p, _ in want), abs=1e-3)
        assert likeliest == all(best for _, best in want)


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_says_in_the_harness_what_it_says_by_itself(make_model, tokenizer, kind):
    reader = make_reader(make_model, tokenizer, kind)
    reader.model.generation_config.eos_token_id = tokenizer.eos_token_id
    lm = HarnessLM(reader, tokenizer)
    contexts, text = [LONG, LONG[:29], LONG[:61], LONG], " cat on the mat"

    def nats(context, ids):
        return sum(reader.nats(reader.read(tokenizer(context)["input_ids"]), [], ids))

    ids = tokenizer(text)["input_ids"]
    found = lm.loglikelihood(requests("loglikelihood", *[(one.rstrip(), text) for one in contexts]), True)
    want = [-nats(one.rstrip(), ids) for one in contexts]
    assert [total for total, _ in found] == pytest.approx(want, abs=1e-3)
    (rolled,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (LONG,)), True)
    assert rolled == pytest.approx(-nats("<s>", tokenizer(LONG)["input_ids"]), abs=1e-3)
    options = {"until": ["q"], "max_gen_toks": 7, "do_sample": False, "temperature": 0.0}
    written = lm.generate_until(requests("generate_until", *[(one, options) for one in contexts]), True)
    for context, answer in zip(contexts, written, strict=True):
        new = reader.generate(
            reader.read(tokenizer(context)["input_ids"]), [], 7, eos_token_id=tokenizer.eos_token_id
        )
        assert answer == tokenizer.decode(new, skip_special_tokens=True).split("q")[0]
    facts = lm.get_model_info()
    assert facts["reader"] == reader.name and facts["bytes_carried"] == reader.bytes_carried


def test_the_likeliest_continuation_is_told(make_model, tokenizer):
    model = make_model("hmt")
    lm = HarnessLM(model, tokenizer)
    ids = tokenizer(LONG[:61])["input_ids"]
    for _ in range(10):
        ids.append(model(torch.tensor([ids]), use_cache=True).logits[0, -1].argmax().item())
    other = [*ids[:-1], (ids[-1] + 1) % 40]
    tokens = [(("", ""), ids[:61], ids[61:]), (("", ""), ids[:61], other[61:]), (("", ""), ids[:61], [])]
    (_, yes), (_, no), nothing = lm._loglikelihood_tokens(tokens, True)
    assert yes and not no
    assert nothing == (0.0, True)


@pytest.mark.parametrize("system", SYSTEMS)
def test_rolling_scores_every_token_of_a_long_text(make_model, tokenizer, system):
    model = build(make_model, system)
    texts = [LONG[:43], "of five", "", "<s>once"]  # the first is 6 segments
    found = HarnessLM(model, tokenizer).loglikelihood_rolling(
        requests("loglikelihood_rolling", *[(text,) for text in texts]), True
    )
    want = [sum(p for p, _ in plainly(model, tokenizer, "", text.removeprefix("<s>"))) for text in texts]
    assert found == pytest.approx(want, abs=1e-3)


def test_the_loop_of_the_harness(make_model, tokenizer, tmp_path):
    """By name and folder, as from the command line: choices, long texts and writing, on local files."""
    model, folder = make_model("hmt"), tmp_path / "model"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    choices = [" cat", " dog", " mat"]
    rows = [
        {"text": LONG[:length], "choices": choices, "answer": number % 3}
        for number, length in enumerate((83, 58, 33, 11))
    ]
    write_task(
        tmp_path,
        "choosing",
        rows,
        output_type="multiple_choice",
        doc_to_text="{{text}}",
        doc_to_choice="{{choices}}",
        doc_to_target="answer",
        target_delimiter="",
        metric_list=[{"metric": "acc"}],
    )
    write_task(
        tmp_path,
        "rolling",
        [{"text": row["text"]} for row in rows[2:]],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )
    write_task(
        tmp_path,
        "writing",
        rows,
        output_type="generate_until",
        doc_to_text="{{text}}",
        doc_to_target="",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 5, "do_sample": False, "temperature": 0.0},
        metric_list=[{"metric": "exact_match"}],
    )
    found = lm_eval.simple_evaluate(
        "hmt",
        model_args={"pretrained": str(folder), "budget": 600},
        batch_size=3,
        device=None if torch.cuda.is_available() else "cuda:0",  # the default of the command line
        tasks=["choosing", "rolling", "writing"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    model = model.at_budget(600)
    assert model.config.memory_size == 2

    def answers(task):
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        return [[answer for (answer,) in sample["resps"]] for sample in samples]

    right = 0
    for row, given in zip(rows, answers("choosing"), strict=True):
        want = [sum(p for p, _ in plainly(model, tokenizer, row["text"], text)) for text in choices]
        assert [total for total, _ in given] == pytest.approx(want, abs=1e-3)
        right += max(range(3), key=want.__getitem__) == row["answer"]
    assert found["results"]["choosing"]["acc,none"] == right / len(rows)

    bits = [-sum(p for p, _ in plainly(model, tokenizer, "", r["text"])) / math.log(2) for r in rows[2:]]
    assert found["results"]["rolling"]["bits_per_byte,none"] == pytest.approx(sum(bits) / (33 + 11), rel=1e-4)

    written = [[write(model, tokenizer, row["text"], 5).split("\n")[0]] for row in rows]
    assert answers("writing") == written
    assert found["config"]["memory_fields"]["memory_size"] == 2
    assert found["max_length"] == sys.maxsize
    json.dumps(found["config"])  # it is written to the results file


def test_one_context_is_read_once(make_model, tokenizer, monkeypatch):
    model = make_model("hmt")
    read = []
    real = type(model).step

    def counting(self, segment, *args, **kwargs):
        read.append(segment.shape)
        return real(self, segment, *args, **kwargs)

    monkeypatch.setattr(type(model), "step", counting)
    lm = HarnessLM(model, tokenizer)
    lm.loglikelihood(requests("loglikelihood", *[(LONG[:80], text) for text in (" cat", " dog", ".")]), True)
    assert len(read) == 79 // 8


@pytest.mark.parametrize("system", SYSTEMS)
def test_writing_ends_at_the_first_mark(make_model, tokenizer, system):
    model = build(make_model, system)
    model.generation_config.eos_token_id = None
    contexts = [LONG[:90], LONG[:64], LONG[:5]]
    wanted = [write(model, tokenizer, context, 9) for context in contexts]
    mark = next(text[2:4] for text in wanted if len(text) > 4)
    lm = HarnessLM(model, tokenizer, batch_size=2)
    options = {"until": ["", mark], "max_gen_toks": 9, "do_sample": False, "temperature": 0.0}
    found = lm.generate_until(requests("generate_until", *[(text, options) for text in contexts]), True)
    assert found == [text.split(mark)[0] for text in wanted]


def test_writing_ends_at_the_end_of_text(make_model, tokenizer):
    """The tokenizer's, which the generation config of this model does not name."""
    model = make_model("hmt")
    model.generation_config.eos_token_id = None
    texts = {LONG[:n]: write(model, tokenizer, LONG[:n], 9) for n in range(20, 40)}
    context, text = next((c, t) for c, t in texts.items() if len(t) > 4 and t[2] not in t[:2])
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = text[2]
    lm = HarnessLM(model, tokenizer)
    (found,) = lm.generate_until(requests("generate_until", (context, {"max_gen_toks": 9})), True)
    assert found == text[:2]


def test_sampling_settings_reach_generate(make_model, tokenizer):
    lm = HarnessLM(make_model("hmt"), tokenizer)
    options = {"do_sample": True, "temperature": 5.0, "top_k": 50, "max_gen_toks": 12, "until": []}
    asked = requests("generate_until", *[(LONG[:40], options)] * 4)
    torch.manual_seed(0)
    first = lm.generate_until(asked, True)
    torch.manual_seed(0)
    assert lm.generate_until(asked, True) == first
    assert len(set(first)) > 1
    greedy = lm.generate_until(requests("generate_until", (LONG[:40], {**options, "top_k": 1})), True)
    assert greedy == lm.generate_until(requests("generate_until", (LONG[:40], {"max_gen_toks": 12})), True)


def test_chat_template_and_special_tokens(make_model, tokenizer):
    lm = HarnessLM(make_model("hmt"), tokenizer)
    text = lm.apply_chat_template([{"role": "user", "content": "hi"}])
    assert text == "<s>user: hi\nassistant:"
    assert lm.tok_encode(text)[0] == tokenizer.bos_token_id
    assert lm.chat_template(True) == tokenizer.chat_template
    assert lm.prefix_token_id == tokenizer.bos_token_id
    assert HarnessLM(lm.reader.model, tokenizer, prefix_token_id=7).prefix_token_id == 7


def test_answers_reach_the_harness_cache(make_model, tokenizer):
    lm = HarnessLM(make_model("rmt"), tokenizer)
    kept = []
    lm.cache_hook.add_partial = lambda *entry: kept.append(entry)
    found = lm.loglikelihood(requests("loglikelihood", (LONG[:20], " cat")), True)
    rolled = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (LONG[:20],)), True)
    assert kept == [
        ("loglikelihood", (LONG[:20], " cat"), found[0]),
        ("loglikelihood_rolling", (LONG[:20],), rolled[0]),
    ]


def test_readers_are_opened_by_name(make_model, tokenizer, tmp_path):
    model = make_model("hmt")
    model.save_pretrained(tmp_path / "hmt")
    model.backbone.save_pretrained(tmp_path / "plain")
    for folder in ("hmt", "plain"):
        tokenizer.save_pretrained(tmp_path / folder)
    own = model.new_memory(1).nbytes
    of_memory = HarnessLM(str(tmp_path / "hmt"), reader="window").reader
    assert isinstance(of_memory, RollingReader) and of_memory.chunk == 8
    assert own / 2 < of_memory.bytes_carried <= own
    plain = HarnessLM(str(tmp_path / "plain"), reader="sinks", budget="2KiB", context=40, chunk=5).reader
    assert (plain.sinks, plain.chunk, plain.positions) == (4, 5, 40)
    assert plain.bytes_carried <= 2048
    assert isinstance(HarnessLM(str(tmp_path / "plain"), reader="bm25", budget="64 B").reader, BM25Reader)
    assert HarnessLM(str(tmp_path / "hmt"), reader="sensory").reader.tokens == 2
    with pytest.raises(ValueError, match="plain llama model without memory"):
        HarnessLM(str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="bm25 needs a number of bytes"):
        HarnessLM(str(tmp_path / "plain"), reader="bm25")
    with pytest.raises(ValueError, match="no reader 'lstm'; choose from memory, alone"):
        HarnessLM(str(tmp_path / "hmt"), reader="lstm")


def test_what_cannot_be_is_refused(make_model, tokenizer, tmp_path):
    make_model("rmt").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no device 'toaster'"):
        HarnessLM(str(tmp_path), device="toaster")
    with pytest.raises(ValueError, match="batch_size is auto"):
        HarnessLM(str(tmp_path), batch_size="auto")
    with pytest.raises(ValueError, match="loaded already"):
        HarnessLM(make_model("rmt"), tokenizer, dtype="float32")
    with pytest.raises(ValueError, match="nothing is not there"):
        HarnessLM(str(tmp_path / "nothing"))


def test_without_the_harness_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    for name in ("harness", "harness.model"):
        monkeypatch.delitem(sys.modules, f"hmt.evaluation.{name}")
    with pytest.raises(ValueError, match=r'pip install "hmt-lm\[eval\]"'):
        importlib.import_module("hmt.evaluation.harness")
