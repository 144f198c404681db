"""Turn a device request into a decision with its reason."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from typing import Literal, get_args

from gpucluster.errors import BackendUnavailableError, ConfigError, DeviceUnavailableError

DeviceRequest = Literal["auto", "cpu", "gpu"]
Device = Literal["cpu", "gpu"]

INSTALL_GPU = "pip install 'gpucluster[gpu-cu13]' (CUDA 13) or 'gpucluster[gpu-cu12]' (CUDA 12)"

# What RAPIDS 26.10 asks for, by the CUDA version of its wheels: compute capability, the CUDA
# version that the driver knows, and the driver that is the first to know it.
NEEDED = {12: ((7, 0), 12020, "535"), 13: ((7, 5), 13000, "580")}


@dataclass(frozen=True, slots=True)
class Decision:
    """The device that stages use unless they say otherwise, and the sentence that explains it."""

    requested: DeviceRequest
    device: Device
    reason: str

    @property
    def allowed(self) -> str:
        """What tells a run apart that may have fallen back from one that may not."""
        return self.requested if self.device == "gpu" else "cpu"


def probe_gpu() -> str | None:
    """Return why there is no usable GPU, or None when there is one.

    CuPy imports well on machines without a GPU, so being importable proves nothing:
    the runtime is asked. No context is created.
    """
    if find_spec("cupy") is None:
        return "cupy is not installed"
    try:
        return _obstacle()
    except Exception as error:  # noqa: BLE001 - CuPy raises whatever its libraries do
        return _unusable(error)


def _obstacle() -> str | None:
    """Ask CuPy why there is no usable GPU."""
    import cupy

    runtime = cupy.cuda.runtime
    major = max(min(NEEDED), min(max(NEEDED), runtime.runtimeGetVersion() // 1000))
    capability, least, driver = NEEDED[major]
    known = runtime.driverGetVersion()  # 0 without a driver
    if 0 < known < least:
        return (
            f"the driver knows CUDA {_dotted(known)}, and cupy is built for CUDA {major}: "
            f"update the driver to {driver} or newer"
        )
    if not cupy.is_available():
        return "cupy finds no CUDA device or driver"
    digits = cupy.cuda.Device(0).compute_capability  # the major number may have two
    found = int(digits[:-1]), int(digits[-1])
    if found < capability:
        return "the GPU has compute capability {}.{}, CUDA {} needs {}.{}".format(
            *found, major, *capability
        )
    if find_spec("cuml") is None:
        return "there is a GPU, but cuml is not installed"
    return None


def list_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    The driver's tool is asked, not CUDA: a process that has asked CUDA holds memory of a GPU.
    Parts of a divided GPU stand for it. Empty where there is none, or no library that uses one.
    """
    if find_spec("cupy") is None:
        return ()
    found = _named_by_driver(_driver_says("--list-gpus"))
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if not found or named is None:
        return found
    return tuple(itertools.takewhile(_is_device, (name.strip() for name in named.split(","))))


_IDENTITY = re.compile(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)")
_DEVICE = re.compile(r"\d+|(?:GPU|MIG)-\S+")


def _is_device(name: str) -> bool:  # CUDA sees those before the first that is none
    return _DEVICE.fullmatch(name) is not None


def _named_by_driver(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the identities in a list of GPUs, with the parts of one in its place."""
    found: list[str] = []
    for line in lines:
        identity = _IDENTITY.search(line)
        if identity is None:
            continue
        if identity[1].startswith("MIG") and found and found[-1].startswith("GPU"):
            found.pop()
        found.append(identity[1])
    return tuple(found)


def gpu_facts() -> Iterator[tuple[str, str | None]]:
    """Yield what is known of GPUs, driver, CUDA and libraries: names and values.

    A library that is not installed has None. No context is created.
    """
    for card in _cards():
        yield "gpu", card
    if find_spec("cupy") is not None:
        try:
            yield "cuda", _cuda()
        except Exception as error:  # noqa: BLE001 - CuPy raises whatever its libraries do
            yield "cuda", _unusable(error)
    for module in ("cupy", "cuml", "rmm"):
        if find_spec(module) is None:
            yield module, None
        else:
            names = packages_distributions().get(module, [])
            yield (
                module,
                ", ".join(f"{name} {version(name)}" for name in names) or "unknown version",
            )


def _cuda() -> str:
    import cupy

    known = cupy.cuda.runtime.driverGetVersion()
    of_driver = f"the driver knows {_dotted(known)}" if known else "no driver"
    return f"runtime {_dotted(cupy.cuda.runtime.runtimeGetVersion())}, {of_driver}"


def _unusable(error: Exception) -> str:
    said = " ".join(str(error).replace("=", " ").split())
    return f"cupy cannot be used: {said[:300] or type(error).__name__}"


def _cards() -> Iterator[str]:
    """Yield what the driver says of each GPU."""
    query = "--query-gpu=name,driver_version,compute_cap,memory.free,memory.total"
    for line in _driver_says(query, "--format=csv,noheader"):
        name, driver, capability, free, total = line.rsplit(", ", 4)
        yield (
            f"{name}, driver {driver}, compute capability {capability}, {free} of {total} are free"
        )


def _driver_says(*options: str) -> list[str]:
    """Return the lines that the driver's tool answers; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        answer = subprocess.run(
            ["nvidia-smi", *options],  # noqa: S607 - whichever is installed
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()


def _dotted(cuda: int) -> str:
    """Return CUDA's number of a version, such as 12020, as 12.2."""
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


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
