"""Two finished runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gpucluster.artifacts import Run
from gpucluster.artifacts.manifest import FILE_NAME
from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.identity import stable_ids
from gpucluster.report.whole_file import write_whole
from gpucluster.succession import By, Clusters, Succession, succeed

if TYPE_CHECKING:
    import pyarrow as pa


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

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet, whole or not at all.

        Raises
        ------
        ConfigError
            The file would be part of a run, or is called otherwise than ``.parquet``.
        StoreError
            The system refused.
        """
        import io

        import pyarrow.parquet as pq

        file = Path(path).expanduser()
        if file.suffix != ".parquet" or (file.parent / FILE_NAME).exists():
            raise ConfigError(
                f"got {str(path)!r}, expected a name that ends in .parquet, outside a run's folder",
                path="table",
            )
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
