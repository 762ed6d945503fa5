"""Readers in EleutherAI's lm-evaluation-harness, as `--model hmt`: LongBench, RULER, BABILong, PubMedQA, ...

    python -m hmt.evaluation.harness --model hmt --model_args pretrained=DIR --tasks lambada_openai
    python -m hmt.evaluation.harness --model hmt --model_args pretrained=DIR,reader=bm25,budget=64KiB \\
        --data longbench_qmsum=qmsum.jsonl

The harness has no plugins: a model exists for it once the module that registers it was imported. `main` does
that and hands over to the harness's own command line. In Python, importing this module is enough.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

try:
    from lm_eval.api.registry import register_model

    from hmt.evaluation.harness.local import parse_pairs, write_local_tasks
    from hmt.evaluation.harness.model import HarnessLM
except ImportError as error:
    raise ValueError(
        f'lm-evaluation-harness cannot be imported ({error}); install it with pip install "hmt-lm[eval]"'
    ) from error


__all__ = ["HarnessLM", "main", "write_local_tasks"]

register_model("hmt")(HarnessLM)


def main(arguments: Sequence[str] | None = None) -> None:
    """The harness's command line, with `--model hmt`, `--data TASK=PATH` and `--rename FIELD=COLUMN`.

    With --data a task reads a local file or folder (see `write_local_tasks`). Without --tasks, these run.
    """
    from lm_eval.__main__ import cli_evaluate

    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--data", action="append", default=[])
    own.add_argument("--rename", action="append", default=[])
    found, rest = own.parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    with tempfile.TemporaryDirectory() as folder:
        if found.data:
            if any(word.startswith("--include_path") for word in rest):
                raise ValueError(
                    "--data and --include_path do not go together: name the data in the task's YAML"
                )
            names = write_local_tasks(
                parse_pairs("--data", found.data), Path(folder), parse_pairs("--rename", found.rename)
            )
            rest += ["--include_path", folder]
            if not {"--tasks", "-t"} & set(rest):
                rest += ["--tasks", *names]
        sys.argv = [sys.argv[0], *rest]
        cli_evaluate()
