"""Every test of this suite sees the toy systems beside those of the library."""

import pytest

from .cases import with_toys


@pytest.fixture(autouse=True)
def toys():
    with with_toys():
        yield
