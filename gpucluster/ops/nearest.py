"""Nearest of fixed centres, by distance or by cosine: one product of each tile, and little else."""

from __future__ import annotations

import threading
from typing import Any, Self

import numpy as np

from gpucluster.device.arrays import to_host
from gpucluster.device.select import Device
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.certified import CertifiedSearch
from gpucluster.ops.duplicates import equal_groups
from gpucluster.ops.half import coarse_middle, sample_of
from gpucluster.ops.normalize import offset, row_norms, unit_rows
from gpucluster.ops.pairs import pair_sqdist
from gpucluster.ops.shards import TILE_ROWS, Shard, Shards, joined, sharing
from gpucluster.ops.streaming import each_block, workplace
from gpucluster.types import Labels, Matrix, Vector

TILE_CENTERS = 4096  # of one product of `TILE_ROWS` rows: 16 MB
LEAST_ROWS, PARTS = 128, 8  # of few rows, smaller tiles for up to so many cores
GATHERED_ROWS = 256  # whose directions lie side by side for a moment, in the second cache
LEAST_SQNORM, MOST_SQNORM = 1e-20, 1e30  # between them, no square that counts is lost in float32


class _Rooms(threading.local):
    """Arrays that a thread uses for tile after tile: memory is slow when it is first written."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def get(self, name: str, shape: tuple[int, int], dtype: Any) -> Any:
        """Return an array of this name; what it held is lost."""
        kept, size = self._kept.get(name), shape[0] * shape[1]
        if kept is None or kept.size < size:
            kept = self._kept[name] = np.empty(size, dtype)
        return kept[:size].reshape(shape)


class Search:
    """Largest of the scores ``x.c - bias`` of fixed centres, in float32.

    A large offset that is common to the centres is taken off both sides first.
    """

    def __init__(self, centers: Matrix, shift: Any, bias: Any) -> None:
        self.centers, self.shift, self.bias = np.ascontiguousarray(centers), shift, bias
        self.rooms = _Rooms()

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Its arrays, in order: what other processes make it of."""
        return self.centers, self.shift, self.bias

    @classmethod
    def by_distance(cls, centers: Matrix) -> Self:
        """Score by ``|x|^2 - |x - c|^2``, halved."""
        shift = offset(centers)
        centers = centers if shift is None else centers - shift
        return cls(centers, shift, 0.5 * np.einsum("ij,ij->i", centers, centers))

    @classmethod
    def by_cosine(cls, directions: Matrix) -> Self:
        """Score by ``x.c``, for rows of any length; where there is a shift, of unit length."""
        shift = offset(directions)
        if shift is None:
            return cls(directions, None, None)
        middle = shift.astype(np.float64)
        centers, along = np.empty(directions.shape, np.float32), np.empty(len(directions))

        # x.c = (x - m).(c - m) + m.(c - m) + x.m, whose end is the same for all centres;
        # einsum, as threads of a BLAS product would still be spinning when the search begins
        def work(rows: slice) -> None:
            rest = _unit_in_float64(directions[rows]) - middle
            centers[rows], along[rows] = rest, np.einsum("ij,j->i", rest, middle)

        for _ in map_blocks(work, len(directions), TILE_ROWS):
            pass
        return cls(centers, shift, -along.astype(np.float32))

    def shifted(self, tile: Matrix, lengths: Vector | None = None) -> Matrix:
        """Return rows less what is taken off the centres, before that divided by `lengths`.

        They are overwritten by the next; without a shift, they are the rows as they came.
        """
        if self.shift is None:
            return tile
        shifted: Matrix = self.rooms.get("rows", tile.shape, np.result_type(tile, self.shift))
        if lengths is not None:
            tile = np.divide(tile, lengths[:, None], out=shifted)
        np.subtract(tile, self.shift, out=shifted)
        return shifted

    def nearest(self, tile: Matrix) -> tuple[Labels, Vector]:
        """Return the nearest centre of each row, ties to the lower, and its squared distance."""
        tile = self.shifted(tile)
        nearest, best = self.best(tile)
        return nearest, np.maximum(np.einsum("ij,ij->i", tile, tile) - 2 * best, 0)

    def best(self, tile: Matrix) -> tuple[Labels, Vector]:
        """Return the centre with the largest score for each shifted row, and the score."""
        own = np.arange(len(tile))
        nearest = np.zeros(len(tile), np.int32)
        best = np.full(len(tile), -np.inf, np.float32)
        for cols in row_blocks(len(self.centers), TILE_CENTERS):
            shape = len(tile), cols.stop - cols.start
            room = self.rooms.get("scores", shape, np.result_type(tile, self.centers))
            scores = np.matmul(tile, self.centers[cols].T, out=room)
            if self.bias is not None:
                scores -= self.bias[cols]
            found = scores.argmax(axis=1)
            score = scores[own, found]
            closer = score > best
            nearest[closer], best[closer] = found[closer] + cols.start, score[closer]
        return nearest, best


