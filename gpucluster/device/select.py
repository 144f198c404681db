"""Turn a device request into a decision with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from gpucluster.errors import BackendUnavailableError, ConfigError, DeviceUnavailableError

DeviceRequest = Literal["auto", "cpu", "gpu"]
Device = Literal["cpu", "gpu"]

INSTALL_GPU = "pip install 'gpucluster[gpu-cu13]' (CUDA 13) or 'gpucluster[gpu-cu12]' (CUDA 12)"


@dataclass(frozen=True, slots=True)
class Decision:
    """The device that stages use unless they say otherwise, and the sentence that explains it."""

    requested: DeviceRequest
    device: Device
    reason: str


def probe_gpu() -> str | None:
    """Return why there is no usable GPU, or None when there is one.

    CuPy imports well on machines without a GPU, so being importable proves nothing:
    the runtime is asked. No context is created.
    """
    if find_spec("cupy") is None:
        return "cupy is not installed"
    import cupy

    if not cupy.is_available():
        return "cupy finds no CUDA device or driver"
    if find_spec("cuml") is None:
        return "there is a GPU, but cuml is not installed"
    return None


def decide(requested: DeviceRequest) -> Decision:
    """Choose the device of a run.

    Parameters
    ----------
    requested : {"auto", "cpu", "gpu"}
        ``gpu`` never falls back; ``auto`` takes a GPU where one is usable.

    Returns
    -------
    Decision

    Raises
    ------
    ConfigError
        `requested` is none of the three.
    BackendUnavailableError
        ``gpu`` was asked for and a library is missing; the hint names the extra.
    DeviceUnavailableError
        ``gpu`` was asked for and there is none.
    """
    if requested not in get_args(DeviceRequest):
        raise ConfigError(
            f"got {requested!r}, expected one of {', '.join(get_args(DeviceRequest))}",
            path="device",
            got=requested,
        )
    if requested == "cpu":
        return Decision(requested, "cpu", "asked for")
    obstacle = probe_gpu()
    if obstacle is None:
        return Decision(requested, "gpu", "asked for" if requested == "gpu" else "a GPU is usable")
    if requested == "gpu":
        if "not installed" in obstacle:
            raise BackendUnavailableError(f"device=gpu: {obstacle}", hint=INSTALL_GPU)
        raise DeviceUnavailableError(
            f"device=gpu: {obstacle}", hint="check the driver, or use --device cpu"
        )
    return Decision(requested, "cpu", obstacle)
