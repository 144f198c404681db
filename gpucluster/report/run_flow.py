"""The clusters of runs and the documents that they share, as a flow between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.report.flow import Bars, Column, arrange, most_documents, ribbons
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.types import Labels


def column_of(run: Run, identity: Labels, born: Labels, died: Labels) -> Column:
    """Return the clusters of the first level of a run.

    Parameters
    ----------
    run : Run
    identity : ndarray of shape (n_clusters,), int32
        The cluster of the last run that each is carried on by; -1: none.
    born, died : ndarray of int32
        Clusters of no cluster of the run before; those that go into none of the next.
    """
    from gpucluster.ops.nesting import labels_at

    n_clusters = run.num_clusters
    labels = run.member_columns(["cluster_index"])["cluster_index"].to_numpy()
    labels = labels_at(labels, run.parents, 0)
    was_born, dies = np.zeros((2, n_clusters), np.bool_)
    was_born[born] = dies[died] = True
    nodes = run.centroids.slice(0, n_clusters).select(["cluster_id", "label"]).to_pylist()
    return Column(
        title=f"{run.run_id[:12]}  {run.manifest.completed_at:%Y-%m-%d}",
        names=[node["label"] or node["cluster_id"] for node in nodes],
        sizes=np.bincount(labels[labels >= 0], minlength=n_clusters),
        n_noise=int(np.count_nonzero(labels < 0)),
        identity=identity,
        was_born=was_born,
        dies=dies,
    )


def links_between(
    previous: Run, current: Run, before: Labels, now: Labels, *, matched_by: str
) -> Any:
    """Return the documents that clusters of the first level of two runs share.

    Parameters
    ----------
    previous, current : Run
    before, now : ndarray of shape (n_links,), int32
        Clusters that were linked; -1: none.
    matched_by : {"documents", "centroids"}
        By centroids no document is shared: a link has as many as its smaller cluster.

    Returns
    -------
    ndarray of shape (n_links, 3), int64
        A cluster of the one run, of the other (noise is -1), and how many documents.
    """
    from gpucluster.identity import shared_rows
    from gpucluster.ops.nesting import labels_at

    runs = previous, current
    if matched_by == "centroids":
        sizes = [run.centroids["num_members"].to_numpy() for run in runs]
        both = (before != NOISE) & (now != NOISE)
        before, now = before[both], now[both]
        return np.column_stack((before, now, np.minimum(sizes[0][before], sizes[1][now])))
    members = [run.assigned_documents() for run in runs]
    shared = shared_rows(members[0][0], members[1][0])
    pairs = np.column_stack(
        [
            labels_at(labels, run.parents, 0)[rows]
            for run, (_, labels), rows in zip(runs, members, shared, strict=True)
        ]
    )
    different, counts = np.unique(pairs, axis=0, return_counts=True)
    return np.column_stack((different, counts))


def flow_since(previous: Run, run: Run) -> dict[str, Any] | None:
    """Return how the clusters of a run follow those of the run before, as JSON values.

    What was written with the run is taken, not found anew. None: one of them has no cluster.

    Parameters
    ----------
    previous, run : Run
        The run, and the one that its lineage names.
    """
    lineage = run.lineage
    if lineage is None or not previous.num_clusters or not run.num_clusters:
        return None
    is_first = lineage["hierarchy_level"].to_numpy() == 0
    kind = lineage["kind"].to_numpy()[is_first]
    before = _indices(previous, "cluster_id", lineage["previous_cluster_id"])[is_first]
    now = _indices(run, "cluster_id", lineage["cluster_id"])[is_first]
    none = np.array([], np.int32)
    own = np.arange(run.num_clusters, dtype=np.int32)
    carried = _indices(run, "stable_id", previous.centroids["stable_id"][: previous.num_clusters])
    columns = (
        column_of(previous, carried, none, before[kind == "died"]),
        column_of(run, own, now[kind == "born"], none),
    )
    matched_by = str((run.manifest.lineage or {})["matched_by"])
    links = links_between(previous, run, before, now, matched_by=matched_by)
    return pictured(*arrange(columns, [links]))


def pictured(bars: Sequence[Bars], flows: Sequence[Any]) -> dict[str, Any]:
    """Return the bars and ribbons of two runs, as the browser draws them.

    Parameters
    ----------
    bars, flows
        What `arrange` returns.
    """
    (before, after), (flow,) = bars, flows
    place = [{bar: number for number, bar in enumerate(each.shown)} for each in bars]
    return {
        "columns": [_column(before), _column(after)],
        "ribbons": [
            [place[0][bar], place[1][other], int(flow[bar, other]), colour]
            for bar, other, colour in ribbons(before, after, flow, most_documents(bars))
        ],
    }


def _column(bars: Bars) -> dict[str, Any]:
    """Return the bars that are drawn, top down."""
    return {
        "title": bars.column.title,
        "num_clusters": len(bars.column.sizes),
        "bars": [
            {
                "name": bars.name_of(bar),
                "size": int(bars.sizes[bar]),
                "cluster": bars.cluster_of(bar),
                "colour": bars.identity_of(bar),
                "fate": bars.fate_of(bar),
            }
            for bar in bars.shown
        ],
    }


def _indices(run: Run, name: str, values: Any) -> Labels:
    """Return which clusters of the first level have these values of a column; -1: none has."""
    own = run.centroids[name][: run.num_clusters].to_pylist()
    index = {value: number for number, value in enumerate(own) if value is not None}
    return np.array([index.get(value, NOISE) for value in values.to_pylist()], np.int32)
