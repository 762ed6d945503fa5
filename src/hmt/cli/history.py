"""`hmt eval --data`: perplexity against history, on the same tokens for every model."""

import json
from pathlib import Path
from typing import Any

import typer

from hmt.cli.progress import TokenProgress, no_bars_in_logs
from hmt.cli.read import open_model
from hmt.evaluation.units import byte_text, plural


def evaluate_history(
    models: list[str],
    data: str,
    output: Path,
    *,
    history: str,
    window: str,
    skip: int | None,
    targets_per_document: int,
    max_targets: int,
    batch_size: int,
    seed: int,
    limit: int | None,
    text_field: str,
    split: str,
    encoding: str,
    errors: str,
    device: str | None,
) -> None:
    """What the options of the same names ask for: table, results.json, perplexity.png, report.html."""
    histories, windows = whole_numbers("--history", history), whole_numbers("--window", window)

    from hmt.data import load_documents, tokenize_documents
    from hmt.evaluation import history_perplexity, measure_memory

    with no_bars_in_logs():
        documents = load_documents(
            data, split=split, text_field=text_field, encoding=encoding, errors=errors, limit=limit
        )
    systems, tokenizer, where = open_models(models, device)
    systems |= window_baselines(next(iter(systems.values())), windows)
    with no_bars_in_logs():
        tokens = tokenize_documents(documents, tokenizer, append_eos=tokenizer.eos_token_id is not None)
    with TokenProgress("scoring", where) as progress:
        result = history_perplexity(
            systems,
            tokens.with_format("numpy")["input_ids"],
            histories,
            skip=skip,
            targets_per_document=targets_per_document,
            max_targets=max_targets,
            batch_size=batch_size,
            seed=seed,
            progress=progress.of,
        )
    results: dict[str, Any] = {
        "title": f"Perplexity against history: {Path(data).name or data}",
        "summary": describe(result),
        "perplexity": result.to_dict(),
        "memory": {name: measure_memory(model).to_dict() for name, model in systems.items()},
        "setup": setup(progress, seed),
    }
    if len(systems) > 1:
        results["baseline"] = list(systems)[len(models)] if windows else next(iter(systems))
    show(result, results["memory"])
    write(results, result, output)


def whole_numbers(option: str, text: str) -> list[int]:
    """ "0,1,4" as [0, 1, 4]."""
    try:
        numbers = [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        numbers = [-1]
    if any(number < 0 for number in numbers):
        raise ValueError(
            f"{option} takes whole numbers with commas between them, such as 0,1,4; got {text!r}"
        )
    return numbers


def open_models(paths: list[str], device: str | None) -> tuple[dict[str, Any], Any, Any]:
    """name -> model, their tokenizer and device. ValueError when their tokenizers differ."""
    if repeated := [path for path in paths if paths.count(path) > 1]:
        raise ValueError(f"{repeated[0]} is named twice")
    systems: dict[str, Any] = {}
    first: Any = None
    for path in paths:
        model, tokenizer = open_model(path, device)
        first = first or tokenizer
        if tokenizer.get_vocab() != first.get_vocab():
            raise ValueError(
                f"{path} and {paths[0]} have different tokenizers, so their perplexities per token cannot be "
                "compared; evaluate models that read the same token ids"
            )
        systems[unique_name(path, systems)] = model
    return systems, first, model.device


def unique_name(path: str, taken: dict[str, Any]) -> str:
    """The last part of a path, or more of it where that name is taken."""
    parts = Path(path).parts
    for number in range(1, len(parts) + 1):
        name = "/".join(parts[-number:])
        if name not in taken:
            return name
    return path


def window_baselines(model: Any, windows: list[int]) -> dict[str, Any]:
    """The backbone of `model` (shared, not copied) that reads again the last so many raw tokens."""
    from hmt import WindowForCausalLM

    length = model.config.segment_length
    return {
        f"window {tokens}": WindowForCausalLM.from_backbone(
            model.backbone, segment_length=length, window_length=tokens
        ).eval()
        for tokens in windows
    }


def describe(result: Any) -> str:
    """The outcome in a few sentences."""
    first, last = result.histories[0], result.histories[-1]
    found = f"{result.long_enough} of {plural(result.documents, 'document')} have room for a history of "
    found += f"{plural(last, 'segment')} of {result.segment_length} tokens."
    if first == last:
        return found
    changes = ", ".join(
        f"{result.perplexity(name, first):.3f} to {result.perplexity(name, last):.3f} ({name})"
        for name in result.models
    )
    instead = f"With {last} instead of {plural(first, 'segment')} of history"
    return f"{found}\n\n{instead}, perplexity goes from {changes}."


def setup(progress: TokenProgress, seed: int) -> dict[str, Any]:
    """Command, commit, versions and hardware, as plain values."""
    from hmt.util.environment import run_facts

    facts = run_facts(seed, run=progress.summary())
    facts["devices"] = ", ".join(device["name"] for device in facts["devices"]) or "CPU"
    facts["memory_total"] = byte_text(facts["memory_total"])
    return facts


def show(result: Any, memory: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Perplexity by segments of history; bytes kept per stream", title_justify="left")
    table.add_column("system", overflow="fold")
    for history in result.histories:
        table.add_column(str(history), justify="right", no_wrap=True)
    table.add_column("kept", justify="right", no_wrap=True)
    for name in result.models:
        values = [f"{result.perplexity(name, history):.3f}" for history in result.histories]
        table.add_row(name, *values, byte_text(memory[name]["state"][-1]))
    Console().print(table)
    typer.echo(
        f"{result.tokens:,} tokens scored, the same for every number, in "
        f"{plural(len(result.targets), 'segment')} of {plural(result.documents_used, 'document')}; "
        f"{result.long_enough} of {result.documents} are long enough"
    )


def write(results: dict[str, Any], result: Any, output: Path) -> None:
    from hmt.evaluation.plots import perplexity_plot, save
    from hmt.evaluation.report import write_report
    from hmt.util.files import write_atomically

    write_atomically(output / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    save(perplexity_plot(result), output / "perplexity.png")
    write_report(results, output / "report.html")
    typer.echo(f"{output}: results.json, perplexity.png, report.html")