def nearest_center(X: Matrix, centers: Matrix, device: Device = "cpu") -> Labels:
    """Return the nearest centre of each row by Euclidean distance.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    centers : ndarray of shape (n_clusters, n_features), float32
    device : {"cpu", "gpu"}, default "cpu"
        On a GPU the search is certified: labels are those of float64.

    Returns
    -------
    ndarray of shape (n_samples,), int32
        Ties to the lower one. On a CPU, centres whose distances differ by less than float32
        rounding may be taken for one another; equal ones never are.
    """
    labels = np.empty(len(X), np.int32)
    if device == "gpu":
        _nearest_center_on_gpu(X, centers, labels)
        return labels
    numbers, centers = _distinct(centers)
    search = Search.by_distance(centers)
    if _is_shared(X):
        shards = Shards(X, "nearest centres")
        return np.concatenate(list(shards.map(_shard_nearest, numbers, *search.arrays)))

    def work(rows: slice) -> None:
        labels[rows] = numbers[_nearest_of(search, X[rows])]

    for _ in map_blocks(work, len(X), _tile_rows(len(X))):
        pass
    return labels


def _nearest_of(search: Search, tile: Matrix) -> Labels:
    return search.best(search.shifted(np.ascontiguousarray(tile)))[0]


def _shard_nearest(shard: Shard, numbers: Labels, *search: Any) -> Labels:
    known = Search(*search)
    tiles = row_blocks(len(shard.X), TILE_ROWS)
    return np.concatenate([numbers[_nearest_of(known, shard.X[rows])] for rows in tiles])


def _nearest_center_on_gpu(X: Matrix, centers: Matrix, labels: Labels) -> None:
    """Fill `labels`."""
    if not len(X):
        return
    rows, xp = workplace(X, "gpu")
    shift = coarse_middle(xp.asarray(sample_of(rows)))
    search = CertifiedSearch.of(xp.asarray(centers), shift)

    def work(part: slice, block: Any) -> None:
        labels[part] = to_host(search.nearest(block).labels)

    each_block(work, rows, xp)


def most_similar(X: Matrix, directions: Matrix, device: Device = "cpu") -> tuple[Labels, Vector]:
    """Return the direction with the largest cosine to each row, and that cosine.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Of any length; no zero row.
    directions : ndarray of shape (n_directions, n_features), float32
        Of unit length; the cosine to a zero row is 0.
    device : {"cpu", "gpu"}, default "cpu"
        On a GPU the search is certified, and similarities are of float64.

    Returns
    -------
    nearest : ndarray of shape (n_samples,), int32
        Ties to the lower one. On a CPU, directions whose cosines differ by less than float32
        rounding may be taken for one another; equal ones never are.
    similarity : ndarray of shape (n_samples,), float32
        In [-1, 1].
    """
    nearest = np.empty(len(X), np.int32)
    similarity = np.empty(len(X), np.float32)
    if device == "gpu":
        _most_similar_on_gpu(X, directions, nearest, similarity)
        return nearest, similarity
    numbers, directions = _distinct(directions)
    search = Search.by_cosine(directions)
    if _is_shared(X):
        shards = Shards(X, "most similar directions")
        found: tuple[Labels, Vector] = joined(
            shards.map(_shard_similar, numbers, directions, *search.arrays)
        )
        return found

    def work(rows: slice) -> None:
        nearest[rows] = numbers[_similar_of(search, directions, X[rows], similarity[rows])]

    for _ in map_blocks(work, len(X), _tile_rows(len(X))):
        pass
    return nearest, similarity


