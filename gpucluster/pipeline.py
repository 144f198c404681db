"""A run from source to manifest: the stages in order, on one page.

    load -> prepare (one stage a step) -> cluster -> [display] -> measure -> write

Fitted preparation and labels are checkpointed under a digest of all that determines them,
so that doing a run again resumes it. Loading and measuring are not: reading their result
back would take as long as computing it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gpucluster import __version__
from gpucluster.artifacts import (
    Checkpoints,
    Counts,
    LocalStore,
    Manifest,
    Run,
    centroids_table,
    flat_paths,
    members_table,
    publish,
    rejected_table,
    write_files,
)
from gpucluster.definition import ClusterDefinition, VectorConfig
from gpucluster.device.select import Decision, Device
from gpucluster.errors import RunNotFoundError
from gpucluster.events import CancelToken, Observer, Reporter, RunOpened
from gpucluster.execution import fit_algorithm, fit_step
from gpucluster.ledger import Ledger
from gpucluster.metrics.external import compare_with_truth
from gpucluster.metrics.quality import Measured, measure
from gpucluster.metrics.recluster import judge
from gpucluster.ops.assign import cluster_sums
from gpucluster.ops.normalize import unit_rows
from gpucluster.planner import make_plan
from gpucluster.preprocess import Step
from gpucluster.sources import Source, SourceInfo, content_key, input_key, load
from gpucluster.types import NOISE, Clustering, Matrix, Samples

LIBRARIES = (
    *("numpy", "scipy", "scikit-learn", "pyarrow", "numba", "umap-learn", "pynndescent", "hdbscan"),
    *("cupy-cuda12x", "cupy-cuda13x", "cuml-cu12", "cuml-cu13"),
)


def run_pipeline(
    source: Source,
    definition: ClusterDefinition,
    *,
    out: Path,
    decision: Decision,
    observer: Observer,
    cancel: CancelToken,
    fresh: bool,
    text_column: str | None = None,
) -> Run:
    """Run `definition` on `source` and publish the result below `out`.

    Parameters
    ----------
    source : Source
    definition : ClusterDefinition
    out : Path
        Folder of runs; the run's own folder is named by a digest of data and definition.
    decision : Decision
    observer : Observer
    cancel : CancelToken
    fresh : bool
        Compute everything anew, under a name of its own.
    text_column : str, optional
        Noted in the manifest, for whoever shows documents.

    Returns
    -------
    Run
        A finished run of the same data and definition is returned as it is.
    """
    info = source.info
    plan = make_plan(definition, info.n_rows, info.n_features, decision)
    plan.require_memory()
    ledger = Ledger(Reporter("", observer, cancel), plan)
    reporter = ledger.reporter
    _say_what_differs(definition, info, reporter)

    with ledger.stage("load", backend="pyarrow") as stage_reporter:
        samples = load(
            source,
            on_bad_rows=definition.on_bad_rows,
            max_bad_fraction=definition.max_bad_fraction,
            sample_size=definition.vector_config.sample_size,
            random_state=definition.random_state,
            filters=definition.filters,
            reporter=stage_reporter,
        )
        data_key = content_key(samples)
        everything_key = input_key(samples, data_key)
    ledger.plan = make_plan(definition, len(samples.X), info.n_features, decision)
    for warned in ledger.plan.warnings:
        reporter.repeat(warned)
    complete = ledger.plan.definition

    salt = time.time_ns() if fresh else None
    run_id = (
        "run_"
        + _digest(everything_key, used=complete.to_dict(), device=decision.device, salt=salt)[:16]
    )
    observer(RunOpened(run_id, str(out / run_id)))
    finished = _finished(out / run_id)
    if finished is not None:
        return finished
    store = LocalStore(out)
    with store.lease(run_id):
        finished = _finished(out / run_id)  # by whoever had the lease before
        if finished is not None:
            return finished
        ledger.checkpoints = None if fresh else Checkpoints(store, run_id)
        X, preparation = _prepare(ledger, complete, samples, data_key)
        found = _cluster(ledger, complete, X, preparation.key)
        coordinates = _display(ledger, complete, samples.X, data_key)
        with ledger.stage("measure", backend="numpy") as stage_reporter:
            measured = measure(samples.X, found.labels_, stage_reporter)
            external: dict[str, Any] | None = None
            if "truth" in samples.payload:
                external = compare_with_truth(found.labels_, samples.payload["truth"])
        used = complete.to_dict()
        origin: dict[str, Any] = {
            "definition_sha256": _digest("", definition=used),
            "data_sha256": data_key,
            "random_state": complete.random_state,
            "gpucluster_version": __version__,
        }
        with ledger.stage("write", backend="pyarrow"):
            files = write_files(
                store,
                run_id,
                tables=_tables(run_id, complete, samples, found, measured, coordinates),
                model=preparation.model,
                provenance={name: str(value) for name, value in origin.items()},
            )
        reasons, not_evaluated = judge(
            measured.metrics, found.n_clusters_, complete.quality_thresholds
        )
        publish(
            store,
            Manifest(
                run_id=run_id,
                created_at=ledger.started,
                completed_at=datetime.now(UTC),
                versions=_versions(),
                definition=used,
                **origin,
                source=_described(samples, text_column),
                sampled=samples.source["sample"] is not None,
                counts=Counts(
                    num_rows=samples.n_rows,
                    num_points=len(samples.X),
                    num_rejected=samples.rejected.num_rows,
                    num_filtered=samples.num_filtered,
                    num_clusters=found.n_clusters_,
                    num_noise=int((found.labels_ == NOISE).sum()),
                ),
                metrics={**measured.metrics, "should_recluster": int(bool(reasons))},
                external_metrics=external,
                preparation=tuple(dict(step) for step in preparation.learned),
                algorithm_info=dict(found.info),
                recluster_reasons=tuple(reasons),
                not_evaluated=tuple(not_evaluated),
                stages=tuple(ledger.records),
                warnings=tuple(ledger.reporter.warnings),
                device=decision,
                reproducible="statistical"
                if any(record.device == "gpu" for record in ledger.records)
                else "exact",
                not_run=tuple(_not_run(complete)),
                files=files,
            ),
        )
    return Run.open(out / run_id)


def _finished(path: Path) -> Run | None:
    """Return the run at `path`, if there is one."""
    try:
        return Run.open(path)
    except RunNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class _Preparation:
    """The fitted steps: digest of all up to them, what assignment needs, what they learned."""

    key: str
    model: Mapping[str, Any]
    learned: tuple[Mapping[str, Any], ...]


def _prepare(
    ledger: Ledger, definition: ClusterDefinition, samples: Samples, data_key: str
) -> tuple[Matrix, _Preparation]:
    """Apply the preprocessing steps; return the matrix to cluster."""
    config = definition.vector_config
    X = samples.X
    if config.normalize_features:
        unit_rows(X, out=X)  # `load` made this matrix for us
    X.setflags(write=False)
    key = _unprepared(data_key, config)
    model: dict[str, Any] = {}
    learned: list[Mapping[str, Any]] = []
    for position, step in enumerate(config.preprocessing_steps or ()):
        with ledger.stage(f"prepare.{position}.{step.method}") as reporter:
            key, arrays, info = _fit_step(ledger, key, step, X, reporter)
            X = step.output(X, arrays)
        model[f"{position}-{step.method}"] = {
            "settings": step.model_dump(mode="json"),
            "arrays": {n: a for n, a in arrays.items() if n in step.applied},
        }
        learned.append({"method": step.method, **info})
    return X, _Preparation(key, model, tuple(learned))


def _fit_step(
    ledger: Ledger, previous: str, step: Step, X: Matrix, reporter: Reporter
) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Return key, arrays and diagnostics of a fitted step, from a checkpoint if there is one."""

    def key(device: Device) -> str:
        return _stage_key(previous, device, step=step.model_dump(mode="json"))

    decision = ledger.plan.decision
    device: Device = decision.device if step.has_gpu_path else "cpu"
    done = ledger.recall(reporter.stage, key(device))
    if done is not None:
        return key(device), *done
    fitted, device = fit_step(step, X, decision, reporter)
    ledger.note(device=device, backend=fitted.backend, method=fitted.method)
    ledger.keep(reporter.stage, key(device), fitted.arrays, fitted.info)
    return key(device), fitted.arrays, fitted.info


