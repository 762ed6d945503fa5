"""Questions as segments: the user's turn of any chat template, and what a memory is asked with."""

import pytest
import torch
from backbones import random_ids, tiny_backbone
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hmt import HMTForCausalLM
from hmt.model.asking import answer_header, ask_memory, question_ids

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
# a system prompt of its own where there is none, as SmolLM2 has
SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}"
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}[INST] {{ m.content }} "
    "[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
# takes an answer in earlier turns only with what it thought
LAST_IS_SPECIAL = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}<think>{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
ONE_TURN = (
    "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    "{{ bos_token }}<u>{{ messages[0].content }}</u>{% if add_generation_prompt %}<a>{% endif %}"
)


def tokenizer_with(template: str | None) -> PreTrainedTokenizerFast:
    """One token for each byte; <s> is its BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(["<s>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "turn", "header"),
    [
        (SYSTEM + TURNS + HEADER, "<|im_start|>user\nWho?<|im_end|>\n", "<|im_start|>assistant\n"),
        (TURNS + HEADER, "<|im_start|>user\nWho?<|im_end|>\n", "<|im_start|>assistant\n"),
        (BRACKETS, "[INST] Who? [/INST]", "Answer:"),
        (LAST_IS_SPECIAL, "<user>Who?\n", "<assistant>"),
        (ONE_TURN, "<u>Who?</u>", "<a>"),
        (None, "Question: Who?\n", "Answer:"),
    ],
)
def test_a_question_is_the_users_turn_alone(template, turn, header):
    tokenizer = tokenizer_with(template)
    assert tokenizer.decode(question_ids(tokenizer, " Who?\n")) == turn
    assert tokenizer.decode(answer_header(tokenizer)) == header


def test_questions_that_cannot_be_put():
    tokenizer = tokenizer_with(None)
    with pytest.raises(ValueError, match="the question is empty"):
        question_ids(tokenizer, " \n")
    with pytest.raises(ValueError, match="refuses a question: no"):
        question_ids(tokenizer_with("{{ raise_exception('no') }}"), "Who?")


def build(**fields) -> HMTForCausalLM:
    torch.manual_seed(0)
    usual = {
        "passages": 1,
        "recall_query": "previous",
        "write_prompt": "alone",
        "sensory_length": 6,
    }
    return HMTForCausalLM.from_backbone(tiny_backbone("llama"), segment_length=8, **usual | fields).eval()


def test_a_memory_is_asked_and_stays_as_it_is():
    model, question = build(), random_ids(5, 1)
    memory = model.read(random_ids(19, 2))
    asked = ask_memory(model, memory, question.tolist())
    assert memory.open_lengths.tolist() == [3] and asked.segments_read.tolist() == [4]
    assert model.remembered(asked, 0, [2, 3])[1] == question.tolist()
    found = model.recalled(asked, top=9)[0]
    assert sorted(passage.segment for passage in found) == [0, 1, 2]
    again = ask_memory(model, model.flush(memory), question.tolist())
    assert all(torch.equal(again.state[name], asked.state[name]) for name in asked.state.tensors)


@pytest.mark.parametrize(
    ("fields", "most"), [({}, 6), ({"sensory_length": 20}, 8), ({"sensory_length": 0}, 0)]
)
def test_a_question_too_long_is_refused_with_the_limit(fields, most):
    model = build(**fields)
    memory = model.read(random_ids(19, 2))
    if most:
        ask_memory(model, memory, list(range(most)))
    with pytest.raises(ValueError, match=f"the question has {most + 1} tokens .* and {most} are the most"):
        ask_memory(model, memory, list(range(most + 1)))


def test_a_model_without_passages_cannot_be_asked():
    model = build(passages=0)
    with pytest.raises(
        ValueError, match="keeps no passages and cannot be asked: .* cannot close a segment early"
    ):
        ask_memory(model, model.read(random_ids(19, 2)), [1, 2])
