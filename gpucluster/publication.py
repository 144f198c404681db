"""What a run leaves: its tables and its manifest, made of what the stages found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from gpucluster import __version__
from gpucluster.artifacts import (
    Counts,
    Manifest,
    Run,
    Store,
    centroids_table,
    layers_table,
    members_table,
    publish,
    rejected_table,
    tree_table,
    write_files,
)
from gpucluster.assignment import ASSIGNED_BY, BY_NOISE_POLICY, BY_SAMPLE
from gpucluster.definition import ClusterDefinition
from gpucluster.features import overlaps
from gpucluster.ledger import Ledger
from gpucluster.membership import Members
from gpucluster.metrics.quality import Measured
from gpucluster.metrics.recluster import judge
from gpucluster.ops.assign import cluster_sums
from gpucluster.ops.nesting import labels_at, node_levels, node_paths, with_descendants
from gpucluster.routes import Grouped
from gpucluster.stages import digest, versions
from gpucluster.succession import Succession, carried_ids, first_ids, inherited
from gpucluster.trained import ENTRY
from gpucluster.types import NOISE, Hierarchy, Labels, Matrix, Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the stages of a run found, before it is written.

    `grouped` is what the samples were found to be, before the noise policy, and `members` all
    rows after it: the samples first, then those that joined them. `measured` is of the
    samples. `trained` is what later rows are placed with, and `assignment` what is said of that;
    None where rows are no vectors. `external` is None without known labels, `coordinates` without
    a display reduction; `followed` is the run before and how its clusters became these, None where
    there is none.
    """

    run_id: str
    definition: ClusterDefinition
    data_key: str
    samples: Samples
    text_column: str | None
    grouped: Grouped
    members: Members
    rejected: pa.Table
    measured: Measured
    trained: Mapping[str, Any] | None
    assignment: Mapping[str, Any] | None
    external: Mapping[str, Any] | None
    coordinates: Matrix | None
    related: tuple[Run, ...]
    definition_key: str
    followed: tuple[Run, Succession] | None


def publish_result(store: Store, ledger: Ledger, result: Result) -> None:
    """Write the files of a run, and then the manifest that makes it exist.

    Parameters
    ----------
    store : Store
        The caller holds the lease of the run.
    ledger : Ledger
        The account of the run: stages, warnings, device.
    result : Result
        What the stages found.
    """
    samples, members, grouped = result.samples, result.members, result.grouped
    nodes, measured = grouped.nodes, result.measured
    used = result.definition.to_dict()
    origin: dict[str, Any] = {
        "definition_sha256": digest("", definition=used),
        "data_sha256": result.data_key,
        "random_state": result.definition.random_state,
        "gpucluster_version": __version__,
    }
    with ledger.stage("write", backend="pyarrow"):
        files = write_files(
            store,
            result.run_id,
            tables=_tables(result),
            model=_model(result),
            provenance={name: str(value) for name, value in origin.items()},
        )
    reasons, not_evaluated = judge(
        measured.metrics, grouped.found.n_clusters_, result.definition.quality_thresholds
    )
    on_gpu = any(record.device == "gpu" for record in ledger.records)
    publish(
        store,
        Manifest(
            run_id=result.run_id,
            definition_key=result.definition_key,
            created_at=ledger.started,
            completed_at=datetime.now(UTC),
            versions=versions(),
            definition=used,
            **origin,
            source=_described(result),
            sampled=samples.is_sample,
            counts=Counts(
                num_rows=samples.n_rows,
                num_points=len(members.rows),
                num_rejected=result.rejected.num_rows,
                num_filtered=samples.num_filtered,
                num_clusters=grouped.found.n_clusters_,
                num_noise=int((members.labels == NOISE).sum()),
                num_noise_assigned=int((members.assigned_by == BY_NOISE_POLICY).sum()),
                num_sample_assigned=int((members.assigned_by == BY_SAMPLE).sum()),
            ),
            metrics={**measured.metrics, "should_recluster": int(bool(reasons))},
            external_metrics=None if result.external is None else dict(result.external),
            preparation=tuple(dict(step) for step in grouped.preparation.learned),
            algorithm_info=dict(grouped.found.info),
            features=None if grouped.features is None else dict(grouped.features),
            related=tuple(_overlaps(run, result) for run in result.related),
            hierarchy=_in_numbers(nodes),
            recluster_reasons=tuple(reasons),
            not_evaluated=tuple(not_evaluated),
            assignment=None if result.assignment is None else dict(result.assignment),
            lineage=None if result.followed is None else result.followed[1].to_json(),
            stages=tuple(ledger.records),
            warnings=tuple(ledger.reporter.warnings),
            device=ledger.plan.decision,
            reproducible="statistical" if on_gpu else "exact",
            files=files,
        ),
    )


def _model(result: Result) -> dict[str, Any]:
    """Return the fitted steps, and what later rows are placed with."""
    trained = {} if result.trained is None else {ENTRY: result.trained}
    return {**result.grouped.preparation.model, **trained}


