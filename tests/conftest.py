"""Fixtures that several suites share."""

from __future__ import annotations

import importlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from gpucluster.device import arrays, kernels, memory
from gpucluster.device.select import probe_gpu

if TYPE_CHECKING:
    from tests.helpers.object_service import Proxy
    from tests.helpers.postgres import Server

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


@pytest.fixture(scope="session")
def object_service() -> Iterator[int]:
    """Return the port of an S3 that is another process."""
    from tests.helpers.object_service import serving

    with serving() as port:
        yield port


@pytest.fixture
def proxy(object_service: int) -> Iterator[Proxy]:
    """Return what stands in front of it, and passes everything on until it is told otherwise."""
    from tests.helpers.object_service import Proxy

    with Proxy(object_service) as found:
        yield found


@pytest.fixture
def bucket(object_service: int, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of an empty bucket behind `proxy`, for which the environment is set."""
    from tests.helpers.object_service import make_bucket

    name = f"bucket-{secrets.token_hex(6)}"
    make_bucket(object_service, name)
    for variable in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CANARYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    return f"s3://{name}"


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Return a PostgreSQL that is another process."""
    from tests.helpers.postgres import serving

    with serving() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a catalog that is not there yet, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'catalog.sqlite'}"
    return request.getfixturevalue("postgres").make_place()
