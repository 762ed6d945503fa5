"""What transformers reports to (TensorBoard, Weights & Biases, ...), over all stages of a run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks


def reporters(report_to: str | Sequence[str], before: int = 0) -> list[TrainerCallback]:
    """The Trainer's callbacks of these names, which count the steps on from `before`.

    Every stage has a Trainer of its own that begins at step 0; what is reported is one run. ValueError for a
    name that transformers does not know, and for what is not installed.
    """

    def continued(kind: Any) -> TrainerCallback:
        class Continued(kind):
            def on_log(self, args, state, control, **kwargs):
                state = copy.copy(state)
                state.global_step += before
                return super().on_log(args, state, control, **kwargs)

        return Continued()

    names = [report_to] if isinstance(report_to, str) else report_to
    chosen = "all" if "all" in names else [name for name in names if name != "none"]
    try:
        return [continued(kind) for kind in get_reporting_integration_callbacks(chosen)]
    except (ValueError, RuntimeError, ImportError) as error:
        raise ValueError(f"report_to: {error}") from error
