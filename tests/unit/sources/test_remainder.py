"""A sample and its remainder are the whole, each row once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.errors import BadRowsError, Cancelled, CorruptInputError, TooFewSamplesError
from gpucluster.events import CancelToken, Progress, Reporter
from gpucluster.sources import Filters, load, open_source, remaining
from tests.helpers.vectors import (
    N_FEATURES,
    N_ROWS,
    names,
    read,
    table,
    vectors,
    write_npy,
    write_parquet,
)

BAD = [3, 8, 20, 41]


def dirty() -> pa.Table:
    X = vectors()
    X[BAD] = [np.nan], [np.inf], [0], [0]
    return table(X, row=list(range(N_ROWS)), label=names())


def streamed(source, samples, **options):
    return list(remaining(source, samples, reporter=Reporter(), **options))


@given(
    sample_size=st.integers(1, N_ROWS),
    seed=st.integers(0, 5),
    batch_rows=st.integers(1, N_ROWS),
    low=st.none() | st.integers(0, 30),
)
def test_sample_and_remainder_are_the_whole(sample_size, seed, batch_rows, low):
    source = open_source(dirty(), truth_column="label")
    wanted = {"field": "row", "operator": "gte", "value": low}
    filters = None if low is None else Filters.model_validate(wanted)
    common = {"filters": filters, "max_bad_fraction": 0.5}
    whole = load(source, reporter=Reporter(), **common)
    drawing = {"sample_size": sample_size, "random_state": seed, "max_bad_fraction": 1}
    try:
        samples = load(source, reporter=Reporter(), **(common | drawing))
    except TooFewSamplesError:  # only bad rows were drawn
        return
    batch_bytes = batch_rows * 4 * N_FEATURES
    parts = streamed(source, samples, **common, batch_bytes=batch_bytes)
    assert all(part.X.nbytes <= batch_bytes and part.X.flags.c_contiguous for part in parts)
    rows = np.concatenate([samples.rows, *(part.rows for part in parts)])
    order = np.argsort(rows)
    assert rows[order].tolist() == whole.rows.tolist()
    X = np.concatenate([samples.X, *(part.X for part in parts)])
    assert X[order].tobytes() == whole.X.tobytes()
    for name in ("ids", "truth"):
        chunks = [part.ids if name == "ids" else part.payload[name] for part in (samples, *parts)]
        expected = whole.ids if name == "ids" else whole.payload[name]
        assert pa.concat_arrays(chunks).take(pa.array(order)).equals(expected)
    rejected = pa.concat_tables([samples.rejected, *(part.rejected for part in parts)])
    assert rejected.sort_by("row").equals(whole.rejected)


def test_too_many_bad_rows():
    source = open_source(dirty())
    samples = load(source, reporter=Reporter(), sample_size=20, max_bad_fraction=1)
    message = r"4 of 60 rows cannot be clustered .*, at most 3 may be"
    with pytest.raises(BadRowsError, match=message):
        streamed(source, samples, max_bad_fraction=0.05)
    with pytest.raises(BadRowsError, match="at most 0 may be"):
        streamed(source, samples, on_bad_rows="error", max_bad_fraction=1)


def test_nothing_remains():
    source = open_source(vectors())
    assert streamed(source, read(vectors())) == []


def test_small_dtypes_stay_within_the_budget(tmp_path):
    source = open_source(write_npy(tmp_path / "x.npy", vectors(dtype="int8")))
    samples = load(source, reporter=Reporter(), sample_size=10)
    parts = streamed(source, samples, batch_bytes=7 * 4 * N_FEATURES)
    assert max(len(part.X) for part in parts) <= 7
    assert sum(len(part.X) for part in parts) == N_ROWS - 10


def test_a_source_that_changes(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", table(vectors()))
    source = open_source(path)
    samples = load(source, reporter=Reporter(), sample_size=10)
    write_parquet(path, table(vectors())[:50])
    with pytest.raises(CorruptInputError, match="60 rows at first, 50 when"):
        streamed(source, samples)


def test_progress_and_cancellation():
    seen: list[Progress] = []
    source, token = open_source(vectors()), CancelToken()
    samples = load(source, reporter=Reporter(), sample_size=10)
    reporter = Reporter("assign", seen.append, token)
    for _ in remaining(source, samples, reporter=reporter, batch_bytes=20 * N_FEATURES * 4):
        pass
    assert [(event.done, event.total) for event in seen] == [(20, 60), (40, 60), (60, 60)]
    token.cancel()
    with pytest.raises(Cancelled):
        list(remaining(source, samples, reporter=reporter))
