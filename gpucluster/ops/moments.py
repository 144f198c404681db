"""Mean and covariance of a matrix that is read once, in blocks, and products with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import namespace, to_host
from gpucluster.device.cores import n_threads
from gpucluster.device.memory import BLOCK_BYTES, rows_per_block
from gpucluster.device.storage import like
from gpucluster.events import Reporter
from gpucluster.ops.blocks import one_blas_thread, row_blocks
from gpucluster.ops.shards import Shard, Shards, Written
from gpucluster.ops.streaming import each_block
from gpucluster.types import Cost, Matrix, Vector, Vector64

PART_ROWS = 2048  # enough work to hide that the product of each part is added to the total
PARTS_BYTES = 1 << 30  # what the parts in flight may hold, where that leaves at least four


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of the rows of a matrix, in float64.

    Attributes
    ----------
    n_samples : int
    mean : ndarray of shape (n_features,), float64
        On the host.
    covariance : array of shape (n_features, n_features), float64
        Normalised by ``n_samples - 1``; where it was computed.
    """

    n_samples: int
    mean: Vector64
    covariance: Any

    def eigen(self) -> tuple[Vector64, Any]:
        """Return the eigenvalues, falling and not below 0, and the eigenvectors as columns.

        The values are on the host, the vectors where the covariance is.
        """
        xp = namespace(self.covariance)
        with one_blas_thread:  # with more of them, the last bits depend on how many
            values, vectors = xp.linalg.eigh(self.covariance)
        return np.clip(to_host(values)[::-1], 0, None), xp.ascontiguousarray(vectors[:, ::-1])


def spectral_cost(n_samples: int, n_features: int) -> Cost:
    """Return the cost of `moments`, its eigenvectors, and a product of the rows with them."""
    flop = 4.0 * n_samples * n_features**2
    parts = min(_in_flight(n_features), 2 * n_threads()) * _part_bytes(n_features)
    seconds = flop / 250e9 + 1e-9 * n_features**3
    return Cost(32 * n_features**2 + parts, seconds)


def _part_bytes(n_features: int) -> int:
    return BLOCK_BYTES + 12 * n_features**2  # a block, its product, and the sum of a shard


def _in_flight(n_features: int) -> int:
    return max(4, PARTS_BYTES // _part_bytes(n_features))


def moments(X: Any, reporter: Reporter | None = None, *, xp: Any = np) -> Moments:
    """Measure mean and covariance in one pass.

    Blocks are shifted by the mean of the first one before they are multiplied in
    float32, and their products are summed in float64: float32 speed, with an error near
    1e-7 of the largest entry whatever the offset of the data. The result does not depend
    on the number of cores.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Where the products are computed, or on the host, from where it comes block by block.
    reporter : Reporter, optional
        Told after each block.
    xp : module, default numpy
        NumPy or CuPy: where the products are computed.

    Returns
    -------
    Moments

    Notes
    -----
    Extra memory: ``32 * n_features**2`` bytes, and two blocks with their products for
    each core, at most ``PARTS_BYTES`` where that leaves four of them.
    """
    n_samples, n_features = X.shape
    block_rows = rows_per_block(n_features * 4)
    if xp is np:
        block_rows = min(block_rows, max(PART_ROWS, n_features))
    shift = xp.asarray(X[:block_rows].mean(axis=0, dtype=np.float64).astype(np.float32))
    if xp is np:
        shards = Shards(X, "moments", reporter, least_rows=block_rows, tells=True)
        in_flight = min(_in_flight(n_features), 2 * n_threads())
        total, outer = shards.reduce(
            *(_shard_products, _added, shift, block_rows), in_flight=in_flight
        )
        return centred_moments(total, outer, n_samples, shift)
    total = xp.zeros(n_features, np.float64)
    outer = xp.zeros((n_features, n_features), np.float64)

    def work(_: slice, block: Any) -> None:
        cut = row_blocks(len(block), max(block_rows, 4 * n_features))
        for part in [shifted_products(block[rows], shift) for rows in cut]:
            _added((total, outer), part)

    each_block(work, X, xp, reporter)
    return centred_moments(total, outer, n_samples, shift)


def _shard_products(shard: Shard, shift: Vector, block_rows: int) -> tuple[Vector64, Vector64]:
    n_features = len(shift)
    products = np.zeros(n_features), np.zeros((n_features, n_features))
    for rows in row_blocks(len(shard.X), block_rows):
        _added(products, shifted_products(shard.X[rows], shift))
    return products


def _added(products: tuple[Any, Any], others: tuple[Any, Any]) -> tuple[Any, Any]:
    products[0][...] += others[0]
    products[1][...] += others[1]
    return products


def shifted_products(block: Any, shift: Any) -> tuple[Any, Any]:
    """Return sums and products of rows less a shift, by float32 products."""
    shifted = block - shift
    return shifted.sum(axis=0, dtype=np.float64), shifted.T @ shifted


def centred_moments(total: Any, outer: Any, n_samples: int, shift: Any) -> Moments:
    """Return the moments, of sums and products of rows less a shift."""
    xp = namespace(shift)
    offset = total / n_samples
    covariance = (outer - n_samples * xp.outer(offset, offset)) / max(1, n_samples - 1)
    return Moments(n_samples, to_host(offset + shift), covariance)


def centred_product(X: Matrix, mean: Vector64, matrix: Any) -> Matrix:
    """Return ``(X - mean) @ matrix`` in float32, on all cores.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        On the host.
    mean : ndarray of shape (n_features,), float64
    matrix : ndarray of shape (n_features, n_out), float64

    Returns
    -------
    ndarray of shape (n_samples, n_out), float32

    Notes
    -----
    Products go straight into the result: a temporary of each block would cost a fifth more
    time. The blocks depend on the data alone, and so do the bits. Extra memory: a block for
    each core.
    """
    mean, matrix = mean.astype(np.float32), matrix.astype(np.float32)
    out: Matrix = like(X, (len(X), matrix.shape[1]), to_lend=True)
    shards = Shards(X, "centred product", least_rows=PART_ROWS)
    for _ in shards.map(_shard_centred, Written(out), mean, matrix):
        pass
    return out


def _shard_centred(shard: Shard, out: Matrix, mean: Vector, matrix: Matrix) -> None:
    for rows in row_blocks(len(out), PART_ROWS):
        np.matmul(shard.X[rows] - mean, matrix, out=out[rows])
