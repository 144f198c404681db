from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from gpucluster.device.select import decide
from gpucluster.errors import BackendUnavailableError, DeviceUnavailableError


def machine(monkeypatch: pytest.MonkeyPatch, *, modules: set[str], gpu: bool) -> None:
    monkeypatch.setattr(
        "gpucluster.device.select.find_spec", lambda name: name if name in modules else None
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(is_available=lambda: gpu))


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
