"""A uniform sample that depends on the ids alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpucluster.errors import ConfigError
from gpucluster.ops.id_hash import hash_ids

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def draw(ids: pa.Array, sample_size: int | None, random_state: int) -> NDArray[np.bool_] | None:
    """Draw rows uniformly and without replacement: those whose ids have the smallest hashes.

    Parameters
    ----------
    ids : pyarrow.Array of shape (n_rows,), int64 or string
        Unique.
    sample_size : int, optional
        How many; all by default.
    random_state : int
        Another seed is another sample.

    Returns
    -------
    ndarray of shape (n_rows,), bool, or None
        True for the rows that are drawn; None for all rows.

    Raises
    ------
    ConfigError
        `sample_size` is no positive number.
    """
    if sample_size is None:
        return None
    if sample_size < 1:
        raise ConfigError(f"got {sample_size}, an integer >= 1 expected", path="sample_size")
    if sample_size >= len(ids):
        return None
    hashes = hash_ids(ids, random_state)
    drawn: NDArray[np.bool_] = hashes <= np.partition(hashes, sample_size - 1)[sample_size - 1]
    return drawn
