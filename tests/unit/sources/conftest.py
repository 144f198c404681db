"""What the tests of sources share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpucluster.device.child import Child


@pytest.fixture(scope="session")
def child() -> Iterator[Child]:
    """Return one process for all Arrow files; starting one takes a second."""
    with Child("read arrow", timeout_s=60) as child:
        yield child
