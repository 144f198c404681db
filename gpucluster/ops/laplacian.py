"""Affinity graphs and their normalised operators.

The operator ``D^-1/2 A D^-1/2`` is the identity less the normalised Laplacian, so its
largest eigenvalues belong to the smallest of the Laplacian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse import csgraph

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.normalize import offset
from gpucluster.types import NOISE

ISLAND_SHARE = 0.1  # of the mean size of a cluster: smaller components get none of their own
UNSEEN = 1e-7  # the share of a sum that float32 cannot see


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph in the form that its eigenvectors are found in.

    Attributes
    ----------
    operator : array of float32 or scipy.sparse.csr_array of float64, (n_nodes, n_nodes)
        ``D^-1/2 A D^-1/2``.
    scale : array of shape (n_nodes,), float64
        ``D^-1/2``; 0 for a node that has no affinity.
    """

    operator: Any
    scale: Any


def neighbor_graph(rows: Any) -> Graph:
    """Connect each row with its nearest rows.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_neighbors), int32
        Neighbour lists; the row itself may be among them.

    Returns
    -------
    Graph
        On the host. Affinity is 1 when both list each other and 0.5 when one lists the
        other; none with itself.

    Notes
    -----
    Extra memory: about 100 bytes for each entry of the lists.
    """
    n_samples, n_neighbors = rows.shape
    starts = np.arange(0, rows.size + 1, n_neighbors)
    listed = scipy.sparse.csr_array(
        (np.ones(rows.size), rows.ravel(), starts), shape=(n_samples, n_samples)
    )
    affinity = (0.5 * (listed + listed.T)).tocsr()
    affinity.setdiag(0)
    affinity.eliminate_zeros()
    scale = _inverse_root(affinity.sum(axis=1))
    source = np.repeat(np.arange(n_samples), np.diff(affinity.indptr))
    affinity.data *= scale[source] * scale[affinity.indices]
    return Graph(affinity, scale)


def dense_graph(affinity: Any, self_affinity: Any = 0) -> Graph:
    """Normalise a symmetric matrix of affinities in place.

    Parameters
    ----------
    affinity : array of shape (n_nodes, n_nodes), float32
        Overwritten. Its device decides where the work runs.
    self_affinity : array of shape (n_nodes,), default 0
        What stands on its diagonal; a single row has none with itself.
    """
    xp = namespace(affinity)
    own = xp.arange(len(affinity))
    affinity[own, own] = self_affinity
    scale = _inverse_root(affinity.sum(axis=1, dtype=np.float64))

    def normalise(rows: slice) -> None:
        affinity[rows] *= scale[rows, None].astype(np.float32)
        affinity[rows] *= scale.astype(np.float32)

    for_blocks(normalise, len(affinity), affinity, None)
    return Graph(affinity, scale)


def gaussian_affinities(
    X: Any, gamma: float, weights: Any = None, reporter: Reporter | None = None
) -> Any:
    """Return ``weights_i weights_j exp(-gamma |x_i - x_j|^2)``.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Its device decides where the work runs.
    gamma : float
    weights : array of shape (n_samples,), optional
        1 if omitted.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    array of shape (n_samples, n_samples), float32

    Notes
    -----
    From float32 products: an exponent is off by about ``1e-6 * gamma * |x|**2``. Extra
    memory: a centred copy of `X` when its rows lie far from zero.
    """
    xp = namespace(X)
    exponents = Exponents(X, gamma, weights)
    affinity = xp.empty((len(X), len(X)), np.float32)

    def work(rows: slice) -> None:
        exponents.of(X[rows], out=affinity[rows])
        if weights is not None:
            affinity[rows] += exponents.log_weights[rows, None]
        xp.exp(affinity[rows], out=affinity[rows])

    for_blocks(work, len(X), X, reporter)
    return affinity


