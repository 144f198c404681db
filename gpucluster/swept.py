"""What each ``min_cluster_size`` would give: rows loaded and prepared as a run does, and no run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gpucluster.algorithms import HDBSCAN
from gpucluster.definition import ClusterDefinition
from gpucluster.device.select import DeviceRequest, decide
from gpucluster.device.storage import Room
from gpucluster.device.worker import Worker
from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken, Observer, Reporter
from gpucluster.execution import fit_step, step_output
from gpucluster.ledger import Ledger
from gpucluster.ops.sweep import Sweep, check_sizes
from gpucluster.planner import make_plan
from gpucluster.routes import one_space
from gpucluster.sources import CudfDecoder, Source, load


def sweep_sizes(
    open_source: Callable[[], Source],
    definition: ClusterDefinition,
    sizes: Iterable[int] | None,
    *,
    device: DeviceRequest,
    observer: Observer,
    cancel: CancelToken | None,
) -> Sweep:
    """Do what `gpucluster.api.sweep` says.

    Parameters
    ----------
    open_source : callable
        Returns the rows, once it is known that the sizes are right.
    definition : ClusterDefinition
    sizes : iterable of int, optional
    device : {"auto", "cpu", "gpu"}
    observer : Observer
    cancel : CancelToken or None

    Returns
    -------
    Sweep
    """
    if sizes is not None:
        sizes = check_sizes(sizes)
    decision = decide(device)
    source = open_source()
    info = source.info
    if info.blocks and definition.vector_config.multi_feature_strategy == "independent":
        raise ConfigError(
            "a sweep is of one matrix, got independent",
            path="vector_config.multi_feature_strategy",
            hint="name one feature",
        )
    room = Room.of("memory")
    plan = make_plan(definition, info.n_rows, info.n_features, decision, info.blocks, room=room)
    model = plan.definition.vector_config.algorithm
    if not isinstance(model, HDBSCAN):
        raise ConfigError(
            f"got {plan.definition.vector_config.clustering_method}, a sweep is of hdbscan",
            path="vector_config.clustering_method",
            hint="name it: hdbscan",
        )
    ledger = Ledger(Reporter("", observer, cancel), plan)
    with ledger.stage("load", backend="pyarrow") as reporter:
        decoder = CudfDecoder(decision, reporter)
        samples = load(
            decoder.of(source),
            on_bad_rows=definition.on_bad_rows,
            max_bad_fraction=definition.max_bad_fraction,
            sample_size=definition.vector_config.sample_size,
            random_state=definition.random_state,
            filters=definition.filters,
            reporter=reporter,
        )
        ledger.note(**decoder.account())
    X = samples.X
    ledger.plan = make_plan(
        *(definition, info.n_rows, info.n_features, decision, info.blocks),
        n_samples=len(X),
        room=room,
    )
    ledger.plan.require_room()
    for warned in ledger.plan.warnings:
        ledger.reporter.repeat(warned)
    config = ledger.plan.definition.vector_config
    one_space(ledger, ledger.plan.definition, X, info.blocks, "")
    with Worker() as worker:
        for position, step in enumerate(config.preprocessing_steps or ()):
            with ledger.stage(f"prepare.{position}.{step.method}") as reporter:
                fitted, used = fit_step(step, X, decision, reporter, worker)
                ledger.note(device=used, backend=fitted.backend, method=fitted.method)
                X, _ = step_output(step, X, fitted.arrays, used, decision, reporter, worker)
    with ledger.stage("sweep", backend="numba") as reporter:
        return model.sweep(X, sizes, reporter=reporter)
