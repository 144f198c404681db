"""Two finished runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from gpucluster.artifacts import Run
from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.identity import stable_ids
from gpucluster.report.drawing.canvas import Look, drawing, finish
from gpucluster.report.run_flow import column_of, links_between
from gpucluster.report.whole_file import table_file, write_whole
from gpucluster.succession import By, Clusters, Succession, succeed
from gpucluster.types import DPI, NOISE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from matplotlib.figure import Figure

    from gpucluster.report.flow import Column
    from gpucluster.types import Labels


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the clusters of a run follow those of another.

    Attributes
    ----------
    previous, current : Run
    succession : Succession
    stable_ids : list of n_nodes str
        Of the clusters of `current`, as they would be called after those of `previous`.
    table : pyarrow.Table
        What became of each cluster, one row a link (`schema.LINEAGE`).
    """

    previous: Run
    current: Run
    succession: Succession
    stable_ids: list[str]
    table: pa.Table

    @classmethod
    def of(
        cls, previous: Run, current: Run, *, by: By | None = None, reporter: Reporter | None = None
    ) -> Self:
        """Compare two runs that found clusters.

        Raises
        ------
        ConfigError
            `by` is unknown, or a run has joined the clusters of another one.
        ShapeError
            They can only be compared by centroids, and these are of another dimension.
        """
        if by not in {None, "documents", "centroids"}:
            raise ConfigError(f"got {by!r}, expected documents or centroids", path="by")
        for run in (previous, current):
            if run.manifest.mode != "full":
                raise ConfigError(
                    f"{run.run_id} has joined the clusters of {run.manifest.base_run_id}: they "
                    "are the same",
                    hint="compare runs that found clusters; show has the drift of this one",
                )
        clusters = Clusters.of(previous), Clusters.of(current)
        found = succeed(*clusters, by=by, reporter=reporter)
        before = previous.centroids["stable_id"].to_pylist()
        stable = stable_ids(found.carried, before, current.run_id, clusters[1].names)
        names = clusters[0].names, clusters[1].names
        return cls(previous, current, found, stable, found.table(*names, before, stable))

    @property
    def counts(self) -> dict[str, int]:
        """Clusters of the first level that survived, split, merged, were born, died."""
        return self.succession.counts

    @property
    def metrics(self) -> dict[str, tuple[float | None, float | None]]:
        """Run-level metrics, before and after."""
        names = [*self.previous.metrics, *self.current.metrics]
        return {
            name: (self.previous.metrics.get(name), self.current.metrics.get(name))
            for name in dict.fromkeys(names)
        }

    def plot(
        self,
        path: str | Path | None = None,
        *,
        theme: Literal["light", "dark"] = "light",
        width: float | None = None,
        height: float | None = None,
        dpi: int = DPI,
    ) -> Figure | Path:
        """Draw what became of the clusters: bars for those of each run, and ribbons between them.

        Parameters
        ----------
        path : str or Path, optional
            Ends with ``.png``, ``.svg`` or ``.pdf``; a file that is there is replaced. Omitted:
            nothing is written.
        theme : {"light", "dark"}, default "light"
        width, height : float, optional
            Inches. Omitted: what suits the picture.
        dpi : int
            Dots per inch of a PNG.

        Returns
        -------
        matplotlib.figure.Figure or Path
            The picture, or where it lies.

        Raises
        ------
        ConfigError
            The name ends otherwise, or a measure is out of bounds.
        BackendUnavailableError
            Matplotlib is missing.
        StoreError
            The file could not be written.
        """
        return finish(lambda: flow([self], Look(theme, width, height, dpi)), path, dpi)

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet, whole or not at all.

        Raises
        ------
        ConfigError
            The file would be part of a run, or was read by one, or is called otherwise than
            ``.parquet``.
        StoreError
            The system refused.
        """
        import io

        import pyarrow.parquet as pq

        read = [each for run in (self.previous, self.current) for each in run.manifest.paths]
        file = table_file(path, read, "table")
        content = io.BytesIO()
        pq.write_table(self.table, content)
        write_whole(file, content.getvalue())

    def to_dict(self) -> dict[str, Any]:
        """Return all but the table as JSON values."""
        return {
            "run_id": self.current.run_id,
            **self.succession.to_json(),
            "num_clusters": [self.previous.num_clusters, self.current.num_clusters],
            "metrics": {name: list(pair) for name, pair in self.metrics.items()},
        }


def flow(comparisons: Sequence[Comparison], look: Look) -> Figure:
    """Draw what became of clusters from run to run.

    Parameters
    ----------
    comparisons : sequence of Comparison
        One or more; the current run of each is the previous one of the next.
    look : Look

    Raises
    ------
    ConfigError
        A run has no cluster.
    BackendUnavailableError
        Matplotlib is missing.
    """
    from gpucluster.report.drawing.flow_plot import draw_flow

    runs = [comparisons[0].previous, *(each.current for each in comparisons)]
    for run in runs:
        if not run.num_clusters:
            raise ConfigError(f"{run.run_id} found no cluster: nothing becomes of it", path="run")
    identity = np.arange(runs[-1].num_clusters, dtype=np.int32)
    columns = [_column(runs[-1], identity, comparisons[-1], None)]
    for position in reversed(range(len(comparisons))):
        after = comparisons[position]
        carried = after.succession.carried[: len(identity)]
        earlier = np.full(runs[position].num_clusters, NOISE, np.int32)
        goes_on = (carried != NOISE) & (carried < len(earlier))
        earlier[carried[goes_on]] = identity[goes_on]
        identity = earlier
        before = comparisons[position - 1] if position else None
        columns.insert(0, _column(runs[position], identity, before, after))
    with drawing():
        return draw_flow(columns, [_links(each) for each in comparisons], look.checked())


def flow_of(runs: Sequence[Run], look: Look) -> Figure:
    """Draw what became of clusters over runs that found them, the oldest first: see `flow`."""
    if len(runs) < 2:
        raise ConfigError(
            f"a flow leads from run to run, and there are {len(runs)} that found clusters",
            path="flow",
        )
    return flow([Comparison.of(before, after) for before, after in pairwise(runs)], look)


def _column(
    run: Run, identity: Labels, before: Comparison | None, after: Comparison | None
) -> Column:
    """Return the clusters of the first level of a run, between the comparisons it is in."""
    born = died = np.array([], np.int32)
    if before is not None:
        top = before.succession.levels[0]
        born = top.current[np.asarray(top.kind) == "born"]
    if after is not None:
        top = after.succession.levels[0]
        died = top.previous[np.asarray(top.kind) == "died"]
    return column_of(run, identity, born, died)


def _links(found: Comparison) -> Any:
    """Return clusters of the first level of two runs, and the documents that are in both."""
    top, by = found.succession.levels[0], found.succession.matched_by
    return links_between(found.previous, found.current, top.previous, top.current, matched_by=by)
