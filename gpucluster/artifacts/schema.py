"""The tables of a Run: their columns, how they are built from arrays, how they reach a file.

Members are sorted by ``cluster_index`` and then ``row``, noise (-1) first, so that a reader of
one cluster needs one row group of its file; the column ``row`` gives the input order back.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.artifacts.condensed_tree import TREE
from gpucluster.artifacts.parquet import parquet_options
from gpucluster.ops.nesting import node_paths
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpucluster.types import Labels, Matrix, Rows, Vector

NOISE_ID = "-1"
ROW_GROUP_ROWS = 1 << 17
FILE_BYTES = 128 << 20  # of Arrow memory, before compression

Paths = Sequence[Sequence[str]]  # ids from the root to each cluster, by cluster_index


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MEMBERS = pa.schema(
    [
        _required("document_id", pa.string()),
        _required("row", pa.int64()),  # position in the input
        _required("cluster_id", pa.string()),  # "cl_0", "cl_0_sub_1"; noise "-1"
        _required("cluster_index", pa.int32()),  # row in the centroids; noise -1
        _required("cluster_path", pa.list_(pa.string())),  # from the root; noise: empty
        pa.field("cosine_similarity_to_centroid", pa.float32()),  # in [0, 1]; noise: null
        pa.field("distance_to_centroid", pa.float32()),  # 1 - cosine similarity; noise: null
        pa.field("membership_probability", pa.float32()),  # in [0, 1]; null: the method has none
        pa.field("nearest_cluster_id", pa.string()),  # of noise too; null: there is no cluster
        pa.field("nearest_cluster_similarity", pa.float32()),  # cosine to its centroid, in [-1, 1]
        _required("assigned_by", pa.string()),  # "fit"; "noise": a policy placed it; "sample"
        *(pa.field(axis, pa.float32()) for axis in "xyz"),
    ]
)

REJECTED = pa.schema(
    [
        pa.field("document_id", pa.string()),
        _required("row", pa.int64()),  # position in the input
        _required("reason", pa.string()),
    ]
)

LINEAGE = pa.schema(
    [
        _required("hierarchy_level", pa.int32()),  # of both clusters
        _required("kind", pa.string()),  # survived, split, merged, born, died
        pa.field("stable_id", pa.string()),  # of the cluster; of the previous one where it died
        pa.field("previous_cluster_id", pa.string()),  # null: born
        pa.field("cluster_id", pa.string()),  # null: died
        _required("num_shared", pa.int64()),  # documents in both
        pa.field("share_of_previous", pa.float64()),  # of its documents that both runs have
        pa.field("share_of_current", pa.float64()),
        pa.field("jaccard", pa.float64()),
        pa.field("centroid_cosine", pa.float64()),  # where no document is in both runs
    ]
)

NODES = [
    _required("source_cluster_id", pa.string()),  # in the run that was promoted
    _required("threshold", pa.float32()),  # least cosine similarity of a member, inclusive
    pa.field("stability", pa.float32()),  # in [0, 1]; null: there is no history to tell it from
    _required("stability_runs", pa.int32()),  # transitions between runs that tell it
]


@functools.cache
def layers_schema(n_layers: int) -> pa.Schema:
    """Return the columns of clusterings of other granularities, finest first."""
    return pa.schema(
        [
            _required("document_id", pa.string()),
            _required("row", pa.int64()),  # position in the input
            *(_required(f"layer_{layer}", pa.int32()) for layer in range(n_layers)),  # noise -1
        ]
    )


@functools.cache
def centroids_schema(
    n_features: int, *, divided: bool = False, promoted: bool = False
) -> pa.Schema:
    """Return the columns of the centroids of vectors with `n_features` dimensions.

    Those of a run that divided its clusters say why a leaf is one; a taxonomy's have `NODES`.
    """
    reason = [pa.field("leaf_reason", pa.string())] if divided else []
    return pa.schema(
        [
            _required("cluster_id", pa.string()),
            _required("cluster_index", pa.int32()),  # the row in this table
            pa.field("stable_id", pa.string()),  # the same cluster in later runs
            _required("centroid_vector", pa.list_(pa.float32(), n_features)),
            _required("num_members", pa.int64()),  # those of all descendants included
            pa.field("mean_cosine_similarity", pa.float32()),  # of the members to the centroid
            pa.field("min_cosine_similarity", pa.float32()),
            pa.field("variance", pa.float32()),
            pa.field("medoid_document_id", pa.string()),
            pa.field("parent_cluster_id", pa.string()),
            _required("child_cluster_ids", pa.list_(pa.string())),
            _required("hierarchy_level", pa.int32()),  # 0: root
            pa.field("label", pa.string()),
            pa.field("summary", pa.string()),
            pa.field("keywords", pa.list_(pa.string())),
            pa.field("feature_name", pa.string()),
            _required("feature_dimensions", pa.int32()),
            _required("algorithm", pa.string()),
            _required("run_id", pa.string()),
            *(pa.field(axis, pa.float32()) for axis in "xyz"),
            *reason,
            *(NODES if promoted else ()),
        ]
    )


def expected_schema(found: pa.Schema) -> pa.Schema:
    """Return the columns that a table with the columns `found` should have."""
    names = found.names
    if "centroid_vector" in names:
        kind = found.field("centroid_vector").type
        n = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
        return centroids_schema(n, divided="leaf_reason" in names, promoted="threshold" in names)
    if "layer_0" in names:
        return layers_schema(sum(name.startswith("layer_") for name in names))
    if "previous_cluster_id" in names:
        return LINEAGE
    if "lambda" in names:
        return TREE
    return MEMBERS if "cluster_id" in names else REJECTED


def flat_paths(n_clusters: int) -> Paths:
    """Return the paths of clusters without a hierarchy: ``["cl_0"], ["cl_1"], ...``."""
    return node_paths([NOISE] * n_clusters)


def members_table(
    ids: pa.Array,
    rows: Rows,
    labels: Labels,
    *,
    paths: Paths,
    similarity: Vector,
    nearest: Labels,
    nearest_similarity: Vector,
    assigned_by: Sequence[str],
    probabilities: Vector | None = None,
    coordinates: Matrix | None = None,
) -> pa.Table:
    """Build the members.

    Parameters
    ----------
    ids : pyarrow.Array of shape (n_samples,), string or int64
        Document ids.
    rows : ndarray of shape (n_samples,), int64
        Positions in the input.
    labels : ndarray of shape (n_samples,), int32
        Index of each sample's cluster in `paths`; noise is -1.
    paths : sequence of sequences of str
        Ids from the root to each cluster; `flat_paths` without a hierarchy.
    similarity : ndarray of shape (n_samples,), float32
        Cosine similarity to the own centroid; ignored for noise.
    nearest : ndarray of shape (n_samples,), int32
        Index of the nearest cluster in `paths`; -1 where there is none.
    nearest_similarity : ndarray of shape (n_samples,), float32
        Cosine similarity to its centroid; ignored where there is none.
    assigned_by : sequence of n_samples str, or pyarrow.Array
        Who placed each sample.
    probabilities : ndarray of shape (n_samples,), float32, optional
        Strength of membership.
    coordinates : ndarray of shape (n_samples, 2) or (n_samples, 3), float32, optional
        For pictures.

    Returns
    -------
    pyarrow.Table
        `MEMBERS`, sorted by ``cluster_index``, ``row``; in chunks of `ROW_GROUP_ROWS` rows.

    Notes
    -----
    Extra memory: the table, about 100 bytes a row and the ids, and 8 bytes a row for the order.
    """
    order = np.lexsort((rows, labels))
    # Index -1, noise, takes the last entry.
    names = pa.array([*(path[-1] for path in paths), NOISE_ID], pa.string())
    ways = pa.array([*paths, []], pa.list_(pa.string()))
    last = len(paths)
    placed = pa.array(assigned_by, pa.string())

    def batch(block: NDArray[np.int64]) -> pa.RecordBatch:
        label, near = labels[block], nearest[block]
        noise = label == NOISE
        own = np.where(noise, last, label)
        near_name = pa.array(near, pa.int32(), mask=near == NOISE)
        closeness = similarity[block].astype(np.float32)
        columns = [
            ids.take(pa.array(block)).cast(pa.string()),
            pa.array(rows[block], pa.int64()),
            names.take(pa.array(own)),
            pa.array(label, pa.int32()),
            ways.take(pa.array(own)),
            pa.array(closeness, mask=noise),
            pa.array(np.float32(1) - closeness, mask=noise),
            _floats(probabilities, block),
            names.take(near_name),
            pa.array(nearest_similarity[block].astype(np.float32), mask=near == NOISE),
            placed.take(pa.array(block)),
            *_coordinates(coordinates, block),
        ]
        return pa.record_batch(columns, schema=MEMBERS)

    starts = range(0, len(order), ROW_GROUP_ROWS)
    return pa.Table.from_batches(
        (batch(order[start : start + ROW_GROUP_ROWS]) for start in starts), schema=MEMBERS
    )


def centroids_table(
    vectors: Matrix,
    num_members: NDArray[np.int64],
    *,
    paths: Paths,
    mean_similarity: Vector,
    min_similarity: Vector,
    variance: Vector,
    medoid_ids: pa.Array,
    algorithm: str,
    run_id: str,
    feature_name: str | None = None,
    stable_ids: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
    summaries: Sequence[str | None] | None = None,
    keywords: Sequence[Sequence[str] | None] | None = None,
    coordinates: Matrix | None = None,
    leaf_reasons: Sequence[str | None] | None = None,
) -> pa.Table:
    """Build the centroids.

    Parameters
    ----------
    vectors : ndarray of shape (n_clusters, n_features), float32
        Centroids in the original space, not normalised.
    num_members : ndarray of shape (n_clusters,), int64
        Members, those of descendants included.
    paths : sequence of n_clusters sequences of str
        Ids from the root to each cluster; parents, children and levels follow from them.
    mean_similarity, min_similarity, variance : ndarray of shape (n_clusters,), float32
        Of the members' cosine similarity to the centroid; variance of their vectors around it.
    medoid_ids : pyarrow.Array of shape (n_clusters,), string or int64
        Document ids of the members in the middle.
    algorithm, run_id, feature_name : str
        Where the clusters come from.
    stable_ids : sequence of n_clusters str, optional
        Names that outlive the run.
    labels, summaries : sequence of n_clusters (str or None), optional
        What the clusters are called, and about.
    keywords : sequence of n_clusters (sequence of str or None), optional
    coordinates : ndarray of shape (n_clusters, 2) or (n_clusters, 3), float32, optional
        For pictures.
    leaf_reasons : sequence of n_clusters (str or None), optional
        Why a cluster was not divided further; omitted where none was to be.

    Returns
    -------
    pyarrow.Table
        `centroids_schema`, by ``cluster_index``.
    """
    n_clusters, n_features = vectors.shape
    children: dict[str, list[str]] = {path[-1]: [] for path in paths}
    for path in paths:
        if len(path) > 1:
            children[path[-2]].append(path[-1])
    nothing = [None] * n_clusters
    schema = centroids_schema(n_features, divided=leaf_reasons is not None)
    values: list[Any] = [
        [path[-1] for path in paths],
        range(n_clusters),
        stable_ids or nothing,
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), n_features),
        num_members,
        mean_similarity,
        min_similarity,
        variance,
        medoid_ids.cast(pa.string()),
        [path[-2] if len(path) > 1 else None for path in paths],
        [children[path[-1]] for path in paths],
        [len(path) - 1 for path in paths],
        labels or nothing,
        summaries or nothing,
        keywords or nothing,
        [feature_name] * n_clusters,
        [n_features] * n_clusters,
        [algorithm] * n_clusters,
        [run_id] * n_clusters,
        *_coordinates(coordinates, np.arange(n_clusters)),
        *([] if leaf_reasons is None else [leaf_reasons]),
    ]
    columns = [
        value if isinstance(value, pa.Array) else pa.array(value, field.type)
        for value, field in zip(values, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def layers_table(ids: pa.Array, rows: Rows, layers: Labels) -> pa.Table:
    """Return clusterings of other granularities, with the columns of `layers_schema`.

    ``layers`` is (n_layers, n_samples) int32.
    """
    columns = [ids.cast(pa.string()), pa.array(rows, pa.int64()), *map(pa.array, layers)]
    return pa.table(columns, schema=layers_schema(len(layers)))


def rejected_table(rejected: pa.Table) -> pa.Table:
    """Return the rows that a source rejected, with the columns of `REJECTED`."""
    return rejected.select(REJECTED.names).cast(REJECTED)


def _floats(values: Vector | None, block: NDArray[np.int64]) -> pa.Array:
    if values is None:
        return pa.nulls(len(block), pa.float32())
    return pa.array(values[block], pa.float32(), from_pandas=True)  # NaN: there is none


def _coordinates(values: Matrix | None, block: NDArray[np.int64]) -> Iterator[pa.Array]:
    """Yield x, y and z; z is null in two dimensions, all are without coordinates."""
    n_axes = 0 if values is None else values.shape[1]
    for axis in range(3):
        column = None if values is None or axis >= n_axes else values[:, axis]
        yield _floats(column, block)


def parts(name: str, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Cut a table into files: ``name.parquet``, or ``name-00000.parquet`` ... when it is large.

    All but the last file have as many whole row groups as make about `FILE_BYTES`.
    """
    n_groups = max(1, -(-table.num_rows // ROW_GROUP_ROWS))
    groups = max(1, FILE_BYTES * n_groups // max(1, table.nbytes))
    if groups >= n_groups:
        yield f"{name}.parquet", table
        return
    rows = groups * ROW_GROUP_ROWS
    for part, start in enumerate(range(0, table.num_rows, rows)):
        yield f"{name}-{part:05d}.parquet", table.slice(start, rows)


def write_parquet(table: pa.Table, provenance: Mapping[str, str], file: BinaryIO) -> None:
    """Write a table, as `parquet_options` says how.

    Parameters
    ----------
    table : pyarrow.Table
        One of the tables of this module.
    provenance : dict of str to str
        Where the table comes from; kept in the file under ``gpucluster.<key>``.
    file : binary file
        Written from its start to its end.
    """
    metadata = {f"gpucluster.{key}": value for key, value in sorted(provenance.items())}
    by_cluster = "cluster_index" in table.schema.names
    keys = [name for name in ("cluster_index", "row") if by_cluster and name in table.schema.names]
    pq.write_table(
        table.replace_schema_metadata(metadata),
        file,
        row_group_size=ROW_GROUP_ROWS,
        **parquet_options(table.schema, plain="document_id"),
        sorting_columns=[pq.SortingColumn(table.schema.get_field_index(key)) for key in keys],
    )
