"""Run one fit where it belongs: on its device, in a child process if it may abort, or falling back.

A GPU library can end its process in ways that Python cannot catch, so GPU fits always run
supervised. The CPU paths of this package never abort and run in the calling process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

from gpucluster.algorithms import Algorithm, catalogue
from gpucluster.device.child import Child
from gpucluster.device.memory import translated
from gpucluster.device.select import Decision, Device
from gpucluster.errors import DeviceError, DeviceUnavailableError, StageCrashedError
from gpucluster.events import Reporter
from gpucluster.preprocess import AnyStep, Fitted, Step
from gpucluster.types import Clustering, Matrix

T = TypeVar("T")


def fit_algorithm(
    algorithm: Algorithm, X: Matrix, decision: Decision, reporter: Reporter
) -> tuple[Clustering, Device]:
    """Cluster `X`; return the result and the device that it came from.

    Raises
    ------
    StageCrashedError
        The fit died in native code, and the request allows no fallback.
    """

    def run(device: Device) -> Clustering:
        if device == "cpu" and not algorithm.may_abort:
            return algorithm.fit(X, device=device, reporter=reporter)
        with tempfile.TemporaryDirectory(prefix="gpucluster-") as folder:
            np.save(Path(folder, "X.npy"), X)
            with Child(reporter.stage, reporter=reporter) as child:
                facts = child.call(
                    "gpucluster.execution:fit_algorithm_files",
                    name=algorithm.name,
                    params=algorithm.model_dump(mode="json"),
                    device=device,
                    folder=folder,
                )
            probabilities = Path(folder, "probabilities.npy")
            return Clustering(
                labels_=np.load(Path(folder, "labels.npy")),
                probabilities_=np.load(probabilities) if probabilities.exists() else None,
                **facts,
            )

    obstacle = algorithm.gpu_obstacle(X) if decision.device == "gpu" else None
    return with_fallback(run, decision, reporter, obstacle)


def fit_algorithm_files(
    name: str, params: dict[str, Any], device: Device, folder: str, reporter: Reporter
) -> dict[str, Any]:
    """Cluster ``X.npy`` of `folder` and leave the arrays of the result beside it."""
    algorithm = catalogue()[name].model_validate(params)
    X = np.load(Path(folder, "X.npy"), mmap_mode="r")
    result = algorithm.fit(np.asarray(X), device=device, reporter=reporter)
    np.save(Path(folder, "labels.npy"), result.labels_)
    if result.probabilities_ is not None:
        np.save(Path(folder, "probabilities.npy"), result.probabilities_)
    return {
        "n_clusters_": result.n_clusters_,
        "backend": result.backend,
        "method": result.method,
        "info": dict(result.info),
    }


def fit_step(
    step: Step, X: Matrix, decision: Decision, reporter: Reporter
) -> tuple[Fitted, Device]:
    """Fit a preprocessing step; return its state and the device that it came from.

    Raises
    ------
    StageCrashedError
        The fit died in native code, and the request allows no fallback.
    """

    def run(device: Device) -> Fitted:
        if device == "cpu":
            with translated(step.method):
                return step.fit(X, device, reporter)
        with tempfile.TemporaryDirectory(prefix="gpucluster-") as folder:
            np.save(Path(folder, "X.npy"), X)
            with Child(reporter.stage, reporter=reporter) as child:
                facts = child.call(
                    "gpucluster.execution:fit_step_files",
                    step=step.model_dump(mode="json"),
                    device=device,
                    folder=folder,
                )
            arrays = {name: np.load(Path(folder, f"{name}.npy")) for name in facts.pop("arrays")}
            return Fitted(arrays=arrays, **facts)

    if not step.has_gpu_path:
        return run("cpu"), "cpu"
    return with_fallback(run, decision, reporter)


def fit_step_files(
    step: dict[str, Any], device: Device, folder: str, reporter: Reporter
) -> dict[str, Any]:
    """Fit a step to ``X.npy`` of `folder` and leave its arrays beside it."""
    parsed: Step = TypeAdapter(AnyStep).validate_python(step)
    X = np.asarray(np.load(Path(folder, "X.npy"), mmap_mode="r"))
    with translated(parsed.method):
        fitted = parsed.fit(X, device, reporter)
    for name, array in fitted.arrays.items():
        np.save(Path(folder, f"{name}.npy"), array)
    return {
        "arrays": list(fitted.arrays),
        "backend": fitted.backend,
        "method": fitted.method,
        "info": dict(fitted.info),
    }


def with_fallback(
    run: Callable[[Device], T], decision: Decision, reporter: Reporter, obstacle: str | None = None
) -> tuple[T, Device]:
    """Run on the decided device; on the CPU instead where that is allowed and needed."""
    if decision.device == "cpu":
        return run("cpu"), "cpu"
    try:
        if obstacle is not None:
            raise DeviceUnavailableError(
                f"{reporter.stage}: {obstacle}", hint="use --device auto or cpu"
            )
        return run("gpu"), "gpu"
    except (StageCrashedError, DeviceError) as error:
        if decision.requested == "gpu":
            raise
        reporter.fallback("gpu_failed", f"{error.message}; the CPU path runs instead")
        return run("cpu"), "cpu"
