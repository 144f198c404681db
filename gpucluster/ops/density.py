"""The hierarchy of density of a matrix: from rows to a dendrogram, by the faster of two ways."""

from __future__ import annotations

from gpucluster.events import Reporter
from gpucluster.ops.assign import nearest_center
from gpucluster.ops.kdtree import KDTree
from gpucluster.ops.neighbors import nearest_neighbors
from gpucluster.ops.spanning import mutual_reachability_tree
from gpucluster.ops.tree import Dendrogram, dendrogram
from gpucluster.types import Labels, Matrix, Weights

AUTO_SAMPLES = 5  # min_samples where nobody names one, and no size that it could follow
LISTED = 15  # neighbours that are looked at before a search; min_samples if that is more
TREE_DIMENSIONS = 60  # above it a k-d tree looks at everything anyway, and BLAS is faster


def searches_tree(n_samples: int, n_features: int) -> bool:
    """Return whether rows are searched in a k-d tree, and not compared by BLAS."""
    # a tree of a few rows is a list
    return n_features <= TREE_DIMENSIONS and n_samples > 3 * n_features


def density_dendrogram(
    X: Matrix,
    min_samples: int,
    reporter: Reporter,
    weights: Weights | None = None,
    *,
    alpha: float = 1.0,
) -> Dendrogram:
    """Return the exact single-linkage hierarchy of mutual reachability.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Two distinct rows or more.
    min_samples : int
        Neighbours that set the density of a row, itself not counted; below ``n_samples``.
    reporter : Reporter
        Told of progress.
    weights : ndarray of shape (n_samples,), int64, optional
        How many equal rows each stands for.
    alpha : float, default 1.0
        Distances are divided by it.

    Returns
    -------
    Dendrogram
    """
    listed = min(len(X), 1 + max(min_samples, LISTED))
    tree = KDTree(X) if searches_tree(*X.shape) else None
    if tree is not None:
        neighbors = tree.neighbors(listed, reporter)
    else:
        neighbors = nearest_neighbors(X, listed, exact=True, reporter=reporter)
    edges = mutual_reachability_tree(
        X, neighbors, min_samples, alpha=alpha, tree=tree, reporter=reporter
    )
    return dendrogram(edges, weights)


def nearest_row(X: Matrix, queries: Matrix) -> Labels:
    """Return the row of `X` nearest to each of `queries`: (n_queries,) int32, ties to the lower."""
    if searches_tree(*X.shape):
        return KDTree(X).nearest_to(queries)
    return nearest_center(queries, X)
