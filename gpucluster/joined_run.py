"""A run of rows that joined clusters: its metrics beside those of the base, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from gpucluster import __version__
from gpucluster.artifacts import (
    Counts,
    Manifest,
    Run,
    Store,
    members_table,
    publish,
    rejected_table,
    write_files,
)
from gpucluster.assignment import Assigner
from gpucluster.definition import ClusterDefinition
from gpucluster.ledger import Ledger
from gpucluster.metrics.drift import Stock, measure_drift
from gpucluster.metrics.quality import size_entropy
from gpucluster.metrics.recluster import active_rules, judge, judge_drift
from gpucluster.moving import moved_centroids, moved_model, shift
from gpucluster.ops.nesting import paths_of
from gpucluster.parts import Parts
from gpucluster.sources import Filters, KnownIds, Source
from gpucluster.stages import versions
from gpucluster.tally import Tally
from gpucluster.trained import TrainedModel
from gpucluster.types import NOISE

NOT_MEASURED = ("silhouette_score", "davies_bouldin_index", "calinski_harabasz_score")


@dataclass(frozen=True, kw_only=True)
class Joining:
    """Rows that join the clusters of a run.

    Attributes
    ----------
    run_id : str
        Of the run that this becomes.
    base : Run
    model : TrainedModel
        Of `base`.
    definition : ClusterDefinition
        Of `base`.
    mode : {"assign", "update"}
    threshold : float or "auto"
    scope : {"new", "all"}
    filters : Filters or None
    source : Source
    text_column : str or None
        For whoever shows documents.
    has_ids : bool
        Whether the rows have ids, and those of the base too.
    tally : Tally
        What was counted of the rows.
    """

    run_id: str
    base: Run
    model: TrainedModel
    definition: ClusterDefinition
    mode: Literal["assign", "update"]
    threshold: float | Literal["auto"]
    scope: str
    filters: Filters | None
    source: Source
    text_column: str | None
    has_ids: bool
    tally: Tally

    @cached_property
    def assigner(self) -> Assigner:
        """The clusters, with the thresholds that hold here."""
        if isinstance(self.threshold, str):
            return self.model.assigner
        return self.model.assigner.with_threshold(self.threshold)

    @property
    def names(self) -> list[str]:
        """Ids of the clusters: those of the base, whoever named them."""
        found: list[str] = self.base.fitted_centroids["cluster_id"].to_pylist()
        return found

    @property
    def paths(self) -> list[list[str]]:
        """Ids from the root to each cluster."""
        return paths_of(self.names, self.base.parents)

    @property
    def origin(self) -> dict[str, Any]:
        """Where all of this comes from."""
        return {
            "definition_sha256": self.base.manifest.definition_sha256,
            "random_state": self.base.manifest.random_state,
            "gpucluster_version": __version__,
        }

    @property
    def provenance(self) -> dict[str, str]:
        """The same, as the files of tables say it."""
        facts = {"run_id": self.run_id, "base_run_id": self.base.run_id, **self.origin}
        return {name: str(value) for name, value in facts.items()}


def publish_joined(
    store: Store,
    ledger: Ledger,
    joining: Joining,
    parts: Parts,
    known: KnownIds | None,
) -> None:
    """Write what is not written yet of a run, and then the manifest that makes it exist.

    Parameters
    ----------
    store : Store
        The caller holds the lease of the run.
    ledger : Ledger
    joining : Joining
        Complete: all rows are counted.
    parts : Parts
        The members and rejected rows, on the disk.
    known : KnownIds or None
        The documents behind the clusters, where rows have ids.
    """
    base, tally = joining.base, joining.tally
    tables: dict[str, pa.Table] = {"centroids": _centroids(joining)}
    if not any(name.startswith("members") for name in parts.files):
        tables["members"] = _nobody()
    if not any(name.startswith("rejected") for name in parts.files):
        none = {"document_id": pa.array([], pa.string()), "row": [], "reason": []}
        tables["rejected"] = rejected_table(pa.table(none))
    model = None
    if joining.mode == "update":
        known = (known or KnownIds.none()).and_of(parts.document_ids())
        model = moved_model(joining.model, base, tally, known)
    with ledger.stage("write", backend="pyarrow"):
        files = write_files(
            store, joining.run_id, tables=tables, model=model, provenance=joining.provenance
        )
    metrics, drift = _metrics(joining), _drift(joining)
    reasons, not_evaluated = _judged(joining, metrics, drift)
    on_gpu = any(record.device == "gpu" for record in ledger.records)
    described = joining.source.info.to_json() | {"sample": None, "has_ids": joining.has_ids}
    for part in (described, *described["collections"]) if joining.text_column else ():
        part["columns"] = {**part["columns"], "text": joining.text_column}
    if joining.filters is not None:
        described["filters"] = joining.filters.to_dict()
    publish(
        store,
        Manifest(
            run_id=joining.run_id,
            mode=joining.mode,
            base_run_id=base.run_id,
            definition_key=base.manifest.definition_key,
            created_at=ledger.started,
            completed_at=datetime.now(UTC),
            versions=versions(),
            definition=base.manifest.definition,
            data_sha256=parts.digest(),
            **joining.origin,
            source=described,
            counts=Counts(
                num_rows=joining.source.info.n_rows,
                num_points=tally.num_points,
                num_rejected=tally.num_rejected,
                num_filtered=tally.num_filtered,
                num_known=tally.num_known,
                num_clusters=tally.n_roots,
                num_noise=tally.num_noise,
            ),
            metrics={**metrics, "should_recluster": int(bool(reasons))},
            assignment={
                **(base.manifest.assignment or {}),
                "threshold": joining.threshold,
                "scope": joining.scope,
            },
            drift=drift,
            features=_weights(joining),
            taxonomy=base.manifest.taxonomy,
            recluster_reasons=tuple(reasons),
            not_evaluated=tuple(not_evaluated),
            stages=tuple(ledger.records),
            warnings=tuple(ledger.reporter.warnings),
            device=ledger.plan.decision,
            reproducible="statistical" if on_gpu else "exact",
            files={**parts.files, **files},
        ),
    )


def _nobody() -> pa.Table:
    """Return members of no rows."""
    none = np.empty(0, np.float32)
    return members_table(
        pa.array([], pa.string()),
        np.empty(0, np.int64),
        np.empty(0, np.int32),
        paths=[],
        similarity=none,
        nearest=np.empty(0, np.int32),
        nearest_similarity=none,
        assigned_by=[],
    )


def _metrics(joining: Joining) -> dict[str, float | None]:
    """Return the run-level metrics that are known of rows which were seen once."""
    tally = joining.tally
    sizes = tally.members[: tally.n_roots]
    n_points = tally.num_points
    return {
        **dict.fromkeys(NOT_MEASURED),
        "mean_cosine_to_centroid": tally.mean_cosine,
        "noise_ratio": tally.num_noise / n_points if n_points else None,
        "cluster_size_entropy": size_entropy(sizes) if sizes.any() else None,
    }


def _drift(joining: Joining) -> dict[str, Any] | None:
    """Return how far the rows are from those of the fit; None without rows."""
    tally = joining.tally
    if not tally.num_points:
        return None
    new = Stock(
        counts=tally.members[: tally.n_roots],
        n_rows=tally.num_points,
        mean=tally.total / tally.num_points,
        mean_cosine=tally.mean_cosine,
    )
    model = joining.model
    before = model.num_fit + model.num_since
    known = before if joining.scope == "all" and joining.has_ids else 0
    since = model.num_since + max(0, tally.num_points - known)
    drift = measure_drift(
        _stock_of_fit(joining),
        new,
        since / max(1, model.num_fit),
        joining.base.manifest.random_state,
        joining.names,
    )
    if joining.mode == "update":
        drift["centroid_shift"], drift["num_shifted"] = shift(joining.model, joining.tally)
    return drift


def _judged(
    joining: Joining, metrics: dict[str, float | None], drift: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rules that fire; none where too few rows came to say anything."""
    thresholds = joining.definition.quality_thresholds
    if drift is None or joining.tally.num_points < thresholds.min_new_rows:
        return [], active_rules(thresholds)
    absolute, without = judge(metrics, joining.tally.n_roots, thresholds)
    relative, lacking = judge_drift(drift, thresholds, joining.model.fit_run_id)
    return absolute + relative, without + lacking


