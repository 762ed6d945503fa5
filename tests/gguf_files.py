"""A tiny Llama with tokenizer and chat template, written as GGUF files are."""

import numpy as np
from gguf import GGUFWriter, TokenType
from tokenizers import pre_tokenizers

WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN = 32, 2, 4, 2, 48
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]
TOKENS += ["".join(pair) for pair in MERGES]


def write_gguf(path, *, without=(), architecture="llama", seed=0, bad=None):
    """without: tensors to leave out. bad: a tensor that gets a NaN."""
    numbers = np.random.default_rng(seed)
    writer = GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for i in range(LAYERS):
        names = {
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH),
            "attn_v": (kv, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_gate": (HIDDEN, WIDTH),
            "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
        }  # fmt: skip
        shapes |= {f"blk.{i}.{name}": shape for name, shape in names.items()}
    for name, shape in shapes.items():
        if name in without:
            continue
        values = numbers.normal(0.0, 0.3, shape).astype(np.float32)
        if name == bad:
            values.flat[0] = np.nan
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
