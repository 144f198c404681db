"""The tree of a run: that of density, or the levels of its hierarchy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucluster.artifacts.condensed_tree import density_tree
from gpucluster.errors import ConfigError
from gpucluster.plots.rows import cluster_names, found_in, require_clusters
from gpucluster.report.drawing import tree_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpucluster.artifacts import Run
    from gpucluster.report.drawing.canvas import Look


def draw_tree(run: Run, look: Look) -> Figure:
    """Return the levels of a run that has some, else its condensed tree.

    Raises
    ------
    ConfigError
        It has neither.
    """
    require_clusters(run)
    names = cluster_names(run)
    if run.manifest.hierarchy is not None:
        sizes = run.fitted_centroids["num_members"].to_numpy()
        n_noise = run.manifest.counts.num_noise
        return tree_plot.draw_levels(run.parents, sizes, names, look, n_noise=n_noise)
    if (base := found_in(run)) is not None:
        raise ConfigError(
            f"{run.run_id} has no tree: its documents joined clusters",
            path="kind",
            hint=f"draw {base}, which found them",
        )
    if run.tree is None:
        method = run.fitted_centroids["algorithm"][0].as_py()
        raise ConfigError(
            f"{run.run_id} has no tree: it comes from {method}, and was not divided",
            path="kind",
            hint="the condensed tree is of hdbscan on the CPU, levels are of hierarchical runs",
        )
    return tree_plot.draw_density_tree(density_tree(run.tree), names, look)
