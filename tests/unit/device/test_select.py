from __future__ import annotations

import os
import re
import sys
from types import SimpleNamespace

import pytest

from gpucluster.device import select
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


MIXED = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)
  MIG 1g.18gb     Device  0: (UUID: MIG-cccc-3)
  MIG 1g.18gb     Device  1: (UUID: MIG-dddd-4)
GPU 2: NVIDIA H200 (UUID: GPU-eeee-5)
"""
MIXED_NAMES = ("GPU-aaaa-1", "MIG-cccc-3", "MIG-dddd-4", "GPU-eeee-5")


@pytest.mark.parametrize(
    ("said", "named", "expected"),
    [
        (MIXED, None, MIXED_NAMES),
        (MIXED, "2,0", ("2", "0")),
        (MIXED, "MIG-dddd-4, GPU-aaaa-1", ("MIG-dddd-4", "GPU-aaaa-1")),
        (MIXED, "1,-1,0", ("1",)),  # as CUDA reads it
        (MIXED, "", ()),
        (MIXED, "none", ()),
        ("No devices were found\n", None, ()),
        ("No devices were found\n", "0", ()),
    ],
)
def test_gpus_are_those_that_the_driver_names_and_the_environment_leaves(
    monkeypatch, tmp_path, said, named, expected
):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = --list-gpus ] && cat <<'E'\n{said}E\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(select, "find_spec", lambda name: True)
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert select.list_gpus(environment) == expected
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    assert select.list_gpus(environment) == ()  # nothing would use them
    monkeypatch.setattr(select, "find_spec", lambda name: True)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert select.list_gpus(environment) == ()
