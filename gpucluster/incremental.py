"""Rows of a later day join the clusters of a finished run: streamed, resumable, measured.

    read -> judge -> compare -> write a part ... -> check ids -> drift -> manifest

A part is a file of members and what was counted up to its end. Both are on the disk before
the next one is begun, so an interrupted run goes on after its last part, and every document
has one row whatever happens.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpucluster.artifacts import Run, open_store
from gpucluster.assignment import check_threshold
from gpucluster.comparison import place_rows
from gpucluster.definition import ClusterDefinition
from gpucluster.device.rates import REFERENCE
from gpucluster.device.select import Decision
from gpucluster.device.storage import Room
from gpucluster.device.worker import Worker
from gpucluster.errors import (
    ConfigError,
    SchemaMismatchError,
    ShapeError,
)
from gpucluster.events import CancelToken, Observer, Reporter, RunOpened, hearing_compilations
from gpucluster.joined_run import Joining, publish_joined
from gpucluster.ledger import Ledger
from gpucluster.ops.normalize import unit_rows
from gpucluster.parts import Parts
from gpucluster.places import Place, disk_of
from gpucluster.planner import Plan
from gpucluster.sources import CudfDecoder, Filters, KnownIds, Source, stream, stream_key
from gpucluster.sources.base import BATCH_BYTES
from gpucluster.stages import check_same, digest
from gpucluster.tally import Tally
from gpucluster.trained import TrainedModel

GPU_BATCH_BYTES = 256 << 20  # fewer and larger calls
Scope = Literal["new", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentRequest:
    """What is asked for.

    Attributes
    ----------
    threshold : float or "auto"
        Least cosine similarity to the centroid, in [-1, 1]; ``auto``: each cluster's own.
    scope : {"new", "all"} or None
        Whether documents of the base run are left out; None: where documents have ids.
    filters : Filters, optional
        Instead of the definition's.
    update : bool
        Whether the centroids move with their new members.
    """

    threshold: float | Literal["auto"]
    scope: Scope | None = None
    filters: Filters | None = None
    update: bool = False

    def checked(self) -> AssignmentRequest:
        """Return the request with a plain threshold; `ConfigError` where a value is no good."""
        if self.scope not in (None, "new", "all"):
            raise ConfigError(f"got {self.scope!r}, expected new or all", path="scope")
        return replace(self, threshold=check_threshold(self.threshold))


def assign_source(
    source: Source,
    base: Run,
    request: AssignmentRequest,
    *,
    out: Place,
    decision: Decision,
    observer: Observer,
    cancel: CancelToken,
    text_column: str | None = None,
    fresh: bool = False,
    run_id: str | None = None,
) -> Run:
    """Let the rows of `source` join the clusters of `base`, as a run of its own below `out`.

    Parameters
    ----------
    source : Source
        Read once, in memory that does not grow with it.
    base : Run
        One that found clusters, or moved them.
    request : AssignmentRequest
        `checked`.
    out : Path
        Folder of runs.
    decision : Decision
    observer : Observer
    cancel : CancelToken
    text_column : str, optional
        Noted in the manifest.
    fresh : bool
        Compute everything anew.
    run_id : str, optional
        Its name, instead of a digest of source, base run and request.

    Returns
    -------
    Run
        A finished run of the same source, base and request is returned as it is.

    Raises
    ------
    ConfigError, ShapeError, SchemaMismatchError
        The request, or the vectors, do not fit the base run.
    DuplicateIdsError
        An id appears twice.
    """
    model = TrainedModel.of(base)
    reporter = Reporter("", observer, cancel)
    _check_fits(source, base, model, reporter)
    first = next(iter(source.batches(1)), None)
    has_ids = base.has_ids and (first is None or first.ids is not None)
    scope = _scope(request, has_ids=has_ids)
    definition = ClusterDefinition.parse(base.manifest.definition)
    _check_update(request, base, definition, scope, has_ids=has_ids)
    filters = request.filters or definition.filters
    salt = time.time_ns() if fresh else None
    run_id = run_id or _run_id(
        source, base, request, decision, scope=scope, filters=filters, salt=salt
    )
    observer(RunOpened(run_id, str(out / run_id)))
    finished = Run.if_finished(out / run_id)
    if finished is not None:
        check_same(run_id, is_same=finished.manifest.base_run_id == base.run_id)
        return finished
    base.verify()  # what rows join must be what was found
    store = open_store(out)
    with store.lease(run_id), hearing_compilations(observer), Worker() as worker:
        finished = Run.if_finished(out / run_id)  # by whoever had the lease before
        if finished is not None:
            return finished
        shape = source.info.n_rows, model.n_features
        plan = Plan(
            definition, decision, *shape, (), Room.of(folder=disk_of(out)), "memory", REFERENCE, ""
        )
        ledger = Ledger(reporter, plan)
        ledger.worker = worker
        known = None
        if has_ids and (scope == "new" or request.update):
            known = model.known or KnownIds.of(base.document_ids)
        joining = Joining(
            run_id=run_id,
            base=base,
            model=model,
            definition=definition,
            mode="update" if request.update else "assign",
            threshold=request.threshold,
            scope=scope,
            filters=filters,
            source=source,
            text_column=text_column,
            has_ids=has_ids,
            tally=Tally.empty(model.parents, model.n_features),
        )
        if request.update:
            means = model.assigner.means
            joining.tally.move(None if means is None else means.shape[1])
        with ledger.stage("assign", backend="numpy") as said:
            parts = Parts(store, run_id, joining.paths, joining.provenance)
            _join(ledger, joining, known, parts, said)
            parts.check_unique(source.info.where, said)
        publish_joined(store, ledger, joining, parts, known)
    return Run.open(out / run_id)


def _join(
    ledger: Ledger, joining: Joining, known: KnownIds | None, parts: Parts, reporter: Reporter
) -> None:
    """Stream the rows past the clusters, part by part."""
    model, tally, definition = joining.model, joining.tally, joining.definition
    assigner, blocks = joining.assigner, joining.source.info.blocks
    parts.resume(tally)
    decision = ledger.plan.decision
    decoder = CudfDecoder(decision, reporter)
    for stretch in stream(
        decoder.of(joining.source),
        reporter=reporter,
        filters=joining.filters,
        known=known,
        on_bad_rows=definition.on_bad_rows,
        max_bad_fraction=definition.max_bad_fraction,
        start=tally.stop,
        num_bad=tally.num_rejected,
        batch_bytes=GPU_BATCH_BYTES if decision.device == "gpu" else BATCH_BYTES,
    ):
        X = model.scaled(stretch.X, blocks)
        prepared = model.prepared(X)
        found, device = place_rows(assigner, X, prepared, decision, reporter, ledger.worker)
        found = model.counted(found, X)
        if device != "cpu":
            ledger.note(device=device, backend="cupy")  # also where it fails later
        decision = replace(decision, device=device)  # a GPU that failed is not asked again
        seen = X if prepared is None else prepared
        if joining.mode == "update" and assigner.metric == "cosine":
            seen = unit_rows(seen)  # means are of directions
        tally.add(stretch, X, found, model.directions, seen)
        parts.add(stretch, found)
        if parts.is_due(tally):
            parts.finish(tally)
    parts.finish(tally)


def _check_fits(source: Source, base: Run, model: TrainedModel, reporter: Reporter) -> None:
    """Raise where the vectors are not of the kind that the base run has; warn where they may be."""
    info, theirs = source.info, base.manifest.source
    if info.n_features != model.n_features:
        raise ShapeError(
            f"{info.where} has vectors of {info.n_features:,} values, the centroids of "
            f"{base.run_id} have {model.n_features:,}",
            hint="embed with the model that the run was made with, or name its column",
        )
    feature, kind = theirs.get("feature"), theirs.get("kind", info.kind)
    if info.feature is not None and feature is not None and info.feature != feature:
        raise SchemaMismatchError(
            f"{info.where} has the feature {info.feature}, {base.run_id} is of {feature}"
        )
    if info.kind != kind:
        raise SchemaMismatchError(f"{info.where} has {info.kind} vectors, {base.run_id} {kind}")
    if kind == "sparse":
        raise SchemaMismatchError(
            f"{base.run_id} is of sparse vectors, which are reduced anew for each input",
            hint="reduce them once, and cluster what that gives",
        )
    ours, known = (_models(each) for each in (info.to_json(), theirs))
    if ours and known and ours.isdisjoint(known):
        raise SchemaMismatchError(
            f"{info.where} is computed by {', '.join(sorted(ours))}, {base.run_id} by "
            f"{', '.join(sorted(known))}",
            hint="vectors of different models cannot be compared",
        )
    columns: Any = theirs.get("columns") or {}
    names = info.columns.vector, columns.get("vector")
    if None not in names and names[0] != names[1] and info.feature is None:
        reporter.fallback(
            "vector_column",
            f"{info.where} has no column {names[1]!r}, which {base.run_id} is of: {names[0]!r} is "
            "used instead",
        )


def _models(described: Mapping[str, Any]) -> set[str]:
    """Return what computed the vectors, as far as collections say so."""
    return {part["model"] for part in described.get("collections") or () if part.get("model")}


def _scope(request: AssignmentRequest, *, has_ids: bool) -> Scope:
    """Return which documents are meant: without ids nothing says which are new."""
    if request.scope == "new" and not has_ids:
        raise ConfigError(
            "documents without ids are known by their row, so nothing says which are new",
            path="scope",
            hint="use scope all, or name the column of ids with id_column, in both runs",
        )
    return request.scope or ("new" if has_ids else "all")


def _check_update(
    request: AssignmentRequest,
    base: Run,
    definition: ClusterDefinition,
    scope: Scope,
    *,
    has_ids: bool,
) -> None:
    """Raise where centroids cannot move as the means of all their members."""
    center = definition.vector_config.effective_feature_method
    if request.update and center != "mean":
        raise ConfigError(
            f"{base.run_id} has the {center} of each cluster for a centroid, which new members "
            "do not move",
            path="update",
            hint="only a mean moves: effective_feature_method: mean",
        )
    if request.update and scope == "all" and has_ids:
        raise ConfigError(
            "documents that are behind the centroids already would move them twice",
            path="update",
            hint="use scope new",
        )


def _run_id(
    source: Source,
    base: Run,
    request: AssignmentRequest,
    decision: Decision,
    *,
    scope: Scope,
    filters: Filters | None,
    salt: int | None,
) -> str:
    facts = {
        "base": [base.run_id, base.manifest.content_sha256],
        "threshold": request.threshold,
        "update": request.update,
        "scope": scope,
        "filters": None if filters is None else filters.to_dict(),
        "device": decision.allowed,
        "salt": salt,
    }
    return "run_" + digest(stream_key(source, filters), **facts)[:16]
