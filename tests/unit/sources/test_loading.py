"""Rows are judged one by one, and how they are stored makes no difference."""

from __future__ import annotations

import json
import uuid
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.errors import (
    BadRowsError,
    Cancelled,
    ConfigError,
    CorruptInputError,
    DuplicateIdsError,
    InputError,
    OutOfMemoryError,
    SchemaMismatchError,
    ShapeError,
    TooFewSamplesError,
)
from gpucluster.events import CancelToken, Progress, Reporter
from gpucluster.sources import content_key, load, open_source
from tests.helpers.vectors import (
    N_FEATURES,
    N_ROWS,
    assert_same,
    names,
    read,
    table,
    vectors,
    write_arrow,
    write_json,
    write_npy,
    write_parquet,
)

MANY = 2_000


def dirty() -> pa.Table:
    """Return vectors of which five rows cannot be clustered."""
    X = vectors().astype("float64")
    X[3, 2], X[8, 5], X[9, 0], X[20] = np.nan, -np.inf, 1e39, 0
    rows: list[list[float] | None] = X.tolist()
    rows[30] = None
    rows[31][4] = None
    return pa.table({"id": names(), "embedding": pa.array(rows, pa.list_(pa.float64()))})


REJECTED = {3: "nan", 8: "inf", 9: "inf", 20: "zero_norm", 30: "null", 31: "nan"}


def test_bad_rows_are_set_aside_with_their_reason():
    samples = read(dirty(), max_bad_fraction=0.1)
    assert samples.rejected.to_pylist() == [
        {"document_id": f"doc-{row}", "row": row, "reason": why} for row, why in REJECTED.items()
    ]
    kept = [row for row in range(N_ROWS) if row not in REJECTED]
    assert samples.rows.tolist() == kept
    assert samples.ids.to_pylist() == [f"doc-{row}" for row in kept]
    assert samples.X.tolist() == vectors()[kept].tolist()
    assert samples.X.flags.c_contiguous
    assert samples.n_rows == N_ROWS


def test_too_many_bad_rows():
    message = (
        r"6 of 60 rows cannot be clustered \(2 nan, 2 inf, 1 zero_norm, 1 null\), "
        r"at most 4 may be: document_id 'doc-3', 'doc-8', 'doc-9', 'doc-20', 'doc-30', \.\.\."
    )
    with pytest.raises(BadRowsError, match=message):
        read(dirty(), max_bad_fraction=0.08)
    with pytest.raises(BadRowsError, match="at most 0 may be"):
        read(dirty(), on_bad_rows="error", max_bad_fraction=1)
    with pytest.raises(TooFewSamplesError, match="none of 1 rows can be clustered"):
        read(np.zeros((1, 3)), max_bad_fraction=1)


def test_extreme_values_are_no_defects():
    X = np.array([[1e30, -1e30], [3e38, 3e38], [1e-18, 0], [65504, 1]])
    assert read(X).X.tolist() == X.astype("f4").tolist()


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-300])
def test_rows_without_a_direction_in_float32(value):
    X = vectors().astype("float64")
    X[4] = value
    samples = read(X, max_bad_fraction=0.1)
    assert samples.rejected.to_pylist() == [{"document_id": "4", "row": 4, "reason": "zero_norm"}]


def test_integers_with_null_values():
    rows = vectors(dtype="int8").tolist()
    rows[2][1] = rows[5] = None
    data = pa.table({"id": names(), "embedding": pa.array(rows, pa.list_(pa.int8()))})
    samples = read(data, max_bad_fraction=0.1)
    assert samples.rejected["row"].to_pylist() == [2, 5]
    assert set(samples.rejected["reason"].to_pylist()) == {"null"}
    assert samples.X.tolist() == np.delete(vectors(), [2, 5], axis=0).tolist()


