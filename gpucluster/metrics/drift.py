"""How far rows that joined clusters are from the rows that the clusters were found in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 50  # of what chance alone would give
MOST_NAMED = 100
BEYOND_CHANCE = 3.0  # standard deviations


@dataclass(frozen=True, slots=True)
class Stock:
    """Rows of one time, as far as drift is about them.

    Attributes
    ----------
    counts : ndarray of shape (n_clusters,), int64
        Members of each cluster of the first level.
    n_rows : int
        Members and noise.
    mean : ndarray of shape (n_features,), float64
        Mean unit row.
    mean_cosine : float or None
        Of members to the centroids; None without members.
    """

    counts: Any
    n_rows: int
    mean: Any
    mean_cosine: float | None

    @property
    def noise_ratio(self) -> float:
        """Share of rows that are no members."""
        return 1 - int(self.counts.sum()) / self.n_rows


def jensen_shannon(first: Any, second: Any) -> float:
    """Return the Jensen-Shannon divergence of two distributions, base 2.

    Parameters
    ----------
    first, second : ndarray of shape (n_clusters,)
        Counts or shares, not negative; the sum of each is not 0.

    Returns
    -------
    float
        In [0, 1].

    References
    ----------
    Lin 1991, doi:10.1109/18.61115.
    """
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2

    def entropy_beside(shares: Any) -> float:
        held = shares > 0
        return float((shares[held] * np.log2(shares[held] / middle[held])).sum())

    return min(1.0, max(0.0, (entropy_beside(p) + entropy_beside(q)) / 2))


def measure_drift(
    base: Stock,
    new: Stock,
    growth: float,
    random_state: int = 42,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compare rows that joined clusters with those of the base run.

    Parameters
    ----------
    base : Stock
        Rows of the fit, under the thresholds that held for the new ones.
    new : Stock
        At least one row.
    growth : float
        Rows that came since the fit, for each of its rows.
    random_state : int
        Of the draws that tell what chance gives.
    names : sequence of str, optional
        Ids of the clusters; omitted: ``cl_0``, ``cl_1``, ...

    Returns
    -------
    dict
        ``noise_ratio_rise``, ``mean_cosine_fall``, ``growth``; ``share_divergence``, and
        ``share_divergence_expected``, its mean where both are draws of the same shares;
        ``mean_shift``, the distance of the mean rows, and ``mean_shift_expected``;
        ``cosine_drift``, 1 - cosine of the mean rows; ``surged``, the clusters whose share at
        least doubled beyond chance, largest first; and what these were computed from. None where
        something cannot be computed.
    """
    drift: dict[str, Any] = {
        "num_new": new.n_rows,
        "growth": growth,
        "noise_ratio": new.noise_ratio,
        "noise_ratio_base": base.noise_ratio,
        "noise_ratio_rise": new.noise_ratio - base.noise_ratio,
        "mean_cosine_base": base.mean_cosine,
        "mean_cosine_fall": None,
        "share_divergence": None,
        "share_divergence_expected": None,
        "surged": [],
    }
    if base.mean_cosine is not None and new.mean_cosine is not None:
        drift["mean_cosine_fall"] = base.mean_cosine - new.mean_cosine
    apart = new.mean - base.mean
    scatter = max(0.0, 1 - float(base.mean @ base.mean))  # of unit rows around their mean
    drift["mean_shift"] = float(np.sqrt(apart @ apart))
    drift["mean_shift_expected"] = float(np.sqrt(scatter * (1 / new.n_rows + 1 / base.n_rows)))
    lengths = float(np.sqrt((base.mean @ base.mean) * (new.mean @ new.mean)))
    cosine = float(base.mean @ new.mean) / lengths if lengths else None
    drift["cosine_drift"] = None if cosine is None else 1 - min(1.0, max(-1.0, cosine))
    if base.counts.sum() and new.counts.sum():
        drift["share_divergence"] = jensen_shannon(base.counts, new.counts)
        drift["share_divergence_expected"] = _by_chance(base.counts, new.counts, random_state)
        drift["surged"] = _surged(base, new, names)
    return drift


def _by_chance(base: Any, new: Any, random_state: int) -> float:
    """Return the divergence that two samples of these sizes have from the same shares, on average.

    It is no small number where rows are few and clusters many.
    """
    rng = np.random.default_rng(random_state)
    shares = base / base.sum()
    draws = max(5, min(DRAWS, 5_000_000 // max(1, len(base))))
    drawn = [
        jensen_shannon(*(rng.multinomial(counts.sum(), shares) for counts in (base, new)))
        for _ in range(draws)
    ]
    return float(np.mean(drawn))


def _surged(base: Stock, new: Stock, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the clusters whose share is twice as large or more, by more than chance gives."""
    before, now = base.counts / base.n_rows, new.counts / new.n_rows
    doubled = 2 * before * new.n_rows
    rare = new.counts - doubled >= BEYOND_CHANCE * np.sqrt(np.maximum(doubled, 1))
    found = np.flatnonzero((now >= 2 * before) & rare)
    found = found[np.argsort(-now[found], kind="stable")]
    found = found[:MOST_NAMED]
    return [
        {
            "cluster_id": f"cl_{cluster}" if names is None else names[cluster],
            "share": float(now[cluster]),
            "share_base": float(before[cluster]),
        }
        for cluster in found.tolist()
    ]
