"""A run and the one before it: which clusters are the same, and what became of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from gpucluster.artifacts import Run
from gpucluster.artifacts.files import digest
from gpucluster.artifacts.manifest import FILE_NAME, Manifest
from gpucluster.artifacts.run import is_passing
from gpucluster.artifacts.schema import LINEAGE
from gpucluster.definition import ClusterDefinition
from gpucluster.enrichment.settings import ENRICHING
from gpucluster.errors import ArtifactError, ConfigError, ShapeError
from gpucluster.events import Reporter
from gpucluster.identity import (
    KINDS,
    Lineage,
    by_centroids,
    by_documents,
    count_overlap,
    shared_rows,
    stable_ids,
)
from gpucluster.ops.nesting import labels_at, node_levels, node_paths
from gpucluster.places import Place, readers
from gpucluster.types import NOISE, Labels, Matrix, Rows

By = Literal["documents", "centroids"]
ENOUGH = 0.1  # of the documents of the smaller run; fewer say little about its clusters
UNCHANGED = 0.8  # Jaccard index from which on a cluster keeps its label
BESIDE = (
    *("collection_ids", "description", "metadata", "llm_labeling", "quality_thresholds"),
    *ENRICHING,
)
BESIDE_VECTORS = ("assign_by", "dimension_reduction")
LOOKED_AT = 5  # runs before, the latest ones
KEPT = ("label", "summary", "keywords")


@dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters of a run, as another run is compared with them.

    Attributes
    ----------
    run_id : str
    ids : pyarrow.Array or ChunkedArray of shape (n_members,), string
    labels : ndarray of shape (n_members,), int32
        Deepest node of each; noise is -1.
    parents : ndarray of shape (n_nodes,), int32
    centroids : ndarray of shape (n_nodes, n_features), float32
    """

    run_id: str
    ids: Any
    labels: Labels
    parents: Labels
    centroids: Matrix

    @classmethod
    def of(cls, run: Run) -> Self:
        """Read them from a finished run."""
        ids, labels = run.assigned_documents()
        return cls(run.run_id, ids, labels, run.parents, run.centroid_matrix)

    @property
    def names(self) -> list[str]:
        """Ids of the nodes."""
        return [path[-1] for path in node_paths(self.parents)]


@dataclass(frozen=True, slots=True)
class Succession:
    """How the clusters of a run follow those of another.

    Attributes
    ----------
    previous_run_id, run_id : str
    matched_by : {"documents", "centroids"}
    num_shared : int
        Documents that both runs have.
    levels : tuple of Lineage
        Of each level of the hierarchy, by nodes of the whole run.
    carried : ndarray of shape (n_nodes,), int32
        The previous node whose identity each node carries on; -1: it is new.
    agreement : dict or None
        Over the shared documents, of the clusters of the first level: ``ari``, with noise as
        one of them, and ``kept``, the share that is in the same cluster by identity, noise not
        counted. None without such documents.
    """

    previous_run_id: str
    run_id: str
    matched_by: By
    num_shared: int
    levels: tuple[Lineage, ...]
    carried: Labels
    agreement: dict[str, Any] | None

    @property
    def counts(self) -> dict[str, int]:
        """Clusters of the first level that survived, split, merged, were born, died."""
        counted = self.levels[0].counts if self.levels else {}
        return {kind: counted.get(kind, 0) for kind in KINDS}

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "previous_run_id": self.previous_run_id,
            "matched_by": self.matched_by,
            "num_shared": self.num_shared,
            **self.counts,
            "agreement": self.agreement,
        }

    def unchanged(self) -> Labels:
        """Return for each node the previous one that it equals but for few documents, or -1.

        Centroids alone do not say so much of two clusters.
        """
        same = np.full(len(self.carried), NOISE, np.int32)
        for lineage in self.levels:
            alike = np.nan_to_num(lineage.jaccard) >= UNCHANGED
            alike &= (lineage.current != NOISE) & (lineage.previous != NOISE)
            same[lineage.current[alike]] = lineage.previous[alike]
        return np.where(same == self.carried, same, NOISE).astype(np.int32)

    def table(
        self,
        previous_names: Sequence[str],
        names: Sequence[str],
        previous_stable: Sequence[str | None],
        stable: Sequence[str | None],
    ) -> pa.Table:
        """Return the links, one row each (`schema.LINEAGE`).

        Parameters
        ----------
        previous_names, names : sequence of str
            Cluster ids of the nodes of each run.
        previous_stable, stable : sequence of (str or None)
            Their stable ids.
        """
        tables = [LINEAGE.empty_table()]
        for level, lineage in enumerate(self.levels):
            pairs = list(zip(lineage.previous.tolist(), lineage.current.tolist(), strict=True))
            columns = [
                pa.array(np.full(len(pairs), level, np.int32)),
                pa.array(lineage.kind.tolist(), pa.string()),
                [stable[now] if now != NOISE else previous_stable[old] for old, now in pairs],
                [None if old == NOISE else previous_names[old] for old, _ in pairs],
                [None if now == NOISE else names[now] for _, now in pairs],
                pa.array(lineage.num_shared),
                *(
                    pa.array(values, from_pandas=True)
                    for values in (
                        lineage.share_of_previous,
                        lineage.share_of_current,
                        lineage.jaccard,
                        lineage.cosine,
                    )
                ),
            ]
            tables.append(pa.table(columns, schema=LINEAGE))
        return pa.concat_tables(tables)


