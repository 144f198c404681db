"""A run from source to manifest: the stages in order, on one page.

    load -> prepare (one stage a step) -> cluster -> [display] -> measure -> write

Fitted preparation and labels are checkpointed under a digest of all that determines them,
so that doing a run again resumes it. Loading and measuring are not: reading their result
back would take as long as computing it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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
)
from gpucluster.definition import ClusterDefinition, DisplayReduction
from gpucluster.device.memory import PeakMemory
from gpucluster.device.select import Decision
from gpucluster.errors import RunNotFoundError
from gpucluster.events import (
    CancelToken,
    Observer,
    Reporter,
    RunOpened,
    StageFinished,
    StageRecord,
    StageStarted,
    Warned,
)
from gpucluster.execution import fit_algorithm, fit_step
from gpucluster.metrics.external import compare_with_truth
from gpucluster.metrics.quality import Measured, measure
from gpucluster.metrics.recluster import judge
from gpucluster.ops.assign import cluster_sums
from gpucluster.ops.normalize import unit_rows
from gpucluster.planner import Plan, make_plan
from gpucluster.preprocess import PCA, UMAP, Step, check_chain
from gpucluster.sources import Source, content_key, load
from gpucluster.types import Clustering, Matrix, Samples

LIBRARIES = ("numpy", "scipy", "scikit-learn", "pyarrow", "numba", "umap-learn", "hdbscan")


def run_pipeline(
    source: Source,
    definition: ClusterDefinition,
    *,
    out: Path,
    decision: Decision,
    observer: Observer,
    cancel: CancelToken,
    fresh: bool,
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

    Returns
    -------
    Run
        A finished run of the same data and definition is returned as it is.
    """
    work = _Work(Reporter("", observer, cancel), decision)
    info = source.info
    make_plan(definition, info.n_rows, info.n_features, decision).require_memory()

    with work.stage("load", backend="pyarrow", reason="reading") as reporter:
        samples = load(
            source,
            on_bad_rows=definition.on_bad_rows,
            max_bad_fraction=definition.max_bad_fraction,
            sample_size=definition.vector_config.sample_size,
            random_state=definition.random_state,
            reporter=reporter,
        )
        data_key = content_key(samples)
    work.plan = make_plan(definition, len(samples.X), samples.X.shape[1], decision)
    complete = work.plan.definition

    run_id = _run_id(complete, data_key, samples, fresh=fresh)
    observer(RunOpened(run_id, str(out / run_id)))
    if not fresh:
        try:
            return Run.open(out / run_id)
        except RunNotFoundError:
            pass
    store = LocalStore(out)
    with store.lease(run_id):
        work.checkpoints = None if fresh else Checkpoints(store, run_id)
        X, steps = _prepare(work, complete, samples, data_key)
        found = _cluster(work, complete, X, steps.key)
        coordinates = _display(work, complete, samples.X)
        with work.stage("measure", backend="numpy", reason="exact, in O(n k d)") as reporter:
            measured = measure(samples.X, found.labels_, reporter)
            external = None
            if "truth" in samples.payload:
                external = compare_with_truth(found.labels_, samples.payload["truth"])
        with work.stage("write", backend="pyarrow", reason="artifacts") as reporter:
            tables = _tables(run_id, complete, samples, found, measured, coordinates)
        manifest = _manifest(work, run_id, complete, samples, found, measured, external, data_key)
        publish(store, manifest, tables=tables, model=steps.model)
    return Run.open(out / run_id)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The fitted preparation: digest of everything up to it, and what assignment needs."""

    key: str
    model: Mapping[str, Any]
    info: tuple[Mapping[str, Any], ...]


class _Work:
    """What the stages of one run share: the plan, the records, the checkpoints."""

    def __init__(self, reporter: Reporter, decision: Decision) -> None:
        self.reporter = reporter
        self.decision = decision
        self.plan: Plan | None = None
        self.checkpoints: Checkpoints | None = None
        self.records: list[StageRecord] = []
        self.started = datetime.now(UTC)
        self._peak = PeakMemory()

    @contextmanager
    def stage(self, name: str, **facts: Any) -> Iterator[Reporter]:
        """Time a stage, record it, and tell the observer."""
        self.reporter.cancel.raise_if_cancelled()
        self.reporter.observer(StageStarted(name))
        self._peak.reset()
        begun = time.monotonic()
        self._facts = {"device": "cpu", "executor": "local", **facts}
        yield self.reporter.for_stage(name)
        planned = self.plan.stage(name) if self.plan else None
        record = StageRecord(
            name=name,
            seconds=round(time.monotonic() - begun, 4),
            peak_bytes=self._peak.read(),
            planned_bytes=planned.bytes if planned else None,
            planned_seconds=planned.seconds if planned else None,
            **self._facts,
        )
        self.records.append(record)
        self.reporter.observer(StageFinished(record))

    def note(self, **facts: Any) -> None:
        """Add to the record of the stage that is running."""
        self._facts.update(facts)

    def remembered(self, stage: str, key: str) -> Any:
        """Return the checkpoint of a stage, if there is one, and say its warnings again."""
        found = self.checkpoints.get(stage, key) if self.checkpoints else None
        if found is not None:
            self.note(reused=True, **found.info["facts"])
            for warned in found.info["warnings"]:
                self.reporter.warn(warned["code"], warned["message"])
        return found

    def remember(
        self,
        stage: str,
        key: str,
        arrays: Mapping[str, Any],
        info: Mapping[str, Any],
        warned: list[Warned],
    ) -> None:
        """Checkpoint a finished stage, with how it was computed and what it warned of."""
        if self.checkpoints is None:
            return
        facts = {name: self._facts[name] for name in ("device", "backend", "method", "reason")}
        warnings = [{"code": event.code, "message": event.message} for event in warned]
        self.checkpoints.put(
            stage, key, arrays, {"facts": facts, "warnings": warnings, "info": dict(info)}
        )


def _prepare(
    work: _Work, definition: ClusterDefinition, samples: Samples, data_key: str
) -> tuple[Matrix, _Steps]:
    """Apply the preprocessing steps; return the matrix to cluster."""
    config = definition.vector_config
    X = samples.X
    if config.normalize_features:
        unit_rows(X, out=X)  # `load` made this matrix for us
    key = _digest(data_key, normalized=config.normalize_features)
    steps = check_chain(config.preprocessing_steps or (), len(X), X.shape[1], work.reporter)
    model: dict[str, Any] = {}
    infos: list[Mapping[str, Any]] = []
    for position, step in enumerate(steps):
        key = _digest(key, step=step.model_dump(mode="json"))
        name = f"prepare.{position}.{step.method}"
        with work.stage(name, reason="the definition names it") as reporter:
            arrays, info = _fit_step(work, name, key, step, X, reporter)
            X = step.output(X, arrays)
        model[f"{position}-{step.method}"] = {
            "settings": step.model_dump(mode="json"),
            "arrays": {n: a for n, a in arrays.items() if n in step.applied},
        }
        infos.append({"method": step.method, **info})
    return X, _Steps(key, model, tuple(infos))


def _fit_step(
    work: _Work, name: str, key: str, step: Step, X: Matrix, reporter: Reporter
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the fitted arrays of a step and its diagnostics, from a checkpoint if there is one."""
    done = work.remembered(name, key)
    if done is not None:
        return done.arrays, done.info["info"]
    said = len(reporter.warnings)
    fitted, device = fit_step(step, X, work.decision, reporter)
    work.note(device=device, backend=fitted.backend, method=fitted.method)
    work.remember(name, key, fitted.arrays, fitted.info, reporter.warnings[said:])
    return fitted.arrays, fitted.info


