from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpucluster.device import cores, memory
from gpucluster.device.memory import (
    _cgroup_left,
    available_bytes,
    free_pools,
    open_pool,
    translated,
)
from gpucluster.errors import OutOfMemoryError


@pytest.mark.parametrize(
    ("folder", "limit", "usage", "cache"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        (
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_file_cache_that_can_be_dropped_is_available(
    tmp_path: Path, folder: str, limit: str, usage: str, cache: str
) -> None:
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / limit).write_text("1000\n")
    (group / usage).write_text("900\n")
    (group / "memory.stat").write_text(f"anon 300\n{cache} 500\nactive_file 100\n")
    assert _cgroup_left(tmp_path) == 600


@pytest.mark.parametrize("version", [1, 2])
def test_the_narrowest_control_group_around_the_process_counts(tmp_path, version):
    own = tmp_path / "cgroup"
    own.write_text(f"9:{'memory' if version == 1 else ''}:/job/step\n3:cpu:/elsewhere\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    root = tmp_path / "memory" if version == 1 else tmp_path
    names = names if version == 1 else ("memory.max", "memory.current")
    for group, limit in ((root, 5000), (root / "job", 900), (root / "job" / "step", 2000)):
        group.mkdir(exist_ok=True, parents=True)
        (group / names[0]).write_text(f"{limit}\n")
        (group / names[1]).write_text("300\n")
        (group / "memory.stat").write_text("inactive_file 0\ntotal_inactive_file 0\n")
    assert _cgroup_left(tmp_path, own) == 600


def test_without_a_limit_the_group_says_nothing(tmp_path: Path) -> None:
    assert _cgroup_left(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("inactive_file 500\n")
    assert _cgroup_left(tmp_path) is None


class FakeCuda:
    """A device of 1,200 bytes, and a pool by what it holds and uses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rmm: bool) -> None:
        self.free, self.held, self.used, self.trimmed = 1000, 0, 0, 0
        self.limit = 0
        self.threshold: int | None = None
        self.allocator: object = None
        cupy_pool = SimpleNamespace(
            set_limit=lambda size: setattr(self, "limit", size),
            used_bytes=lambda: self.used,
            total_bytes=lambda: self.held,
            free_all_blocks=lambda: self.trim(0, 0),
        )
        asked = SimpleNamespace(
            memGetInfo=lambda: (self.free, 1200),
            cudaDevAttrMemoryPoolsSupported=115,
            deviceGetAttribute=lambda attribute, device: int(rmm),
            deviceGetDefaultMemPool=lambda device: 77,
            cudaMemPoolAttrReleaseThreshold=4,
            cudaMemPoolAttrReservedMemCurrent=5,
            cudaMemPoolAttrUsedMemCurrent=7,
            memPoolSetAttribute=lambda pool, name, value: setattr(self, "threshold", value),
            memPoolGetAttribute=lambda pool, name: {5: self.held, 7: self.used}[name],
            memPoolTrimTo=self.trim,
        )
        device = SimpleNamespace(id=0, synchronize=lambda: None)
        cuda = SimpleNamespace(
            runtime=asked,
            Device=lambda: device,
            set_allocator=lambda function: setattr(self, "allocator", function),
        )
        cupy = SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: cupy_pool)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr(memory, "_OPEN", [])
        monkeypatch.setattr(memory, "find_spec", lambda name: name if rmm else None)

        class Limited:
            def __init__(limited, pool: object, limit: int) -> None:  # noqa: N805
                assert pool == ("view", ("pool", 77))
                self.limit = limit

            def get_allocated_bytes(limited) -> int:  # noqa: N805
                return self.used

        mr = SimpleNamespace(
            CudaAsyncViewMemoryResource=lambda pool: ("view", pool),
            LimitingResourceAdaptor=Limited,
            set_current_device_resource=lambda resource: setattr(self, "resource", resource),
        )
        allocators = SimpleNamespace(rmm_cupy_allocator="of rmm")
        bindings = SimpleNamespace(cudaMemPool_t=lambda handle: ("pool", handle))
        for name, module in {
            "rmm": SimpleNamespace(mr=mr),
            "rmm.allocators": SimpleNamespace(),
            "rmm.allocators.cupy": allocators,
            "cuda": SimpleNamespace(),
            "cuda.bindings": SimpleNamespace(),
            "cuda.bindings.runtime": bindings,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)

    def trim(self, pool: int, size: int) -> None:
        self.trimmed += 1
        self.free += self.held - self.used
        self.held = self.used

    def take(self, used: int, held: int) -> None:
        self.free -= held - self.held
        self.used, self.held = used, held


@pytest.mark.parametrize("rmm", [True, False])
def test_what_a_pool_holds_and_does_not_use_is_available(
    monkeypatch: pytest.MonkeyPatch, rmm: bool
) -> None:
    cuda = FakeCuda(monkeypatch, rmm=rmm)
    cuda.take(used=100, held=300)  # before anything is opened
    if not rmm:
        assert available_bytes("gpu") == 900
    cuda.take(used=0, held=0)
    open_pool()
    open_pool()  # once
    assert cuda.limit == 950  # a twentieth is for what does not come from the pool
    assert cuda.allocator == ("of rmm" if rmm else None)
    assert cuda.threshold == (950 if rmm else None)
    assert available_bytes("gpu") == 950
    cuda.take(used=200, held=600)
    assert available_bytes("gpu") == 750
    cuda.free -= 300  # by another process
    assert available_bytes("gpu") == 500
    free_pools()
    assert (cuda.trimmed, cuda.free) == (1, 500)
    assert available_bytes("gpu") == 500


class CupyOutOfMemoryError(MemoryError):
    """As CuPy's: a MemoryError."""


OF_CUPY = "Out of memory allocating 1,500,000,000 bytes (allocated so far: 700 bytes)."
OF_RMM = (
    "std::bad_alloc: out_of_memory: CUDA error (failed to allocate 1500000000 bytes) at: x.cpp:42: "
    "cudaErrorMemoryAllocation out of memory"
)


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (CupyOutOfMemoryError(OF_CUPY), 1_500_000_000),
        (MemoryError(OF_RMM), 1_500_000_000),
        (RuntimeError(OF_RMM), 1_500_000_000),
        (MemoryError("std::bad_alloc: out_of_memory: Exceeded memory limit (...)"), None),
        (RuntimeError("std::bad_alloc"), None),
        (RuntimeError("cudaErrorMemoryAllocation: out of memory"), None),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), None),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), None),
        (RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED"), None),
    ],
)
def test_a_full_gpu_is_recognised_and_told_with_numbers(
    monkeypatch: pytest.MonkeyPatch, error: Exception, needed: int | None
) -> None:
    cuda = FakeCuda(monkeypatch, rmm=False)
    cuda.free = 200
    with (
        pytest.raises(OutOfMemoryError, match="kmeans ran out of GPU memory") as caught,
        translated("outer"),
        translated("kmeans"),
    ):
        raise error
    found = caught.value
    assert (found.needed_bytes, found.free_bytes, found.total_bytes) == (needed, 200, 1200)
    assert ("1.5 GB needed" in found.message) == (needed is not None)
    assert "--device cpu" in str(found.hint)


