"""How sure it is that a cluster is found again: as its own history of runs tells.

The stability of a cluster is the Jaccard index of its documents with those of the cluster that it
comes nearest to in the run before, averaged over the runs it has lived through, the latest five at
most. That is the measure of Hennig (2007, doi:10.1016/j.csda.2006.11.025), with the runs of a
definition, as data grow and change, in the place of his resampled ones. In his terms 0.75 and more
is a stable cluster, from 0.6 on there is a pattern, and below it is not to be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpucluster.artifacts import Run
from gpucluster.bases import full_run
from gpucluster.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_RUNS = 5  # back from the latest


@dataclass(frozen=True, slots=True)
class Stability:
    """How well a cluster was found again.

    Attributes
    ----------
    value : float or None
        In [0, 1]; None: no run before had it, or only centroids say which one it was.
    num_runs : int
        Passages from one run to the next that it is the mean of.
    """

    value: float | None
    num_runs: int


def measure_stability(run: Run) -> dict[str, Stability]:
    """Return the stability of each cluster of a run, by cluster id.

    Parameters
    ----------
    run : Run
        One that found clusters or moved them. Runs before it are looked for beside it; those
        that are not there end the history.
    """
    names: list[str] = run.fitted_centroids["cluster_id"].to_pylist()
    found: dict[str, list[float]] = {name: [] for name in names}
    followed = dict(zip(names, names, strict=True))
    here: Run | None = _fit(run)
    for _ in range(MOST_RUNS):
        lineage = None if here is None else here.manifest.lineage
        if here is None or here.lineage is None or lineage is None:
            break
        before = _beside(here, str(lineage["previous_run_id"]))
        links = _nearest(here.lineage)
        now, then = _stable_ids(here), {} if before is None else _stable_ids(before)
        further = {}
        for name, current in followed.items():
            if current not in links:
                continue
            previous, jaccard = links[current]
            found[name].append(jaccard)
            if then.get(previous) is not None and then[previous] == now.get(current):
                further[name] = previous  # the same cluster, so its history goes on
        followed, here = further, before
    return {
        name: Stability(sum(values) / len(values) if values else None, len(values))
        for name, values in found.items()
    }


def _fit(run: Run) -> Run | None:
    try:
        return full_run(run)
    except ArtifactError:  # whoever found the clusters is gone, and their history with it
        return None


def _beside(run: Run, name: str) -> Run | None:
    """Return the run of a name, if it lies beside `run`."""
    try:
        return Run.if_finished(run.path.parent / name)
    except ArtifactError:
        return None


def _nearest(lineage: pa.Table) -> dict[str, tuple[str, float]]:
    """Return for each cluster the one of the run before that shares most with it, and how much."""
    columns = ("cluster_id", "previous_cluster_id", "jaccard")
    rows = zip(*(lineage[name].to_pylist() for name in columns), strict=True)
    links: dict[str, tuple[str, float]] = {}
    for current, previous, jaccard in rows:
        if current is None or previous is None or jaccard is None:
            continue
        if current not in links or jaccard > links[current][1]:
            links[current] = previous, jaccard
    return links


def _stable_ids(run: Run) -> dict[str, str | None]:
    table = run.fitted_centroids.select(["cluster_id", "stable_id"]).to_pydict()
    return dict(zip(table["cluster_id"], table["stable_id"], strict=True))
