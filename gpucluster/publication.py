"""What a run leaves: its tables and its manifest, made of what the stages found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from gpucluster import __version__
from gpucluster.artifacts import (
    Counts,
    LocalStore,
    Manifest,
    centroids_table,
    members_table,
    publish,
    rejected_table,
    write_files,
)
from gpucluster.assignment import ASSIGNED_BY, BY_NOISE_POLICY
from gpucluster.definition import ClusterDefinition
from gpucluster.ledger import Ledger
from gpucluster.metrics.quality import Measured
from gpucluster.metrics.recluster import judge
from gpucluster.ops.assign import cluster_sums
from gpucluster.ops.nesting import node_levels, node_paths, with_descendants
from gpucluster.stages import Preparation, digest, versions
from gpucluster.types import NOISE, Clustering, Hierarchy, Matrix, Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the stages of a run found, before it is written.

    `nodes` are the clusters, and those that they were divided into, after the noise policy;
    `measured` is of them. `assigned_by` (n_samples,) int8 holds positions in `ASSIGNED_BY`;
    `external` is None without known labels, `coordinates` without a display reduction;
    `not_run` names what the definition asks for and this version does not do.
    """

    run_id: str
    definition: ClusterDefinition
    data_key: str
    samples: Samples
    text_column: str | None
    preparation: Preparation
    found: Clustering
    nodes: Hierarchy
    measured: Measured
    assigned_by: Any
    external: Mapping[str, Any] | None
    coordinates: Matrix | None
    not_run: tuple[str, ...]


def publish_result(store: LocalStore, ledger: Ledger, result: Result) -> None:
    """Write the files of a run, and then the manifest that makes it exist.

    Parameters
    ----------
    store : LocalStore
        The caller holds the lease of the run.
    ledger : Ledger
        The account of the run: stages, warnings, device.
    result : Result
        What the stages found.
    """
    samples, found, measured = result.samples, result.found, result.measured
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
            model=result.preparation.model,
            provenance={name: str(value) for name, value in origin.items()},
        )
    reasons, not_evaluated = judge(
        measured.metrics, found.n_clusters_, result.definition.quality_thresholds
    )
    on_gpu = any(record.device == "gpu" for record in ledger.records)
    publish(
        store,
        Manifest(
            run_id=result.run_id,
            created_at=ledger.started,
            completed_at=datetime.now(UTC),
            versions=versions(),
            definition=used,
            **origin,
            source=_described(result),
            sampled=samples.source["sample"] is not None,
            counts=Counts(
                num_rows=samples.n_rows,
                num_points=len(samples.X),
                num_rejected=samples.rejected.num_rows,
                num_filtered=samples.num_filtered,
                num_clusters=found.n_clusters_,
                num_noise=int((result.nodes.labels == NOISE).sum()),
                num_noise_assigned=int((result.assigned_by == BY_NOISE_POLICY).sum()),
            ),
            metrics={**measured.metrics, "should_recluster": int(bool(reasons))},
            external_metrics=None if result.external is None else dict(result.external),
            preparation=tuple(dict(step) for step in result.preparation.learned),
            algorithm_info=dict(found.info),
            hierarchy=_in_numbers(result.nodes),
            recluster_reasons=tuple(reasons),
            not_evaluated=tuple(not_evaluated),
            stages=tuple(ledger.records),
            warnings=tuple(ledger.reporter.warnings),
            device=ledger.plan.decision,
            reproducible="statistical" if on_gpu else "exact",
            not_run=result.not_run,
            files=files,
        ),
    )


def _tables(result: Result) -> dict[str, pa.Table]:
    """Build the tables of the run."""
    samples, found, measured = result.samples, result.found, result.measured
    config, coordinates = result.definition.vector_config, result.coordinates
    nodes = result.nodes
    paths = node_paths(nodes.parents)
    centers = None
    if coordinates is not None and found.n_clusters_:
        sums = with_descendants(cluster_sums(coordinates, nodes.labels, len(paths)), nodes.parents)
        centers = (sums / measured.num_members[:, None]).astype(np.float32)
    return {
        "members": members_table(
            samples.ids,
            samples.rows,
            nodes.labels,
            paths=paths,
            similarity=measured.cosine_similarity,
            nearest=measured.nearest,
            nearest_similarity=measured.nearest_similarity,
            assigned_by=pa.array(ASSIGNED_BY).take(pa.array(result.assigned_by)),
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
            run_id=result.run_id,
            feature_name=config.feature_uris[0] if config.feature_uris else None,
            coordinates=centers,
            leaf_reasons=nodes.reasons,
        ),
        "rejected": rejected_table(samples.rejected),
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
    described = dict(result.samples.source)
    if result.text_column is not None:
        described["columns"] = {**described["columns"], "text": result.text_column}
    return described
