"""Sparse vectors and several vectors a row, as the one dense vector a row that is clustered."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import CorruptInputError, ShapeError
from gpucluster.ops.blocks import one_blas_thread
from gpucluster.types import Matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_INDEX = 2**31 - 1
REDUCED_FEATURES = 256
SEED = 42  # of the reduction, which comes before any definition is known
N_ITER = 5  # power iterations: what scikit-learn takes


def mean_vectors(column: pa.Array, where: str) -> pa.Array:
    """Return the mean of the vectors of each row, scaled to unit length.

    Parameters
    ----------
    column : pyarrow.Array of shape (rows,)
        Lists of lists of floats.
    where : str
        The place, for messages.

    Returns
    -------
    pyarrow.Array of shape (rows,), lists of float32
        Null where the row is null, holds no vector, or one that is null. NaN and infinity stay;
        a mean of zero stays zero.

    Raises
    ------
    ShapeError
        The vectors differ in length.
    """
    counts = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
    vectors = column.flatten()  # without what null rows may hold
    lengths = np.asarray(pc.fill_null(pc.list_value_length(vectors), -1)).astype(np.int64)
    row_of = np.repeat(np.arange(len(column)), counts)
    known = lengths >= 0
    if not known.any():
        return pa.nulls(len(column), pa.list_(pa.float32()))
    n_features = int(lengths[known][0])
    if (wrong := np.flatnonzero(known & (lengths != n_features))).size:
        raise ShapeError(
            f"{where}: a vector has {lengths[wrong[0]]:,} values, {n_features:,} expected"
        )
    null = counts == 0
    null[row_of[~known]] = True
    values = vectors.drop_null().flatten().to_numpy(zero_copy_only=False)
    kept = row_of[known]
    sums = np.zeros((len(column), n_features))
    starts = np.flatnonzero(np.diff(kept, prepend=-1))
    with np.errstate(all="ignore"):  # what is no number is judged later
        tokens = values.reshape(-1, n_features)
        sums[kept[starts]] = np.add.reduceat(tokens, starts, axis=0, dtype=np.float64)
        means = sums / np.maximum(counts, 1)[:, None]
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        means = (means / np.where(norms > 0, norms, 1)).astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(means.ravel()), n_features, mask=pa.array(null)
    )


class Reduced:
    """Dense rows made of sparse ones when the first is read.

    Up to `REDUCED_FEATURES` distinct indices are laid out as they are; more are reduced to
    that many values by truncated SVD (Halko et al. 2011, doi:10.1137/090771806), fitted on all
    rows that are finite. Nobody centres the data, so cosines between rows are approximated.

    Parameters
    ----------
    matrix : scipy.sparse.csr_matrix of shape (n_rows, n_stored)
    null : ndarray of shape (n_rows,), bool
        Rows without a vector.

    Notes
    -----
    Memory: the sparse matrix (8 bytes for each entry and index), until it is reduced; then
    4 x 256 bytes for each row, and while it works some 3 times that and 2 KB for each distinct
    index.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, matrix: Any, null: NDArray[np.bool_]) -> None:
        self.n_stored = int(matrix.shape[1])
        used = np.unique(matrix.indices)
        columns = np.searchsorted(used, matrix.indices).astype(np.int32)
        n_features = len(used)
        if n_features > REDUCED_FEATURES:
            n_features = min(REDUCED_FEATURES, matrix.shape[0])
        self.shape = (int(matrix.shape[0]), n_features)
        self.null = null
        self._parts: Any = (matrix.data, columns, matrix.indptr, len(used))
        self.is_exact = n_features == len(used)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Matrix:
        return self._dense[rows]

    @property
    def note(self) -> str:
        """What is done with the vectors."""
        if self.is_exact:
            return f"sparse vectors of {self.n_stored:,} values: {self.shape[1]:,} are ever used"
        return (
            f"sparse vectors of {self.n_stored:,} values: reduced to {self.shape[1]:,} by "
            f"truncated SVD, fitted on all rows with seed {SEED}"
        )

    @cached_property
    def _dense(self) -> Matrix:
        from scipy.sparse import csr_matrix
        from sklearn.decomposition import TruncatedSVD

        values, columns, starts, n_used = self._parts
        self._parts = None  # the sparse form is not needed twice
        matrix = csr_matrix((values, columns, starts), shape=(self.shape[0], n_used))
        finite = np.ones(len(self), np.bool_)
        finite[np.repeat(np.arange(len(self)), np.diff(starts))[~np.isfinite(values)]] = False
        dense = np.full(self.shape, np.nan, np.float32)
        if self.is_exact:
            dense[finite] = matrix[finite].toarray()
        elif finite.any():
            good = matrix[finite]
            svd = TruncatedSVD(min(self.shape[1], good.shape[0]), n_iter=N_ITER, random_state=SEED)
            with (
                one_blas_thread,
                np.errstate(all="ignore"),
            ):  # the last bits of a product depend on how many share it
                found = svd.fit_transform(good)
            dense[finite] = 0
            dense[np.flatnonzero(finite)[:, None], np.arange(found.shape[1])] = found
        return dense


def read_sparse(chunks: Iterable[tuple[str, pa.Array]]) -> Reduced:
    """Read a column of indices and values.

    Parameters
    ----------
    chunks : iterable of (str, pyarrow.Array)
        Where they are, and structs of two lists, ``indices`` and ``values``. A repeated index
        adds up.

    Returns
    -------
    Reduced

    Raises
    ------
    ShapeError
        A row has more indices than values, or fewer.
    CorruptInputError
        An index is null, negative, or 2^31 or more.
    """
    from scipy.sparse import csr_matrix

    nulls, counts = [np.empty(0, np.bool_)], [np.empty(0, np.int64)]
    indices, values = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    row = 0
    for where, column in chunks:
        parts = {name: pc.struct_field(column, [name]) for name in ("indices", "values")}
        lengths = {
            name: np.asarray(pc.fill_null(pc.list_value_length(part), -1))
            for name, part in parts.items()
        }
        if (wrong := np.flatnonzero(lengths["indices"] != lengths["values"])).size:
            at = wrong[0]
            raise ShapeError(
                f"{where} row {row + at}: {max(0, lengths['indices'][at]):,} indices for "
                f"{max(0, lengths['values'][at]):,} values"
            )
        at_most = parts["indices"].flatten()
        bounds = pc.min_max(at_most).as_py()
        if at_most.null_count or (
            len(at_most) and not 0 <= bounds["min"] <= bounds["max"] <= MAX_INDEX
        ):
            raise CorruptInputError(
                f"{where}: indices are between {bounds['min']} and {bounds['max']}, "
                f"{at_most.null_count:,} are null; 0 to {MAX_INDEX:,} expected"
            )
        nulls.append(lengths["indices"] < 0)
        counts.append(np.maximum(lengths["indices"], 0).astype(np.int64))
        indices.append(at_most.cast(pa.int32()).to_numpy())
        with np.errstate(all="ignore"):  # what overflows becomes inf
            flat = parts["values"].flatten().to_numpy(zero_copy_only=False)
            values.append(flat.astype(np.float32))
        row += len(column)
    joined = np.concatenate(indices)
    starts = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
    n_stored = int(joined.max(initial=-1)) + 1
    matrix = csr_matrix((np.concatenate(values), joined, starts), shape=(row, n_stored))
    return Reduced(matrix, np.concatenate(nulls))