def _stock_of_fit(joining: Joining) -> Stock:
    """Return the rows of the fit, as they would be assigned with the thresholds that hold here."""
    roots, similarity = joining.model.fitted["roots"], joining.model.fitted["similarity"]
    n_roots = joining.tally.n_roots
    inside = np.zeros(len(roots), np.bool_)
    if n_roots:
        inside = similarity >= joining.assigner.thresholds[roots]
    if joining.model.chosen is not None:  # what lies deeper is not kept of them
        roots = joining.model.chosen.places[roots]
        inside &= roots != NOISE
    cosine = np.clip(similarity[inside], 0, 1)
    return Stock(
        counts=np.bincount(roots[inside], minlength=n_roots),
        n_rows=len(roots),
        mean=joining.model.fitted["mean"],
        mean_cosine=float(cosine.mean(dtype=np.float64)) if len(cosine) else None,
    )


def _weights(joining: Joining) -> dict[str, Any] | None:
    """Return how much each of several features counts; None where they are not weighted."""
    weights = joining.model.block_weights
    if weights is None:
        return None
    uris = [uri for uri, _ in joining.source.info.blocks]
    return {"feature_weights": dict(zip(uris, weights, strict=True))}


def _centroids(joining: Joining) -> pa.Table:
    """Return the centroids of the base, with the members that joined them."""
    base = joining.base
    # what the base is called by now, without how that came about
    tally, table = joining.tally, base.centroids.select(base.fitted_centroids.column_names)
    members = tally.members
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = tally.cosine_sum / members
    nobody = members == 0
    columns = {
        "num_members": pa.array(members),
        "mean_cosine_similarity": pa.array(mean, pa.float32(), mask=nobody),
        "min_cosine_similarity": pa.array(tally.cosine_min, pa.float32(), mask=nobody),
        "variance": pa.nulls(len(table), pa.float32()),
        "medoid_document_id": pa.array(tally.best_ids, pa.string()),
        "run_id": pa.array([joining.run_id] * len(table), pa.string()),
    }
    if joining.mode == "update":
        columns |= _of_all(joining)
        vectors = moved_centroids(joining.model, tally)
        columns["centroid_vector"] = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel(), pa.float32()), vectors.shape[1]
        )
    for name, column in columns.items():
        table = table.set_column(
            table.schema.get_field_index(name), table.schema.field(name), column
        )
    return table.replace_schema_metadata(None)


def _of_all(joining: Joining) -> dict[str, pa.Array]:
    """Return columns of clusters that moved: of the members before, and of those that joined."""
    tally, table = joining.tally, joining.base.centroids
    before = joining.model.num_members
    total = before + tally.members
    means, least = (
        table[f"{name}_cosine_similarity"].to_numpy().astype(np.float64) for name in ("mean", "min")
    )
    mean = (np.nan_to_num(means) * before + tally.cosine_sum) / np.maximum(total, 1)
    nobody = total == 0
    return {
        "num_members": pa.array(total),
        "mean_cosine_similarity": pa.array(mean, pa.float32(), mask=nobody),
        "min_cosine_similarity": pa.array(
            np.fmin(least, tally.cosine_min), pa.float32(), mask=nobody
        ),
        "medoid_document_id": table["medoid_document_id"].combine_chunks(),
    }
