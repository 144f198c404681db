"""Names of clusters that stay the same from run to run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from gpucluster.errors import ShapeError
from gpucluster.types import Labels

PREFIX, DIGITS = "st_", 16


def stable_ids(
    carried: Labels,
    previous_stable_ids: Sequence[str | None],
    run_id: str,
    cluster_ids: Sequence[str],
) -> list[str]:
    """Name the clusters of a run: by the name that is carried on, or by a new one.

    Parameters
    ----------
    carried : ndarray of shape (n_current,), int32
        The previous cluster whose identity each cluster carries on; -1 where it is new.
    previous_stable_ids : sequence of n_previous (str or None)
        None where a previous cluster has no such name: the current one gets a new one.
    run_id : str
        Of the current run.
    cluster_ids : sequence of n_current str
        Of its clusters.

    Returns
    -------
    list of n_current str
        Each once. New ones are ``st_`` and 16 hexadecimal digits of the SHA-256 of run and
        cluster, and none of them is a previous one.

    Raises
    ------
    ShapeError
        There is not one id for each cluster.
    """
    if len(carried) != len(cluster_ids):
        raise ShapeError(f"got {len(cluster_ids)} cluster ids for {len(carried)} clusters")
    known = {name for name in previous_stable_ids if name}
    named: set[str] = set()
    found = []
    for old, cluster_id in zip(carried.tolist(), cluster_ids, strict=True):
        name = None if old < 0 else previous_stable_ids[old]
        if not name or name in named:  # of two previous clusters of one name the first goes on
            new = _minted(run_id, cluster_id)
            name = next(each for each in new if each not in known and each not in named)
        named.add(name)
        found.append(name)
    return found


def _minted(run_id: str, cluster_id: str) -> Iterator[str]:
    """Yield names for a cluster; the first one, unless it is taken."""
    key = f"{run_id}\0{cluster_id}"
    while True:
        key = hashlib.sha256(key.encode()).hexdigest()
        yield PREFIX + key[:DIGITS]
