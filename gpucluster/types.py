"""Values that travel between the stages. All are frozen; arrays in them are not to be written.

Shapes are named once, here. ``n_samples`` is the number of rows that are clustered,
``n_features`` their dimension, ``n_clusters`` excludes noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]  # (n_samples, n_features), C-contiguous
    Labels = NDArray[np.int32]  # (n_samples,), noise -1
    Rows = NDArray[np.int64]  # positions in a matrix
    Vector = NDArray[np.float32]  # (n_samples,)
    Vector64 = NDArray[np.float64]
    Weights = NDArray[np.int64]  # (n_samples,): how many equal rows each row stands for
else:
    Matrix = Labels = Rows = Vector = Vector64 = Weights = Any

NOISE = -1
Storage = Literal["memory", "disk"]  # where matrices of all rows lie
StorageRequest = Literal["auto", "memory", "disk"]
DisplayMethod = Literal["umap", "pca", "ipca", "tsne", "none"]
ExecutorName = Literal["local", "dask"]
USUAL_THRESHOLD = 0.5  # cosine similarity; it says little before the vectors are known
MAX_MAP_POINTS = 1_000_000  # that the map of a report shows
DPI = 150  # of a picture


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows that can be clustered, with what identifies them.

    Attributes
    ----------
    ids : pyarrow.Array of shape (n_samples,), string or int64
        The user's document ids, unique.
    X : ndarray of shape (n_samples, n_features), float32, C-contiguous
        The vectors; finite, no zero row. Whoever loaded them may scale them in place.
    rows : ndarray of shape (n_samples,), int64
        Positions in the input, rising: rejected and unsampled rows are missing.
    payload : dict of str to pyarrow.Array of shape (n_samples,)
        The columns that were asked for beside the vectors ("text", "truth").
    rejected : pyarrow.Table
        ``document_id`` (string), ``row`` (int64, position in the input), ``reason`` (string).
    n_rows : int
        Rows in the input, rejected ones included.
    num_filtered : int
        Rows of the input that the filters leave out: neither samples nor rejected.
    source : dict
        What was read: paths, format, columns, dtype, bytes. Goes into the manifest.
    everything : str or None
        Digest of all rows that match, where it was asked for: rows beside a sample count too.
    """

    ids: pa.Array
    X: Matrix
    rows: Rows
    payload: Mapping[str, pa.Array]
    rejected: pa.Table
    n_rows: int
    source: Mapping[str, Any]
    num_filtered: int = 0
    everything: str | None = None

    @property
    def is_sample(self) -> bool:
        """Whether rows that match were left out by drawing."""
        return self.source["sample"] is not None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a fit is expected to take.

    Attributes
    ----------
    bytes : int
        Peak memory of the host beside input and output; unit: bytes.
    seconds : float or None
        Wall time on two cores; None where nothing was ever measured.
    method : str
        ``exact``, or the name of the approximation that will run.
    device_bytes : int
        Memory of the GPU that a fit there takes at least, its rows included; unit: bytes.
    rows_bytes : int
        What of `bytes` lies where the rows lie: matrices with as many, which are on disk beside
        rows on disk.
    unit_bytes, far_bytes : int
        What of `rows_bytes` only some rows need: a copy of unit length, where they have another;
        a centred copy, where they lie far from zero.
    kept_bytes : int
        What is learned from the rows and stays, to place later ones; in memory.
    helper_bytes : int
        What helper processes take besides.
    passes : float
        How often the rows, and what lies beside them, are gone through.
    """

    bytes: int
    seconds: float | None
    method: str = "exact"
    device_bytes: int = 0
    rows_bytes: int = 0
    unit_bytes: int = 0
    far_bytes: int = 0
    kept_bytes: int = 0
    helper_bytes: int = 0
    passes: float = 2.0


@dataclass(frozen=True, slots=True)
class DensityTree:
    """The condensed tree of HDBSCAN: which clusters lie in which, and where rows leave them.

    Attributes
    ----------
    parent : ndarray of shape (n_nodes,), int32
        Node 0 is the root, whose parent is -1; parents come before children.
    birth : ndarray of shape (n_nodes,), float64
        Density, the inverse of distance, from which each is a cluster.
    size : ndarray of shape (n_nodes,), int64
        Rows at birth.
    cluster : ndarray of shape (n_nodes,), int32
        The cluster that each node was selected as; -1: none.
    row_node : ndarray of shape (n_samples,), int32
        The node that each row falls out of,
    row_density : ndarray of shape (n_samples,), float64
        and the density at which it does.
    """

    parent: Labels
    birth: Vector64
    size: Weights
    cluster: Labels
    row_node: Labels
    row_density: Vector64


@dataclass(frozen=True, slots=True)
class Clustering:
    """What an algorithm found.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), int32
        ``0..n_clusters_-1`` by falling size, ties by smallest first row; noise is -1.
    probabilities_ : ndarray of shape (n_samples,), float32, or None
        Strength of membership in [0, 1]; noise has 0. None where the algorithm has none.
    n_clusters_ : int
        Clusters without noise.
    backend : str
        Who computed.
    method : str
        ``exact``, or the name of the approximation.
    info : dict
        What else the algorithm learned, as JSON values (``inertia``, ``n_iter`` ...).
    levels : ndarray of shape (n_levels, n_samples), int32, or None
        Finer and finer clusterings by the same fit, each nested in the one before and the
        first in `labels_`; noise is -1.
    basins_ : ndarray of shape (n_samples,), int32, or None
        The cluster of each row, and for noise the one that it would join first. None where the
        algorithm cannot say.
    layers_ : ndarray of shape (n_layers, n_samples), int32, or None
        Clusterings of other granularities from the same fit, finest first, `labels_` among
        them; ``info["granularity"]["layers"]`` describes each. Numbered as `labels_` is.
    tree_ : DensityTree or None
        The hierarchy that HDBSCAN selected the clusters from.
    """

    labels_: Labels
    probabilities_: Vector | None
    n_clusters_: int
    backend: str
    method: str = "exact"
    info: Mapping[str, Any] = field(default_factory=dict)
    levels: Labels | None = None
    basins_: Labels | None = None
    layers_: Labels | None = None
    tree_: DensityTree | None = None


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Clusters within clusters.

    Nodes are numbered level by level: the roots are the flat clusters, and the children of a
    node follow each other by falling size, ties by smallest first row.

    Attributes
    ----------
    labels : ndarray of shape (n_samples,), int32
        The deepest node of each row; noise is -1.
    parents : ndarray of shape (n_nodes,), int32
        The node that each was divided from; -1 for the roots. Parents come before children.
    reasons : tuple of n_nodes (str or None), or None
        Why a node is a leaf; None for a node that was divided. None where nobody asked.
    """

    labels: Labels
    parents: Labels
    reasons: tuple[str | None, ...] | None
