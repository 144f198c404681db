"""What takes the vectors of a run once more: silhouettes, and distances to neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow.compute as pc

from gpucluster.algorithms import DBSCAN, HDBSCAN, OPTICS
from gpucluster.artifacts.checkpoints import kept_array
from gpucluster.artifacts.manifest import FILE_NAME, Manifest
from gpucluster.definition import ClusterDefinition
from gpucluster.errors import ArtifactError, ConfigError
from gpucluster.ops.distances import kth_distances
from gpucluster.ops.duplicates import distinct_rows
from gpucluster.ops.nesting import labels_at
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.silhouette import squared_silhouette
from gpucluster.plots.rows import cluster_names, found_in, parts_of, vectors
from gpucluster.report.drawing import cluster_plots, distance_plot
from gpucluster.trained import fitted_steps, through
from gpucluster.types import NOISE

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from gpucluster.artifacts import Run
    from gpucluster.places import Place
    from gpucluster.report.drawing.canvas import Look
    from gpucluster.types import Matrix

ASKED: Final = 3_000  # rows whose neighbours are searched, among all
OF_THE_FIT: Final = ("fit", "noise")  # who placed the rows that were clustered


def _fitted(run: Run) -> pa.Table:
    """Return the members that the run measured, in the order of the input."""
    table = run.member_columns(["document_id", "row", "cluster_index", "assigned_by"])
    if run.manifest.base_run_id is None:
        table = table.filter(
            pc.is_in(table["assigned_by"], value_set=pc.cast(OF_THE_FIT, "string"))
        )
    return table.sort_by("row")


def draw_silhouettes(run: Run, look: Look, *, data: Any = None) -> Figure:
    """Return the silhouettes of the clusters of the first level, as the metric measures them.

    Parameters
    ----------
    run : Run
    look : Look
    data : path, list of paths, table or frame, optional
        Where the vectors are, if not where the run found them.
    """
    members = _fitted(run)
    labels = labels_at(members["cluster_index"].to_numpy(), run.parents, 0)
    held = np.unique(labels[labels != NOISE])  # none may have joined a cluster
    if len(held) < 2:
        raise ConfigError(
            f"{run.run_id} has documents in {len(held)} clusters: "
            "a silhouette compares two or more",
            path="kind",
        )
    X = unit_rows(vectors(run, members, parts_of(run, data)))
    numbers = np.where(labels == NOISE, NOISE, np.searchsorted(held, labels)).astype(np.int32)
    values = squared_silhouette(X, numbers)  # on unit rows, the one by cosine
    names = cluster_names(run)[: run.num_clusters]
    return cluster_plots.draw_silhouettes(values, labels, names, look)


def draw_distances(run: Run, look: Look, *, data: Any = None) -> Figure:
    """Return the sorted distances to the k-th neighbour where the algorithm saw the rows.

    `k` is what the algorithm calls ``min_samples``, less the row itself where it counts. Neighbours
    of `ASKED` rows are searched among all.

    Parameters
    ----------
    run : Run
    look : Look
    data : path, list of paths, table or frame, optional
        Where the vectors are, if not where the run found them.
    """
    algorithm = ClusterDefinition.parse(run.manifest.definition).vector_config.algorithm
    if (base := found_in(run)) is not None:
        raise ConfigError(
            f"k-distance is about a radius of density: the documents of {run.run_id} joined "
            "clusters by their centroids",
            path="kind",
            hint=f"draw {base}, which found them",
        )
    if not isinstance(algorithm, DBSCAN | HDBSCAN | OPTICS):
        name = "no algorithm" if algorithm is None else algorithm.name
        raise ConfigError(
            f"k-distance is about a radius of density: {run.run_id} comes from {name}",
            path="kind",
            hint="it fits runs of dbscan, optics and hdbscan",
        )
    X = _prepared(run, data)
    by_cosine = algorithm.metric == "cosine"
    X = unit_rows(X) if by_cosine else X
    marks: dict[str, float | None]
    if isinstance(algorithm, HDBSCAN):
        distinct = distinct_rows(X)  # copies are no neighbours there
        X = X if distinct is None else np.ascontiguousarray(X[distinct.rows])
        k = algorithm.density_neighbors(len(X))
        marks = {"cluster_selection_epsilon": algorithm.cluster_selection_epsilon or None}
    else:
        k = max(1, min(algorithm.min_samples, len(X)) - 1)
        marks = {"eps": algorithm.eps}
        if isinstance(algorithm, OPTICS):
            marks["max_eps"] = algorithm.max_eps
    seed = run.manifest.random_state
    asked = np.arange(len(X))
    if len(X) > ASKED:
        asked = np.sort(np.random.default_rng(seed).choice(len(X), ASKED, replace=False))
    found = np.sort(kth_distances(X, asked, k, p=getattr(algorithm, "p", 2.0)))
    if by_cosine:
        found = found * found / 2
    return distance_plot.draw_distances(
        found,
        distance_plot.knee(found),
        {name: radius for name, radius in marks.items() if radius is not None},
        look,
        label=f"{algorithm.metric} distance to neighbour {k}",
    )


def _prepared(run: Run, data: Any) -> Matrix:
    """Return the rows as the algorithm saw them.

    A layout is made of its rows and not kept with the model, so that it is read from the
    checkpoint of its stage.
    """
    config = ClusterDefinition.parse(run.manifest.definition).vector_config
    steps = config.preprocessing_steps or ()
    layouts = [position for position, step in enumerate(steps) if step.trained is not None]
    if not layouts:
        X = vectors(run, _fitted(run), parts_of(run, data))
        if config.normalize_features:
            X = unit_rows(X)
        return through(fitted_steps(run, steps), X)
    last = layouts[-1]
    step = steps[last]
    stage = f"prepare.{last}.{step.method}"
    n_rows = _fitted(run).num_rows
    layout = (kept_array(path, stage, str(step.trained)) for path in _alike(run))
    found = next((each for each in layout if each is not None and len(each) == n_rows), None)
    if found is None:
        raise ConfigError(
            f"the layout that {step.method} made for {run.run_id} is not kept any more",
            path="kind",
            hint="run the definition again with --fresh; it lies in the folder checkpoints",
        )
    return through(fitted_steps(run, steps)[last + 1 :], np.asarray(found, np.float32))


def _alike(run: Run) -> Iterator[Place]:
    """Yield the folder of a run, and those beside it whose rows were prepared in the same way."""
    yield run.path

    def facts(manifest: Manifest) -> Any:
        config: Any = manifest.definition["vector_config"]
        same = [config[name] for name in ("preprocessing_steps", "normalize_features")]
        return manifest.data_sha256, manifest.random_state, manifest.versions, same

    manifests: list[Place] = [*run.path.parent.glob(f"*/{FILE_NAME}")]
    for path in sorted(manifests, key=str):
        try:
            other = Manifest.from_json(path.read_bytes(), str(path))
        except (OSError, ArtifactError):
            continue
        if other.mode == "full" and facts(other) == facts(run.manifest):
            yield path.parent
