"""Rows beside clusters, where that belongs: measured, or assigned; on a GPU by the run's worker."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gpucluster.assignment import Assigned, Assigner, Metric
from gpucluster.device.memory import translated
from gpucluster.device.select import Decision, Device
from gpucluster.device.worker import Worker, hand_back_all, shared, with_memory
from gpucluster.events import Reporter
from gpucluster.execution import either, with_fallback
from gpucluster.metrics.nested import measure_nodes
from gpucluster.metrics.quality import Center, Measured, measure
from gpucluster.ops.nesting import labels_at
from gpucluster.types import Hierarchy, Matrix

ARRAYS = tuple(field.name for field in fields(Measured) if field.name != "metrics")
PLACES = tuple(field.name for field in fields(Assigned))
CLUSTER_ARRAYS = tuple(field.name for field in fields(Assigner) if field.name != "metric")


def measure_clusters(
    X: Matrix,
    nodes: Hierarchy,
    center: Center,
    decision: Decision,
    reporter: Reporter,
    worker: Worker | None = None,
) -> tuple[Measured, Device]:
    """Measure every node; return that and the device that it came from.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Original vectors, of any length; no zero row.
    nodes : Hierarchy
    center : {"mean", "median", "medoid"}
    decision : Decision
    reporter : Reporter
    worker : Worker, optional
        The process where work on a GPU runs; omitted: one for this call.

    Returns
    -------
    Measured
    {"cpu", "gpu"}
    """

    def run(device: Device) -> Measured:
        if device == "cpu":
            return _measured(X, nodes, center, device, reporter)
        with either(worker) as process:
            facts = process.call(
                "gpucluster.comparison:measure_files",
                reporter,
                X=process.share(X),
                labels=process.share(nodes.labels),
                parents=process.share(nodes.parents),
                center=center,
                out=process.place(X.nbytes),
            )
            arrays = {name: process.load(path) for name, path in facts["arrays"].items()}
        return Measured(metrics=facts["metrics"], **arrays)

    return with_fallback(run, decision, reporter)


def measure_files(
    X: str, labels: str, parents: str, center: Center, out: str, reporter: Reporter
) -> dict[str, Any]:
    """Measure the nodes of shared files on the GPU; arrays go to files `out`."""
    nodes = Hierarchy(shared(labels), shared(parents), None)

    def work() -> Measured:
        with translated("measuring"):
            return _measured(shared(X), nodes, center, "gpu", reporter)

    found = with_memory(work, "gpu", reporter)
    arrays = {name: getattr(found, name) for name in ARRAYS}
    return {"arrays": hand_back_all(out, arrays), "metrics": found.metrics}


def _measured(
    X: Matrix, nodes: Hierarchy, center: Center, device: Device, reporter: Reporter
) -> Measured:
    roots = labels_at(nodes.labels, nodes.parents, 0)
    top = measure(X, roots, reporter, center=center, device=device)
    return measure_nodes(X, nodes, top, reporter, center=center, device=device)


def place_rows(
    assigner: Assigner,
    X: Matrix,
    prepared: Matrix | None,
    decision: Decision,
    reporter: Reporter,
    worker: Worker | None = None,
) -> tuple[Assigned, Device]:
    """Say where rows belong (`Assigner.assign`); return the device that did it as well.

    Parameters
    ----------
    assigner : Assigner
    X : ndarray of shape (n_samples, n_features), float32
        Original vectors; no zero row.
    prepared : ndarray of shape (n_samples, n_prepared), float32, or None
        The same rows in the space of the assigner's means, where that is another one.
    decision : Decision
    reporter : Reporter
    worker : Worker, optional
        The process where work on a GPU runs; omitted: one for this call.

    Returns
    -------
    Assigned
    {"cpu", "gpu"}
    """

    def run(device: Device) -> Assigned:
        if device == "cpu":
            return assigner.assign(X, prepared)
        with either(worker) as process:
            paths = process.call(
                "gpucluster.comparison:place_files",
                reporter,
                X=process.share(X),
                prepared=None if prepared is None else process.share(prepared),
                clusters={name: process.share(array) for name, array in _arrays(assigner).items()},
                metric=assigner.metric,
                out=process.place(X.nbytes),
            )
            return Assigned(**{name: process.load(path) for name, path in paths.items()})

    return with_fallback(run, decision, reporter)


def place_files(
    X: str,
    prepared: str | None,
    clusters: dict[str, str],
    metric: Metric,
    out: str,
    reporter: Reporter,
) -> dict[str, str]:
    """Say where the rows of a shared file belong, on the GPU; arrays go to files `out`."""
    known = {name: shared(path) for name, path in clusters.items()}
    assigner = Assigner(**({"means": None} | known), metric=metric)

    def work() -> Assigned:
        with translated("assigning"):
            rows = None if prepared is None else shared(prepared)
            return assigner.assign(shared(X), rows, "gpu")

    found = with_memory(work, "gpu", reporter)
    return hand_back_all(out, {name: getattr(found, name) for name in PLACES})


def _arrays(assigner: Assigner) -> dict[str, Any]:
    """Return the arrays of an assigner, those that are there, by name."""
    found = {name: getattr(assigner, name) for name in CLUSTER_ARRAYS}
    return {name: array for name, array in found.items() if array is not None}