@pytest.mark.parametrize("end", ["parquet", "arrow", "jsonl"])
def test_ragged_rows_name_everything(end, tmp_path, child):
    X = vectors()
    first = {"id": names()[:10], "embedding": X[:10].tolist()}
    rows = [x.tolist() for x in X[10:20]]
    rows[7] = rows[7][:5]
    second = {"id": names()[10:20], "embedding": rows}
    for name, data in {"a": first, "b": second}.items():
        path = tmp_path / f"{name}.{end}"
        if end == "jsonl":
            lines = (
                json.dumps({"id": i, "embedding": v}) for i, v in zip(*data.values(), strict=True)
            )
            path.write_text("\n".join(lines))
        else:
            schema = pa.schema({"id": pa.string(), "embedding": pa.list_(pa.float32())})
            write = write_parquet if end == "parquet" else write_arrow
            write(path, pa.table(data, schema))
    message = rf"b\.{end} row 7 \(document_id 'doc-17'\): embedding has 5 values, 8 expected"
    with pytest.raises(ShapeError, match=message):
        read(tmp_path, child=child)


@pytest.mark.parametrize("length", [0, 1_000_001])
def test_lengths_that_no_vector_has(length):
    data = pa.table({"embedding": pa.array([[1.0] * length], pa.list_(pa.float32()))})
    with pytest.raises((ShapeError, CorruptInputError), match=r"no values|1,000,001 values"):
        read(data)


def test_duplicate_ids():
    ids = [f"doc-{row % 50}" for row in range(N_ROWS)]
    message = r"ids must be unique, 10 are not: 'doc-0', 'doc-1', 'doc-2', 'doc-3', 'doc-4', \.\.\."
    with pytest.raises(DuplicateIdsError, match=message):
        read((ids, vectors()))
    with pytest.raises(DuplicateIdsError, match="ids must be unique, 1 are not: 7"):
        read(([7, 7, *range(10, 68)], vectors()))
    with pytest.raises(DuplicateIdsError):
        read((ids, vectors()), sample_size=2)


def test_null_ids():
    ids = pa.array([None if row in (4, 9) else row for row in range(N_ROWS)])
    with pytest.raises(InputError, match=r"row 4: the id is null \(2 rows have none\)"):
        read(table(vectors(), ids))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(range(N_ROWS), pa.uint8()), list(range(N_ROWS))),
        (pa.array(names()).dictionary_encode(), names()),
        (pa.array(names(), pa.string_view()), names()),
        (pa.array(names(), pa.large_string()), names()),
        (pa.array([n.encode() for n in names()]), names()),
        (
            pa.array([uuid.UUID(int=n).bytes for n in range(N_ROWS)], pa.uuid()),
            [str(uuid.UUID(int=n)) for n in range(N_ROWS)],
        ),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_ids_become_int64_or_string(ids, expected):
    samples = read(table(vectors(), ids))
    assert samples.ids.type == (pa.int64() if isinstance(expected[0], int) else pa.string())
    assert samples.ids.to_pylist() == expected


def test_ids_that_do_not_fit():
    ids = pa.array([2**63 + row for row in range(N_ROWS)], pa.uint64())
    with pytest.raises(CorruptInputError, match="not in range"):
        read(table(vectors(), ids))
    with pytest.raises(SchemaMismatchError, match="ids are double, integers or strings expected"):
        read((np.ones(N_ROWS), vectors()))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, None, 3], [1, None, 3]),
        ([True, False, None], ["true", "false", None]),
        ([1.5, None, 2.0], ["1.5", None, "2"]),
    ],
)
def test_truth_of_any_kind(labels, expected):
    samples = read(table(vectors(3), label=labels), truth_column="label")
    assert samples.payload["truth"].to_pylist() == expected


def test_payload_follows_the_rows():
    data = dirty().append_column("body", pa.array([f"text {row}" for row in range(N_ROWS)]))
    samples = read(data, text_column="body", max_bad_fraction=0.5, sample_size=20)
    assert samples.payload["text"].to_pylist() == [f"text {row}" for row in samples.rows]


