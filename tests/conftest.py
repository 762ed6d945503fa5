"""What every test gets: no network, one thread (or OMP_NUM_THREADS), fixed seeds."""

import os

# Set before anything imports huggingface_hub or transformers: both read these once, at import.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
# For the processes that tests start, too. Waiting threads must not spin: other workers need the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ipaddress
import random
import socket

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# The first example of a property test pays for torch's lazy set-up, which would break any deadline.
hypothesis.settings.register_profile("hmt", deadline=None)
hypothesis.settings.load_profile("hmt")


class NetworkBlocked(RuntimeError):
    """Raised on any attempt to leave the machine. Not an OSError, which clients retry and swallow."""


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Refuse look-ups and connections to anything but this machine."""
    lookup = socket.getaddrinfo

    def guarded(original):
        def connect(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                raise NetworkBlocked(f"a test tried to connect to {address}")
            return original(self, address)

        return connect

    def getaddrinfo(host, *args, **kwargs):
        if not _is_local(host):
            raise NetworkBlocked(f"a test tried to look up {host!r}")
        return lookup(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


def _is_local(host) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def fixed_seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