def _cluster(ledger: Ledger, definition: ClusterDefinition, X: Matrix, previous: str) -> Clustering:
    """Cluster the prepared matrix."""
    algorithm = definition.vector_config.algorithm
    assert algorithm is not None  # noqa: S101 - the plan has completed the definition
    params = algorithm.model_dump(mode="json")

    def key(device: Device) -> str:
        return _stage_key(previous, device, algorithm=algorithm.name, params=params)

    decision = ledger.plan.decision
    with ledger.stage("cluster") as reporter:
        done = ledger.recall("cluster", key(decision.device))
        if done is not None:
            arrays, info = done
            return Clustering(
                labels_=arrays["labels"],
                probabilities_=arrays.get("probabilities"),
                n_clusters_=int(arrays["labels"].max(initial=NOISE)) + 1,
                backend=ledger.facts["backend"],
                method=ledger.facts["method"],
                info=info,
            )
        found, device = fit_algorithm(algorithm, X, decision, reporter)
        ledger.note(device=device, backend=found.backend, method=found.method)
        kept: dict[str, Any] = {"labels": found.labels_}
        if found.probabilities_ is not None:
            kept["probabilities"] = found.probabilities_
        ledger.keep("cluster", key(device), kept, found.info)
        return found


def _display(
    ledger: Ledger, definition: ClusterDefinition, X: Matrix, data_key: str
) -> Matrix | None:
    """Return coordinates for pictures, when the definition asks for them."""
    config = definition.vector_config
    settings = config.dimension_reduction
    step = settings.step(definition.random_state) if settings is not None else None
    if step is None:
        return None
    step = step.check(len(X), X.shape[1], ledger.reporter)
    with ledger.stage("display") as reporter:
        _, arrays, _ = _fit_step(ledger, _unprepared(data_key, config), step, X, reporter)
        return step.output(X, arrays)


