"""Fixtures that several suites share."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from gpucluster.device import arrays, kernels, memory
from gpucluster.device.select import probe_gpu

ROOT = Path(__file__).resolve().parents[1]
STAND_INS = ROOT / "tests" / "stand_ins"

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


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test read what this user's machine was measured to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUCLUSTER_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def stand_in() -> Iterator[ModuleType]:
    """Put the stand-ins in the place of the GPU libraries; return that of CuPy.

    They are imported anew for each test, so each has an empty device of the same size. A process
    that a test starts by itself gets them by ``PYTHONPATH``; see `STAND_INS`.
    """
    names = {path.name for path in STAND_INS.iterdir() if path.is_dir()} | {"cupy_backends"}
    with pytest.MonkeyPatch.context() as patch:
        _forget_device()
        for name in [each for each in sys.modules if each.partition(".")[0] in names]:
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(STAND_INS)
        yield importlib.import_module("cupy")
        _forget_device()
        for name in [each for each in sys.modules if each.partition(".")[0] in names]:
            del sys.modules[name]


def _forget_device() -> None:
    """Drop what the package keeps on a device: compiled kernels, copies of arrays, a pool."""
    kernels._function.cache_clear()
    arrays.forget_resident()
    memory._OPEN.clear()


@pytest.fixture(params=["cpu", "stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Return each device in turn: the host, a GPU of stand-ins, and a GPU where there is one."""
    if request.param == "stand-in":
        request.getfixturevalue("stand_in")
        return "gpu"
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
