"""How training ends before its last step: by a signal, or because the loss is no longer a number."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from hmt.util.signals import STOPPING, Stopped


class TrainingStopped(Stopped):
    """Stopped by a signal after a whole step, with a checkpoint to resume from.

    Attributes: signal (number), step (optimizer steps made in the stage), checkpoint (folder).
    """

    def __init__(self, number: int, stage: str, step: int, checkpoint: Path | None):
        self.stage, self.step, self.checkpoint = stage, step, checkpoint
        where = f"everything up to there is in {checkpoint}" if checkpoint else "before the first checkpoint"
        super().__init__(
            number,
            f"stopped by {signal.Signals(number).name} after step {step} of stage '{stage}'; {where}; go on "
            "with resume=True (hmt train: the same command with --resume)",
        )


class TrainingDiverged(ValueError):
    """The loss or the weights became nan or infinite. Attributes: step, checkpoint (the last good one)."""

    def __init__(self, what: str, stage: str, step: int, checkpoint: Path | None, learning_rate: float):
        self.stage, self.step, self.checkpoint = stage, step, checkpoint
        advice = f"a learning rate below {learning_rate:g} (or a longer warm-up)"
        if checkpoint is None:
            after = f"there is no checkpoint of this stage yet: begin again with {advice}"
        else:
            after = (
                f"the last good checkpoint is {checkpoint}: it is a model of its own, so begin a "
                f"new run from it with {advice}; resuming this one (--resume) would repeat the same steps"
            )
        super().__init__(f"{what} at step {step} of stage '{stage}'; {after}")


class StopSignals:
    """While active, SIGINT, SIGTERM and SIGHUP are noted in `received` instead of ending the process.

    Signals that are ignored (nohup) stay ignored. A second SIGINT interrupts at once. Outside the main
    thread, where Python cannot catch signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (n for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
