"""A uniform sample that depends on the ids alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gpucluster.errors import ConfigError
from gpucluster.sources.columns import text_buffers

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_ROWS = 1 << 16  # strings hashed at a time: 24 bytes of memory for each of theirs
BASE = 0x9E3779B97F4A7C15  # odd, without structure


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
    hashes = _hash(ids, random_state)
    drawn: NDArray[np.bool_] = hashes <= np.partition(hashes, sample_size - 1)[sample_size - 1]
    return drawn


def _hash(ids: pa.Array, seed: int) -> NDArray[np.uint64]:
    """Return 64 mixed bits for each id, a function of id and seed alone."""
    if pa.types.is_integer(ids.type):
        folded = np.asarray(ids).view(np.uint64)
    else:
        chunks = [ids[start : start + CHUNK_ROWS] for start in range(0, len(ids), CHUNK_ROWS)]
        folded = np.concatenate([_fold(chunk) for chunk in chunks])
    return _mix(folded ^ _mix(np.array([seed % 2**64], np.uint64)))


def _fold(strings: pa.Array) -> NDArray[np.uint64]:
    """Return the bytes of each string as a polynomial in `BASE`, modulo 2^64."""
    lengths, data = text_buffers(strings)
    stops = np.cumsum(lengths)
    starts = stops - lengths
    powers = np.full(lengths.max() + 1, BASE, np.uint64)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    places = np.arange(len(data)) - np.repeat(starts, lengths)
    terms = (data + np.uint64(1)) * powers[places]
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms)))
    folded: NDArray[np.uint64] = sums[stops] - sums[starts]
    return folded


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others, as SplitMix64 does (doi:10.1145/2660193.2660195)."""
    z = z + np.uint64(BASE)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
