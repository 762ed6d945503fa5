"""Every option of `generate`: it does what it does for any causal LM, or is refused by its own name."""

import inspect
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from backbones import VOCAB, random_ids, tiny_backbone
from transformers import (
    CompileConfig,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    StoppingCriteria,
    TextStreamer,
    WatermarkingConfig,
)
from transformers.generation import GenerateDecoderOnlyOutput

from hmt.model.generation import REFUSED

from .cases import J, L, build, close, pad, ragged, shared
from .test_returned_memory import characters

NEW = 5
SAMPLED = {"do_sample": True}


class Shift(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores.roll(1, dims=-1)


class At(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full(input_ids.shape[:1], input_ids.shape[1] > 2 * L + J + 4)


def decoding_loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
    """Greedy, as the documentation of `custom_generate` shows it."""
    goes_on = True
    while goes_on:
        outputs = model(**model.prepare_inputs_for_generation(input_ids, **model_kwargs), return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        scores = logits_processor(input_ids, outputs.logits[:, -1].float())
        input_ids = torch.cat([input_ids, scores.argmax(-1, keepdim=True)], dim=-1)
        goes_on = not stopping_criteria(input_ids, None).all()
    if not generation_config.return_dict_in_generate:
        return input_ids
    return GenerateDecoderOnlyOutput(input_ids, past_key_values=model_kwargs.get("past_key_values"))


# what works: calls that together use every option
EXAMPLES = [
    {"max_length": 2 * L + J + 6, "max_new_tokens": None},
    {"min_length": 2 * L + J + 5, "eos_token_id": list(range(VOCAB - 1))},
    {"min_new_tokens": 4, "eos_token_id": list(range(VOCAB - 1))},
    {"max_time": 1000.0, "bos_token_id": 1, "pad_token_id": 0, "use_cache": True},
    {"stop_strings": ["A", "ab", "z", "!"], "tokenizer": characters()},
    {"num_beams": 3, "early_stopping": True, "length_penalty": 0.5, "num_return_sequences": 2},
    {"num_beams": 2, **SAMPLED, "prefix_allowed_tokens_fn": lambda row, ids: list(range(row, VOCAB, 2))},
    {**SAMPLED, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "num_return_sequences": 2},
    {**SAMPLED, "min_p": 0.01, "typical_p": 0.9},
    {**SAMPLED, "top_h": 0.6},
    {**SAMPLED, "epsilon_cutoff": 0.003, "eta_cutoff": 0.003, "watermarking_config": WatermarkingConfig()},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[5], [6, 7]]},
    {"encoder_repetition_penalty": 1.5, "encoder_no_repeat_ngram_size": 2},
    {"forced_bos_token_id": 5, "forced_eos_token_id": 6, "eos_token_id": 6},
    {"remove_invalid_values": True, "renormalize_logits": True},
    {"suppress_tokens": [4], "begin_suppress_tokens": [8]},
    {"exponential_decay_length_penalty": (2, 3.0), "eos_token_id": 6},
    {"sequence_bias": {(5, 6): 20.0, (5,): 10.0}},
    {"guidance_scale": 2.0},
    {"guidance_scale": 2.0, "negative_prompt_ids": torch.stack(ragged([3, 3])),
     "negative_prompt_attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])},
    {"generation_config": GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0)},
    {"logits_processor": [Shift()], "stopping_criteria": [At()]},
    {"custom_generate": decoding_loop},
    {"synced_gpus": False, "trust_remote_code": False},
    {"output_scores": True, "output_logits": True, "return_dict_in_generate": True},
]  # fmt: skip
# what says nothing to a causal LM that decodes alone and on its own cache, of whatever kind
IDLE = {
    "inputs",
    "streamer",  # test_generate.py
    "decoder_start_token_id",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "max_matching_ngram_size",
    "assistant_lookbehind",
    "target_lookbehind",
    "assistant_ensemble_weight",
    "speculation_type",
    "disable_compile",
    "low_memory",
    "transformers_version",
}


def generate(options, **more):
    model = shared("hmt-segment")
    ids, mask = pad(ragged([2 * L + J, L - 2]), "left", extra=0)
    base = {} if "generation_config" in options else {"max_new_tokens": NEW, "pad_token_id": 0}
    torch.manual_seed(7)
    return model.generate(ids, **base | {"attention_mask": mask} | options | more)


@pytest.mark.parametrize("options", EXAMPLES, ids=lambda options: "-".join(options))
@pytest.mark.filterwarnings("ignore:Passing `generation_config` together")
def test_an_option_does_what_it_does_without_a_cache(options):
    cached = generate(options, return_dict_in_generate=True)
    uncached = generate(options, use_cache=False)
    if options.get("return_dict_in_generate"):
        close(torch.stack(cached.scores), torch.stack(uncached.scores))
        close(torch.stack(cached.logits), torch.stack(uncached.logits))
        uncached = uncached.sequences
    assert torch.equal(cached.sequences, uncached)
    assert cached.past_key_values.batch_size == len(uncached)


VALUES = {
    "assistant_model": tiny_backbone(),
    "assistant_tokenizer": characters(),
    "cache_implementation": "static",
    "cache_config": {},
    "compile_config": CompileConfig(),
    "dola_layers": "low",
    "constraints": [object()],
    "force_words_ids": [[5]],
    "inputs_embeds": torch.zeros(1, 3, 32),
    "use_mtp": True,
    "is_assistant": True,
    "token_healing": True,
    "synced_gpus": True,
    "output_attentions": True,
    "output_hidden_states": True,
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_is_refused_by_its_name(name, monkeypatch):
    value, message = VALUES.get(name, 3), rf"does not take {name}: "
    with pytest.raises(ValueError, match=message):
        generate({}, **{name: value})
    if hasattr(GenerationConfig(), name) and name != "continuous_batching_config":
        with pytest.raises(ValueError, match=message):
            generate({"generation_config": GenerationConfig(**{name: value})})
        monkeypatch.setattr(shared("hmt-segment").generation_config, name, value)
        with pytest.raises(ValueError, match=message):
            generate({})


def test_values_that_ask_for_nothing():
    generate(
        {"num_beam_groups": 1, "diversity_penalty": 0.0, "penalty_alpha": 0.0, "output_attentions": False}
    )
    generate({}, **dict.fromkeys(REFUSED))


def test_all_options_are_known():
    """Of the versions of transformers that are pinned; later ones may have more."""
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    if f"transformers=={transformers.__version__} " not in pinned:
        pytest.skip("the list is of other versions of transformers")
    known = IDLE.union(REFUSED, *EXAMPLES)
    arguments = set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
    assert arguments | {name for name in vars(GenerationConfig()) if not name.startswith("_")} <= known


def test_what_is_refused_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "generation.md").read_text(encoding="utf-8")
    assert not [name for name in REFUSED if f"`{name}" not in page]


def test_the_time_limit_counts_the_reading_of_the_prompt(monkeypatch):
    """By the clock of this library it was called long ago, by that of transformers it has just begun."""
    long_ago = SimpleNamespace(time=lambda: time.time() - 1000)
    monkeypatch.setattr("hmt.model.generation.time", long_ago)
    assert generate({"max_time": 500.0}).shape[1] == 2 * L + J + 1
    assert generate({"max_time": 5000.0}).shape[1] == 2 * L + J + NEW


def test_what_a_checkpoint_says_of_the_cache_of_its_backbone_is_left_out(tmp_path):
    """Gemma 2 on the hub asks for a hybrid cache."""
    backbone = tiny_backbone()
    backbone.generation_config.cache_implementation = "hybrid"
    backbone.generation_config.temperature = 0.5
    model = type(shared("rmt-1")).from_backbone(backbone, segment_length=L)
    assert model.generation_config.temperature == 0.5 and model.generation_config.cache_implementation is None
    assert backbone.generation_config.cache_implementation == "hybrid"
    model.generate(random_ids(3)[None], max_new_tokens=1)


def test_names_and_places_of_arguments():
    model, ids = shared("rmt-1"), random_ids(L)[None]
    config = GenerationConfig(max_new_tokens=2, use_cache=False, return_dict_in_generate=True)
    assert model.generate(ids, config).past_key_values is None
    with pytest.raises(TypeError, match="multiple values"):
        model.generate(ids, config, generation_config=config)
    with pytest.raises(ValueError, match="not used by the model: .'wings'"):
        model.generate(ids, wings=2)
    with pytest.raises(ValueError, match="does not take custom_generate of a repository"):
        model.generate(ids, custom_generate="some/repository", trust_remote_code=True)


def test_continuous_batching_is_refused():
    model = shared("rmt-1")
    with pytest.raises(ValueError, match="generate_batch.* pass several rows to `generate`"):
        model.generate_batch([[5, 6, 7]])
    with pytest.raises(ValueError, match="does not take cache_implementation"):
        model.generate(random_ids(3)[None], cache_implementation="paged")


def test_healing_of_a_prompt_before():
    model, tokenizer = build("hmt-segment"), characters()
    tokenizer.bos_token = "</s>"
    ids = tokenizer("the whale", return_tensors="pt", add_special_tokens=False).input_ids
    assert model.heal_tokens(ids, tokenizer).shape == ids.shape


def test_scores_of_transitions():
    model = shared("rmt-1")
    options = {"num_beams": 2, "output_scores": True, "return_dict_in_generate": True, "max_new_tokens": 4}
    out = model.generate(random_ids(L)[None], **options)
    scores = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    close(scores.sum(1) / 4, out.sequences_scores)


def test_streaming_text(capsys):
    model, tokenizer = shared("rmt-1"), characters()
    out = model.generate(
        random_ids(L)[None], max_new_tokens=4, streamer=TextStreamer(tokenizer, skip_prompt=True)
    )
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(out[0, L:])