def test_the_hosts_memory_is_not_the_gpus() -> None:
    for said in ("Unable to allocate 3. GiB for an array", "std::bad_alloc"):
        with (
            pytest.raises(OutOfMemoryError, match="ran out of memory") as caught,
            translated("kmeans"),
        ):
            raise MemoryError(said)
        assert "sample_size" in str(caught.value.hint)
    with pytest.raises(RuntimeError, match="^illegal address$"), translated("kmeans"):
        raise RuntimeError("illegal address")


def test_numbers_of_a_broken_device_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    with pytest.raises(OutOfMemoryError) as caught, translated("kmeans"):
        raise MemoryError(OF_RMM)
    assert caught.value.needed_bytes == 1_500_000_000
    assert caught.value.free_bytes is None


def test_a_limit_of_addresses_leaves_what_nobody_reserves(monkeypatch: pytest.MonkeyPatch) -> None:
    used = memory._status("VmSize")
    limits = {"none": memory.resource.RLIM_INFINITY, "much": used + (4 << 30), "little": used}
    left = {}
    for name, limit in limits.items():
        monkeypatch.setattr(memory.resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        left[name] = memory.address_space_left()
    assert left["none"] is None
    assert 2 << 30 < left["much"] < 4 << 30
    assert left["little"] == 0
    assert available_bytes() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_freed_goes_back_to_the_system() -> None:
    pieces = [bytearray(100_000) for _ in range(2000)]  # each below what malloc maps by itself
    kept = pieces[::50]
    del pieces
    before = memory._status("RssAnon")
    memory.give_back()
    assert memory._status("RssAnon") < before - 100_000_000
    assert len(kept) == 40


def test_blocks_of_a_small_matrix_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "n_threads", lambda: 8)
    assert memory.blocks_bytes(1000) == 8000
    assert memory.blocks_bytes(1 << 40) == 8 * memory.BLOCK_BYTES
    assert memory.blocks_bytes(1 << 40, 3) == 3 * memory.BLOCK_BYTES


def test_limits_of_several_runs_hold_as_long_as_each_of_them() -> None:
    before = cores.n_threads()
    first, second = cores.at_most(2), cores.at_most(1)
    first.__enter__()
    second.__enter__()
    assert cores.n_threads() == 1
    first.__exit__(None, None, None)  # not the last that came
    assert cores.n_threads() == 1
    second.__exit__(None, None, None)
    assert cores.n_threads() == before
