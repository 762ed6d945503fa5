"""Processes end with the one that started them, whatever ends it, and nobody sees a traceback."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from hmt.util.processes import Workers
from hmt.util.signals import Stopped, stop_signals


def work(post, number):
    post(f"at {number}")
    if number < 0:
        raise ValueError(f"{number} is below zero")
    return number * number


def die(post):
    os.kill(os.getpid(), signal.SIGKILL)


def test_jobs_share_processes_and_are_heard_of():
    with Workers(2) as workers:
        for number in range(5):
            workers.submit(f"job {number}", work, number)
        events = []
        while len(events) < 10:
            events += workers.events(timeout=1.0)
        assert sorted(e for e in events if e[1] == "post") == [
            (f"job {n}", "post", f"at {n}") for n in range(5)
        ]
        workers.submit("one more", work, 7)
        assert workers.results() == {"one more": 49}


@pytest.mark.parametrize("job, message", [((work, -1), "-1 is below zero"), ((die,), "'a job' was killed")])
def test_what_goes_wrong_in_a_process_is_raised(job, message):
    with pytest.raises(ValueError, match=message), Workers(1) as workers:
        workers.submit("a job", *job)
        workers.results()


PROGRAM = """
    import os, sys, threading, time
    from pathlib import Path
    from hmt.util.processes import Workers, end_with_parent, run_module
    from hmt.util.signals import stop_signals

    def stay(post=None, name="module"):
        Path(f"{name}.pid").write_text(str(os.getpid()))
        time.sleep(600)

    if __name__ == "__main__" and sys.argv[1:]:
        end_with_parent()
        stay()
    elif __name__ == "__main__":
        with stop_signals():
            try:
                with Workers(2) as workers:
                    for name in ("one", "two"):
                        workers.submit(name, stay, name)
                    run_module("program", "child")
            except KeyboardInterrupt as stop:
                print(stop, file=sys.stderr)
                sys.exit(128 + stop.signal)
"""


def alive(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "number, group",
    [("SIGINT", True), ("SIGTERM", False), ("SIGHUP", True), ("SIGKILL", False)],
)
def test_no_orphan_and_no_traceback(tmp_path, number, group):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "-m", "program"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    files = [tmp_path / f"{name}.pid" for name in ("one", "two", "module")]
    deadline = time.monotonic() + 100
    while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = [int(file.read_text()) for file in files]
    (os.killpg if group else os.kill)(parent.pid, getattr(signal, number))
    error = parent.communicate(timeout=60)[1]  # ends when the last process has closed its end of the pipe
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)  # it is gone a moment after its end of the pipe
    assert not any(map(alive, children))
    if number == "SIGKILL":
        assert (parent.returncode, error) == (-signal.SIGKILL, "")
    else:
        assert (parent.returncode, error) == (128 + getattr(signal, number), "interrupted\n")


def test_signals_that_are_ignored_stay_ignored():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with stop_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Stopped) as stopped:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            assert stopped.value.signal == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_is_lost_comes_again(capsys):
    class Unlucky:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(Stopped), stop_signals():
        thing = Unlucky()
        del thing  # an error in here is printed, and goes no further
        time.sleep(10)
    assert capsys.readouterr().err == ""
