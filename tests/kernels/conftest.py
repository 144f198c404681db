"""Where a kernel runs: on the emulator, under each of its schedules, and on a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpucluster.device.kernels import KernelSpec, launch
from tests.kernels import emulator

Run = Callable[..., None]


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of compiled kernels."""
    if shutil.which("g++") is None:
        pytest.skip("the emulator needs g++")
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(
    params=[*emulator.SCHEDULES, pytest.param("gpu", marks=pytest.mark.gpu)],
    ids=lambda each: each if each == "gpu" else f"schedule{each}",
)
def run(request: pytest.FixtureRequest) -> Run:
    """Return what runs a kernel on arrays of numpy, and changes them in place."""
    if request.param == "gpu":
        return _on_gpu
    folder = request.getfixturevalue("libraries")

    def emulated(spec: KernelSpec, *values: Any) -> None:
        emulator.run(emulator.build(spec, folder), spec, *values, schedule=request.param)

    return emulated


def _on_gpu(spec: KernelSpec, *values: Any) -> None:
    import cupy

    there = [cupy.asarray(each) if isinstance(each, np.ndarray) else each for each in values]
    launch(spec, *there)
    for here, copy in zip(values, there, strict=True):
        if isinstance(here, np.ndarray):
            here[...] = cupy.asnumpy(copy)
