"""Move arrays between host and device; the namespace of an array decides where work runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

    from gpucluster.device.select import Device


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
    """Return `array` on `device`; no copy when it is there already."""
    if device == "gpu" and not is_on_gpu(array):
        import cupy

        return cupy.asarray(array)
    return to_host(array) if device == "cpu" else array


def to_host(array: Any) -> Any:
    """Return `array` as a numpy array; no copy when it is one."""
    if is_on_gpu(array):
        import cupy

        return cupy.asnumpy(array)
    return np.asarray(array)
