"""The leading eigenvectors of a graph, found with products alone: nothing is factorised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.memory import rows_per_block
from gpucluster.errors import NotConvergedWarning
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, one_blas_thread
from gpucluster.ops.laplacian import Exponents, Graph, for_blocks

FULL_ROWS = 500  # up to here all eigenvectors are computed: quicker than any iteration
TOLERANCE = 1e-5  # of an eigenvalue
MAX_RESTARTS = 1000
POSITIVE = 1e-6  # what rounding may make of an eigenvalue 0


@dataclass(frozen=True, slots=True)
class Embedding:
    """Nodes by the slowest modes of the random walk.

    Attributes
    ----------
    eigenvalues : ndarray of shape (n_components,), float64
        Of the random walk, falling from 1. Those not above 0 are left out: their
        eigenvectors tell neighbours apart.
    vectors : array of shape (n_nodes, n_components), float64
        Eigenvectors of the operator, scaled by ``D^-1/2``; 0 outside of the mainland.
    """

    eigenvalues: Any
    vectors: Any


def spectral_embedding(
    graph: Graph,
    component: Any,
    n_components: int,
    random_state: int,
    reporter: Reporter | None = None,
) -> Embedding:
    """Find the `n_components` largest eigenvalues of a graph, with their eigenvectors.

    Parameters
    ----------
    graph : Graph
    component : ndarray of shape (n_nodes,), int32
        Connected component of each node, ``0..``; nodes labelled -1 are left out.
    n_components : int
    random_state : int
        Seed of the first vector.
    reporter : Reporter, optional
        Told after each product.

    Returns
    -------
    Embedding

    Notes
    -----
    The eigenvectors of the components are known, and taken out of the operator. The
    others are found by the Lanczos method (Lehoucq, Sorensen, Yang 1998,
    doi:10.1137/1.9780898719628), without a factorisation. Extra memory: about
    ``16 * n_nodes * (3 * n_components + 10)`` bytes.
    """
    xp = namespace(graph.scale)
    component = xp.asarray(component)
    n_known = int(component.max()) + 1
    inside = component >= 0
    roots = xp.where(inside & (graph.scale > 0), 1 / xp.maximum(graph.scale, 1e-300), 0)
    masses = xp.bincount(component[inside], roots[inside] ** 2, minlength=n_known)
    roots[inside] /= xp.sqrt(masses)[component[inside]]
    n_known = min(n_known, n_components)
    known = roots[:, None] * (component[:, None] == xp.arange(n_known))
    values = np.ones(n_known)
    if n_known < n_components:
        rest, vectors = _lanczos(
            graph, roots, component, n_components - n_known, random_state, reporter
        )
        values = np.concatenate((values, rest))
        known = xp.concatenate((known, vectors), axis=1)
    kept = int((values > POSITIVE).sum())
    return Embedding(values[:kept], known[:, :kept] * graph.scale[:, None])


def _lanczos(
    graph: Graph,
    roots: Any,
    component: Any,
    wanted: int,
    random_state: int,
    reporter: Reporter | None,
) -> tuple[Any, Any]:
    """Return eigenvalues, falling, and eigenvectors beside those of the components."""
    xp, n_nodes = namespace(roots), len(roots)
    inside, places = (component >= 0).astype(np.float64), component + 1
    done = 0

    def apply(vector: Any) -> Any:
        nonlocal done
        vector = vector.ravel() * inside
        image = _product(graph.operator, vector) * inside
        shares = xp.bincount(places, roots * vector)
        image -= 2 * roots * shares[places]  # the known ones now have eigenvalue -1
        done += 1
        if reporter is not None:
            reporter.progress(done, None, "iterations")
        return image

    with one_blas_thread:  # with more of them, the last bits depend on how many
        if n_nodes <= max(FULL_ROWS, 2 * wanted + 2):
            full = xp.stack([apply(unit) for unit in xp.eye(n_nodes)])
            values, vectors = xp.linalg.eigh((full + full.T) / 2)
            values, vectors = values[-wanted:], vectors[:, -wanted:]
        else:
            values, vectors = _eigsh(apply, roots, wanted, random_state, reporter)
    order = np.argsort(-to_host(values), kind="stable")
    return to_host(values)[order], vectors[:, xp.asarray(order)]


def _eigsh(
    apply: Callable[[Any], Any],
    like: Any,
    wanted: int,
    random_state: int,
    reporter: Reporter | None,
) -> tuple[Any, Any]:
    if is_on_gpu(like):
        from cupyx.scipy.sparse.linalg import LinearOperator, eigsh
    else:
        from scipy.sparse.linalg import LinearOperator, eigsh
    from scipy.sparse.linalg import ArpackNoConvergence

    found: tuple[Any, Any]
    n_nodes = len(like)
    first = namespace(like).asarray(np.random.default_rng(random_state).standard_normal(n_nodes))
    operator = LinearOperator((n_nodes, n_nodes), matvec=apply, dtype=np.float64)
    try:
        found = eigsh(
            operator,
            k=wanted,
            which="LA",
            v0=apply(first),
            maxiter=None if is_on_gpu(like) else MAX_RESTARTS,  # CuPy counts products
            tol=TOLERANCE,
        )
        n_converged = _n_converged(apply, *found) if is_on_gpu(like) else wanted
    except ArpackNoConvergence as stopped:
        found = stopped.eigenvalues, stopped.eigenvectors
        n_converged = len(found[0])
    if n_converged < wanted and reporter is not None:
        reporter.warn(
            "spectral_not_converged",
            f"spectral: {n_converged} of {wanted} eigenvectors converged; use fewer n_components",
            NotConvergedWarning,
        )
    return found


def _n_converged(apply: Callable[[Any], Any], values: Any, vectors: Any) -> int:
    """Count the pairs that are near enough: CuPy stops after so many products, and says nothing."""
    norm = namespace(vectors).linalg.norm
    gaps = (norm(apply(vectors[:, i]) - values[i] * vectors[:, i]) for i in range(len(values)))
    return sum(float(gap) <= 10 * TOLERANCE for gap in gaps)


def _product(operator: Any, vector: Any) -> Any:
    """Return the product with a vector in float64; of a dense matrix, on all cores."""
    if scipy.sparse.issparse(operator) or is_on_gpu(operator):
        return operator @ vector.astype(operator.dtype)
    narrow = vector.astype(operator.dtype)
    parts = map_blocks(
        lambda rows: operator[rows] @ narrow, len(operator), rows_per_block(4 * len(operator))
    )
    return np.concatenate(list(parts)).astype(np.float64)


def extend(
    X: Any,
    landmarks: Any,
    gamma: float,
    weights: Any,
    embedding: Embedding,
    reporter: Reporter | None = None,
) -> Any:
    """Place rows where a step of the random walk to the landmarks leads: Nystrom's formula.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Its device decides where the work runs.
    landmarks : array of shape (n_landmarks, n_features), float32
    gamma : float
    weights : array of shape (n_landmarks,)
        0 where a landmark is not to be reached.
    embedding : Embedding
        Of the landmarks.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    array of shape (n_samples, n_components), float32
    """
    xp = namespace(X)
    exponents = Exponents(landmarks, gamma, weights)
    modes = (embedding.vectors / xp.asarray(embedding.eigenvalues)).astype(np.float32)
    placed = xp.empty((len(X), modes.shape[1]), np.float32)

    def work(rows: slice) -> None:
        step = exponents.of(X[rows])
        step -= step.max(axis=1, keepdims=True)  # a far row goes to the nearest landmark
        xp.exp(step, out=step)
        placed[rows] = step @ modes / step.sum(axis=1, keepdims=True)

    for_blocks(work, len(X), X, reporter, len(landmarks))
    return placed
