"""A version of a taxonomy, as it is made of a run: the table of its nodes, and its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from gpucluster import __version__
from gpucluster.artifacts import Counts, Manifest, Run
from gpucluster.artifacts.files import digest
from gpucluster.artifacts.schema import NODES
from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.ops.nesting import node_levels
from gpucluster.succession import first_ids
from gpucluster.taxonomy.promotion import Promotion
from gpucluster.taxonomy.selection import Selection, select
from gpucluster.taxonomy.stability import Stability, measure_stability
from gpucluster.trained import ENTRY, TrainedModel
from gpucluster.types import NOISE

KEPT = ("parents", "thresholds", "roots", "similarity", "mean", "means")
OF_RULE = ("rule", "metric", "random_pair_cosine")  # what holds of any of the clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What a version consists of, before it has a number.

    Attributes
    ----------
    table : pyarrow.Table
        ``centroids_schema(..., promoted=True)``: the nodes, under their ids.
    model : dict
        As of a run (`Run.model`).
    manifest : Manifest
        Complete but for names, files and times.
    facts : dict
        What the manifest says under ``taxonomy``; ``promotion_sha256`` is the same where the
        same is promoted in the same way.
    """

    table: pa.Table
    model: Mapping[str, Any]
    manifest: Manifest
    facts: Mapping[str, Any]


def freeze(run: Run, request: Promotion, reporter: Reporter) -> Frozen:
    """Make nodes of the clusters of a run.

    Parameters
    ----------
    run : Run
        One that found clusters or moved them.
    request : Promotion
        `checked`.
    reporter : Reporter

    Returns
    -------
    Frozen

    Raises
    ------
    ConfigError
        The run keeps nothing to assign with, or its rows are compared in a way that later ones
        are not; or see `select`.
    UnstableClustersError
        See `select`.
    """
    manifest = run.manifest
    if manifest.definition.get("cluster_type") == "attribute":
        raise ConfigError(
            f"{run.run_id} groups by attributes: its groups have no centroids to promote",
            path="run",
            hint="a row belongs to the group of its values, in every run",
        )
    if manifest.source.get("kind") == "sparse":
        raise ConfigError(
            f"{run.run_id} is of sparse vectors, which are reduced anew for each input",
            path="run",
            hint="reduce them once, and cluster what that gives",
        )
    model = TrainedModel.of(run)
    reporter.progress(0, None, "clusters")
    run.verify()  # what is frozen must be what was found
    stability = measure_stability(run)
    reporter.progress(0, None, "clusters")
    chosen = select(run, request, stability)
    entries = run.model
    entry = _entry(entries[ENTRY], run, model, chosen)
    if request.threshold != "auto":
        shape = entry["arrays"]["thresholds"].shape
        entry["arrays"]["thresholds"] = np.full(shape, request.threshold, np.float32)
    table = _table(run, chosen, stability, entry["arrays"]["thresholds"][chosen.nodes])
    steps = {name: kept for name, kept in entries.items() if model.steps and name != ENTRY}
    facts = _facts(run, request, chosen, table)
    return Frozen(
        table=table,
        model={**steps, ENTRY: entry},
        manifest=_manifest(run, chosen, table),
        facts=facts,
    )


def _entry(kept: Any, run: Run, model: TrainedModel, chosen: Selection) -> dict[str, Any]:
    """Return how rows are placed: by all clusters of the run, of which some are nodes."""
    arrays = {name: kept["arrays"][name] for name in KEPT if name in kept["arrays"]}
    if not np.array_equal(chosen.nodes, np.arange(len(arrays["parents"]))):
        arrays |= {"centroids": run.centroid_matrix, "chosen": chosen.nodes}
    settings = {
        **kept["settings"],
        "fit_run_id": model.fit_run_id,
        "num_fit": model.num_fit,
        "num_since": model.num_since,
    }
    return {"settings": settings, "arrays": arrays}


def _table(
    run: Run, chosen: Selection, stability: Mapping[str, Stability], thresholds: Any
) -> pa.Table:
    """Return the centroids of the chosen clusters as nodes: stable ids for names."""
    whole = run.centroids.select(run.fitted_centroids.column_names)
    names: list[str] = whole["cluster_id"].to_pylist()
    minted = first_ids(run.run_id, names)
    stable = [
        known or new for known, new in zip(whole["stable_id"].to_pylist(), minted, strict=True)
    ]
    table = whole.take(pa.array(chosen.nodes)).combine_chunks()
    ids = [stable[node] for node in chosen.nodes]
    parents = chosen.parents.tolist()
    children: list[list[str]] = [[] for _ in ids]
    for name, parent in zip(ids, parents, strict=True):
        if parent != NOISE:
            children[parent].append(name)
    changed: dict[str, Any] = {
        "cluster_id": ids,
        "cluster_index": range(len(ids)),
        "stable_id": ids,
        "parent_cluster_id": [None if parent == NOISE else ids[parent] for parent in parents],
        "child_cluster_ids": children,
        "hierarchy_level": node_levels(chosen.parents),
        "run_id": [run.run_id] * len(ids),
    }
    for name, values in changed.items():
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array(values, field.type))
    source = [names[node] for node in chosen.nodes]
    known = [stability[name] for name in source]
    added = [source, thresholds, [s.value for s in known], [s.num_runs for s in known]]
    for field, values in zip(NODES, added, strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    return table.replace_schema_metadata(None)


def _facts(run: Run, request: Promotion, chosen: Selection, table: pa.Table) -> dict[str, Any]:
    """Return how a version came to be."""
    labeling = run.labeling
    facts: dict[str, Any] = {
        "source_run_id": run.run_id,
        "source_content_sha256": run.manifest.content_sha256,
        "labeling_id": None if labeling is None else labeling.labeling_id,
        "threshold": request.threshold,
        "min_stability": request.min_stability,
        "forced": request.force,
        "skipped": dict(chosen.skipped),
    }
    columns = ["cluster_id", "parent_cluster_id", "threshold", "stability", "label"]
    return facts | {"promotion_sha256": digest([facts, table.select(columns).to_pydict()])}


def _manifest(run: Run, chosen: Selection, table: pa.Table) -> Manifest:
    """Return what a version says as the base of rows that join it."""
    manifest = run.manifest
    now = datetime.now(UTC)
    is_root = chosen.parents == NOISE
    held = int(table["num_members"].to_numpy()[is_root].sum())
    return Manifest(
        run_id=run.run_id,
        mode="taxonomy",
        base_run_id=run.run_id,
        created_at=now,
        completed_at=now,
        gpucluster_version=__version__,
        versions=manifest.versions,
        definition=manifest.definition,
        definition_sha256=manifest.definition_sha256,
        data_sha256=manifest.data_sha256,
        random_state=manifest.random_state,
        # ids of rows that join depend on their source alone
        source={**manifest.source, "has_ids": True},
        counts=Counts(
            num_rows=manifest.counts.num_rows,
            num_points=held,
            num_rejected=0,
            num_clusters=int(is_root.sum()),
            num_noise=0,
        ),
        metrics={},
        assignment={
            name: value for name, value in (manifest.assignment or {}).items() if name in OF_RULE
        },
        stages=(),
        device=manifest.device,
        reproducible=manifest.reproducible,
    )
