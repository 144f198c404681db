"""What became of the clusters of one run in the next, and which of them are the same.

Each previous cluster has one fate. Shares are of its documents that both runs have.

1. It is *split* when at least two current clusters are parts of it that hold together at least
   half of it. A part holds at least a quarter of it. Where no current cluster holds half of it, one
   that comes to at least half from it is a part too: so many small parts are a split as well.
2. Else it goes into the cluster that carries its identity on, or into the one that holds at least
   half of it. It is *merged* when another previous cluster goes there: by the same rule, or a
   split one that leaves half of itself or its identity there.
3. Else it *survived* when that cluster carries its identity on.
4. Else it *died*: its documents are gone, noise, scattered, or few in a cluster of others.

A current cluster that is not in any link of these is *born*.

Identity goes on, one to one, between clusters of a Jaccard index of at least 1/3, which is a Dice
coefficient of 1/2. Of such pairs those are taken whose indices have the largest sum. So a split or
a merged cluster may go on as well, as a rule in its largest part or from its largest source.

The fates, and half as the share that decides, are those of MONIC (Spiliopoulou et al. 2006,
doi:10.1145/1150402.1150491). Identity by the Jaccard index, and small parts, are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.identity.centroids import separation, similar_centroids
from gpucluster.identity.matching import best_matching
from gpucluster.identity.overlap import Overlap
from gpucluster.types import NOISE, Labels, Matrix, Vector64, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["survived", "split", "merged", "born", "died"]
KINDS: tuple[Kind, ...] = ("survived", "split", "merged", "born", "died")


@dataclass(frozen=True, slots=True)
class Lineage:
    """The links between the clusters of two runs.

    Every cluster of both runs is in at least one row. Rows are sorted by the previous cluster,
    then by the current one; those of born clusters come last.

    Attributes
    ----------
    kind : ndarray of shape (n_links,), str
        One of `KINDS`; the same for all rows of a previous cluster.
    previous : ndarray of shape (n_links,), int32
        -1: born.
    current : ndarray of shape (n_links,), int32
        -1: died.
    num_shared : ndarray of shape (n_links,), int64
        Documents in both clusters; 0 where there is one cluster, or matched by centroids.
    share_of_previous, share_of_current, jaccard : ndarray of shape (n_links,), float64
        Of the documents that both runs have; NaN where there is one cluster, or matched by
        centroids.
    cosine : ndarray of shape (n_links,), float64
        Of the two centroids; NaN where there is one cluster, or matched by documents.
    carried : ndarray of shape (n_current,), int32
        The previous cluster whose identity each current cluster carries on; -1 where it is new.
    """

    kind: NDArray[np.str_]
    previous: Labels
    current: Labels
    num_shared: Weights
    share_of_previous: Vector64
    share_of_current: Vector64
    jaccard: Vector64
    cosine: Vector64
    carried: Labels

    @property
    def counts(self) -> dict[Kind, int]:
        """Previous clusters that survived, split, died; current ones that merged or were born."""
        ends = dict.fromkeys(KINDS, self.previous)
        ends["merged"] = ends["born"] = self.current
        return {kind: len(np.unique(ends[kind][self.kind == kind])) for kind in KINDS}


def by_documents(
    overlap: Overlap,
    *,
    min_jaccard: float = 1 / 3,
    split_share: float = 0.25,
    min_share: float = 0.5,
) -> Lineage:
    """Relate the clusters of two runs by the documents that both have.

    Parameters
    ----------
    overlap : Overlap
    min_jaccard : float, default 1/3
        Least Jaccard index of a pair whose identity goes on, at least `split_share`.
    split_share : float, default 0.25
        Least share of a cluster that is a part of it, positive.
    min_share : float, default 0.5
        Least share of a cluster that decides where it goes, in [0.5, 1].

    Returns
    -------
    Lineage
        By the rules above.

    Raises
    ------
    ConfigError
        The shares are not ``0 < split_share <= min_jaccard <= 1`` and ``0.5 <= min_share <= 1``.
        Else a cluster that is not split could go to two.

    Notes
    -----
    What is split one way is merged the other way where one run only divides clusters of the other,
    without noise, and no part below a quarter stands beside one of half or more. Else the two are
    no mirror images: to lose a small part is to survive, and to take in a small cluster is not.

    Extra memory: about 100 bytes a pair of clusters that share documents.
    """
    if not (0 < split_share <= min_jaccard <= 1 and 0.5 <= min_share <= 1):
        raise ConfigError(
            f"got split_share {split_share}, min_jaccard {min_jaccard}, min_share {min_share}; "
            "0 < split_share <= min_jaccard <= 1 and 0.5 <= min_share <= 1 expected"
        )
    before, after = overlap.previous, overlap.current
    n_previous, n_current = len(overlap.previous_sizes), len(overlap.current_sizes)
    jaccard, share_of_previous = overlap.jaccard, overlap.share_of_previous
    # Pairs below the least index are no candidates: the sum must not prefer two of them to one that
    # carries on.
    close = np.flatnonzero(jaccard >= min_jaccard)
    carried = _carried(before[close], after[close], jaccard[close], n_previous, n_current)
    carries = carried[after] == before

    holds = share_of_previous >= min_share
    is_part = carries | (share_of_previous >= split_share)
    scattered = np.bincount(before[holds], minlength=n_previous) == 0
    is_part |= scattered[before] & (overlap.share_of_current >= min_share)
    n_parts = np.bincount(before[is_part], minlength=n_previous)
    in_parts = np.bincount(before[is_part], overlap.num_shared[is_part], n_previous)
    splits = (n_parts >= 2) & (in_parts >= min_share * overlap.previous_sizes)

    # A cluster that is not split has one such link at most: two would be two parts.
    goes = holds | carries
    is_merged = np.bincount(after[goes], minlength=n_current) >= 2
    kind = np.select(
        [splits[before] & is_part, splits[before] | ~goes, is_merged[after], carries],
        ["split", "", "merged", "survived"],
        "",
    )
    kept = np.flatnonzero(kind != "")
    return _lineage(
        kind[kept],
        (before[kept], after[kept]),
        overlap.num_shared[kept],
        (share_of_previous[kept], overlap.share_of_current[kept], jaccard[kept]),
        np.full(len(kept), np.nan),
        carried,
        n_previous,
    )


def by_centroids(
    previous_vectors: Matrix,
    current_vectors: Matrix,
    min_cosine: float = 0.5,
    reporter: Reporter | None = None,
) -> Lineage:
    """Relate the clusters of two runs by their centroids: for runs without a common document.

    A pair is accepted when no other cluster of either run is nearer to its own centroid than the
    two are to each other, whatever the scale. Of accepted pairs those are taken, one to one, whose
    cosines have the largest sum.

    Parameters
    ----------
    previous_vectors : ndarray of shape (n_previous, n_features), float32
        In the space of the documents, of any length; a zero vector is like nothing.
    current_vectors : ndarray of shape (n_current, n_features), float32
    min_cosine : float, default 0.5
        Least cosine of a pair, in (0, 1].
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    Lineage
        Clusters survived, died or were born; who split or merged only documents can tell.

    Raises
    ------
    ConfigError
        `min_cosine` is not in (0, 1].
    ShapeError
        The runs have another number of features.

    Notes
    -----
    Three searches among all pairs of centroids. Extra memory: that of `similar_centroids`.
    """
    if not 0 < min_cosine <= 1:
        raise ConfigError(f"got {min_cosine}, a cosine in (0, 1] expected", path="min_cosine")
    rows, cols, cosines = similar_centroids(previous_vectors, current_vectors, reporter=reporter)
    near = cosines >= min_cosine
    near &= cosines >= separation(previous_vectors, reporter)[rows]
    near &= cosines >= separation(current_vectors, reporter)[cols]
    rows, cols, cosines = rows[near], cols[near], cosines[near]
    n_previous, n_current = len(previous_vectors), len(current_vectors)
    carried = _carried(rows, cols, cosines, n_previous, n_current)
    kept = np.flatnonzero(carried[cols] == rows)
    nothing = np.full(len(kept), np.nan)
    return _lineage(
        np.full(len(kept), "survived"),
        (rows[kept], cols[kept]),
        np.zeros(len(kept), np.int64),
        (nothing, nothing, nothing),
        cosines[kept],
        carried,
        n_previous,
    )


def _carried(
    rows: Labels, cols: Labels, weights: Vector64, n_previous: int, n_current: int
) -> Labels:
    """Return the previous cluster of each current one in the best matching; -1 without one."""
    carried = np.full(n_current, NOISE, np.int32)
    matched, taken = best_matching(rows, cols, weights, (n_previous, n_current))
    carried[taken] = matched
    return carried


def _lineage(
    kind: NDArray[np.str_],
    ends: tuple[Labels, Labels],
    num_shared: Weights,
    shares: tuple[Vector64, Vector64, Vector64],
    cosine: Vector64,
    carried: Labels,
    n_previous: int,
) -> Lineage:
    """Add a row for each cluster that no link has, and sort."""
    died = np.setdiff1d(np.arange(n_previous, dtype=np.int32), ends[0])
    born = np.setdiff1d(np.arange(len(carried), dtype=np.int32), ends[1])
    nobody = np.full(max(len(died), len(born)), NOISE, np.int32)
    previous = np.concatenate((ends[0], died, nobody[: len(born)]))
    current = np.concatenate((ends[1], nobody[: len(died)], born))
    kind = np.concatenate((kind, np.full(len(died), "died"), np.full(len(born), "born")))
    order = np.lexsort((current, previous, previous < 0))
    n_alone = len(died) + len(born)

    num_shared = np.append(num_shared, np.zeros(n_alone, np.int64))
    nothing = np.full((4, n_alone), np.nan)
    known = np.concatenate((np.stack((*shares, cosine)), nothing), axis=1)[:, order]
    of_previous, of_current, jaccard, cosine = known
    return Lineage(
        kind[order],
        previous[order],
        current[order],
        num_shared[order],
        of_previous,
        of_current,
        jaccard,
        cosine,
        carried,
    )
