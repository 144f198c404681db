"""A run as one table with coordinates and texts, as programs that show embeddings take it."""

from __future__ import annotations

import io
import warnings
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.bases import check_is_run, latest_run
from gpucluster.errors import ConfigError, FallbackWarning, SourceError
from gpucluster.notation import describe, is_number
from gpucluster.ops.neighbors import nearest_neighbors
from gpucluster.ops.nesting import labels_at
from gpucluster.ops.normalize import unit_rows
from gpucluster.plots.rows import cluster_names, column_of, parts_of, vectors
from gpucluster.report.whole_file import table_file, write_whole

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.places import Place

NEIGHBORS = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
NOISE_NAME = "noise"


def export(
    run: Run | str | Place,
    path: str | Path,
    *,
    neighbors: int | None = None,
    data: Any = None,
) -> Path:
    """Write the members of a run with coordinates, texts and names, in the order of the input.

    Parameters
    ----------
    run : Run or path
        An output folder stands for its latest run.
    path : str or Path
        Ends with ``.parquet``, outside a run's folder; a file that is there is replaced.
    neighbors : int, optional
        So many nearest rows of each, exact, by the cosine of their vectors. Omitted: none.
    data : path, list of paths, table or frame, optional
        Where vectors and texts are, if not where the run found them.

    Returns
    -------
    Path
        Of a file with ``document_id``, ``cluster`` (name of the cluster of the first level),
        ``cluster_id`` and ``label`` (of the deepest node), ``similarity`` to its centroid, where
        they are known ``x``, ``y``, ``z``, ``text`` and ``truth``, and with `neighbors` a struct
        of ``ids``, rows of this file, and ``distances``, 1 - cosine.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no such run, or it is damaged, or of a newer version.
    ConfigError
        The file is called otherwise, lies on no disk or was read by the run, or there are fewer
        rows than neighbours.
    SourceError
        Vectors are asked for and cannot be read any more. Texts that cannot are left out.
    StoreError
        The file could not be written.
    """
    opened = latest_run(run)
    check_is_run(opened)
    given = data if isinstance(data, list | tuple) else [data]
    target = table_file(path, [*opened.manifest.paths, *given], "out")
    content = io.BytesIO()
    pq.write_table(_table(opened, neighbors, data), content, compression="zstd")
    write_whole(target, content.getvalue())
    return target


def _table(run: Run, neighbors: int | None, data: Any) -> pa.Table:
    members = run.members.sort_by("row")
    if neighbors is not None and not (
        is_number(neighbors, Integral) and 1 <= neighbors < members.num_rows
    ):
        raise ConfigError(
            f"got {describe(neighbors)}, but there are {members.num_rows:,} rows",
            path="neighbors",
            expected=f"1 to {members.num_rows - 1}",
        )
    labels = members["cluster_index"].to_numpy()
    names = pa.array([*cluster_names(run), NOISE_NAME])  # -1 is the last one

    def named(nodes: Any) -> pa.Array:
        return names.take(pa.array(np.where(nodes < 0, len(names) - 1, nodes)))

    columns = {"document_id": members["document_id"]}
    columns |= {axis: members[axis] for axis in "xyz" if members[axis].null_count < len(members)}
    columns |= {
        "cluster": named(labels_at(labels, run.parents, 0)),
        "cluster_id": members["cluster_id"],
        "label": named(labels),
        "similarity": members["cosine_similarity_to_centroid"],
    }
    try:
        parts = parts_of(run, data)
        for role in ("text", "truth"):
            found = column_of(run, members, role, parts)
            if found is not None:
                columns[role] = found
    except SourceError as error:
        if data is not None or neighbors is not None:
            raise
        if run.manifest.paths:  # of data in memory nobody expects them
            message = f"there are no texts: {error.message}"
            warnings.warn(message, FallbackWarning, stacklevel=3)
    if neighbors is not None:
        columns["neighbors"] = _neighbors(unit_rows(vectors(run, members, parts)), neighbors)
    return pa.table(columns)


def _neighbors(X: Any, count: int) -> pa.Array:
    """Return the nearest rows of each row of unit length, itself left out."""
    found = nearest_neighbors(X, count + 1, exact=True)
    own = np.arange(len(X))[:, None]
    # among copies the row itself may come later, or not at all: then the last one goes
    is_own = found.rows == own
    is_own[~is_own.any(axis=1), -1] = True
    rows = found.rows[~is_own].reshape(len(X), count)
    distances = (found.sqdist[~is_own] / 2).reshape(len(X), count)
    offsets = pa.array(np.arange(0, rows.size + 1, count), pa.int32())
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(rows.ravel(), pa.int64())),
        pa.ListArray.from_arrays(offsets, pa.array(distances.ravel(), pa.float32())),
    ]
    return pa.StructArray.from_arrays(lists, fields=list(NEIGHBORS))