def test_nothing_there():
    with pytest.raises(TooFewSamplesError, match="it has no rows"):
        read(np.empty((0, 4), "f4"))
    no_vectors = pa.table({"id": names(), "embedding": pa.nulls(N_ROWS, pa.list_(pa.float32()))})
    with pytest.raises(TooFewSamplesError, match="no row has a vector"):
        read(no_vectors)


def test_no_vectors_in_an_arrow_file(tmp_path, child):
    data = pa.table({"id": names(), "embedding": pa.nulls(N_ROWS, pa.list_(pa.float32()))})
    with pytest.raises(TooFewSamplesError, match="no row has a vector"):
        read(write_arrow(tmp_path / "x.arrow", data), child=child)


def test_what_the_manifest_gets(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", table(vectors(dtype="float16"), label=names()))
    source = read(path, truth_column="label", sample_size=10, random_state=5).source
    assert json.loads(json.dumps(source)) == source
    assert source == {
        "format": "parquet",
        "paths": [str(path)],
        "n_rows": N_ROWS,
        "n_features": N_FEATURES,
        "dtype": "float16",
        "columns": {"id": "id", "vector": "embedding", "text": None, "truth": "label"},
        "notes": [],
        "kind": "dense",
        "n_stored": 0,
        "feature": None,
        "collections": [],
        "blocks": [],
        "vector_bytes": N_ROWS * N_FEATURES * 2,
        "sample": {"sample_size": 10, "random_state": 5},
        "has_ids": True,
    }


def test_progress_and_cancellation():
    seen: list[Progress] = []
    source, token = open_source(vectors()), CancelToken()
    load(source, reporter=Reporter("load", seen.append, token), batch_bytes=10 * N_FEATURES * 4)
    assert [(event.done, event.total) for event in seen] == [(n, 60) for n in range(10, 61, 10)]
    token.cancel()
    with pytest.raises(Cancelled):
        load(source, reporter=Reporter("load", seen.append, token))


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", pa.table({"embedding": vectors().tolist()}))
    source = open_source(path)
    for n_rows in (N_ROWS - 1, N_ROWS + 1):
        write_parquet(path, pa.table({"embedding": vectors(n_rows).tolist()}))
        with pytest.raises(CorruptInputError, match=f"60 rows at first, {n_rows} "):
            load(source, reporter=Reporter())


def test_more_than_memory_holds(monkeypatch):
    def refuse(*args, **kwargs):
        raise MemoryError

    source = open_source(vectors())
    monkeypatch.setattr("gpucluster.sources.loading.np.empty", refuse)
    with pytest.raises(OutOfMemoryError, match=r"60 vectors of 8 values take 0\.0 GB"):
        load(source, reporter=Reporter())


# --- how it is stored makes no difference ----------------------------------------------------


@settings(max_examples=60)
@given(
    cuts=st.lists(st.integers(1, N_ROWS - 1), unique=True, max_size=4),
    group_rows=st.integers(1, N_ROWS),
    batch_rows=st.integers(1, N_ROWS),
    page_rows=st.integers(1, N_ROWS),
    sample_size=st.none() | st.integers(20, N_ROWS),
)
def test_parquet_chunks_make_no_difference(
    cuts, group_rows, batch_rows, page_rows, sample_size, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("chunks")
    data = dirty().append_column("body", pa.array(names()))
    bounds = [0, *sorted(cuts), N_ROWS]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        pq.write_table(
            data[start:stop],
            folder / f"{number}.parquet",
            row_group_size=group_rows,
            max_rows_per_page=page_rows,
        )
    options = {"max_bad_fraction": 0.2, "sample_size": sample_size, "text_column": "body"}
    here = read(folder, batch_bytes=batch_rows * N_FEATURES * 8, **options)
    there = read(data, **options)
    assert_same(here, there)
    assert content_key(here) == content_key(there)


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
@pytest.mark.parametrize("end", ["arrow", "npy", "jsonl", "dataset"])
def test_batches_make_no_difference(end, batch_rows, tmp_path, child):
    path = tmp_path / f"x.{end}"
    X = vectors()
    X[5] = 0
    write = {
        "arrow": lambda: write_arrow(path, table(X)),
        "npy": lambda: write_npy(path, X, names()),
        "jsonl": lambda: write_json(path, X, names()),
        "dataset": lambda: write_parquet(tmp_path / "x.parquet", table(X), row_group_size=11),
    }
    data = write[end]()
    if end == "dataset":
        data = pyarrow.dataset.dataset(data)
    options = {
        "max_bad_fraction": 0.1,
        "sample_size": 50,
        "batch_bytes": batch_rows * 4 * N_FEATURES,
    }
    assert_same(
        read(data, child=child, **options), read(table(X), max_bad_fraction=0.1, sample_size=50)
    )


# --- samples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [names(MANY), list(range(-5, MANY - 5))], ids=["string", "int"])
def test_samples_do_not_depend_on_the_order(ids):
    X = vectors(MANY)
    sample = read((ids, X), sample_size=300)
    assert (len(sample.X), sample.n_rows) == (300, MANY)
    assert sample.rows.tolist() == sorted(sample.rows.tolist())
    assert sample.X.tolist() == X[sample.rows].tolist()
    order = np.random.default_rng(1).permutation(MANY)
    shuffled = read(([ids[row] for row in order], X[order]), sample_size=300)
    assert set(shuffled.ids.to_pylist()) == set(sample.ids.to_pylist())
    assert shuffled.rows.tolist() == sorted(shuffled.rows.tolist())


@pytest.mark.parametrize(
    "ids", [names(MANY), list(range(MANY)), None], ids=["string", "int", "none"]
)
def test_samples_are_uniform(ids):
    X = vectors(MANY)
    data = X if ids is None else (ids, X)
    drawn = np.zeros(MANY)
    for seed in range(50):
        drawn[read(data, sample_size=MANY // 4, random_state=seed).rows] += 1
    assert drawn.sum() == 50 * MANY // 4
    # Each row is drawn 12.5 times on average: a binomial spread, over rows and over stretches.
    assert abs(drawn.std() - (50 * 0.25 * 0.75) ** 0.5) < 0.2
    assert np.abs(drawn.reshape(20, -1).mean(axis=1) - 12.5).max() < 1.2


def test_nested_samples():
    X = vectors(MANY)
    small, large = (set(read(X, sample_size=n).rows.tolist()) for n in (100, 500))
    assert small < large


def test_a_sample_of_everything():
    everything = read(vectors())
    for size in (N_ROWS, N_ROWS + 1, 10**9):
        assert_same(read(vectors(), sample_size=size), everything)
    assert everything.source["sample"] is None
    with pytest.raises(ConfigError, match="sample_size: got 0, an integer >= 1 expected"):
        read(vectors(), sample_size=0)


# --- keys ------------------------------------------------------------------------------------


def test_content_key_sees_values_and_order_only(tmp_path):
    X, ids = vectors(), names()
    key = content_key(read((ids, X)))
    assert len(key) == 64
    assert content_key(read(write_parquet(tmp_path / "x.parquet", table(X)))) == key
    assert content_key(read(table(X, pa.array(["", *ids])[1:]))) == key
    changed = X.copy()
    changed[3, 3] += 1
    assert content_key(read((ids, changed))) != key
    assert content_key(read((ids[::-1], X))) != key
    assert content_key(read((ids[::-1], X[::-1]))) != key
    assert content_key(read(X)) != key
    shifted = ["doc-0d", "oc-1", *ids[2:]]
    assert content_key(read((shifted, X))) != key