def _cluster(work: _Work, definition: ClusterDefinition, X: Matrix, key: str) -> Clustering:
    """Cluster the prepared matrix."""
    algorithm = definition.vector_config.algorithm
    assert algorithm is not None  # noqa: S101 - the plan has completed the definition
    key = _digest(key, algorithm=algorithm.name, params=algorithm.model_dump(mode="json"))
    with work.stage("cluster", reason=work.plan.reason if work.plan else "") as reporter:
        done = work.remembered("cluster", key)
        if done is not None:
            return Clustering(
                labels_=done.arrays["labels"],
                probabilities_=done.arrays.get("probabilities"),
                n_clusters_=int(done.arrays["labels"].max(initial=-1)) + 1,
                backend=done.info["facts"]["backend"],
                method=done.info["facts"]["method"],
                info=done.info["info"],
            )
        said = len(reporter.warnings)
        found, device = fit_algorithm(algorithm, X, work.decision, reporter)
        work.note(device=device, backend=found.backend, method=found.method)
        arrays: dict[str, Any] = {"labels": found.labels_}
        if found.probabilities_ is not None:
            arrays["probabilities"] = found.probabilities_
        work.remember("cluster", key, arrays, found.info, reporter.warnings[said:])
        return found


def _display(work: _Work, definition: ClusterDefinition, X: Matrix) -> Matrix | None:
    """Return coordinates for pictures, when the definition asks for them."""
    settings = definition.vector_config.dimension_reduction
    if settings is None or settings.method == "none":
        return None
    step = _display_step(settings, definition.random_state).check(len(X), X.shape[1])
    with work.stage("display", reason="the definition asks for coordinates") as reporter:
        fitted, device = fit_step(step, X, work.decision, reporter)
        work.note(device=device, backend=fitted.backend, method=fitted.method)
        return step.output(X, fitted.arrays)


