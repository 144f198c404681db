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
from gpucluster.ops.streaming import each_block, workplace
from gpucluster.types import Labels, Matrix, Vector

TILE_ROWS, TILE_CENTERS = 1024, 4096  # of one product: 16 MB
GATHERED_ROWS = 128  # whose directions lie side by side for a moment, in the second cache
LEAST_SQNORM, MOST_SQNORM = 1e-20, 1e30  # between them, no square that counts is lost in float32


class Search:
    """Largest of the scores ``x.c - bias`` of fixed centres, in float32.

    A large offset that is common to the centres is taken off both sides first.
    """

    def __init__(self, centers: Matrix, shift: Any, bias: Any) -> None:
        self.centers, self.shift, self.bias = np.ascontiguousarray(centers), shift, bias
        self._own = threading.local()

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
        rest = _unit_in_float64(directions) - middle
        # x.c = (x - m).(c - m) + m.(c - m) + x.m, whose end is the same for all centres
        return cls(rest.astype(np.float32), shift, -(rest @ middle).astype(np.float32))

    def shifted(self, tile: Matrix) -> Matrix:
        """Return rows less what is taken off the centres."""
        return tile if self.shift is None else tile - self.shift

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
            centers = self.centers[cols]
            scores = np.matmul(tile, centers.T, out=self._room(tile, centers))
            if self.bias is not None:
                scores -= self.bias[cols]
            found = scores.argmax(axis=1)
            score = scores[own, found]
            closer = score > best
            nearest[closer], best[closer] = found[closer] + cols.start, score[closer]
        return nearest, best

    def _room(self, tile: Matrix, centers: Matrix) -> Matrix:
        """Return where the scores go: one place for each thread, as new memory is slow at first."""
        size = len(tile) * len(centers)
        room = getattr(self._own, "room", None)
        if room is None or room.size < size:
            room = self._own.room = np.empty(size, np.result_type(tile, centers))
        return room[:size].reshape(len(tile), len(centers))


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

    def work(rows: slice) -> None:
        tile = search.shifted(np.ascontiguousarray(X[rows]))
        labels[rows] = numbers[search.best(tile)[0]]

    for _ in map_blocks(work, len(X), TILE_ROWS):
        pass
    return labels


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

    def work(rows: slice) -> None:
        tile, lengths = _measured(np.ascontiguousarray(X[rows]))
        # the length of a row changes nothing about which product is its largest
        unit = tile if search.shift is None else search.shifted(tile / lengths[:, None])
        found, _ = search.best(unit)
        nearest[rows] = numbers[found]
        cosine = similarity[rows]
        for part in row_blocks(len(tile), GATHERED_ROWS):
            np.vecdot(tile[part], directions[found[part]], out=cosine[part])
        cosine /= lengths
        np.clip(cosine, -1, 1, out=cosine)

    for _ in map_blocks(work, len(X), TILE_ROWS):
        pass
    return nearest, similarity


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
