from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest

from gpucluster.device.select import decide, gpu_facts, probe_gpu
from gpucluster.errors import BackendUnavailableError, DeviceUnavailableError


def machine(
    monkeypatch: pytest.MonkeyPatch,
    *,
    modules: set[str],
    gpu: bool = True,
    driver: int = 13000,
    runtime: int = 13000,
    capability: tuple[int, int] = (9, 0),
) -> None:
    """Pretend; versions are CUDA's numbers, as of CUDA 13.0."""
    monkeypatch.setattr(
        "gpucluster.device.select.find_spec", lambda name: name if name in modules else None
    )
    asked = SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: runtime,
    )
    card = SimpleNamespace(compute_capability="{}{}".format(*capability))
    cuda = SimpleNamespace(runtime=asked, Device=lambda number: card)
    cupy = SimpleNamespace(is_available=lambda: gpu, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", cupy)


@pytest.mark.parametrize(
    ("modules", "gpu", "reason", "error"),
    [
        (set(), True, "cupy is not installed", BackendUnavailableError),
        ({"cupy"}, True, "there is a GPU, but cuml is not installed", BackendUnavailableError),
        ({"cupy", "cuml"}, False, "no CUDA device or driver", DeviceUnavailableError),
    ],
)
def test_an_unusable_gpu_is_an_error_or_the_cpu_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
    modules: set[str],
    gpu: bool,
    reason: str,
    error: type[Exception],
) -> None:
    machine(monkeypatch, modules=modules, gpu=gpu)
    assert decide("cpu").device == "cpu"
    auto = decide("auto")
    assert auto.device == "cpu"
    assert reason in auto.reason
    with pytest.raises(error, match=reason) as caught:
        decide("gpu")
    assert ("gpucluster[gpu-cu13]" in str(caught.value)) == (error is BackendUnavailableError)


def test_a_usable_gpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, modules={"cupy", "cuml"}, gpu=True)
    assert decide("auto").device == "gpu"
    assert decide("gpu").device == "gpu"


@pytest.mark.parametrize(
    ("runtime", "driver", "capability", "reason"),
    [
        (13000, 13000, (7, 5), None),
        (13000, 13000, (7, 2), "compute capability 7.2, CUDA 13 needs 7.5"),
        (13000, 12090, (9, 0), "the driver knows CUDA 12.9.*update the driver to 580"),
        (13020, 13000, (9, 0), None),
        (12090, 12020, (7, 0), None),
        (12090, 13000, (6, 1), "compute capability 6.1, CUDA 12 needs 7.0"),
        (12090, 11080, (9, 0), "the driver knows CUDA 11.8.*update the driver to 535"),
        (14000, 14000, (10, 0), None),
    ],
)
def test_a_gpu_or_driver_that_is_too_old_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
    runtime: int,
    driver: int,
    capability: tuple[int, int],
    reason: str | None,
) -> None:
    machine(
        monkeypatch,
        modules={"cupy", "cuml"},
        gpu=driver // 1000 >= runtime // 1000,  # cupy finds no device below an old driver
        runtime=runtime,
        driver=driver,
        capability=capability,
    )
    if reason is None:
        assert probe_gpu() is None
        return
    auto = decide("auto")
    assert auto.device == "cpu"
    assert re.search(reason, auto.reason)
    with pytest.raises(DeviceUnavailableError, match=reason):
        decide("gpu")


def test_facts_name_versions_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    machine(monkeypatch, modules={"cupy"}, driver=0, gpu=False)
    monkeypatch.setattr("gpucluster.device.select.version", lambda name: "14.2.0")
    monkeypatch.setattr(
        "gpucluster.device.select.packages_distributions", lambda: {"cupy": ["cupy-cuda13x"]}
    )
    assert dict(gpu_facts()) == {
        "cuda": "runtime 13.0, no driver",
        "cupy": "cupy-cuda13x 14.2.0",
        "cuml": None,
        "rmm": None,
    }
