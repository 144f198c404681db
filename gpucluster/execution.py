"""Run one fit where it belongs: on its device, in a child process if it may abort, or falling back.

A GPU library can end its process in ways that Python cannot catch, so GPU fits always run
supervised. The CPU paths of this package never abort and run in the calling process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from gpucluster.algorithms import Algorithm, catalogue
from gpucluster.device.fleet import fleet_of
from gpucluster.device.memory import require_bytes, translated
from gpucluster.device.select import Decision, Device
from gpucluster.device.worker import Worker, hand_back, hand_back_all, shared, with_memory
from gpucluster.errors import DeviceError, DeviceUnavailableError, StageCrashedError
from gpucluster.events import Reporter
from gpucluster.preprocess import AnyStep, Fitted, Step
from gpucluster.types import Clustering, Matrix

T = TypeVar("T")

CLUSTERING_ARRAYS = ("labels_", "probabilities_", "levels", "basins_", "layers_")


def fit_algorithm(
    algorithm: Algorithm,
    X: Matrix,
    decision: Decision,
    reporter: Reporter,
    worker: Worker | None = None,
) -> tuple[Clustering, Device]:
    """Cluster `X`; return the result and the device that it came from.

    Parameters
    ----------
    algorithm : Algorithm
    X : ndarray of shape (n_samples, n_features), float32, C-contiguous
    decision : Decision
    reporter : Reporter
    worker : Worker, optional
        The process where a fit runs that may abort; omitted: one for this call.

    Returns
    -------
    Clustering
    {"cpu", "gpu"}

    Raises
    ------
    StageCrashedError
        The fit died in native code, and the request allows no fallback.
    OutOfMemoryError
        All of the device's memory was too little, and the request allows no fallback.
    """

    def run(device: Device) -> Clustering:
        if device == "cpu" and not algorithm.may_abort:
            return algorithm.fit(X, device=device, reporter=reporter)
        fleet = fleet_of(X)
        if algorithm.by_gpus_of_a_fleet and fleet is not None and fleet.device == device:
            return replace(algorithm.fit(X, device="cpu", reporter=reporter), backend="cupy")
        with either(worker) as process:
            facts = process.call(
                "gpucluster.execution:fit_algorithm_files",
                reporter,
                name=algorithm.name,
                params=algorithm.model_dump(mode="json"),
                device=device,
                X=process.share(X),
                out=process.place(X.nbytes),  # results are rarely larger
            )
            arrays = {name: process.load(path) for name, path in facts.pop("arrays").items()}
        return Clustering(**({"probabilities_": None} | arrays | facts))

    if decision.device == "gpu":
        limit = algorithm.gpu_limit(len(X))
        if limit is not None and decision.requested == "auto":
            reporter.fallback("gpu_cannot", algorithm.goes_to_cpu(limit))
            return run("cpu"), "cpu"
    obstacle = algorithm.gpu_obstacle(X) if decision.device == "gpu" else None
    return with_fallback(run, decision, reporter, obstacle)


def fit_algorithm_files(
    name: str, params: dict[str, Any], device: Device, X: str, out: str, reporter: Reporter
) -> dict[str, Any]:
    """Cluster the rows of the shared file `X`; the arrays of the result go to files `out`."""
    algorithm = catalogue()[name].model_validate(params)
    rows = shared(X)
    found = with_memory(
        lambda: algorithm.fit(rows, device=device, reporter=reporter), device, reporter
    )
    arrays = {name: getattr(found, name) for name in CLUSTERING_ARRAYS}
    return {
        "arrays": hand_back_all(out, {n: a for n, a in arrays.items() if a is not None}),
        "n_clusters_": found.n_clusters_,
        "backend": found.backend,
        "method": found.method,
        "info": dict(found.info),
    }


def fit_step(
    step: Step,
    X: Matrix,
    decision: Decision,
    reporter: Reporter,
    worker: Worker | None = None,
) -> tuple[Fitted, Device]:
    """Fit a preprocessing step; return its state and the device that it came from.

    Parameters
    ----------
    step : Step
    X : ndarray of shape (n_samples, n_features), float32, C-contiguous
    decision : Decision
    reporter : Reporter
    worker : Worker, optional
        The process where a fit on a GPU runs; omitted: one for this call.

    Returns
    -------
    Fitted
    {"cpu", "gpu"}

    Raises
    ------
    StageCrashedError
        The fit died in native code, and the request allows no fallback.
    OutOfMemoryError
        All of the device's memory was too little, and the request allows no fallback.
    """

    def run(device: Device) -> Fitted:
        if device == "cpu":
            with translated(step.method):
                return step.fit(X, device, reporter)
        with either(worker) as process:
            facts = process.call(
                "gpucluster.execution:fit_step_files",
                reporter,
                step=step.model_dump(mode="json"),
                device=device,
                X=process.share(X),
                out=process.place(X.nbytes),  # results are rarely larger
            )
            arrays = {name: process.load(path) for name, path in facts.pop("arrays").items()}
        return Fitted(arrays=arrays, **facts)

    if not step.has_gpu_path:
        return run("cpu"), "cpu"
    return with_fallback(run, decision, reporter)


def fit_step_files(
    step: dict[str, Any], device: Device, X: str, out: str, reporter: Reporter
) -> dict[str, Any]:
    """Fit a step to the shared file `X`; its arrays go to files `out`."""
    parsed, rows = _step(step), shared(X)

    def work() -> Fitted:
        with translated(parsed.method):
            if device == "gpu":
                require_bytes(
                    parsed.method, parsed.cost(len(rows), rows.shape[1], device).device_bytes
                )
            return parsed.fit(rows, device, reporter)

    fitted = with_memory(work, device, reporter)
    return {
        "arrays": hand_back_all(out, fitted.arrays),
        "backend": fitted.backend,
        "method": fitted.method,
        "info": dict(fitted.info),
    }


def step_output(
    step: Step,
    X: Matrix,
    arrays: Any,
    device: Device,
    decision: Decision,
    reporter: Reporter,
    worker: Worker | None = None,
) -> tuple[Matrix, Device]:
    """Map the training rows with a fitted step; return them and the device that they came from.

    The same for a state that was just fitted and for one from a checkpoint. Where it fails on
    the GPU and may fall back, rows from the CPU belong to a state from the GPU: whoever keys
    what comes after must take both devices into account.

    Parameters
    ----------
    step : Step
    X : ndarray of shape (n_samples, n_features), float32, C-contiguous
        What the step was fitted to.
    arrays : dict of str to ndarray
        What it learned.
    device : {"cpu", "gpu"}
        Where it was fitted.
    decision : Decision
    reporter : Reporter
    worker : Worker, optional
        The process where work on a GPU runs; omitted: one for this call.

    Returns
    -------
    ndarray of shape (n_samples, n_out), float32, C-contiguous
    {"cpu", "gpu"}
        Always `device` for a step whose output is computed on the host, as nothing else can be.
    """
    if device == "cpu" or not step.output_on_gpu:
        return step.output(X, arrays), device

    def run(device: Device) -> Matrix:
        if device == "cpu":
            return step.output(X, arrays)
        with either(worker) as process:
            out = process.place(4 * len(X) * step.n_out(X.shape[1])) + "output.npy"
            process.call(
                "gpucluster.execution:step_output_file",
                reporter,
                step=step.model_dump(mode="json"),
                arrays={name: process.share(array) for name, array in arrays.items()},
                device=device,
                X=process.share(X),
                out=out,
            )
            mapped: Matrix = process.load(out)
        return mapped

    return with_fallback(run, replace(decision, device=device), reporter)


def step_output_file(
    step: dict[str, Any],
    arrays: dict[str, str],
    device: Device,
    X: str,
    out: str,
    reporter: Reporter,
) -> None:
    """Map the shared file `X` with the arrays of a fitted step, into the file `out`."""
    parsed, rows = _step(step), shared(X)
    learned = {name: shared(path) for name, path in arrays.items()}

    def work() -> Any:
        with translated(parsed.method):
            return parsed.output(rows, learned, device)

    hand_back(out, with_memory(work, device, reporter))


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


@contextmanager
def either(worker: Worker | None) -> Iterator[Worker]:
    """Lend a worker, or have one for as long as it takes."""
    if worker is not None:
        yield worker
        return
    with Worker() as own:
        yield own


def _step(settings: dict[str, Any]) -> Step:
    parsed: Step = TypeAdapter(AnyStep).validate_python(settings)
    return parsed