def succeed(
    previous: Clusters,
    current: Clusters,
    *,
    by: By | None = None,
    shared: tuple[Rows, Rows] | None = None,
    reporter: Reporter | None = None,
) -> Succession:
    """Find out how the clusters of a run follow those of another.

    Parameters
    ----------
    previous, current : Clusters
    by : {"documents", "centroids"}, optional
        Omitted: by documents where the runs share a tenth of the smaller one's, else by
        centroids.
    shared : tuple of 2 ndarrays of shape (n_shared,), int64, optional
        Members of each run that are the same documents, where that is known.
    reporter : Reporter, optional

    Returns
    -------
    Succession

    Raises
    ------
    ConfigError
        By documents, and there is no shared one.
    ShapeError
        By centroids, and these are of another dimension.
    """
    shared = shared_rows(previous.ids, current.ids, reporter) if shared is None else shared
    before, now = shared
    if by is None:
        by = "documents" if _are_enough(before, previous, current) else "centroids"
    if by == "documents" and not len(before):
        raise ConfigError(
            f"{previous.run_id} and {current.run_id} have no document in common",
            path="by",
            hint="compare by centroids",
        )
    if by == "centroids" and previous.centroids.shape[1] != current.centroids.shape[1]:
        raise ShapeError(
            f"{previous.run_id} has centroids of {previous.centroids.shape[1]:,} values, "
            f"{current.run_id} of {current.centroids.shape[1]:,}, and too few documents in common",
            hint="runs of different models can only be compared by the documents of both",
        )
    labels = previous.labels[before], current.labels[now]
    carried = np.full(len(current.parents), NOISE, np.int32)
    levels: list[Lineage] = []
    for level, old, new in _levels(previous.parents, current.parents):
        if by == "documents":
            inside = (
                _at_level(labels[0], previous.parents, level, old),
                _at_level(labels[1], current.parents, level, new),
            )
            found = by_documents(count_overlap(*inside, len(old), len(new)))
        else:
            vectors = previous.centroids[old], current.centroids[new]
            found = by_centroids(*vectors, reporter=reporter)
        found = _in_whole(found, old, new)
        carried[new] = found.carried
        levels.append(found)
    agreement = None
    if len(before):
        roots = labels_at(labels[0], previous.parents, 0), labels_at(labels[1], current.parents, 0)
        agreement = _agreement(*roots, carried)
    return Succession(
        previous.run_id, current.run_id, by, len(before), tuple(levels), carried, agreement
    )


def _agreement(before: Labels, now: Labels, carried: Labels) -> dict[str, float | None]:
    """Compare the labels of shared documents."""
    from sklearn.metrics import adjusted_rand_score

    inside = (before != NOISE) & (now != NOISE)
    same = carried[now[inside]] == before[inside]
    return {
        "ari": float(adjusted_rand_score(before, now)),
        "kept": float(same.mean()) if len(same) else None,
    }


def _levels(previous: Labels, current: Labels) -> Iterator[tuple[int, Any, Any]]:
    """Yield each level, and the nodes of both runs there."""
    before, now = node_levels(previous), node_levels(current)
    for level in range(1 + int(max(before.max(initial=NOISE), now.max(initial=NOISE)))):
        old, new = (np.flatnonzero(depth == level).astype(np.int32) for depth in (before, now))
        yield level, old, new


def _at_level(labels: Labels, parents: Labels, level: int, nodes: Any) -> Labels:
    """Return the node of each row at a level, counted among those of the level; -1: it has none."""
    place = np.full(len(parents) + 1, NOISE, np.int32)  # the last one is that of noise
    place[nodes] = np.arange(len(nodes), dtype=np.int32)
    return place[labels_at(labels, parents, level)]


