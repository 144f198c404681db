from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpucluster.artifacts.checkpoints import Checkpoints
from gpucluster.artifacts.store import LocalStore

KEY = "0123456789abcdef" * 4
ARRAYS = {
    "X": np.arange(12, dtype=np.float32).reshape(4, 3),
    "labels": np.array([0, 1, -1], np.int32),
    "empty": np.empty((0, 5)),
    "strided": np.arange(20)[::3],
    "fortran": np.asfortranarray(np.ones((3, 4))),
}
INFO = {"n_iter": 7, "inertia": 1.5, "by_cluster": {1: 2, 10: 3}, "nothing": None}


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(tmp_path)


def folder(store: LocalStore, run_id: str = "run_a") -> Path:
    return store.root / run_id / "checkpoints" / f"fit-{KEY[:16]}"


def test_what_was_put_is_found(store):
    Checkpoints(store, "run_a").put("fit", KEY, ARRAYS, INFO)
    found = Checkpoints(store, "run_a").get("fit", KEY)
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    assert found.info == INFO | {"by_cluster": {"1": 2, "10": 3}}
    assert {path.name for path in folder(store).iterdir()} == {
        "done.json",
        *(f"{name}.npy" for name in ARRAYS),
    }


def test_nothing_is_found_under_another_stage_or_key(store):
    checkpoints = Checkpoints(store, "run_a")
    assert checkpoints.get("fit", KEY) is None
    checkpoints.put("fit", KEY, ARRAYS, INFO)
    assert checkpoints.get("umap", KEY) is None
    assert checkpoints.get("fit", "f" * 64) is None
    assert checkpoints.get("fit", KEY[:-1] + "0") is None


def test_a_sibling_run_is_asked(store):
    Checkpoints(store, "run_a").put("fit", KEY, ARRAYS, INFO)
    (store.root / "notes.txt").touch()
    (store.root / "my folder").mkdir()
    found = Checkpoints(store, "run_b").get("fit", KEY)
    np.testing.assert_array_equal(found.arrays["X"], ARRAYS["X"])


def test_a_stage_without_arrays(store):
    checkpoints = Checkpoints(store, "run_a")
    checkpoints.put("metrics", KEY, {}, INFO)
    assert checkpoints.get("metrics", KEY).arrays == {}


def test_objects_are_refused(store):
    with pytest.raises(ValueError, match="pickle"):
        Checkpoints(store, "run_a").put("fit", KEY, {"x": np.array([{}])}, {})
    assert list(folder(store).iterdir()) == []


def test_no_flipped_bit_is_believed(store):
    checkpoints = Checkpoints(store, "run_a")
    checkpoints.put("fit", KEY, {"X": ARRAYS["X"]}, INFO)
    good = checkpoints.get("fit", KEY)
    path = folder(store) / "done.json"
    text = path.read_bytes()
    for position in range(len(text)):
        damaged = bytearray(text)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        found = checkpoints.get("fit", KEY)
        assert found is None or found.info == good.info  # white space


@pytest.mark.parametrize("name", ["X.npy", "empty.npy", "done.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_a_damaged_checkpoint_is_none_and_a_whole_one_is_found_elsewhere(store, name, damage):
    checkpoints = Checkpoints(store, "run_a")
    checkpoints.put("fit", KEY, ARRAYS, INFO)
    path = folder(store) / name
    data = path.read_bytes()
    match damage:
        case "flip":
            path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
        case "cut":
            path.write_bytes(data[:-1])
        case "grow":
            path.write_bytes(data + b"x")
        case "remove":
            path.unlink()
    damaged = checkpoints.get("fit", KEY)
    if (name, damage) in {("done.json", "cut")}:  # the last byte is a line end
        assert damaged is not None
        return
    assert damaged is None
    Checkpoints(store, "run_b").put("fit", KEY, ARRAYS, INFO)
    assert checkpoints.get("fit", KEY) is not None
    checkpoints.put("fit", KEY, ARRAYS, INFO)
    assert Checkpoints(store, "run_a")._read(f"run_a/checkpoints/fit-{KEY[:16]}", KEY) is not None
