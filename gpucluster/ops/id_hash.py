"""Document ids as 64 bits each, a function of id and seed alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_ROWS = 1 << 16  # strings hashed at a time: 24 bytes of memory for each of theirs
BASES = (0x9E3779B97F4A7C15, 0xD1342543DE82EF95)  # odd, without structure


def hash_ids(ids: pa.Array | pa.ChunkedArray, seed: int = 0, base: int = 0) -> NDArray[np.uint64]:
    """Hash ids.

    Parameters
    ----------
    ids : pyarrow.Array or ChunkedArray of shape (n_ids,), int64 or string
        None is null.
    seed : int
        Another seed permutes the hashes: what collides under one does so under all.
    base : {0, 1}
        Strings that collide under one base do not under the other, but for chance.

    Returns
    -------
    ndarray of shape (n_ids,), uint64

    Notes
    -----
    A string is folded as a polynomial modulo 2^64, then mixed. Extra memory: 24 bytes for each
    byte of `CHUNK_ROWS` strings.
    """
    if isinstance(ids, pa.ChunkedArray):
        parts = [hash_ids(chunk, seed, base) for chunk in ids.chunks]
        return np.concatenate([np.empty(0, np.uint64), *parts])
    if pa.types.is_integer(ids.type):
        folded = np.asarray(ids).view(np.uint64)
    else:
        chunks = [ids[start : start + CHUNK_ROWS] for start in range(0, len(ids), CHUNK_ROWS)]
        folds = [_fold(chunk, np.uint64(BASES[base])) for chunk in chunks]
        folded = np.concatenate([np.empty(0, np.uint64), *folds])
    return _mix(folded ^ _mix(np.array([seed % 2**64], np.uint64)))


def _fold(strings: pa.Array, base: np.uint64) -> NDArray[np.uint64]:
    """Return the bytes of each string as a polynomial in `base`, modulo 2^64."""
    lengths, data = text_buffers(strings)
    stops = np.cumsum(lengths)
    starts = stops - lengths
    powers = np.full(lengths.max() + 1, base, np.uint64)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    places = np.arange(len(data)) - np.repeat(starts, lengths)
    terms = (data + np.uint64(1)) * powers[places]
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms)))
    folded: NDArray[np.uint64] = sums[stops] - sums[starts]
    return folded


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others, as SplitMix64 does (doi:10.1145/2660193.2660195)."""
    z = z + np.uint64(BASES[0])
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def text_buffers(strings: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the length in bytes of each string, and all their bytes without a gap."""
    if not len(strings):
        return np.empty(0, np.int64), np.empty(0, np.uint8)
    _, offsets, data = strings.buffers()
    width = np.dtype(np.int64 if pa.types.is_large_string(strings.type) else np.int32)
    bounds = np.frombuffer(offsets, width, len(strings) + 1, strings.offset * width.itemsize)
    content = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    return np.diff(bounds).astype(np.int64), content
