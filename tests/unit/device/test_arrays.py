from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpucluster.device.arrays import forget_resident, keep_resident, to_device, to_host


class OnDevice:
    """A device array; it counts how many there are."""

    made = 0
    __cuda_array_interface__: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, host: object) -> None:
        type(self).made += 1
        self.host = np.array(host)


@pytest.fixture(autouse=True)
def cupy(monkeypatch: pytest.MonkeyPatch):
    fake = SimpleNamespace(asarray=OnDevice, asnumpy=lambda array: array.host)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    OnDevice.made = 0
    forget_resident()
    yield
    forget_resident()


def fixed(n_rows: int = 3) -> np.ndarray:
    X = np.arange(2 * n_rows, dtype=np.float32).reshape(n_rows, 2)
    X = X.copy()  # of no base
    X.setflags(write=False)
    return X


def test_a_fixed_array_crosses_once() -> None:
    X = fixed()
    assert to_device(X, "gpu") is to_device(X, "gpu")
    np.testing.assert_array_equal(to_host(to_device(X, "gpu")), X)
    assert OnDevice.made == 1
    assert to_device(X, "cpu") is X


def test_a_mapped_file_crosses_once(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", fixed())
    X = np.asarray(np.load(tmp_path / "X.npy", mmap_mode="r"))
    assert to_device(X, "gpu") is to_device(X, "gpu")


def test_what_may_change_crosses_each_time() -> None:
    X = np.zeros((3, 2), np.float32)
    view = X[:2]
    view.setflags(write=False)  # but not what it is a view of
    for array in (X, view, [1.0, 2.0]):
        assert to_device(array, "gpu") is not to_device(array, "gpu")


def test_a_device_array_stays_what_it_is() -> None:
    array = OnDevice([1.0])
    assert to_device(array, "gpu") is array


def test_a_copy_dies_with_its_array() -> None:
    for n_rows in range(3, 40):  # an id is soon used again
        X = fixed(n_rows)
        assert to_device(X, "gpu").host.shape == X.shape
        del X
    from gpucluster.device.arrays import _RESIDENT

    assert _RESIDENT == {}


def test_copies_can_be_forgotten_and_given() -> None:
    X = fixed()
    first = to_device(X, "gpu")
    forget_resident()
    assert to_device(X, "gpu") is not first
    keep_resident(X, first)
    assert to_device(X, "gpu") is first
