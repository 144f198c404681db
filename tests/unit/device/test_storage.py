"""Matrices on disk: ordinary arrays over files that nobody else sees."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpucluster.device import storage
from gpucluster.device.memory import PeakMemory, available_bytes
from gpucluster.device.storage import Room, is_on_disk, like, on_disk, take
from gpucluster.errors import ConfigError, DiskFullError, PermissionRefusedError, StoreError


def test_it_is_an_array_that_leaves_nothing_behind(tmp_path: Path) -> None:
    X = on_disk((1000, 7), tmp_path)
    assert type(X) is np.ndarray
    assert X.dtype == np.float32
    assert X.flags.c_contiguous
    assert X.flags.writeable
    assert not X.any()
    X[:] = np.arange(7000).reshape(1000, 7)
    assert X.sum() == sum(range(7000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("take", [slice(None), slice(5, 90), np.s_[::2, 1], np.s_[:, 2:4]])
def test_views_lie_where_it_does_and_copies_in_memory(tmp_path: Path, take: Any) -> None:
    X = on_disk((100, 7), tmp_path)
    assert is_on_disk(X[take])
    assert is_on_disk(X[take].T)
    assert not is_on_disk(X[take].copy())
    assert not is_on_disk(X[[1, 2]])
    assert not is_on_disk([1, 2])


def test_what_is_made_of_it_lies_beside_it_unless_it_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = on_disk((100, 7), tmp_path)
    assert not is_on_disk(like(X, (100, 3)))
    monkeypatch.setattr(storage, "SMALL_BYTES", 1000)
    assert is_on_disk(like(X, (100, 3)))
    assert is_on_disk(like(X[10:20], (100, 3)))
    assert like(X, (50, 3), np.float64).dtype == np.float64
    assert not is_on_disk(like(X, (2, 3)))
    assert not is_on_disk(like(X.copy(), (100, 3)))


def test_rows_are_taken_in_any_order(tmp_path: Path) -> None:
    X = on_disk((100, 7), tmp_path)
    X[:] = np.arange(700).reshape(100, 7)
    rows = np.array([9, 3, 99, 3, 0])
    assert (take(X, rows) == X[rows]).all()
    assert (take(X.copy(), rows) == X[rows]).all()
    assert take(X, rows[:0]).shape == (0, 7)


def test_room_is_taken_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match=r"a matrix of 0.0056 GB .* GB are free"):
        on_disk((200, 7000), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.EACCES, PermissionRefusedError), (errno.EIO, StoreError)]
)
def test_what_the_system_refuses_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StoreError]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(kind, match=os.strerror(code)):
        on_disk((2, 7), tmp_path)
    with pytest.raises(StoreError, match="No such file"):
        on_disk((2, 7), tmp_path / "missing")


def test_the_room_is_what_is_free_or_what_is_allowed(tmp_path: Path) -> None:
    free = Room.of(folder=tmp_path / "not" / "yet")
    assert free.is_all
    assert free.memory_bytes == pytest.approx(available_bytes("cpu"), rel=0.2)
    assert free.disk_bytes > 0
    for limit, size in (("6MB", 6_000_000), ("1 MiB", 1 << 20), (1234, 1234), ("1234", 1234)):
        room = Room.of("disk", limit, tmp_path)
        assert (room.memory_bytes, room.is_all) == (size, False)
    assert Room.of("auto", "900TB").is_all


@pytest.mark.parametrize("limit", ["", "much", "-1GB", 0, -5, True, float("nan"), "6 bananas"])
def test_a_limit_that_is_no_size_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"memory_limit: got .*, expected bytes, such as 6GB"):
        Room.of("auto", limit)


def test_a_storage_that_is_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"storage: got 'tape', expected one of auto, memory"):
        Room.of("tape")  # type: ignore[arg-type]


def test_pages_of_matrices_on_disk_are_no_peak(tmp_path: Path) -> None:
    peak = PeakMemory()
    peak.reset(with_files=False)
    X = on_disk((50_000, 1000), tmp_path)
    X += 1
    seen = peak.read()
    peak.reset(with_files=False)
    Y = X.copy()
    Y += 1
    assert peak.read() > seen + 100_000_000
    assert peak.read() > 0  # without a watch, the mark of the system
