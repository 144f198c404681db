"""What a run itself knows of its clusters: where they lie, how large and how alike they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.errors import ConfigError
from gpucluster.metrics.quality import size_entropy
from gpucluster.notation import yes_or_no
from gpucluster.plots.rows import Grouped, column_of, found_in, parts_of, require_clusters
from gpucluster.report.documents import classes_of
from gpucluster.report.drawing import cluster_plots, map_plot
from gpucluster.report.drawing.canvas import known
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpucluster.artifacts import Run
    from gpucluster.report.drawing.canvas import Look
    from gpucluster.types import Labels


def draw_map(
    run: Run,
    look: Look,
    *,
    colour_by: str = "cluster",
    level: int = 0,
    legend: bool = False,
    data: Any = None,
) -> Figure:
    """Return the map of a run.

    Parameters
    ----------
    run : Run
    look : Look
    colour_by : {"cluster", "similarity", "truth"}, default "cluster"
    level : int, default 0
        Of the hierarchy, whose clusters have names and colours.
    legend : bool, default False
    data : path, list of paths, table or frame, optional
        Where the true classes are, if not where the run found them.
    """
    known("colour_by", colour_by, map_plot.COLOUR_BY)
    columns = ["x", "y", "z", "cosine_similarity_to_centroid"]
    columns += ["document_id", "row"] if colour_by == "truth" else []
    grouped = Grouped.of(run, columns, level)
    axes = [grouped.table[name].to_numpy(zero_copy_only=False) for name in ("x", "y", "z")]
    if np.isnan(axes[2]).all():
        del axes[2]
    coordinates = np.column_stack(axes).astype(np.float32)
    shown = np.isfinite(coordinates).all(axis=1)  # rows beside a sample have none
    if not shown.any():
        base = found_in(run)
        hint = f"documents that join clusters get none; draw {base}"
        if base is None:
            hint = "it needs --map umap, or dimension_reduction: {method: umap} in its definition"
        raise ConfigError(f"{run.run_id} has no coordinates", path="run", hint=hint)
    labels, names = grouped.labels, grouped.names
    if colour_by == "truth":
        labels, names = _classes(run, grouped, data)
    similarity = None
    if colour_by == "similarity":
        similarity = grouped.table["cosine_similarity_to_centroid"].to_numpy(zero_copy_only=False)
        similarity = similarity[shown]
    dots = map_plot.Dots(coordinates[shown], labels[shown], names, similarity)
    return map_plot.draw_map(dots, look, legend=yes_or_no("legend", legend))


def _classes(run: Run, grouped: Grouped, data: Any) -> tuple[Labels, list[str]]:
    """Return the true class of each member, the largest class first, and the names of them."""
    found = column_of(run, grouped.table, "truth", parts_of(run, data))
    if found is None:
        raise ConfigError(
            f"{run.run_id} knows no true classes",
            path="colour_by",
            hint="name their column with --truth-column when it is made",
        )
    names, numbers = classes_of(found)
    return numbers, names


def _with_members(run: Run, columns: list[str], level: int) -> Grouped:
    """Group the members; raise `ConfigError` where none is in a cluster."""
    require_clusters(run)
    grouped = Grouped.of(run, columns, level)
    if (grouped.labels == NOISE).all():
        raise ConfigError(
            f"no document of {run.run_id} joined a cluster: there is nothing to draw",
            path="run",
            hint="a lower threshold lets more of them join",
        )
    return grouped


def draw_sizes(run: Run, look: Look, *, level: int = 0) -> Figure:
    """Return the sizes of the clusters of a level by rank."""
    grouped = _with_members(run, [], level)
    is_clustered = grouped.labels != NOISE
    sizes = np.bincount(grouped.labels[is_clustered], minlength=len(grouped.names))
    held = np.flatnonzero(sizes).astype(np.int32)
    # the metric counts clusters that nobody joined; deeper, nodes of other levels are empty, too
    counted = sizes[: run.num_clusters] if level == 0 else sizes[held]
    names = [grouped.names[node] for node in held]
    return cluster_plots.draw_sizes(
        sizes[held],
        held,
        names,
        look,
        n_noise=int(np.count_nonzero(~is_clustered)),
        entropy=size_entropy(counted),
    )


def draw_similarities(run: Run, look: Look, *, level: int = 0) -> Figure:
    """Return histograms of the similarity of the members to their centroid.

    That is the one of their deepest node, whatever the level.
    """
    grouped = _with_members(run, ["cosine_similarity_to_centroid"], level)
    similarity = grouped.table["cosine_similarity_to_centroid"].to_numpy(zero_copy_only=False)
    return cluster_plots.draw_similarities(similarity, grouped.labels, grouped.names, look)