class Exponents:
    """``log(weight_j) - gamma |x - y_j|^2`` for fixed rows `y`, in float32.

    Parameters
    ----------
    Y : array of shape (n_others, n_features), float32
    gamma : float
    weights : array of shape (n_others,), or None
        None for 1.
    """

    def __init__(self, Y: Any, gamma: float, weights: Any) -> None:
        xp = namespace(Y)
        self.gamma = np.float32(gamma)
        self.shift = offset(Y)
        self.Y = Y if self.shift is None else Y - self.shift
        self.sqnorms = xp.einsum("ij,ij->i", self.Y, self.Y)
        self.log_weights: Any = None
        if weights is not None:
            with np.errstate(divide="ignore"):
                self.log_weights = xp.log(weights).astype(np.float32)

    def of(self, block: Any, out: Any = None) -> Any:
        """Return those of a block of rows, (rows, n_others), written to `out` if given."""
        xp = namespace(block)
        block = block if self.shift is None else block - self.shift
        found = xp.matmul(block, self.Y.T, out=out)
        found *= 2
        found -= self.sqnorms
        found -= xp.einsum("ij,ij->i", block, block)[:, None]
        xp.minimum(found, 0, out=found)
        found *= self.gamma
        if self.log_weights is not None:
            found += self.log_weights
        return found


def components(graph: Graph) -> Any:
    """Return the number of the connected component of each node.

    Parameters
    ----------
    graph : Graph

    Returns
    -------
    ndarray of shape (n_nodes,), int32
        Affinities that a float32 sum over the nodes cannot see connect nothing.
    """
    operator = graph.operator
    if scipy.sparse.issparse(operator):
        return csgraph.connected_components(operator, directed=False)[1]
    xp, n_nodes = namespace(operator), len(operator)
    found = np.full(n_nodes, NOISE, np.int32)
    for first in range(n_nodes):
        if found[first] != NOISE:
            continue
        found[first] = number = found.max() + 1
        front = np.array([first])
        while len(front):
            reached = xp.zeros(n_nodes, bool)
            for part in row_blocks(len(front), rows_per_block(5 * n_nodes)):
                reached |= (operator[xp.asarray(front[part])] > UNSEEN / n_nodes).any(axis=0)
            front = np.flatnonzero(to_host(reached) & (found == NOISE))
            found[front] = number
            if (found != NOISE).all():
                return found
    return found


def mainland(component: Any, n_clusters: int, weights: Any = None) -> Any:
    """Leave out the islands: components too small for a cluster of their own.

    A component has an eigenvector of its own however small it is, and k-means a cluster
    for it. Kept are the `n_clusters` largest that have two rows and `ISLAND_SHARE` of the
    mean cluster.

    Parameters
    ----------
    component : ndarray of shape (n_nodes,), int32
    n_clusters : int
    weights : ndarray of shape (n_nodes,), optional
        Rows of each node; 1 if omitted.

    Returns
    -------
    ndarray of shape (n_nodes,), int32
        Components by falling size, islands -1.
    """
    sizes = np.bincount(component, weights)
    order = np.argsort(-sizes, kind="stable")[:n_clusters]
    kept = order[sizes[order] >= max(2, ISLAND_SHARE * sizes.sum() / n_clusters)]
    number = np.full(len(sizes), NOISE, np.int32)
    number[kept] = np.arange(len(kept))
    return number[component]


def _inverse_root(degrees: Any) -> Any:
    xp = namespace(degrees)
    return xp.where(degrees > 0, 1 / xp.sqrt(xp.maximum(degrees, 1e-300)), 0)


def for_blocks(
    work: Callable[[slice], None],
    n_rows: int,
    like: Any,
    reporter: Reporter | None,
    width: int | None = None,
) -> None:
    """Do `work` on blocks of rows of `width` float32: on all cores, or on the GPU."""
    block_rows = rows_per_block(4 * (width or n_rows))
    if not is_on_gpu(like):
        for _ in map_blocks(work, n_rows, block_rows, reporter):
            pass
        return
    for rows in row_blocks(n_rows, block_rows):
        work(rows)
        if reporter is not None:
            reporter.progress(rows.stop, n_rows)
