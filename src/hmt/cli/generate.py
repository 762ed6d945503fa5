"""`hmt generate`: continue a prompt, with or without a memory."""

import math
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from hmt.cli.options import DeviceOption, ModelArgument, options, takes
from hmt.cli.read import open_model
from hmt.data.chat import prompt_ids
from hmt.data.files import lone_surrogate, read_text
from hmt.util.files import output_file, save_or_keep

_COLDEST = 1e-3  # logits that are divided by less grow beyond what a float16 holds


def sampling_options(
    greedy: bool = False,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
) -> dict[str, Any]:
    """Arguments of `generate`; none where the model's own settings hold.

    Args:
        greedy: always the most likely token.
        temperature: sample; above 1 is wilder.
        top_p: sample among the likeliest tokens of this mass.
        top_k: sample among so many likeliest tokens.

    ValueError for contradictions and for numbers out of range.
    """
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    given = {name: value for name, value in given.items() if value is not None}
    if greedy and given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"--greedy takes no sampling options ({names})")
    if temperature is not None and not _COLDEST <= temperature < math.inf:
        raise ValueError(
            f"--temperature must be at least {_COLDEST:g}, got {temperature:g}; use --greedy instead of 0"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"--top-p must be above 0 and at most 1, got {top_p:g}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"--top-k must be at least 1, got {top_k}")
    if greedy:  # None silences settings of the model that only sampling reads
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, **given} if given else {}


@takes(sampling=options(sampling_options))
def command(
    *,
    model: ModelArgument,
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt",
            "-p",
            help="Text to continue; - takes it from stdin, without its last line end.",
            metavar="TEXT",
        ),
    ],
    memory: Annotated[
        str | None,
        typer.Option("--memory", "-m", help="Memory file to answer from; it is not changed.", metavar="FILE"),
    ] = None,
    save_memory: Annotated[
        str | None, typer.Option(help="Write the memory with prompt and answer read into it.", metavar="OUT")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT, if it is there.")] = False,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw",
            help="Ask by the tokenizer's chat template, or continue the text as it is. Default: ask where "
            "there is a template.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to write.", min=1)] = 128,
    pack: Annotated[
        bool, typer.Option("--pack", help="Pack weights in 4 or 8 bits first: for long answers on a CPU.")
    ] = False,
    sampling: dict[str, Any],
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Continue a prompt and print it as it is written.

    Whether tokens are sampled is the model's own setting, unless --greedy or a sampling option is given.
    """
    chosen = sampling_options(**sampling)
    prompt = read_text("-").removesuffix("\n") if prompt == "-" else prompt
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character")
    if (at := lone_surrogate(prompt)) is not None:
        raise ValueError(f"the prompt is not text: its character {at + 1} is {prompt[at]!r}")
    taken = None if overwrite else "--overwrite replaces it"
    inputs = [] if memory is None else [memory]
    claim = nullcontext() if save_memory is None else output_file(save_memory, "memory file", inputs, taken)
    with claim:
        keep = save_memory is not None
        kept = _write(model, prompt, chat, memory, keep, max_new_tokens, pack, chosen, seed, device)
        if save_memory is not None:
            save_or_keep(save_memory, kept.save)
            typer.echo(f"saved {save_memory}: {int(kept.tokens_read.max()):,} tokens read", err=True)


def _write(
    model: str,
    prompt: str,
    chat: bool | None,
    memory: str | None,
    keep: bool,
    max_new_tokens: int,
    pack: bool,
    chosen: dict[str, Any],
    seed: int,
    device: str | None,
) -> Any:
    """Print the answer to a prompt as it is written; the memory that has read both, for `keep`."""
    import torch
    from transformers import TextStreamer

    from hmt.memory.memory import Memory

    writer, tokenizer = open_model(model, device)
    if pack:
        writer.pack_weights()
    past = None if memory is None else Memory.load(memory, model=writer)
    if past is not None and past.batch_size != 1:
        raise ValueError(f"{memory} holds {past.batch_size} streams; generate continues a single one")
    # within a text there is no second beginning, so a prompt on top of a memory gets no BOS token
    asked = prompt_ids(tokenizer, prompt, chat=chat, start=past is None)
    if not asked:
        raise ValueError("the tokenizer makes no tokens of this prompt")
    ids = torch.tensor([asked], device=writer.device)
    torch.manual_seed(seed)
    output = writer.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=past,
        max_new_tokens=max_new_tokens,
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        return_dict_in_generate=keep,
        pad_token_id=_pad(writer, tokenizer),
        **chosen,
    )
    return output.past_key_values if keep else None


def _pad(model, tokenizer) -> int | None:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, model.generation_config.eos_token_id):
        if token is not None:
            return token if isinstance(token, int) else token[0]
    return 0
