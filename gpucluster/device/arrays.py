"""Move arrays between host and device; the namespace of an array decides where work runs.

The device copy of a host array that cannot be written stays resident: a matrix that several
stages ask for crosses once.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

    from gpucluster.device.select import Device

_RESIDENT: dict[int, tuple[weakref.ref[Any], Any]] = {}  # id of a host array -> it, its copy


def is_on_gpu(array: object) -> bool:
    """Whether `array` lives on a GPU."""
    return hasattr(array, "__cuda_array_interface__")


def namespace(array: object) -> ModuleType:
    """Return cupy for a device array and numpy otherwise."""
    if is_on_gpu(array):
        import cupy

        on_device: ModuleType = cupy
        return on_device
    return np


def to_device(array: Any, device: Device) -> Any:
    """Return `array` on `device`; no copy when it is there already.

    The copy of an array that cannot be written is kept as long as the array lives, and given
    out again: it is not to be written either.
    """
    if device == "cpu":
        return to_host(array)
    if is_on_gpu(array):
        return array
    known = _RESIDENT.get(id(array))
    if known is not None and known[0]() is array:
        return known[1]
    import cupy

    copy = cupy.asarray(array)
    if _is_fixed(array):
        keep_resident(array, copy)
    return copy


def to_host(array: Any) -> Any:
    """Return `array` as a numpy array; no copy when it is one."""
    if is_on_gpu(array):
        import cupy

        return cupy.asnumpy(array)
    return np.asarray(array)


def keep_resident(array: Any, copy: Any) -> None:
    """Let `copy`, on the GPU, stand for the host array `array` as long as that lives."""
    key = id(array)
    _RESIDENT[key] = weakref.ref(array, lambda _: _RESIDENT.pop(key, None)), copy


def forget_resident() -> None:
    """Let go of all device copies; those in use stay where they are used."""
    _RESIDENT.clear()


def _is_fixed(array: Any) -> bool:
    """Whether no one can write to an array, through what it is a view of neither."""
    if not isinstance(array, np.ndarray):
        return False
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return True
