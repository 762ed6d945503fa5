"""One process at a time writes into a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hmt
from hmt.util.files import only_writer

HOLD = """
import sys
from hmt.util.files import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "results"
    environment = {**os.environ, "PYTHONPATH": str(Path(hmt.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], env=environment, text=True, **pipes)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another run is writing to .*; wait for it, or choose --output"):
            with only_writer(folder, "choose --output"):
                pytest.fail("two writers")
    finally:
        other.kill()
        other.communicate()
    with only_writer(folder):
        pass


def test_errors_inside_pass(tmp_path):
    with pytest.raises(ValueError, match="mine"), only_writer(tmp_path):
        raise ValueError("mine")
    with only_writer(tmp_path):
        pass
