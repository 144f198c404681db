"""The one supervised process of a run, and the arrays that it shares with its parent.

Starting a process costs seconds where it makes a CUDA context and imports cuML, so a run has
one for all of its stages. Arrays go through files, each written once: in memory where there is
room, mapped on both sides, and on the device as long as they live
(`gpucluster.device.arrays.to_device`).
"""

from __future__ import annotations

import itertools
import os
import shutil
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from gpucluster.device.arrays import forget_resident, is_on_gpu, keep_resident, to_host
from gpucluster.device.child import Child
from gpucluster.device.memory import available_bytes, free_pools, open_pool
from gpucluster.device.scratch import scratch_folder
from gpucluster.device.select import Device
from gpucluster.device.supervised import JSON
from gpucluster.errors import OutOfMemoryError, StoreError
from gpucluster.events import Reporter

T = TypeVar("T")

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it are made by mkdtemp
PREFIX = "gpucluster-"
SMALL_BYTES = 1 << 20  # below it a file is read: a mapping of its own gains nothing


class Worker:
    """A process that starts with the first call, serves all stages, and is started anew if it died.

    Use it from one thread, as a context manager. Files that it shares are gone with it; what was
    mapped from them stays.
    """

    def __init__(self) -> None:
        self._child = Child("worker")
        self._open = ExitStack()
        self._folders: dict[Path | None, Path] = {}
        self._files: dict[int, tuple[weakref.ref[Any], str]] = {}  # by id of their arrays
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def call(self, target: str, reporter: Reporter, **kwargs: JSON) -> JSON:
        """Call a function in the process, for the stage of `reporter`; see `Child.call`."""
        self._child.work_for(reporter)
        return self._child.call(target, **kwargs)

    def close(self) -> None:
        """End the process and remove the files."""
        self._child.close()
        self._open.close()
        self._folders.clear()
        self._files.clear()

    def place(self, n_bytes: int = 0) -> str:
        """Return the beginning of the names of new files, where `n_bytes` can be written.

        In memory only when twice as much is free: the stages need some too.
        """
        where: Path | None = IN_MEMORY
        if not os.access(IN_MEMORY, os.W_OK) or 2 * n_bytes > min(
            shutil.disk_usage(IN_MEMORY).free, available_bytes("cpu")
        ):
            where = None
        if where not in self._folders:
            self._folders[where] = self._open.enter_context(scratch_folder(where, PREFIX))
        return str(self._folders[where] / f"{next(self._numbers)}-")

    def share(self, array: Any) -> str:
        """Return the path of a file that holds an array of the host.

        It is written once, and removed when the array dies: do not write to `array` meanwhile.
        """
        known = self._files.get(id(array))
        if known is not None and known[0]() is array:
            return known[1]
        path = self.place(array.nbytes) + "shared.npy"
        try:
            np.save(path, array)
        except OSError as error:  # np.save names no cause: a full disk, mostly
            Path(path).unlink(missing_ok=True)
            raise StoreError(
                f"{path}: {array.nbytes:,} bytes cannot be written ({error})",
                hint="free space there, or name another folder by TMPDIR",
            ) from error
        self._remember(array, path)
        return path

    def load(self, path: str) -> Any:
        """Return the array of a file that the process has written, which `share` then knows."""
        mode: Any = "c" if Path(path).stat().st_size > SMALL_BYTES else None
        # "c" can be written, as all that stages make: kernels are compiled for that
        array = np.asarray(np.load(path, mmap_mode=mode))
        self._remember(array, path)
        return array

    def _remember(self, array: Any, path: str) -> None:
        key, files = id(array), self._files

        def drop(_: weakref.ref[Any]) -> None:
            files.pop(key, None)
            Path(path).unlink(missing_ok=True)

        files[key] = weakref.ref(array, drop), path


# What follows runs in the process.

_ARRAYS: dict[str, Any] = {}  # by path, so that the same file is the same array


def shared(path: str) -> Any:
    """Return the array of a shared file, read-only, the same object at every call."""
    for known in [known for known in _ARRAYS if not Path(known).exists()]:
        del _ARRAYS[known]  # its array has died in the parent, and so do the mapping and the copy
    if path not in _ARRAYS:
        _ARRAYS[path] = np.asarray(np.load(path, mmap_mode="r"))
    return _ARRAYS[path]


def hand_back(path: str, array: Any) -> None:
    """Write an array for the parent; one that is on the GPU stays there for the next stage."""
    np.save(path, to_host(array))
    if is_on_gpu(array):
        keep_resident(shared(path), array)


def hand_back_all(out: str, arrays: Mapping[str, Any]) -> dict[str, str]:
    """Write arrays to files whose names begin with `out`; return the paths by name."""
    paths = {name: f"{out}{name}.npy" for name in arrays}
    for name, path in paths.items():
        hand_back(path, arrays[name])
    return paths


def with_memory(work: Callable[[], T], device: Device, reporter: Reporter) -> T:
    """Do GPU work with a pool of memory, and again with all of it where that was too little.

    Raises
    ------
    OutOfMemoryError
        All memory was too little.
    """
    if device == "cpu":
        return work()
    open_pool()
    try:
        return work()
    except OutOfMemoryError as error:
        said = error.message
    # only here, when the traceback no longer holds the arrays of the first attempt
    forget_resident()
    free_pools()
    reporter.warn("gpu_memory_freed", f"{said}; all that was kept there is freed, it starts again")
    return work()