def _similar_of(search: Search, directions: Matrix, tile: Matrix, cosine: Vector) -> Labels:
    """Return the most similar direction of each row of a tile, and fill `cosine`."""
    tile, lengths = _measured(np.ascontiguousarray(tile))
    found, _ = search.best(search.shifted(tile, lengths))
    for part in row_blocks(len(tile), GATHERED_ROWS):
        beside = search.rooms.get("gathered", tile[part].shape, directions.dtype)
        # all are inside: "clip" only because "raise" would write to another array first
        directions.take(found[part], axis=0, out=beside, mode="clip")
        np.vecdot(tile[part], beside, out=cosine[part])
    cosine /= lengths
    np.clip(cosine, -1, 1, out=cosine)
    return found


def _shard_similar(
    shard: Shard, numbers: Labels, directions: Matrix, *search: Any
) -> tuple[Labels, Vector]:
    known, similarity = Search(*search), np.empty(len(shard.X), np.float32)
    nearest = [
        numbers[_similar_of(known, directions, shard.X[rows], similarity[rows])]
        for rows in row_blocks(len(shard.X), TILE_ROWS)
    ]
    return np.concatenate(nearest), similarity


def _is_shared(X: Matrix) -> bool:
    """Whether other processes search for rows; shards are of whole tiles, if these are."""
    return sharing(X) is not None and _tile_rows(len(X)) == TILE_ROWS


def _tile_rows(n_rows: int) -> int:
    """Return the rows of a tile."""
    return max(LEAST_ROWS, min(TILE_ROWS, n_rows // PARTS))


def _measured(tile: Matrix) -> tuple[Matrix, Vector]:
    """Return rows, and their lengths; a row too short or too long for float32 has length 1."""
    with np.errstate(over="ignore"):
        sqnorms = np.vecdot(tile, tile)
    extreme = ~((sqnorms > LEAST_SQNORM) & (sqnorms < MOST_SQNORM))
    if extreme.any():
        tile = tile.copy()
        tile[extreme] = unit_rows(tile[extreme])
        sqnorms[extreme] = 1
    return tile, np.sqrt(sqnorms)


def _most_similar_on_gpu(
    X: Matrix, directions: Matrix, nearest: Labels, similarity: Vector
) -> None:
    """Fill `nearest` and `similarity`."""
    if not len(X):
        return
    rows, xp = workplace(X, "gpu")
    centers = _unit_in_float64(xp.asarray(directions))
    sqnorms = xp.einsum("ij,ij->i", centers, centers)
    shift = coarse_middle(unit_rows(xp.asarray(sample_of(rows))))
    search = CertifiedSearch.of(centers, shift, -sqnorms)

    def work(part: slice, block: Any) -> None:
        unit = unit_rows(block)
        found = search.nearest(unit).labels
        sqdist = pair_sqdist(unit, centers, xp.arange(len(unit), dtype=np.int32), found)
        lengths = xp.square(row_norms(unit))
        nearest[part] = to_host(found)
        similarity[part] = np.clip(to_host(lengths + sqnorms[found] - sqdist) / 2, -1, 1)

    each_block(work, rows, xp)


def _unit_in_float64(directions: Any) -> Any:
    """Return rows with the rounding of their lengths taken off: nearly parallel ones show it."""
    unit = directions.astype(np.float64)
    lengths = row_norms(directions)
    lengths[lengths == 0] = 1
    unit /= lengths[:, None]
    return unit


def _distinct(centers: Matrix) -> tuple[Labels, Matrix]:
    """Return the first of each group of equal centres: their numbers, rising, and themselves.

    A product may give equal columns other last bits, so ties are none to it.
    """
    numbers, _ = equal_groups(centers)
    return numbers.astype(np.int32), centers if len(numbers) == len(centers) else centers[numbers]
