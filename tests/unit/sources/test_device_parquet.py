"""Vectors that cuDF decodes are those that pyarrow decodes.

cuDF is a stand-in here, but for the tests marked `gpu`.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster import pipeline
from gpucluster.device.select import Decision
from gpucluster.errors import Cancelled, CorruptInputError, FallbackWarning, ShapeError
from gpucluster.events import CancelToken, Reporter
from gpucluster.sources import (
    CudfDecoder,
    FeaturesSource,
    Filters,
    Source,
    content_key,
    device_parquet,
    input_key,
    load,
    open_feature,
    open_source,
)
from gpucluster.types import Samples

ROOT = Path(__file__).resolve().parents[3]
GPU, CPU = Decision("auto", "gpu", "a test"), Decision("auto", "cpu", "a test")
N_ROWS, N_FEATURES = 50, 8
GROUP_ROWS = 8  # of a row group
ROW_BYTES = 4 * N_FEATURES


@pytest.fixture(params=["stand-in", pytest.param("cudf", marks=pytest.mark.gpu)])
def cudf(request, monkeypatch) -> str:
    """Let small files be read in several pieces, by a stand-in and by the real one."""
    monkeypatch.setattr(device_parquet, "MIN_BYTES", 1)
    monkeypatch.setattr(device_parquet, "PIECE_BYTES", 20 * ROW_BYTES)
    if request.param == "stand-in":
        monkeypatch.syspath_prepend(ROOT / "tests" / "stand_ins")
    return request.param


@pytest.fixture
def stand_in(monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """Have the stand-in alone, and a way to spoil it."""
    monkeypatch.setattr(device_parquet, "MIN_BYTES", 1)
    monkeypatch.setattr(device_parquet, "PIECE_BYTES", 20 * ROW_BYTES)
    monkeypatch.syspath_prepend(ROOT / "tests" / "stand_ins")
    yield monkeypatch
    for name in [name for name in sys.modules if name.startswith("pylibcudf")]:
        del sys.modules[name]


def rows(dtype: str = "float32") -> list[Any]:
    X = np.random.default_rng(1).normal(0, 50, (N_ROWS, N_FEATURES))
    return X.astype(dtype).tolist()


def write(path: Path, column: pa.Array, first: int = 0, **more: Any) -> Path:
    ids = [f"doc-{first + row}" for row in range(len(column))]
    data = pa.table({"id": ids, "embedding": column, "n": range(len(column)), **more})
    pq.write_table(data, path, row_group_size=GROUP_ROWS)
    return path


def lists(values: list[Any], type_: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, type_ or pa.list_(pa.float32()))


def decoded(source: Source, **settings: Any) -> tuple[Samples, dict[str, str]]:
    reporter = Reporter("load")
    decoder = CudfDecoder(GPU, reporter)
    samples = load(decoder.of(source), reporter=reporter, **settings)
    return samples, decoder.account()


def check_same(source: Source, **settings: Any) -> Samples:
    """Check that cuDF decoded, and that nothing else differs; return the samples."""
    expected = load(source, reporter=Reporter("load"), **settings)
    samples, facts = decoded(source, **settings)
    assert facts["backend"] == "cudf"
    key = content_key(expected)
    assert content_key(samples) == key
    assert input_key(samples, key) == input_key(expected, key)
    assert samples.X.tobytes() == expected.X.tobytes()
    assert samples.rejected.equals(expected.rejected)
    assert samples.everything == expected.everything
    assert samples.source == expected.source
    return samples


@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), N_FEATURES),
        pa.list_(pa.float64(), N_FEATURES),
        pa.list_(pa.int8()),
        pa.list_(pa.uint8(), N_FEATURES),
        pa.list_(pa.field("item", pa.float32(), nullable=False)),
    ],
    ids=str,
)
def test_lists(cudf, type_, tmp_path):
    X = rows(str(pa.array([], type_.value_type).to_numpy().dtype))
    check_same(open_source(write(tmp_path / "x.parquet", lists(X, type_))))


def test_fixed_shape_tensors(cudf, tmp_path):
    storage = lists(rows(), pa.list_(pa.float32(), N_FEATURES))
    type_ = pa.fixed_shape_tensor(pa.float32(), [2, N_FEATURES // 2])
    tensors = pa.ExtensionArray.from_storage(type_, storage)
    check_same(open_source(write(tmp_path / "x.parquet", tensors)))


@pytest.mark.parametrize("value", ["float32", "float64", "int8"])
@pytest.mark.parametrize("fixed", [False, True], ids=["list", "fixed"])
def test_nulls_and_what_is_no_number(cudf, value, fixed, tmp_path):
    X = rows(value)
    X[3] = X[30] = None
    X[9] = [0] * N_FEATURES
    X[10][2] = None
    if value.startswith("float"):
        X[17][0], X[18][1] = float("nan"), float("inf")
    type_ = pa.from_numpy_dtype(value)
    column = lists(X, pa.list_(type_, N_FEATURES) if fixed else pa.list_(type_))
    source = open_source(write(tmp_path / "x.parquet", column))
    samples = check_same(source, max_bad_fraction=1, digest_all=True)
    reasons = dict(
        zip(*samples.rejected.select(["row", "reason"]).to_pydict().values(), strict=True)
    )
    expected = {3: "null", 9: "zero_norm", 10: "null", 30: "null"}
    if value.startswith("float"):
        expected |= {10: "nan", 17: "nan", 18: "inf"}
    assert reasons == expected


def test_files_one_after_the_other(cudf, tmp_path):
    X = rows()
    write(tmp_path / "a.parquet", lists(X[:21]))
    pq.write_table(pq.read_table(tmp_path / "a.parquet").slice(0, 0), tmp_path / "b.parquet")
    write(tmp_path / "c.parquet", lists(X[21:], pa.list_(pa.float32(), N_FEATURES)), first=21)
    samples = check_same(open_source(tmp_path))
    assert len(samples.X) == N_ROWS


def test_truth_and_rows_without_ids(cudf, tmp_path):
    data = pa.table({"embedding": lists(rows()), "kind": [f"k{row % 3}" for row in range(N_ROWS)]})
    pq.write_table(data, tmp_path / "x.parquet", row_group_size=GROUP_ROWS)
    check_same(open_source(tmp_path / "x.parquet"))  # no other column is read
    check_same(open_source(tmp_path / "x.parquet", truth_column="kind"))


@pytest.mark.parametrize("batch_bytes", [1, 5 * ROW_BYTES, 1 << 20])
def test_batches_are_no_larger_than_asked(cudf, batch_bytes, tmp_path):
    source = open_source(write(tmp_path / "x.parquet", lists(rows())))
    check_same(source, batch_bytes=batch_bytes)
    read = CudfDecoder(GPU, Reporter("load")).of(source)
    batches = list(read.batches(batch_bytes))
    assert max(len(batch.vectors) for batch in batches) <= max(1, batch_bytes // ROW_BYTES)
    stops = [batch.row + len(batch.vectors) for batch in batches]
    assert [batch.row for batch in batches] == [0, *stops[:-1]]
    assert stops[-1] == N_ROWS


def test_filters_and_samples(cudf, tmp_path):
    source = open_source(write(tmp_path / "x.parquet", lists(rows())))
    filters = Filters.model_validate({"field": "n", "operator": "gte", "value": 10})
    samples = check_same(source, filters=filters, sample_size=15, digest_all=True)
    assert len(samples.X) == 15
    assert samples.num_filtered == 10


def test_an_index_of_pandas_stays_where_it_is(cudf, tmp_path):
    table = pa.table({"id": range(N_ROWS), "embedding": lists(rows())}).to_pandas()
    table.index = table.index[::-1]
    table.index.name = "place"
    table.to_parquet(tmp_path / "x.parquet", row_group_size=GROUP_ROWS)
    check_same(open_source(tmp_path / "x.parquet"))


def test_a_name_with_dots(cudf, tmp_path):
    data = pa.table({"id": range(N_ROWS), "doc.vector": lists(rows())})
    pq.write_table(data, tmp_path / "x.parquet", row_group_size=GROUP_ROWS)
    check_same(open_source(tmp_path / "x.parquet"))


def test_collections_and_features(cudf, tmp_path):
    X = rows()
    write(tmp_path / "x.parquet", lists(X), image=lists(X[::-1], pa.list_(pa.float64())))
    uris = [f"mixpeek://extractor@v1/{name}" for name in ("embedding", "image")]
    one = open_feature(tmp_path / "x.parquet", uris[1])
    check_same(one)
    check_same(FeaturesSource({u: open_feature(tmp_path, u) for u in uris}, normalize=True))
    features = {uris[0]: {"column": "embedding", "dim": N_FEATURES}}
    body = {"collection_id": "c", "files": ["x.parquet"], "features": features}
    (tmp_path / "c.collection.json").write_text(json.dumps(body))
    check_same(open_feature(tmp_path / "c.collection.json"))


def test_the_wrong_length_is_named_as_ever(cudf, tmp_path):
    X = rows()
    X[29] = X[29][:5]
    write(tmp_path / "a.parquet", lists(X[:10]))
    source = open_source([tmp_path / "a.parquet", write(tmp_path / "b.parquet", lists(X))])
    with pytest.raises(ShapeError) as expected:
        list(source.batches())
    with pytest.raises(ShapeError) as raised:
        list(CudfDecoder(GPU, Reporter("load")).of(source).batches())
    assert raised.value.message == expected.value.message
    assert "b.parquet row 29 (document_id 'doc-29'): embedding has 5 values" in str(raised.value)


def test_a_row_group_of_more_values_than_a_column_may_have(stand_in, tmp_path):
    source = open_source(write(tmp_path / "x.parquet", lists(rows())))
    stand_in.setenv("STAND_IN_CUDF_VALUES", str(3 * N_FEATURES))  # a row group has 8 vectors
    with pytest.warns(FallbackWarning, match="exceeds the column size limit"):
        _, facts = decoded(source)  # in chunks that are allowed to be larger
    assert facts == {}
    stand_in.setattr(device_parquet, "CHUNK_BYTES", 3 * ROW_BYTES)
    check_same(source)


def test_a_chunk_has_less_values_than_a_column_may_have():
    smallest = 1  # byte
    assert device_parquet.CHUNK_BYTES // smallest < 2**31


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("abort", "was killed by SIGABRT"),
        ("abort 3", "was killed by SIGABRT"),
        ("memory", "cuDF ran out of GPU memory"),
        ("error 3", "unsupported encoding"),
        ("short", "cuDF read 7 rows, 8 expected|cuDF read 15 rows, 16 expected"),
        ("broken", "ArrowInvalid"),
    ],
)
@pytest.mark.parametrize("requested", ["auto", "gpu"])
def test_what_fails_is_read_by_pyarrow(stand_in, how, said, requested, tmp_path):
    X = rows()
    X[5] = None
    source = open_source(write(tmp_path / "x.parquet", lists(X)))
    expected = load(source, reporter=Reporter("load"), max_bad_fraction=1)
    stand_in.setenv("STAND_IN_CUDF_FAILS", how)
    reporter = Reporter("load")
    decoder = CudfDecoder(Decision(requested, "gpu", "a test"), reporter)
    samples = load(decoder.of(source), reporter=reporter, max_bad_fraction=1)
    with pytest.warns(FallbackWarning, match=said):
        assert decoder.account() == {}
    (warned,) = reporter.warnings
    assert warned.code == "cudf_failed"
    assert content_key(samples) == content_key(expected)
    assert samples.rejected.equals(expected.rejected)


def test_a_damaged_file_is_named_as_ever(stand_in, tmp_path):
    path = write(tmp_path / "x.parquet", lists(rows()))
    source = open_source(path)
    content = bytearray(path.read_bytes())
    content[200:-2000] = bytes(len(content) - 2200)
    path.write_bytes(content)
    with pytest.raises(CorruptInputError, match="x.parquet: it cannot be read"):
        decoded(source)


def test_a_stop_is_obeyed_and_leaves_nothing_behind(stand_in, tmp_path):
    source = open_source(write(tmp_path / "x.parquet", lists(rows())))
    (tmp_path / "scratch").mkdir()
    stand_in.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    token = CancelToken()
    reporter = Reporter("load", cancel=token)
    batches = CudfDecoder(GPU, reporter).of(source).batches(ROW_BYTES)
    next(batches)
    token.cancel()
    with pytest.raises(Cancelled):
        list(batches)
    del batches
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    "type_", [pa.binary(ROW_BYTES), pa.list_(pa.float16())], ids=["bytes", "halves"]
)
def test_what_cudf_does_not_read_wakes_no_gpu(stand_in, type_, tmp_path):
    X = np.array(rows(), "f4")
    values = [row.tobytes() for row in X] if pa.types.is_fixed_size_binary(type_) else None
    column = pa.array(values, type_) if values else lists(X.astype("f2").tolist(), type_)
    source = open_source(write(tmp_path / "x.parquet", column), vector_column="embedding")
    stand_in.setenv("STAND_IN_CUDF_FAILS", "abort")
    samples, facts = decoded(source)
    assert facts == {}
    assert content_key(samples) == content_key(load(source, reporter=Reporter()))


def test_small_other_and_cpu_sources_stay_what_they_are(stand_in, tmp_path):
    source = open_source(write(tmp_path / "x.parquet", lists(rows())))
    matrix = open_source(np.ones((4, 3), np.float32))
    table = open_source(pa.table({"embedding": lists(rows())}))
    assert CudfDecoder(CPU, Reporter()).of(source) is source
    for other in (matrix, table):
        assert CudfDecoder(GPU, Reporter()).of(other) is other
    stand_in.setattr(device_parquet, "MIN_BYTES", source.info.vector_bytes + 1)
    assert CudfDecoder(GPU, Reporter()).of(source) is source


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([5], [[0]]),
        ([3, 3, 4, 1], [[0, 1, 2], [3]]),
        ([3, 11, 3, 3], [[0], [1], [2, 3]]),
        ([11, 11], [[0], [1]]),
        ([0, 0, 10, 0], [[0, 1, 2, 3]]),
    ],
)
def test_runs(sizes, expected):
    found = list(device_parquet.runs(sizes, 10))
    assert [list(run) for run in found] == expected
    assert all(one.stop == other.start for one, other in pairwise(found))


def test_a_run_says_who_decoded(stand_in, tmp_path):
    """The name of a run does not depend on it."""
    path = write(tmp_path / "x.parquet", lists(rows()))
    fields = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3}, "device": "cpu"}
    plain = gpucluster.cluster(path, out=tmp_path / "plain", **fields)
    stand_in.setattr(pipeline, "CudfDecoder", lambda _, reporter: CudfDecoder(GPU, reporter))
    run = gpucluster.cluster(path, out=tmp_path / "cudf", **fields)
    assert [r.manifest.stages[0].backend for r in (plain, run)] == ["pyarrow", "cudf"]
    assert run.run_id == plain.run_id


SNAPSHOT = json.loads((ROOT / "tests/contract/rapids_26_10_signatures.json").read_text())


@pytest.mark.parametrize("name", [name for name in SNAPSHOT if name.startswith("pylibcudf")])
def test_the_stand_in_has_the_signatures_of_cudf(stand_in, name):
    parts = name.split(".")
    owned = parts[-2][0].isupper()  # a method
    module = import_module(".".join(parts[: -2 if owned else -1]))
    found = getattr(module, parts[-2] if owned else parts[-1])
    found = inspect.getattr_static(found, parts[-1] if owned else "__init__")
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    bare = [
        each.replace(annotation=each.empty) for each in inspect.signature(found).parameters.values()
    ]
    assert str(inspect.Signature(bare)) == SNAPSHOT[name]