def _tables(
    run_id: str,
    definition: ClusterDefinition,
    samples: Samples,
    found: Clustering,
    measured: Measured,
    coordinates: Matrix | None,
) -> dict[str, pa.Table]:
    """Build the tables of the run."""
    config = definition.vector_config
    paths = flat_paths(found.n_clusters_)
    centers = None
    if coordinates is not None and found.n_clusters_:
        sums = cluster_sums(coordinates, found.labels_, found.n_clusters_)
        centers = (sums / measured.num_members[:, None]).astype(np.float32)
    return {
        "members": members_table(
            samples.ids,
            samples.rows,
            found.labels_,
            paths=paths,
            similarity=measured.cosine_similarity,
            nearest=measured.nearest,
            probabilities=found.probabilities_,
            coordinates=coordinates,
        ),
        "centroids": centroids_table(
            measured.centroids,
            measured.num_members,
            paths=paths,
            mean_similarity=measured.mean_cosine,
            min_similarity=measured.min_cosine,
            variance=measured.variance,
            medoid_ids=samples.ids.take(pa.array(measured.medoid_rows)),
            algorithm=str(config.clustering_method),
            run_id=run_id,
            feature_name=config.feature_uris[0] if config.feature_uris else None,
            coordinates=centers,
        ),
        "rejected": rejected_table(samples.rejected),
    }


def _not_run(definition: ClusterDefinition) -> list[str]:
    """Name the parts of a definition that are accepted and not yet acted on."""
    labelling = definition.llm_labeling is not None and definition.llm_labeling.enabled
    wanted = {"llm_labeling": labelling, "hierarchical": definition.vector_config.hierarchical}
    return [name for name, asked in wanted.items() if asked]


def _say_what_differs(definition: ClusterDefinition, info: SourceInfo, reporter: Reporter) -> None:
    """Warn, before any work, of what will not be as the definition says."""
    for name in _not_run(definition):
        reporter.warn(
            f"{name}_not_run", f"{name} is kept in the definition; this version does not run it"
        )
    for output in definition.vector_config.feature_outputs:
        if info.feature is None and info.columns.vector not in {None, output}:
            reporter.fallback(
                "feature_column",
                f"{info.where} has no column {output!r}: {info.columns.vector!r} is used instead",
            )


def _described(samples: Samples, text_column: str | None) -> dict[str, Any]:
    """Return the description of the source, with the text column that was named."""
    described = dict(samples.source)
    if text_column is not None:
        described["columns"] = {**described["columns"], "text": text_column}
    return described


def _unprepared(data_key: str, config: VectorConfig) -> str:
    """Return a digest of the matrix that the first step sees."""
    return _digest(data_key, normalized=config.normalize_features)


def _stage_key(previous: str, device: Device, **facts: Any) -> str:
    """Return a digest of all that determines a stage: what came before, who computes, settings."""
    return _digest(previous, device=device, versions=_versions(), **facts)


def _digest(previous: str, **facts: Any) -> str:
    """Return a digest of what came before, the code version and JSON facts."""
    text = json.dumps([previous, __version__, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
