"""A stage for triggers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpucluster.service.catalog import open_catalog
from tests.helpers.clocks import FakeClock
from tests.helpers.scheduled import START, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    catalog = open_catalog(str(tmp_path / "catalog.db"), clock=FakeClock(START))
    yield Stage(catalog)
    catalog.close()