def _in_whole(lineage: Lineage, before: Any, now: Any) -> Lineage:
    """Return the lineage of one level by nodes of the whole runs."""
    old, new = np.append(before, NOISE), np.append(now, NOISE)  # the last one for -1
    return replace(
        lineage,
        previous=old[lineage.previous].astype(np.int32),
        current=new[lineage.current].astype(np.int32),
        carried=old[lineage.carried].astype(np.int32),
    )


def definition_key(definition: ClusterDefinition) -> str:
    """Return what runs of one definition have in common, whatever the data or the version.

    Its name, where it has one, and its features; so it may change and its clusters keep their
    identity. Else a digest of what was set, other than by default, and decides how rows are
    grouped.
    """
    if definition.cluster_name is not None:
        features = list(definition.vector_config.feature_uris)
        return digest({"cluster_name": definition.cluster_name, "feature_uris": features})[:16]
    given = definition.model_dump(mode="json", exclude_defaults=True, exclude=set(BESIDE))
    for name in BESIDE_VECTORS:
        given.get("vector_config", {}).pop(name, None)
    return digest(given)[:16]


def runs_before(folder: Place, key: str, run_id: str) -> Iterator[Run]:
    """Yield the latest full runs of a definition in a folder, other than `run_id`, newest first.

    What cannot be read is passed over: this run does not depend on it.
    """
    found: list[tuple[Any, str, Place]] = []
    for file, read in readers(_manifests(folder)):
        try:
            manifest = Manifest.from_json(read(), str(file))
        except (ArtifactError, OSError) as error:
            _raise_passing(error, folder)
            continue
        is_meant = manifest.mode == "full" and manifest.definition_key == key
        if is_meant and manifest.run_id != run_id:
            found.append((manifest.completed_at, manifest.run_id, file.parent))
    for *_, path in sorted(found, reverse=True)[:LOOKED_AT]:
        try:
            run = Run.open(path)
        except ArtifactError as error:
            _raise_passing(error, folder)
            continue
        yield run


def _manifests(folder: Place) -> list[Place]:
    try:
        return [*folder.glob(f"*/{FILE_NAME}")]
    except OSError as error:
        raise ArtifactError(f"cannot read {folder}: {error.strerror}") from error


def _raise_passing(error: OSError, folder: Place) -> None:
    """Raise where it is only now that a run cannot be read: another time it would be followed."""
    if is_passing(error):
        raise ArtifactError(f"cannot read all runs in {folder}", hint="run again") from error


def follow(
    candidates: Iterable[Run], current: Clusters, reporter: Reporter, *, sure: bool
) -> tuple[Run, Succession] | None:
    """Return the run that clusters follow, and how; None where nothing says that they do.

    Parameters
    ----------
    candidates : iterable of Run
        The first one that fits is followed.
    current : Clusters
    reporter : Reporter
    sure : bool
        Whether the runs belong together, whatever their documents. Runs of one definition that
        nobody has named may be of any data: only documents in both show that.
    """
    for run in candidates:
        try:
            previous = Clusters.of(run)
        except ArtifactError as error:
            _raise_passing(error, run.path.parent)
            reporter.warn("previous_unreadable", f"{run.run_id} is not followed: {error.message}")
            continue
        shared = shared_rows(previous.ids, current.ids, reporter)
        same_space = previous.centroids.shape[1] == current.centroids.shape[1]
        if _are_enough(shared[0], previous, current) or (sure and same_space):
            return run, succeed(previous, current, shared=shared, reporter=reporter)
    return None


def _are_enough(shared: Rows, previous: Clusters, current: Clusters) -> bool:
    """Return whether that many shared documents say what became of the clusters."""
    smaller = min(len(previous.labels), len(current.labels))
    return len(shared) >= max(1, ENOUGH * smaller)


def inherited(succession: Succession, previous: Run) -> dict[str, list[Any]]:
    """Return what unchanged clusters keep of those before: labels, summaries, keywords."""
    same = succession.unchanged().tolist()
    kept = previous.centroids.select(KEPT).to_pydict()
    return {
        name: [None if old == NOISE else values[old] for old in same]
        for name, values in kept.items()
    }


def first_ids(run_id: str, names: Sequence[str]) -> list[str]:
    """Return the stable ids of clusters that follow nobody."""
    return stable_ids(np.full(len(names), NOISE, np.int32), [], run_id, names)


def carried_ids(
    succession: Succession, previous: Run, run_id: str, names: Sequence[str]
) -> list[str]:
    """Return the stable ids of clusters: carried on, or new."""
    before = previous.centroids["stable_id"].to_pylist()
    return stable_ids(succession.carried, before, run_id, names)
