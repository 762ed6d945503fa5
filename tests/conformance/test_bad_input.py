"""What a user can get wrong is a ValueError that says what is wrong."""

import numpy as np
import pytest
import torch
from backbones import random_ids, tiny_backbone
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import DynamicCache, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from hmt import HMTConfig, HMTForCausalLM, RMTForCausalLM, WindowForCausalLM
from hmt.data import RepeatedSamples, SegmentCollator, check_ids

from .cases import L, close, same_state, shared

MODEL = shared("hmt-segment")
IDS = random_ids(5)[None]
TWO = IDS.repeat(2, 1)
EMPTY_ROW = torch.tensor([[1] * 5, [0] * 5])


def filled_cache() -> DynamicCache:
    cache = DynamicCache()
    with torch.no_grad():
        MODEL.backbone(IDS, past_key_values=cache, use_cache=True)
    return cache


INPUTS = {
    "no ids": (lambda: MODEL(), "at least one token"),
    "empty ids": (lambda: MODEL(IDS[:, :0]), "at least one token"),
    "empty batch": (lambda: MODEL(IDS[:0]), "at least one token"),
    "one dimension": (lambda: MODEL(IDS[0]), "batch, tokens"),
    "not integers": (lambda: MODEL(IDS.float()), "integers"),
    "embeddings": (lambda: MODEL(inputs_embeds=torch.zeros(1, 3, 32)), "pass input_ids"),
    "id too large": (lambda: MODEL(torch.tensor([[3, 97]])), "token id 97 is outside the vocabulary of 97"),
    "id negative": (lambda: MODEL(torch.tensor([[3, -1]])), "token id -1 is outside"),
    "row of padding": (lambda: MODEL(TWO, attention_mask=EMPTY_ROW), r"rows \[1\].*all padding"),
    "short mask": (lambda: MODEL(IDS, attention_mask=torch.ones(1, 4)), "attention_mask must be"),
    "mask of other rows": (lambda: MODEL(IDS, attention_mask=torch.ones(2, 5)), "attention_mask must be"),
    "4-D mask": (lambda: MODEL(IDS, attention_mask=torch.ones(1, 1, 5, 5)), "attention_mask must be"),
    "short labels": (lambda: MODEL(IDS, labels=IDS[:, :3]), "labels are"),
    "labels of other rows": (lambda: MODEL(IDS, labels=TWO), "labels are"),
    "targets of other rows": (
        lambda: MODEL(IDS, recall_targets=torch.zeros(2, 1).long()),
        "recall_targets must be",
    ),
    "depth 0": (lambda: MODEL(IDS, labels=IDS, bptt_depth=0), "bptt_depth"),
    "filled stock cache": (lambda: MODEL(IDS, past_key_values=filled_cache()), "not a filled DynamicCache"),
    "a file name": (lambda: MODEL(IDS, past_key_values="text.hmt"), "not a str"),
    "other streams": (lambda: MODEL(TWO, past_key_values=MODEL.read(IDS)), "1 streams and the input 2 rows"),
    "a dict": (lambda: MODEL({"input_ids": IDS}), "pass its `input_ids`"),
    "one token outside": (
        lambda: MODEL(torch.tensor([[97]]), past_key_values=MODEL.read(IDS)),
        "token id 97 is outside the vocabulary",
    ),
    "attentions": (lambda: MODEL(IDS, output_attentions=True), "returns no attentions"),
    "read None": (lambda: MODEL.read(None), "token ids"),
    "read text": (lambda: MODEL.read("a text"), "tokenise it first"),
    "read texts": (lambda: MODEL.read(["a text", "another"]), "tokenise it first"),
    "read a dict": (lambda: MODEL.read({"input_ids": IDS}), "pass its `input_ids`"),
    "read ragged rows": (lambda: MODEL.read([[1, 2], [3]]), "this list is not"),
    "read nothing": (lambda: MODEL.read([]), "at least one token"),
    "read nothing more": (lambda: MODEL.read([], memory=MODEL.read(IDS)), "at least one token"),
    "read not integers": (lambda: MODEL.read([1.5, 2.0]), "integers"),
    "read a row of padding": (lambda: MODEL.read(TWO, EMPTY_ROW), r"rows \[1\].*all padding"),
    "read id too large": (lambda: MODEL.read([3, 97]), "outside the vocabulary"),
    "read other streams": (lambda: MODEL.read(TWO, memory=MODEL.read(IDS)), "1 streams and the input 2 rows"),
    "read stock cache": (lambda: MODEL.read(IDS, memory=filled_cache()), "not a filled DynamicCache"),
    "generate from nothing": (lambda: MODEL.generate(), "at least one prompt token"),
    "generate from a list": (lambda: MODEL.generate([1, 2]), "must be a tensor .* not a list"),
    "generate from text": (lambda: MODEL.generate("a text"), "tokenise it first"),
    "generate from one dimension": (lambda: MODEL.generate(IDS[0]), "batch, tokens"),
    "generate from empty": (lambda: MODEL.generate(IDS[:, :0]), "at least one prompt token"),
    "generate from padding": (lambda: MODEL.generate(TWO, attention_mask=EMPTY_ROW), "all padding"),
    "generate id too large": (lambda: MODEL.generate(torch.tensor([[97]]), max_new_tokens=1), "vocabulary"),
    "generate other streams": (
        lambda: MODEL.generate(TWO, past_key_values=MODEL.read(IDS), max_new_tokens=1),
        "1 streams and the input 2 rows",
    ),
    "generate stock cache": (
        lambda: MODEL.generate(IDS, past_key_values=filled_cache(), max_new_tokens=1),
        "not a filled DynamicCache",
    ),
    "crop": (lambda: MODEL.read(IDS).crop(2), "cannot be taken out"),
    "reset": (lambda: MODEL.read(IDS).reset(), "start again"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_input(case):
    call, message = INPUTS[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="no keyword 'label'; did you mean 'labels'"):
        MODEL(IDS, label=IDS)
    with pytest.raises(ValueError, match="cu_seq_lens_q says .* packed"):  # and would be read as one
        MODEL(IDS, cu_seq_lens_q=torch.tensor([0, 2, 5]))
    with torch.no_grad():  # what transformers and peft pass along
        passed = {"position_ids": torch.arange(5)[None], "token_type_ids": None, "output_attentions": False}
        assert torch.equal(MODEL(IDS, **passed).logits, MODEL(IDS).logits)


def test_padding_may_hold_any_id():
    ids, mask = torch.tensor([[-100, 999, 4]]), torch.tensor([[0, 0, 1]])
    with torch.no_grad():
        close(MODEL(ids, attention_mask=mask).logits[:, -1], MODEL(ids[:, 2:]).logits[:, -1])


FIELDS = {
    "segment_length=0": (HMTForCausalLM, {"segment_length": 0}, "at least 1"),
    "summary > segment": (
        HMTForCausalLM,
        {"segment_length": 8, "summary_length": 9},
        r"between 1 and .*\(8\), got 9",
    ),
    "summary 0": (HMTForCausalLM, {"summary_length": 0}, "between 1 and"),
    "sensory -1": (HMTForCausalLM, {"sensory_length": -1}, "negative"),
    "memory 0": (HMTForCausalLM, {"memory_size": 0}, "memory_size"),
    "recall_dim 0": (HMTForCausalLM, {"recall_dim": 0}, "recall_dim"),
    "no memory tokens": (RMTForCausalLM, {"num_memory_tokens": 0}, "num_memory_tokens"),
    "rmt sensory -1": (RMTForCausalLM, {"sensory_length": -1}, "negative"),
    "window -1": (WindowForCausalLM, {"window_length": -1}, "negative"),
    "misspelt": (HMTForCausalLM, {"segment_lenght": 8}, "'segment_lenght' .did you mean 'segment_length'"),
    "field of another system": (
        RMTForCausalLM,
        {"recall_query": "segment"},
        "RMTConfig has no field 'recall_query'",
    ),
    "memory_scale 0": (HMTForCausalLM, {"memory_scale": 0}, "above 0"),
    "memory_scale nan": (HMTForCausalLM, {"memory_scale": float("nan")}, "above 0"),
    "backbone_kwargs": (HMTForCausalLM, {"backbone_kwargs": {"dtype": "auto"}}, "loaded by name"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_field(case):
    cls, fields, message = FIELDS[case]
    with pytest.raises(ValueError, match=message):
        cls.from_backbone(MODEL.backbone, **fields)


@pytest.mark.parametrize(
    "name,value",
    [
        ("segment_length", "16"),
        ("segment_length", 16.0),
        ("summary_length", "8"),
        ("recall", "yes"),
        ("recall_query", "segments"),
        ("memory_size", None),
    ],
)
def test_mistyped_field(name, value):
    """Names the field and the types, and is caught by whoever catches transformers' own error too."""
    for call in (
        lambda: HMTForCausalLM.from_backbone(MODEL.backbone, **{name: value}),
        lambda: HMTConfig(**{name: value}),
        lambda: setattr(HMTConfig(), name, value),
    ):
        with pytest.raises(ValueError, match=f"'{name}' expected") as caught:
            call()
        assert isinstance(caught.value, StrictDataclassFieldValidationError)


@pytest.mark.parametrize(
    "cls,name", [(RMTForCausalLM, "num_memory_tokens"), (WindowForCausalLM, "window_length")]
)
def test_mistyped_field_of_other_systems(cls, name):
    with pytest.raises(ValueError, match=f"'{name}' expected int, got str"):
        cls.from_backbone(MODEL.backbone, **{name: "1"})


def test_memory_scale():
    assert HMTConfig(memory_scale=1).memory_scale == 1
    config = HMTConfig(text_config=MODEL.backbone.config, segment_length=L, memory_scale="embedding")
    with pytest.raises(ValueError, match="measured: build with from_backbone"):
        HMTForCausalLM(config)
    scale = HMTForCausalLM(config, backbone=tiny_backbone()).config.memory_scale
    assert isinstance(scale, float) and 0 < scale < 10
    assert (
        HMTForCausalLM.from_backbone(tiny_backbone(), memory_scale="embedding").config.memory_scale == scale
    )


class WithoutEmbeddings(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None):
        raise NotImplementedError


class OddLogits(LlamaForCausalLM):
    def forward(self, inputs_embeds=None, **kwargs):
        output = super().forward(inputs_embeds=inputs_embeds, **kwargs)
        output.logits = 3 * output.logits
        return output


def encoder_decoder():
    return T5ForConditionalGeneration(
        T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


BACKBONES = {
    "no inputs_embeds": (lambda: WithoutEmbeddings(tiny_backbone().config), "no `inputs_embeds`"),
    "encoder-decoder": (encoder_decoder, "encoder-decoder"),
    "logits changed after the head": (lambda: OddLogits(tiny_backbone().config), "logits after it"),
    "a module": (lambda: torch.nn.Linear(2, 2), "not Linear"),
    "a number": (lambda: 3, "not int"),
}


@pytest.mark.parametrize("case", BACKBONES)
def test_backbone(case):
    make, message = BACKBONES[case]
    with pytest.raises(ValueError, match=message):
        HMTForCausalLM.from_backbone(make(), segment_length=L)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize(
    "cls,fields,around",
    [
        (HMTForCausalLM, {"sensory_length": 3}, 5),
        (RMTForCausalLM, {"num_memory_tokens": 2}, 4),
        (WindowForCausalLM, {"window_length": 7}, 7),
    ],
)
def test_more_positions_than_were_learned(family, cls, fields, around):
    backbone, fits = tiny_backbone(family), 128 - around
    with pytest.raises(ValueError, match=f"learned 128 positions.*segment_length that fits is {fits}$"):
        cls.from_backbone(backbone, segment_length=fits + 1, **fields)
    model = cls.from_backbone(backbone, segment_length=fits, **fields)
    with torch.no_grad():
        assert model(random_ids(2 * fits + 1)[None]).logits.isfinite().all()
    with pytest.raises(ValueError, match="keep fewer raw tokens"):
        WindowForCausalLM.from_backbone(backbone, segment_length=1, window_length=128)


@pytest.mark.parametrize("family,warned", [("llama", True), ("gpt_neox", True), ("bloom", False)])
def test_more_positions_than_were_trained(family, warned, monkeypatch):
    said = []
    monkeypatch.setattr("hmt.backbone.checks.logger.warning_once", said.append)
    RMTForCausalLM.from_backbone(tiny_backbone(family), segment_length=127)
    assert bool(said) == warned and all("129 positions" in text for text in said)


def test_text_config_without_a_type():
    with pytest.raises(ValueError, match="model_type"):
        HMTConfig(text_config={"hidden_size": 32})


WIDTHS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4"]
SMALL = np.arange(3, 3 + 2 * L) % 90


@torch.no_grad()
@pytest.mark.parametrize("dtype", WIDTHS)
def test_ids_of_any_width(dtype):
    """Wherever ids, labels or rows are taken: tensors, arrays of any byte order and stride, lists."""
    array, ids = SMALL.astype(dtype), torch.tensor(SMALL)[None]
    want = MODEL.read(ids)
    for given in (
        array,
        array[None],
        np.repeat(array, 2)[::2],
        array[::-1][::-1],
        list(array),
        [array],
        array.tolist(),
    ):
        same_state(MODEL.read(given), want, exact=True)
    _, (_, memory) = next(MODEL.read_many([array])), next(MODEL.read_many([list(array)]))
    same_state(memory, want, exact=True)
    if dtype == ">i4":
        return  # no tensor is of this kind
    tensor = torch.from_numpy(array)[None]
    same_state(MODEL.read(tensor), want, exact=True)
    assert torch.equal(MODEL(tensor).logits, MODEL(ids).logits)
    assert torch.equal(MODEL(ids, labels=tensor).loss, MODEL(ids, labels=ids).loss)
    for words in ({"inputs": tensor}, {"input_ids": tensor}):
        (name,) = words
        options = {"max_new_tokens": 3, "do_sample": False}
        assert torch.equal(MODEL.generate(**words, **options), MODEL.generate(**{name: ids}, **options))
    two, row = MODEL.read(ids.repeat(2, 1)), np.array([1], dtype)
    for index in (row, torch.from_numpy(row), [1]):
        same_state(two.select(index), want, exact=False)
    keep = torch.tensor([0, 2]).to(tensor.dtype)
    close(MODEL(ids, logits_to_keep=keep).logits, MODEL(ids).logits[:, [0, 2]])


@pytest.mark.parametrize("values", [[1.5, 2.0], [True, False], ["a"], [[1], [2, 3]], [None], [1 + 2j]])
def test_what_is_no_integer_is_refused_wherever_ids_are(values):
    samples = [{"input_ids": values}]
    for call in (
        lambda: MODEL.read(values),
        lambda: MODEL.read(IDS.repeat(2, 1)).select(values),
        lambda: SegmentCollator()(samples),
        lambda: RepeatedSamples(samples, segment_length=L)[0],
        lambda: check_ids(values, 97),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(ValueError, match="labels must be integers"):
        MODEL(IDS, labels=IDS.float())
