"""Fixtures that several suites share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from gpucluster.device.select import probe_gpu

ROOT = Path(__file__).resolve().parents[1]

# The first example of a property may compile kernels, so time says nothing about it.
settings.register_profile("gpucluster", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("gpucluster")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is none, or fail where one was promised."""
    if item.get_closest_marker("gpu") is None:
        return
    obstacle = probe_gpu()
    if obstacle is None:
        return
    if os.environ.get("GPUCLUSTER_REQUIRE_GPU") == "1":
        pytest.fail(f"GPUCLUSTER_REQUIRE_GPU=1, but {obstacle}", pytrace=False)
    pytest.skip(f"no GPU: {obstacle}")


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Return each device in turn."""
    return request.param


@pytest.fixture(scope="session")
def sample_path() -> Path:
    """Return the path of the labelled sample that ships with the project."""
    return ROOT / "examples" / "banking77-sample.parquet"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of the whole labelled data sets, named by GPUCLUSTER_DATA."""
    folder = os.environ.get("GPUCLUSTER_DATA")
    if not folder:
        pytest.skip("GPUCLUSTER_DATA does not name the folder of the whole data sets")
    return Path(folder)