def _tables(result: Result) -> dict[str, pa.Table]:
    """Build the tables of the run."""
    members, grouped, measured = result.members, result.grouped, result.measured
    config, nodes = result.definition.vector_config, grouped.nodes
    n_fitted, n_members = len(result.samples.X), len(members.rows)
    paths = node_paths(nodes.parents)
    coordinates, centers = result.coordinates, None
    if coordinates is not None and len(paths):
        fitted = members.labels[:n_fitted]
        sums = with_descendants(cluster_sums(coordinates, fitted, len(paths)), nodes.parents)
        centers = (sums / measured.num_members[:, None]).astype(np.float32)
    own = np.bincount(members.labels[members.labels >= 0], minlength=len(paths))
    by_attributes = result.definition.cluster_type == "attribute"
    names = [path[-1] for path in paths]
    stable, kept = first_ids(result.run_id, names), {}
    if result.followed is not None:
        before, succession = result.followed
        stable = carried_ids(succession, before, result.run_id, names)
        kept = inherited(succession, before)
    return {
        "members": members_table(
            members.ids,
            members.rows,
            members.labels,
            paths=paths,
            similarity=members.cosine,
            nearest=members.nearest,
            nearest_similarity=members.nearest_similarity,
            assigned_by=pa.array(ASSIGNED_BY).take(pa.array(members.assigned_by)),
            probabilities=_extended(grouped.found.probabilities_, n_members),
            coordinates=_extended(coordinates, n_members),
        ),
        "centroids": centroids_table(
            measured.centroids,
            with_descendants(own, nodes.parents),
            paths=paths,
            mean_similarity=measured.mean_cosine,
            min_similarity=measured.min_cosine,
            variance=measured.variance,
            medoid_ids=result.samples.ids.take(pa.array(measured.medoid_rows)),
            algorithm="attribute" if by_attributes else str(config.clustering_method),
            run_id=result.run_id,
            feature_name=" + ".join(config.feature_uris) or None,
            stable_ids=stable,
            labels=grouped.names or kept.get("label"),
            summaries=kept.get("summary"),
            keywords=kept.get("keywords"),
            coordinates=centers,
            leaf_reasons=nodes.reasons,
        ),
        "rejected": rejected_table(result.rejected),
        **_layers(result),
        **_tree(result),
        **_lineage(result, names, stable),
    }


def _lineage(result: Result, names: list[str], stable: list[str]) -> dict[str, pa.Table]:
    """Return the table of what became of the clusters of the run before, where there is one."""
    if result.followed is None:
        return {}
    before, succession = result.followed
    known = before.centroids.select(["cluster_id", "stable_id"]).to_pydict()
    return {
        "lineage": succession.table(known["cluster_id"], names, known["stable_id"], stable),
    }


def _layers(result: Result) -> dict[str, pa.Table]:
    """Return the table of other granularities of the fitted rows, where there are some."""
    layers, samples = result.grouped.found.layers_, result.samples
    if layers is None:
        return {}
    return {"layers": layers_table(samples.ids, samples.rows, layers)}


def _tree(result: Result) -> dict[str, pa.Table]:
    """Return the tree that the clusters were selected from, where there is one."""
    tree = result.grouped.found.tree_
    return {} if tree is None else {"tree": tree_table(tree, result.samples.rows)}


def _extended(values: Any, count: int) -> Any:
    """Return values of the fitted rows, and NaN, which is written as null, for the others."""
    if values is None or len(values) == count:
        return values
    rest = np.full((count - len(values), *values.shape[1:]), np.nan, np.float32)
    return np.concatenate((values, rest))


def _overlaps(other: Run, result: Result) -> dict[str, Any]:
    """Return how the clusters of the run of another feature and of this one lie in each other."""
    config, members = result.definition.vector_config, result.members
    own = labels_at(members.labels, result.grouped.nodes.parents, 0)
    their_rows = np.sort(other.members["row"].to_numpy())
    n_rows = 1 + max(int(members.rows.max(initial=0)), int(their_rows.max(initial=0)))
    ours, others = np.full((2, n_rows), NOISE, np.int32)
    ours[members.rows] = own
    others[their_rows] = other.labels_at(0)

    def found(first: Labels, second: Labels) -> list[dict[str, Any]]:
        pairs = overlaps(first, second, config.overlap_threshold)
        return [
            {"parent": f"cl_{pair.parent}", "child": f"cl_{pair.child}", "share": pair.share}
            for pair in pairs
        ]

    return {
        "feature_uri": other.manifest.definition["vector_config"]["feature_uris"][0],  # type: ignore[call-overload, index]  # JSON
        "run_id": other.run_id,
        "inside_ours": found(ours, others),
        "around_ours": found(others, ours),
    }


def _in_numbers(hierarchy: Hierarchy) -> dict[str, Any] | None:
    """Return what the manifest says of a hierarchy; the rest is in the centroids."""
    if hierarchy.reasons is None:
        return None
    kinds = (reason.partition(":")[0] for reason in hierarchy.reasons if reason is not None)
    reasons = dict(sorted(Counter(kinds).items()))
    return {
        "hierarchy_detected": None in hierarchy.reasons,
        "levels": int(node_levels(hierarchy.parents).max(initial=NOISE)) + 1,
        "num_nodes": len(hierarchy.parents),
        "num_leaves": sum(reasons.values()),
        "leaf_reasons": reasons,
    }


def _described(result: Result) -> dict[str, Any]:
    """Return the description of the source, with the text column that was named."""
    described = deepcopy(dict(result.samples.source))
    if result.text_column is not None:
        for part in (described, *described["collections"]):
            part["columns"] = {**part["columns"], "text": result.text_column}
    return described
