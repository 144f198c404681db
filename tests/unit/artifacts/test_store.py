from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.artifacts.store import Durable, LocalStore
from gpucluster.errors import DiskFullError, PermissionRefusedError, RunLockedError, StoreError


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(tmp_path / "out")


def files(store: LocalStore) -> set[str]:
    return {str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file()}


def writer(data: bytes):
    return lambda file: file.write(data)


@pytest.mark.parametrize(
    "data", [b"", b"hello", os.urandom(3 << 20)], ids=["empty", "short", "long"]
)
@pytest.mark.parametrize("absent", [False, True])
def test_what_is_put_is_read(store, data, absent):
    stored = store.put("run_a/x.bin", writer(data), absent=absent)
    assert stored == (len(data), hashlib.sha256(data).hexdigest())
    assert store.read_bytes("run_a/x.bin") == data
    with store.open("run_a/x.bin") as file:
        assert file.read(3) == data[:3]
    assert store.exists("run_a/x.bin")
    assert files(store) == {"run_a/x.bin"}


def test_put_replaces_and_absent_does_not(store):
    store.put("x", writer(b"one"))
    store.put("x", writer(b"two"))
    with pytest.raises(FileExistsError):
        store.put("x", writer(b"three"), absent=True)
    assert store.read_bytes("x") == b"two"
    assert files(store) == {"x"}


def test_one_of_many_writers_wins(store):
    won, barrier = [], threading.Barrier(16)

    def race(n: int) -> None:
        barrier.wait()
        try:
            store.put("x", writer(b"%d" % n), absent=True)
        except FileExistsError:
            return
        won.append(n)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % n for n in won] == [store.read_bytes("x")]
    assert files(store) == {"x"}


def test_a_lost_reply_of_the_winner_is_a_success(tmp_path):
    class Repeating(Durable):
        def link(self, source: Path, target: Path) -> None:
            super().link(source, target)
            super().link(source, target)

    store = LocalStore(tmp_path, Repeating())
    store.put("x", writer(b"one"), absent=True)
    assert store.read_bytes("x") == b"one"


def test_missing_files(store):
    assert not store.exists("x")
    assert store.list() == ()
    assert store.list("run_a") == ()
    store.delete("x")
    with pytest.raises(FileNotFoundError):
        store.open("x")
    with pytest.raises(FileNotFoundError):
        store.read_bytes("run_a/x")


def test_list_and_delete(store):
    for key in ("b/y", "b/x", "a/z"):
        store.put(key, writer(b""))
    (store.root / ".hidden").touch()
    (store.root / "not a key").touch()
    assert store.list() == ("a", "b")
    assert store.list("b") == ("x", "y")
    assert store.list("b/x") == ()
    store.delete("b/x")
    assert store.list("b") == ("y",)


HOSTILE = [
    "", ".", "..", "/", "/etc/passwd", "../x", "a/../x", "a/..", "a//b", "a/", "./a", ".lock",
    "a/.lock", "a\\b", "a\0b", "a\nb", "a\n", "%2e%2e/x", "~/x", "a b", "a" * 129, "é", "-a", "C:x",
]  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_is_no_path(store, key):
    with pytest.raises(StoreError, match="is no place in"):
        store.put(key, writer(b"x"))
    with pytest.raises(StoreError, match="is no place in"):
        store.open(key)


@given(st.text(max_size=40) | st.text("./a~\\-\0", max_size=12))
def test_no_key_leaves_the_root(tmp_path_factory, key):
    store = LocalStore(tmp_path_factory.getbasetemp() / "keys")
    try:
        path = store._path(key)
    except StoreError:
        return
    assert path.resolve().is_relative_to(store.root)
    assert path.resolve() != store.root
    assert not any(part.startswith(".") for part in path.relative_to(store.root).parts)


def test_links_out_of_the_root_are_refused(store, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    store.put("run_a/x", writer(b""))
    (store.root / "run_a" / "file").symlink_to(tmp_path / "secret")
    (store.root / "folder").symlink_to(tmp_path)
    for key in ("run_a/file", "folder/secret", "folder/new"):
        with pytest.raises(StoreError, match="is no place in"):
            store.open(key)
        with pytest.raises(StoreError, match="is no place in"):
            store.put(key, writer(b"mine"))
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_a_writer_that_fails_leaves_nothing(store):
    def write(file) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    store.put("x", writer(b"old"))
    with pytest.raises(KeyboardInterrupt):
        store.put("x", write)
    assert store.read_bytes("x") == b"old"
    assert files(store) == {"x"}


class Refusing(Durable):
    """Refuse one operation with an error number."""

    def __init__(self, operation: str, number: int) -> None:
        def refuse(*args: object) -> None:
            raise OSError(number, os.strerror(number))

        setattr(self, operation, refuse)


@pytest.mark.parametrize("operation", ["open_temp", "fsync_file", "replace", "fsync_dir"])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EACCES, PermissionRefusedError),
        (errno.EPERM, PermissionRefusedError),
        (errno.EROFS, PermissionRefusedError),
        (errno.EIO, StoreError),
    ],
)
def test_refusals_are_translated(tmp_path, operation, number, error):
    store = LocalStore(tmp_path, Refusing(operation, number))
    with pytest.raises(
        StoreError, match=rf"cannot write {tmp_path}/x: .*\(\d+ bytes free\)"
    ) as caught:
        store.put("x", writer(b"x"))
    assert type(caught.value) is error
    assert caught.value.__cause__.errno == number
    assert files(store) <= {"x"}


