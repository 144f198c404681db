"""The members of a run as arrays, and what their source knows of them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from gpucluster.bases import full_run
from gpucluster.definition import ClusterDefinition
from gpucluster.errors import ConfigError, RunNotFoundError, SourceError
from gpucluster.events import Reporter
from gpucluster.given import open_like
from gpucluster.notation import describe, is_number
from gpucluster.ops.nesting import labels_at
from gpucluster.sources import reopen
from gpucluster.sources.base import reading
from gpucluster.sources.columns import texts_of
from gpucluster.sources.reopening import Parts, changed, reread
from gpucluster.trained import scaled

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.types import Labels, Matrix, Rows
    from gpucluster.vector_config import VectorConfig


@dataclass(frozen=True, slots=True)
class Grouped:
    """The members of a run by the clusters of one level.

    Attributes
    ----------
    table : pyarrow.Table
        The columns that were asked for.
    labels : ndarray of shape (n_members,), int32
        Rows of the centroids; noise is -1.
    names : list of n_nodes str
        What the clusters are called, or their ids.
    """

    table: pa.Table
    labels: Labels
    names: list[str]

    @classmethod
    def of(cls, run: Run, columns: list[str], level: int | None = 0) -> Grouped:
        """Read members with some columns; `level` None is that of the deepest nodes."""
        if level is not None and not (is_number(level, Integral) and level >= 0):
            raise ConfigError(f"got {describe(level)}, expected 0 or more", path="level", got=level)
        table = run.member_columns(["cluster_index", *columns])
        labels = table["cluster_index"].to_numpy()
        if level is not None:
            labels = labels_at(labels, run.parents, level)
        return cls(table, labels, cluster_names(run))


def cluster_names(run: Run) -> list[str]:
    """Return what each node is called, or its id."""
    nodes = run.centroids.select(["cluster_id", "label"]).to_pydict()
    return [
        (label or "").strip() or name
        for name, label in zip(nodes["cluster_id"], nodes["label"], strict=True)
    ]


def require_clusters(run: Run) -> None:
    """Raise `ConfigError` where everything is noise."""
    if not run.num_clusters:
        raise ConfigError(
            f"{run.run_id} found no cluster: there is nothing to draw",
            path="run",
            hint="gpucluster show says what became of its rows",
        )


def found_in(run: Run) -> str | None:
    """Return the run that found the clusters of a run that joined them; None: it did itself."""
    if run.manifest.base_run_id is None:
        return None
    if run.manifest.taxonomy is not None:
        return str(run.manifest.taxonomy["source_run_id"])
    try:
        return full_run(run).run_id
    except RunNotFoundError:
        return run.manifest.base_run_id


def parts_of(run: Run, data: Any) -> Parts:
    """Open the documents of a run where they were, or in `data`."""
    described: Any = run.manifest.source
    uris = ClusterDefinition.parse(run.manifest.definition).vector_config.feature_uris
    if data is None and len(uris) > 1 and not described.get("collections"):
        data = list(described["paths"]) or None
    if data is None:
        return list(reopen(described))
    source = open_like(data, run, id_column=None, vector_column=None)
    return [(0, source, dict(described.get("columns") or {}))]


def vectors(run: Run, members: pa.Table, parts: Parts) -> Matrix:
    """Return the vectors of members, as the fit had them before its first step.

    Parameters
    ----------
    run : Run
    members : pyarrow.Table
        With ``document_id`` and ``row``.
    parts : sequence of (int, Source, mapping)

    Returns
    -------
    ndarray of shape (n, n_features), float32

    Raises
    ------
    SourceError
        They cannot be read any more, or are others by now.
    ConfigError
        The run does not say how its features were weighted.
    """
    blocks = parts[0][1].info.blocks
    if run.manifest.source.get("blocks") and not blocks:
        raise SourceError(
            f"{run.run_id} does not say which columns of its collections its features are",
            hint="name the collections once more, with data",
        )
    X = np.empty((members.num_rows, max(1, parts[0][1].info.n_features)), np.float32)
    ids = members["document_id"].combine_chunks() if run.has_ids else None
    for places, block in reread(parts, members["row"].to_numpy(), ids, Reporter()):
        X[places] = block
    if not blocks:
        return X
    config = ClusterDefinition.parse(run.manifest.definition).vector_config
    return scaled(X, blocks, _weights(run, config), normalize=config.normalize_features)


def _weights(run: Run, config: VectorConfig) -> list[float] | None:
    """Return how much each feature counts; None where they are not weighted."""
    said: Any = run.manifest.features or {}
    if "feature_weights" in said:
        return [said["feature_weights"][uri] for uri in config.feature_uris]
    if run.manifest.base_run_id is not None and config.multi_feature_strategy != "independent":
        raise ConfigError(
            f"{run.run_id} does not say how its features are weighted: an earlier version wrote it",
            path="run",
            hint="let its documents join once more, with --fresh",
        )
    return None


def column_of(
    run: Run, members: pa.Table, role: Literal["text", "truth"], parts: Parts
) -> pa.ChunkedArray | None:
    """Return what a column of the source holds of members, as text; None where none is known.

    Parameters
    ----------
    run : Run
    members : pyarrow.Table
        With ``document_id`` and ``row``.
    role : {"text", "truth"}
    parts : sequence of (int, Source, mapping)

    Raises
    ------
    SourceError
        It cannot be read any more, or holds other documents by now.
    """
    if not any(columns.get(role) for *_, columns in parts):
        return None
    rows = members["row"].to_numpy()
    chunks: list[pa.Array] = []
    for begin, source, columns in parts:
        name = columns.get(role)
        if name is None:
            chunks.append(pa.nulls(source.info.n_rows, pa.large_string()))
            continue
        for batch in source.columns([name]):
            with reading(source.info.where):
                chunks.append(texts_of(batch, name))
        if run.has_ids and not _holds(members, rows - begin, source.ids()):
            raise changed(source)
    found = pa.chunked_array(chunks, pa.large_string())
    if len(found) != run.manifest.counts.num_rows:
        raise changed(parts[0][1])
    return found.take(pa.array(rows))


def _holds(members: pa.Table, rows: Rows, ids: pa.Array | None) -> bool:
    """Say whether members whose rows are among those of a part are the documents there."""
    if ids is None:
        return False
    is_here = (rows >= 0) & (rows < len(ids))
    own = members["document_id"].filter(pa.array(is_here)).combine_chunks()
    return bool(ids.take(pa.array(rows[is_here])).cast(pa.string()).equals(own))
