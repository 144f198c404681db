"""Who belongs where: the samples after the fit, and the rows that join their clusters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from gpucluster.assignment import (
    BY_FIT,
    BY_NOISE_POLICY,
    BY_SAMPLE,
    Assigner,
    NoisePolicy,
    calibrated,
)
from gpucluster.comparison import measure_clusters, place_rows
from gpucluster.definition import ClusterDefinition
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.features import weigh
from gpucluster.ledger import Ledger
from gpucluster.metrics.quality import Measured
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.nesting import labels_at
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.silhouette import squared_silhouette
from gpucluster.routes import Grouped
from gpucluster.sources import Source, remaining
from gpucluster.types import NOISE, Hierarchy, Labels, Samples, Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The rows of a run, one entry each.

    Attributes
    ----------
    ids : pyarrow.Array of shape (n_members,)
    rows : ndarray of shape (n_members,), int64
        Positions in the input.
    labels : ndarray of shape (n_members,), int32
        Node of each; noise is -1.
    cosine : ndarray of shape (n_members,), float32
        To the own centroid; NaN for noise.
    nearest : ndarray of shape (n_members,), int32
    nearest_similarity : ndarray of shape (n_members,), float32
    assigned_by : ndarray of shape (n_members,), int8
        Positions in `ASSIGNED_BY`.
    truth : pyarrow.Array of shape (n_members,), or None
    """

    ids: pa.Array
    rows: Any
    labels: Labels
    cosine: Vector
    nearest: Labels
    nearest_similarity: Vector
    assigned_by: Any
    truth: pa.Array | None


def place_samples(
    ledger: Ledger,
    definition: ClusterDefinition,
    samples: Samples,
    grouped: Grouped,
    reporter: Reporter,
) -> tuple[Members, Measured]:
    """Measure the samples, apply the noise policy, and measure again where it moved any.

    Parameters
    ----------
    ledger : Ledger
        In the stage that this is.
    definition : ClusterDefinition
        Complete.
    samples : Samples
    grouped : Grouped
        What they were found to be.
    reporter : Reporter
        Told after each block.

    Returns
    -------
    Members
    Measured
        Of the samples as they are placed.
    """
    config = definition.vector_config

    def measured(nodes: Hierarchy) -> Measured:
        found, device = measure_clusters(
            *(samples.X, nodes, config.effective_feature_method),
            *(ledger.plan.decision, reporter, ledger.worker),
        )
        ledger.note(device=device, backend="numpy" if device == "cpu" else "cupy")
        return found

    nodes = grouped.nodes
    found = measured(nodes)
    policy = NoisePolicy.parse(config.noise_policy)
    near, similarity, thresholds = found.nearest, found.nearest_similarity, None
    if policy.calibrated:
        near, similarity = _slopes(samples, grouped, found)
        thresholds = calibrated(found.cosine_similarity, nodes.labels, len(nodes.parents))
    labels, assigned_by = policy.apply(nodes.labels, near, similarity, thresholds)
    if (assigned_by == BY_NOISE_POLICY).any():
        found = measured(replace(nodes, labels=labels))
    reduced = _reduced(grouped, labels_at(labels, nodes.parents, 0))
    found = replace(found, metrics=found.metrics | {"silhouette_score_reduced": reduced})
    members = Members(
        ids=samples.ids,
        rows=samples.rows,
        labels=labels,
        cosine=found.cosine_similarity,
        nearest=found.nearest,
        nearest_similarity=found.nearest_similarity,
        assigned_by=assigned_by,
        truth=samples.payload.get("truth"),
    )
    return members, found


def _reduced(grouped: Grouped, labels: Labels) -> float | None:
    """Return the silhouette in the space that the clusters were found in, if it is another one."""
    if grouped.prepared is None or labels.max(initial=NOISE) < 1:
        return None
    silhouette = squared_silhouette(grouped.prepared, labels)
    return float(np.nanmean(silhouette, dtype=np.float64))


def _slopes(samples: Samples, grouped: Grouped, found: Measured) -> tuple[Labels, Vector]:
    """Return the cluster that each row would join, and its cosine similarity to the centroid.

    The one whose basin it lies in, where the fit knows basins and the clusters were not divided;
    the most similar one otherwise.
    """
    basins = grouped.found.basins_
    if basins is None or (grouped.nodes.parents != NOISE).any():
        return found.nearest, found.nearest_similarity
    similarity = found.nearest_similarity.copy()
    noise = np.flatnonzero((grouped.nodes.labels == NOISE) & (basins != NOISE))
    directions = unit_rows(found.centroids)
    for part in row_blocks(len(noise), rows_per_block(8 * samples.X.shape[1])):
        rows = noise[part]
        own = directions[basins[rows]]
        similarity[rows] = np.einsum("ij,ij->i", unit_rows(samples.X[rows]), own)
    return basins, similarity


