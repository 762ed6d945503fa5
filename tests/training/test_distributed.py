"""Two processes train as one does on the same batches."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import CASES, outcome

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with what both processes found, of all cases."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {"HMT_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__).parent / "two_processes.py"), str(folder)]
    done = subprocess.run(command, env=shared, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, two, tmp_path):
    want = outcome(case, tmp_path, 1)
    for rank in range(2):
        found = torch.load(two / f"{case}-{rank}.pt")
        assert found["losses"] == pytest.approx(want["losses"], rel=1e-4)
        assert found["weights"].keys() == want["weights"].keys()
        for name, weight in want["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, atol=1e-4, rtol=1e-3, msg=name)