def test_a_file_system_without_hard_links_is_named(tmp_path):
    store = LocalStore(tmp_path, Refusing("link", errno.EPERM))
    with pytest.raises(StoreError, match="has no hard links"):
        store.put("x", writer(b"x"), absent=True)
    assert files(store) == set()


def test_a_file_where_a_folder_must_be(store):
    store.put("run_a", writer(b""))
    with pytest.raises(StoreError, match="run_a is a file"):
        store.put("run_a/x", writer(b""), absent=True)


def test_libraries_never_write_past_the_store(store):
    array = np.arange(1000.0)
    seen = []

    def write(file) -> None:
        np.save(file, array, allow_pickle=False)
        with pytest.raises(OSError, match="fileno"):
            file.fileno()
        seen.append(True)

    stored = store.put("x.npy", write)
    assert seen == [True]
    assert stored.sha256 == hashlib.sha256(store.read_bytes("x.npy")).hexdigest()
    np.testing.assert_array_equal(np.load(store.root / "x.npy"), array)


def test_every_name_is_flushed_before_the_next_is_given(tmp_path):
    class Recording(Durable):
        def __getattribute__(self, name: str):
            if not name.startswith("_"):
                calls.append(name)
            return super().__getattribute__(name)

    calls: list[str] = []
    store = LocalStore(tmp_path / "out", Recording())
    store.put("a/x", writer(b"x"), absent=True)
    assert calls == [
        *("make_folder", "fsync_dir", "make_folder", "fsync_dir"),
        *("open_temp", "fsync_file", "link", "unlink", "fsync_dir"),
    ]
    calls.clear()
    store.put("a/x", writer(b"x"))
    assert calls == ["open_temp", "fsync_file", "replace", "fsync_dir"]


def test_a_lease_is_exclusive_and_ends(store):
    with store.lease("run_a"):
        held = pytest.raises(RunLockedError, match=f"in use by process {os.getpid()} on")
        with held, store.lease("run_a"):
            pass
        with store.lease("run_b"):
            pass
    with store.lease("run_a"):
        pass
    assert files(store) == set()


def test_a_lease_ends_with_its_process(store):
    code = (
        "import os, pathlib, sys; from gpucluster.artifacts.store import LocalStore\n"
        f"with LocalStore(pathlib.Path({str(store.root)!r})).lease('run_a'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunLockedError, match=f"process {other.pid}"), store.lease("run_a"):
            pass
        other.kill()
        other.wait()
        with store.lease("run_a"):
            assert store.list() == ("run_a",)


def test_many_take_turns(store):
    inside, most, done = [], [], []

    def work() -> None:
        while True:
            try:
                with store.lease("run_a"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    done.append(1)
                    return
            except RunLockedError:
                continue

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8
    assert set(most) == {1}


def test_a_lock_file_removed_before_it_is_locked_is_no_lock(store, monkeypatch):
    def flock(fd: int, operation: int) -> None:
        monkeypatch.undo()
        (store.root / "run_a" / ".lock").unlink()  # as the last holder does
        fcntl.flock(fd, operation)

    monkeypatch.setattr("gpucluster.artifacts.store.fcntl.flock", flock)
    with store.lease("run_a"):
        assert files(store) == {"run_a/.lock"}
        with pytest.raises(RunLockedError), store.lease("run_a"):
            pass


def test_a_lease_removes_what_the_dead_left(store):
    store.put("run_a/checkpoints/fit-0/x.npy", writer(b"x"))
    store.put("run_b/x", writer(b"x"))
    for place in ("run_a", "run_a/checkpoints/fit-0", "run_b"):
        (store.root / place / ".x.npy.123-abc.tmp").write_bytes(b"half")
    with store.lease("run_a"):
        assert files(store) == {
            "run_a/.lock",
            "run_a/checkpoints/fit-0/x.npy",
            "run_b/x",
            "run_b/.x.npy.123-abc.tmp",
        }