def _display_step(settings: DisplayReduction, random_state: int) -> Step:
    if settings.method == "pca":
        return PCA(n_components=settings.components)
    return UMAP(
        n_components=settings.components,
        n_neighbors=settings.n_neighbors,
        min_dist=settings.min_dist,
        random_state=random_state,
    )


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


def _manifest(
    work: _Work,
    run_id: str,
    definition: ClusterDefinition,
    samples: Samples,
    found: Clustering,
    measured: Measured,
    external: Mapping[str, float] | None,
    data_key: str,
) -> Manifest:
    """Say what the run is and how it came to be."""
    for name in _not_run(definition):
        work.reporter.warn(
            f"{name}_not_run", f"{name} is kept in the definition; this version does not run it"
        )
    reasons, not_evaluated = judge(
        measured.metrics, found.n_clusters_, definition.quality_thresholds
    )
    used = definition.to_dict()
    return Manifest(
        run_id=run_id,
        created_at=work.started,
        completed_at=datetime.now(UTC),
        gpucluster_version=__version__,
        versions=_versions(),
        definition=used,
        definition_sha256=_digest("", definition=used),
        data_sha256=data_key,
        random_state=definition.random_state,
        source=dict(samples.source),
        counts=Counts(
            num_rows=samples.n_rows,
            num_points=len(samples.X),
            num_rejected=samples.rejected.num_rows,
            num_clusters=found.n_clusters_,
            num_noise=int((found.labels_ < 0).sum()),
        ),
        metrics={**measured.metrics, "should_recluster": int(bool(reasons))},
        external_metrics=dict(external) if external is not None else None,
        recluster_reasons=tuple(reasons),
        not_evaluated=tuple(not_evaluated),
        stages=tuple(work.records),
        warnings=tuple(work.reporter.warnings),
        device=replace(work.decision),
        reproducible="exact" if work.decision.device == "cpu" else "statistical",
        not_run=tuple(_not_run(definition)),
    )


def _not_run(definition: ClusterDefinition) -> list[str]:
    """Name the parts of a definition that are accepted, and not yet acted on."""
    wanted = []
    if definition.llm_labeling is not None and definition.llm_labeling.enabled:
        wanted.append("llm_labeling")
    if definition.vector_config.hierarchical:
        wanted.append("hierarchical")
    return wanted


def _run_id(definition: ClusterDefinition, data_key: str, samples: Samples, *, fresh: bool) -> str:
    """Return a name that the same data and definition always get, or a new one."""
    salt = time.time_ns() if fresh else None
    columns = samples.source.get("columns")
    return "run_" + _digest(data_key, used=definition.to_dict(), columns=columns, salt=salt)[:16]


def _digest(previous: str, **facts: Any) -> str:
    """Return a digest of what came before, the code version and JSON facts."""
    text = json.dumps([previous, __version__, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
