"""Every kernel compiles for every architecture, without spills."""

from __future__ import annotations

import shutil

import pytest

from gpucluster.device.kernels import KERNELS, folder
from tests.kernels import compiling

FILES = compiling.sources()


@pytest.mark.parametrize("file", FILES)
def test_nvcc_compiles(file: str) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not there")
    found = {(each.kernel, each.architecture): each for each in compiling.by_nvcc(file)}
    names = {spec.name for spec in KERNELS if spec.file == file}
    assert found.keys() == {(name, of) for name in names for of in compiling.ARCHITECTURES}
    for each in found.values():
        assert each.spilled_bytes == 0
        assert each.registers <= 64  # 1024 threads of a processor of 65,536 registers


@pytest.mark.parametrize("file", FILES)
def test_nvrtc_compiles(file: str) -> None:
    library = compiling.nvrtc()
    if library is None:
        pytest.skip("NVRTC is not there")
    for architecture in compiling.ARCHITECTURES:
        assert compiling.by_nvrtc(library, file, architecture) == ""


def test_every_source_has_a_spec() -> None:
    assert {path.name for path in folder().glob("*.cu")} == set(FILES)
