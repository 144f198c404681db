"""Points as few bytes: sorted so that neighbours differ little, rounded, and stored as differences.

Points lie by cluster, and within it along a Hilbert curve. Coordinates are 16 bits of the range
of all points, depth and similarity 8; the differences between one point and the next are
compressed. The browser's side is ``web/blocks.js``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpucluster.types import Labels, Matrix, Rows, Vector

BITS = 16  # of x and y
LEVELS = 255  # of z and similarity, whose last code means that there is none
NO_CLASS = 0xFFFF


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points to be drawn.

    Attributes
    ----------
    labels : ndarray of shape (n_points,), int32
        Index of the cluster; noise -1.
    coordinates : ndarray of shape (n_points, 2) or (n_points, 3), float32
        All finite.
    similarity : ndarray of shape (n_points,), float32
        To the own centroid; NaN where there is none.
    truth : ndarray of shape (n_points,), int32, or None
        Number of the true class; -1: not known. None where no point has one.
    """

    labels: Labels
    coordinates: Matrix
    similarity: Vector
    truth: Labels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Rows) -> Cloud:
        """Return some of the points, in this order."""
        truth = None if self.truth is None else self.truth[places]
        return Cloud(self.labels[places], self.coordinates[places], self.similarity[places], truth)


def curve_order(labels: Labels, coordinates: Matrix) -> Rows:
    """Return the order of points by cluster, and within it along the curve; ties as they are."""
    cells = [_levels(coordinates[:, axis], (1 << BITS) - 1)[0] for axis in (0, 1)]
    order: Rows = np.lexsort((hilbert(*cells), labels))
    return order


def encode(cloud: Cloud) -> tuple[dict[str, Any], bytes]:
    """Return what a reader needs to know of points, and their bytes.

    Parameters
    ----------
    cloud : Cloud
        In the order of `curve_order`.

    Returns
    -------
    head : dict
        ``length``; ``runs``: pairs of a cluster and its number of points; ``ranges``: of x, y, z
        and similarity; ``has_truth``: whether that follows.
    content : bytes
        Planes of one byte a point: low and high of x and y, then z, similarity, and low and high
        of the truth, as far as there are these.
    """
    planes: list[NDArray[np.uint8]] = []
    ranges: dict[str, list[float]] = {}
    for name, values in zip("xy", cloud.coordinates.T, strict=False):
        codes, ranges[name] = _levels(values, (1 << BITS) - 1)
        planes += _bytes(_folded(codes))
    flat = [("z", cloud.coordinates[:, 2])] if cloud.coordinates.shape[1] == 3 else []
    for name, values in (*flat, ("similarity", cloud.similarity)):
        if np.isfinite(values).any():
            codes, ranges[name] = _levels(values, LEVELS - 1)
            planes.append(np.where(np.isfinite(values), codes, LEVELS).astype(np.uint8))
    if cloud.truth is not None:
        planes += _bytes(np.where(cloud.truth < 0, NO_CLASS, cloud.truth).astype(np.uint16))
    starts = np.flatnonzero(np.diff(cloud.labels, prepend=cloud.labels[:1] - 1))
    counts = np.diff(starts, append=len(cloud))
    head = {
        "length": len(cloud),
        "runs": np.stack([cloud.labels[starts], counts], axis=1).tolist(),
        "ranges": ranges,
        "has_truth": cloud.truth is not None,
    }
    return head, b"".join(plane.tobytes() for plane in planes)


def hilbert(x: NDArray[np.uint16], y: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Return how far along the Hilbert curve through a grid of 2^16 by 2^16 each cell lies."""
    right, up = x.astype(np.uint32), y.astype(np.uint32)
    along = np.zeros(len(right), np.uint32)
    for bit in range(BITS - 1, -1, -1):
        in_right, in_up = right >> np.uint32(bit) & 1, up >> np.uint32(bit) & 1
        along += ((3 * in_right) ^ in_up) << np.uint32(2 * bit)
        turned = (in_up == 0) & (in_right == 1)
        mask = np.uint32((1 << bit) - 1)
        right, up = right & mask, up & mask
        right[turned], up[turned] = mask - right[turned], mask - up[turned]
        lower = in_up == 0
        right[lower], up[lower] = up[lower], right[lower]
    return along


def _levels(values: Vector, most: int) -> tuple[NDArray[np.uint16], list[float]]:
    """Return finite values as whole numbers up to `most`, and what the ends stand for."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    step = (high - low) / most or 1.0
    codes = np.rint((np.nan_to_num(values, nan=low).astype(np.float64) - low) / step)
    return np.clip(codes, 0, most).astype(np.uint16), [low, high]


def _folded(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return differences to the code before, those next to zero as the smallest numbers."""
    steps = np.diff(codes, prepend=np.zeros(1, np.uint16)).astype(np.int16)  # modulo 2^16
    return ((steps << 1) ^ (steps >> 15)).astype(np.uint16)


def _bytes(codes: NDArray[np.uint16]) -> Sequence[NDArray[np.uint8]]:
    """Return the low and the high bytes."""
    return (codes & 0xFF).astype(np.uint8), (codes >> 8).astype(np.uint8)
