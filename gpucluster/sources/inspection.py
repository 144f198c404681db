"""What a source holds, and how to run on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.device.memory import rows_per_block
from gpucluster.sources.base import Columns, Source, SourceInfo
from gpucluster.sources.collection import open_feature
from gpucluster.sources.columns import concatenate
from gpucluster.sources.loading import CLEAN, REASONS, judge
from gpucluster.types import Matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_ROWS = 10_000
HEAD_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a source without a run.

    Attributes
    ----------
    info : SourceInfo
        Format, paths, rows, features, dtype, chosen columns, candidates, all columns with
        their types.
    sampled_rows : int
        The counts below are among so many first rows, at most `SAMPLE_ROWS`.
    bad_rows : dict of str to int
        Rows that a run sets aside, by reason.
    duplicate_vectors : int
        Rows whose vector repeats an earlier one.
    duplicate_ids : int
        Rows whose id repeats an earlier one.
    mean_norm : float or None
        Of the rows that can be clustered; None when there are none.
    command : tuple of str
        The program and the arguments that run on this source; empty for data in memory.
    """

    info: SourceInfo
    sampled_rows: int
    bad_rows: Mapping[str, int]
    duplicate_vectors: int
    duplicate_ids: int
    mean_norm: float | None
    command: tuple[str, ...]

    @property
    def gigabytes(self) -> float:
        """Size of all vectors in their own dtype; unit: 10^9 bytes."""
        return self.info.vector_bytes / 1e9


def inspect(
    data: Any,
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
    truth_column: str | None = None,
) -> Inspection:
    """Look at a source: its metadata and its first rows.

    Parameters
    ----------
    data : path, glob, folder, list of these, or data in memory
    id_column, vector_column, text_column, truth_column : str, optional
        As for `open_feature`; they become part of the command.

    Returns
    -------
    Inspection

    Raises
    ------
    GpuclusterError
        As from `open_feature`; or one of the first rows has another dimension.
    """
    source = open_feature(
        data,
        id_column=id_column,
        vector_column=vector_column,
        text_column=text_column,
        truth_column=truth_column,
    )
    X, reasons, duplicate_ids = _head(source)
    clean = X[reasons == CLEAN]
    asked = Columns(id_column, vector_column, text_column, truth_column)
    return Inspection(
        info=source.info,
        sampled_rows=len(X),
        bad_rows={why: int(np.count_nonzero(reasons == i)) for i, why in enumerate(REASONS)},
        duplicate_vectors=len(clean) - len(np.unique(clean.view(f"V{clean.strides[0]}"))),
        duplicate_ids=duplicate_ids,
        mean_norm=float(np.linalg.norm(clean, axis=1).mean()) if len(clean) else None,
        command=_command(data, asked) if source.info.paths else (),
    )


def _command(data: Any, asked: Columns) -> tuple[str, ...]:
    flags = ((f"--{role}-column", name) for role, name in asdict(asked).items() if name)
    paths = data if isinstance(data, list | tuple) else [data]
    return ("gpucluster", "run", *map(os.fspath, paths), *chain.from_iterable(flags))


def _head(source: Source) -> tuple[Matrix, NDArray[np.int8], int]:
    """Return the first vectors, what is wrong with them, and how many ids repeat others."""
    info = source.info
    n_rows = min(info.n_rows, SAMPLE_ROWS, rows_per_block(4 * info.n_features, HEAD_BYTES))
    X = np.empty((n_rows, info.n_features), np.float32)
    reasons = np.empty(n_rows, np.int8)
    ids: list[pa.Array] = []
    for batch in source.batches():
        rows = slice(batch.row, min(n_rows, batch.row + len(batch.vectors)))
        take = rows.stop - rows.start
        with np.errstate(all="ignore"):
            X[rows] = batch.vectors[:take]
        reasons[rows] = judge(X[rows], batch.null[:take])
        if batch.ids is not None:
            ids.append(batch.ids[:take])
        if rows.stop == n_rows:
            break
    seen = concatenate(ids)
    return X, reasons, len(seen) - pc.count_distinct(seen, mode="all").as_py()
