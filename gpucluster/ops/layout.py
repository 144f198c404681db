"""Coordinates in few dimensions that put the neighbours of a graph next to each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.fuzzy import FuzzyGraph
from gpucluster.ops.lines import LANES, LINE_BYTES
from gpucluster.types import Matrix

BLOCK_ROWS = 2048
PUSHES = 5  # from other rows, for each pull along an edge
DRAWN = 2  # rows that stand for them: fewer, and each pushes harder
REACH = 4  # greatest move of one force along one axis


def padded(n_components: int) -> int:
    """Return how many numbers a row of the layout takes while it moves."""
    return -(-n_components // LANES) * LANES


def optimise_layout(
    graph: FuzzyGraph,
    start: Matrix,
    *,
    n_epochs: int,
    min_dist: float,
    random_state: int,
    reporter: Reporter,
) -> Matrix:
    """Move vertices until those that an edge joins are near and all others far.

    Parameters
    ----------
    graph : FuzzyGraph
    start : ndarray of shape (n_samples, n_components), float32
        First coordinates, within about 10 of zero. Not written to.
    n_epochs : int
        Times that each vertex moves; the length of the moves falls to zero over them.
    min_dist : float
        Distance below which near is near enough.
    random_state : int
    reporter : Reporter
        Told after each epoch; asked for cancellation.

    Returns
    -------
    ndarray of shape (n_samples, n_components), float32

    Notes
    -----
    The forces are those of UMAP: along an edge of weight w in a share w of the epochs, and away
    from rows drawn at random, `PUSHES` times as much as there are edges. What differs is when
    vertices move: in an epoch all forces are those between the places that the epoch before left,
    and a vertex moves by their sum. So no two threads write one vertex, the result does not depend
    on how many there are, and what pulls one end of an edge pulls the other as much. (Where each
    vertex takes its pulls one after the other, it is back among its neighbours before they see
    that it was drawn away, and groups that belong together do not find each other.) Forces are
    read from a table by the leading bits of the squared distance, which say it to within 0.4 %.

    Coordinates are padded to cache lines (`padded`): 5 dimensions cost as much as 16. Extra
    memory: two such layouts.

    References
    ----------
    McInnes, Healy, Melville 2018, arXiv:1802.03426, section 3.2.
    """
    from gpucluster.ops.compiled_layout import move

    n_samples, n_components = start.shape
    width = padded(n_components)
    edges = graph.starts, graph.targets, graph.weights
    forces = _forces(*kernel_parameters(min_dist), n_components)
    now, then = _lines(n_samples, width), _lines(n_samples, width)
    now[:, :n_components] = start
    for epoch in range(n_epochs):
        left = np.float32(1 - epoch / n_epochs)

        def work(
            rows: slice, now: Any = now, then: Any = then, epoch: int = epoch, left: Any = left
        ) -> None:
            # an edge acts for its head and for its tail
            steps = np.float32(2) * left, left * np.float32(PUSHES / DRAWN)
            bounds = rows.start, rows.stop
            move(bounds, now, then, edges, forces, steps, epoch, DRAWN, random_state)

        for _ in map_blocks(work, n_samples, BLOCK_ROWS):
            pass
        now, then = then, now
        reporter.progress(epoch + 1, n_epochs, "epochs")
    return np.ascontiguousarray(now[:, :n_components])


def _lines(n_samples: int, width: int) -> Matrix:
    """Return zeros, no row of which lies across more cache lines than it must."""
    size = 4 * n_samples * width
    room = np.zeros(size + LINE_BYTES, np.uint8)
    first = -room.ctypes.data % LINE_BYTES
    return room[first : first + size].view(np.float32).reshape(n_samples, width)


def kernel_parameters(min_dist: float) -> tuple[float, float]:
    """Return a and b of ``1 / (1 + a d**(2 b))``, the likelihood that rows at distance d are near.

    Least squares over distances up to 3, against 1 up to `min_dist` and an exponential fall
    beyond it, as umap-learn fits them.
    """
    distance = np.linspace(0, 3, 300)[1:]
    wanted = np.exp(-np.maximum(distance - min_dist, 0))
    log_distance = 2 * np.log(distance)
    log_a, b = 0.0, 1.0
    for _ in range(50):  # Gauss-Newton; it is at rest after a dozen
        power = np.exp(log_a + b * log_distance)
        near = 1 / (1 + power)
        slope = -(near**2) * power
        system = np.column_stack((slope, slope * log_distance))
        change = np.linalg.lstsq(system, wanted - near, rcond=None)[0]
        change *= min(1.0, 1 / max(1e-9, float(np.abs(change).max())))
        log_a, b = log_a + float(change[0]), b + float(change[1])
    return math.exp(log_a), b


def _forces(a: float, b: float, n_components: int) -> tuple[Any, Any]:
    """Return pull and push over distance, by the leading bits of the squared distance."""
    from gpucluster.ops.compiled_layout import CELL_BITS, N_CELLS

    cells = (np.arange(N_CELLS, dtype=np.uint32) << CELL_BITS) + (1 << CELL_BITS >> 1)
    with np.errstate(over="ignore", invalid="ignore"):  # the last cells are no numbers
        sqdist = cells.view(np.float32).astype(np.float64)
        far = 1 + a * sqdist**b
        pull = 2 * a * b * sqdist ** (b - 1) / far
        push = 2 * b / ((0.001 + sqdist) * far)
        longest = REACH * math.sqrt(n_components) / np.sqrt(sqdist)
    pull = np.nan_to_num(np.minimum(pull, longest))
    push = np.nan_to_num(np.minimum(push, longest * DRAWN / PUSHES))
    return pull.astype(np.float32), push.astype(np.float32)
