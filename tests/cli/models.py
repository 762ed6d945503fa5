"""A tiny tokenizer and tiny random models, saved as folders."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hmt import HMTForCausalLM

SENTENCES = [
    "The whale turned, and the boat turned after it.",
    "Nobody on board had seen the like, neither by day nor by night!",
    '\n\n\t"Call me what you like," said he; \'tis 1851 -- or was it 1852?\n',
    "Café, naïve, 東京は夜の七時, and a smile 😀 besides.",
]
TEXT = " ".join(SENTENCES[i % 4] + f" ({i})" for i in range(60))


# of an HMT that can be asked
ASKED = {
    "segment_length": 48,
    "sensory_length": 48,
    "recall_query": "previous",
    "write_prompt": "alone",
    "passages": 2,
    "lexical": 1.0,
    "memory_size": 200,
}


def make_tokenizer(text: str = TEXT, bos: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE, like GPT-2's, trained on `text`; it begins every text with <s>, like Llama's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text], trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def save_model(folder, kind, tokenizer, seed=0, **fields):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        eos_token_id=1,
    )
    fields = {"segment_length": 16, "sensory_length": 3} | fields
    model = kind.from_backbone(LlamaForCausalLM(config).eval(), **fields)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return model


def save_asked(factory, **fields):
    """The folder of a model that can be asked, with its tokenizer; factory: pytest's `tmp_path_factory`."""
    place = factory.mktemp("asked")
    save_model(place, HMTForCausalLM, make_tokenizer(), **ASKED | fields)
    return place