def join_rest(
    ledger: Ledger,
    definition: ClusterDefinition,
    source: Source,
    samples: Samples,
    grouped: Grouped,
    members: Members,
    measured: Measured,
    reporter: Reporter,
) -> tuple[Members, pa.Table]:
    """Let the rows that are not in the sample join its clusters, by their nearest centroid.

    Parameters
    ----------
    ledger : Ledger
        In the stage that this is.
    definition : ClusterDefinition
        Complete.
    source : Source
        Read a second time, batch by batch.
    samples : Samples
    grouped : Grouped
    members : Members
        The samples.
    measured : Measured
        Of the samples.
    reporter : Reporter
        Told after each batch.

    Returns
    -------
    Members
        The samples first, then the others in the order of the input.
    rejected : pyarrow.Table
        Rows that cannot be clustered, those of the sample first.

    Notes
    -----
    Where the fit left noise, a row must be as similar to its centroid as all but 1 % of the
    cluster's own rows are; else it is noise too, unless the noise policy places it. Extra
    memory: 26 bytes a row and its id, and all of that twice while the parts are joined.
    """
    weights = grouped.block_weights
    policy = NoisePolicy.parse(definition.vector_config.noise_policy)
    fitted = members.assigned_by == BY_FIT  # noise that a policy moved sets no threshold
    own = members.labels[fitted]
    clusters = np.unique(own[own >= 0])  # those that hold rows of their own
    thresholds = np.full(len(clusters), -1, np.float32)
    if (grouped.nodes.labels == NOISE).any():
        thresholds = calibrated(members.cosine[fitted], own)[clusters]
    assigner = Assigner(
        directions=unit_rows(measured.centroids[clusters]),
        parents=np.full(len(clusters), NOISE, np.int32),
        thresholds=thresholds,
    )
    names = np.append(clusters, NOISE).astype(np.int32)  # by position, and -1 for noise
    parts, rejected = [members], [samples.rejected]
    decision = ledger.plan.decision
    for rest in remaining(
        source,
        samples,
        reporter=reporter,
        filters=definition.filters,
        on_bad_rows=definition.on_bad_rows,
        max_bad_fraction=definition.max_bad_fraction,
    ):
        if weights is not None:
            weigh(rest.X, source.info.blocks, weights)
        found, device = place_rows(assigner, rest.X, None, decision, reporter, ledger.worker)
        decision = replace(decision, device=device)  # a GPU that failed is not asked again
        ledger.note(device=device, backend="numpy" if device == "cpu" else "cupy")
        nearest, similarity = names[found.nearest], found.similarity
        labels, by = policy.apply(names[found.labels], nearest, similarity)
        part = Members(
            ids=rest.ids,
            rows=rest.rows,
            labels=labels,
            cosine=np.where(labels == NOISE, np.nan, np.clip(similarity, 0, 1)),
            nearest=nearest,
            nearest_similarity=similarity,
            assigned_by=np.where(by == BY_FIT, BY_SAMPLE, by).astype(np.int8),
            truth=rest.payload.get("truth"),
        )
        parts.append(part)
        rejected.append(rest.rejected)
    return _concatenated(parts), pa.concat_tables(rejected)


def over_all(members: Members) -> dict[str, float | None]:
    """Return the metrics of a run that are known of every row, fitted or not."""
    clustered = members.labels >= 0
    cosine = members.cosine[clustered]
    return {
        "noise_ratio": float((~clustered).mean()),
        "mean_cosine_to_centroid": float(cosine.mean(dtype=np.float64)) if len(cosine) else None,
    }


def _concatenated(parts: list[Members]) -> Members:
    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    has_truth = parts[0].truth is not None
    return Members(
        ids=pa.concat_arrays([part.ids for part in parts]),
        rows=joined("rows"),
        labels=joined("labels"),
        cosine=joined("cosine").astype(np.float32),
        nearest=joined("nearest"),
        nearest_similarity=joined("nearest_similarity").astype(np.float32),
        assigned_by=joined("assigned_by"),
        truth=pa.concat_arrays([part.truth for part in parts]) if has_truth else None,
    )
