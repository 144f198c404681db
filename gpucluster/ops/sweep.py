"""What each size of a cluster would give, from one dendrogram, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gpucluster.errors import ConfigError
from gpucluster.ops.tree import Dendrogram, FlatClusters, Rule, flat_clusters

FIRST_SIZE = 5
LAST_SHARE = 20  # the largest size is the number of rows divided by it
TRIVIAL = 2  # so many clusters, or fewer, are no plateau where there is another
CHANGE = 0.1  # of the number of clusters, below which it counts as the same
DROP = 1 / 3  # of the number of clusters, above which a step is a cliff


@dataclass(frozen=True, slots=True)
class SweepRow:
    """What one size gives.

    Attributes
    ----------
    min_cluster_size : int
    n_clusters : int
    noise_ratio : float
        Share of the rows that are noise.
    persistence : float or None
        Mean over the clusters of `FlatClusters.persistence`; None without clusters.
    is_plateau : bool
        Whether it lies on the widest plateau.
    is_cliff : bool
        Whether the number of clusters changes by more than a third up to the next size, that
        is 10 % larger, or larger by one.
    """

    min_cluster_size: int
    n_clusters: int
    noise_ratio: float
    persistence: float | None
    is_plateau: bool
    is_cliff: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """What each of some sizes gives, everything else being fixed.

    Attributes
    ----------
    rows : tuple of SweepRow
        By rising size.
    recommended : int or None
        The size in the middle of the widest plateau; None when there is no plateau.
    min_samples : int
        The value that was used for all sizes.
    """

    rows: tuple[SweepRow, ...]
    recommended: int | None
    min_samples: int

    def row(self, min_cluster_size: int) -> SweepRow:
        """Return the row of a size, or raise `KeyError`."""
        for row in self.rows:
            if row.min_cluster_size == min_cluster_size:
                return row
        raise KeyError(min_cluster_size)


def next_size(size: int) -> int:
    """Return the size that is 10 % larger, or larger by one."""
    return max(size + 1, size * 11 // 10)


def default_sizes(n_rows: int) -> tuple[int, ...]:
    """Return sizes from 5 to a twentieth of the rows, each 10 % larger than the one before."""
    sizes = [FIRST_SIZE]
    while next_size(sizes[-1]) <= n_rows // LAST_SHARE:
        sizes.append(next_size(sizes[-1]))
    return tuple(sizes)


def check_sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    """Return sizes that were asked for, or raise `ConfigError` when they are none."""
    sizes = tuple(sizes)
    if min(sizes, default=0) < 2:
        raise ConfigError(f"got {list(sizes)}, expected sizes of 2 and more", path="sizes")
    return sizes


def sweep(tree: Dendrogram, rule: Rule, sizes: Iterable[int], min_samples: int) -> Sweep:
    """Select clusters for each size, and find the widest plateau.

    Parameters
    ----------
    tree : Dendrogram
        Of at least two points.
    rule : Rule
    sizes : iterable of int
        Values of ``min_cluster_size``, each at least 2.
    min_samples : int
        What the dendrogram was made with; noted in the result.

    Returns
    -------
    Sweep

    Notes
    -----
    A plateau is a run of two or more neighbouring sizes over which the number of clusters changes
    by less than 10 % of its maximum; where clusters are shaved off at random the number falls
    about as the size rises, and there is none. Its width is the logarithm of the ratio of its
    ends, times the mean over its sizes of the persistence, of the share of rows in clusters, and
    of the root of the number of clusters: a number that is stable because clusters are faint,
    or all else is noise, counts less, and that of a few clusters is more easily stable by chance
    (of k events about the root of k). Of equally wide ones the first is taken. Sizes that give
    one or two clusters are left out, unless there is no other plateau.
    """
    sizes = sorted(set(sizes))
    found = {size: flat_clusters(tree, size, rule) for size in sizes}
    counts = {size: _count(clusters) for size, clusters in found.items()}
    for size in sizes:
        step = next_size(size)
        if step not in counts:
            counts[step] = _count(flat_clusters(tree, step, rule))
    noise = [
        float(tree.weights[clusters.labels < 0].sum() / tree.total) for clusters in found.values()
    ]
    persistence = [
        float(clusters.persistence.mean()) if len(clusters.persistence) else None
        for clusters in found.values()
    ]
    clarity = [
        (p or 0) * (1 - n) * math.sqrt(counts[size])
        for size, p, n in zip(sizes, persistence, noise, strict=True)
    ]
    plateau = _widest_plateau(sizes, [counts[size] for size in sizes], clarity)
    middle = math.sqrt(plateau[0] * plateau[-1]) if plateau else 0
    rows = tuple(
        SweepRow(
            min_cluster_size=size,
            n_clusters=counts[size],
            noise_ratio=noise[position],
            persistence=persistence[position],
            is_plateau=size in plateau,
            is_cliff=_falls(counts[size], counts[next_size(size)]),
        )
        for position, size in enumerate(sizes)
    )
    recommended = min(plateau, key=lambda size: abs(math.log(size / middle)), default=None)
    return Sweep(rows, recommended, min_samples)


def cliff_near(tree: Dendrogram, rule: Rule, size: int, n_clusters: int) -> tuple[int, int] | None:
    """Return a size within 10 % of `size` that gives another result altogether.

    Parameters
    ----------
    tree : Dendrogram
    rule : Rule
    size : int
    n_clusters : int
        What `size` gives.

    Returns
    -------
    tuple of int, or None
        A smaller or larger size, and its number of clusters, that differs by more than a third.
    """
    smaller = min(size - 1, -(-size * 10 // 11))
    for other in (next_size(size), smaller):
        if other >= 2 and other < tree.total:
            count = _count(flat_clusters(tree, other, rule))
            if _falls(n_clusters, count):
                return other, count
    return None


def _count(found: FlatClusters) -> int:
    return len(found.persistence)


def _falls(before: int, after: int) -> bool:
    return abs(before - after) > DROP * max(before, after)


def _widest_plateau(
    sizes: Sequence[int], counts: Sequence[int], clarity: Sequence[float]
) -> list[int]:
    """Return the sizes of the widest plateau; none when there is no plateau."""
    for least in (TRIVIAL, 0):
        best, width = range(0), 0.0
        for run in _runs(counts, least):
            clear = sum(clarity[i] for i in run) / len(run)
            if math.log(sizes[run[-1]] / sizes[run[0]]) * clear > width:
                best, width = run, math.log(sizes[run[-1]] / sizes[run[0]]) * clear
        if best:
            return [sizes[i] for i in best]
    return []


def _runs(counts: Sequence[int], least: int) -> Iterator[range]:
    """Yield the positions of each run of counts above `least` that change by less than `CHANGE`."""
    for first in range(len(counts)):
        low = high = counts[first]
        for last in range(first, len(counts)):
            low, high = min(low, counts[last]), max(high, counts[last])
            if low <= least or high - low >= CHANGE * high:
                break
            yield range(first, last + 1)
