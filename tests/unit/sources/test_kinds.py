"""Sparse vectors and several vectors a row become one dense vector a row."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits

import gpucluster
from gpucluster.errors import CorruptInputError, DtypeError, SchemaMismatchError, ShapeError
from gpucluster.events import Reporter
from gpucluster.sources import inspect, load, open_feature, open_source
from gpucluster.sources.kinds import REDUCED_FEATURES, mean_vectors
from tests.helpers.vectors import assert_same, names, read, vectors, write_arrow, write_parquet

URI = "mixpeek://text_extractor@v1/tokens"


# --- several vectors a row -------------------------------------------------------------------


def tokens(n_rows: int = 30, n_features: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1 + row % 5, n_features)).astype("f4") for row in range(n_rows)]


def means(rows: list[np.ndarray]) -> np.ndarray:
    found = np.array([row.astype("f8").mean(axis=0) for row in rows])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def as_column(rows: list[np.ndarray], inner: pa.DataType) -> pa.Array:
    return pa.array([row.tolist() for row in rows], pa.list_(inner))


INNER = [pa.list_(pa.float32()), pa.list_(pa.float32(), 4), pa.list_(pa.float64()),
         pa.large_list(pa.float32())]  # fmt: skip


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_the_mean_of_the_vectors_is_read(inner):
    data = pa.table({"id": names(30), "tokens": as_column(tokens(), inner)})
    source = open_source(data)
    assert (source.info.kind, source.info.n_features) == ("multi_vector", 4)
    assert source.info.notes == (
        "column 'tokens' holds several vectors a row: their mean is taken, of unit length",
    )
    samples = load(source, reporter=Reporter(), batch_bytes=7 * 4 * 4 * 128)
    assert np.allclose(samples.X, means(tokens()), atol=1e-6)
    assert np.allclose(np.linalg.norm(samples.X, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("end", ["parquet", "arrow", "jsonl"])
def test_files_of_several_vectors(end, tmp_path, child):
    data = pa.table({"id": names(30), "tokens": as_column(tokens(), pa.list_(pa.float64()))})
    path = tmp_path / f"x.{end}"
    if end == "jsonl":
        path.write_text("\n".join(map(json.dumps, data.to_pylist())))
    else:
        (write_parquet if end == "parquet" else write_arrow)(path, data)
    assert_same(read(path, child=child), read(data))


def test_rows_without_usable_vectors_are_set_aside():
    rows = [[[1.0, 2.0]], None, [], [[1.0, 2.0], None], [[np.nan, 1.0]], [[np.inf, 1.0]],
            [[1.0, 0.0], [-1.0, 0.0]], [[1.0, None]], [[3.0, 4.0], [3.0, 4.0]]]  # fmt: skip
    samples = read(
        pa.table({"tokens": pa.array(rows, pa.list_(pa.list_(pa.float32())))}), max_bad_fraction=1
    )
    reasons = dict(zip(samples.rejected["row"].to_pylist(), samples.rejected["reason"].to_pylist(),
                       strict=True))  # fmt: skip
    assert reasons == {1: "null", 2: "null", 3: "null", 4: "nan", 5: "nan", 6: "zero_norm",
                       7: "nan"}  # fmt: skip
    assert samples.rows.tolist() == [0, 8]
    assert np.allclose(samples.X[1], [0.6, 0.8])


def test_vectors_of_different_lengths():
    rows = [[[1.0, 2.0]], [[1.0, 2.0], [1.0]]]
    data = pa.table({"tokens": pa.array(rows, pa.list_(pa.list_(pa.float32())))})
    with pytest.raises(ShapeError, match="a vector has 1 values, 2 expected"):
        open_source(data)


@given(st.lists(hnp.arrays("f4", st.tuples(st.integers(0, 4), st.just(3)),
                           elements=st.floats(-100, 100, width=32)), max_size=6))  # fmt: skip
def test_means_are_those_of_numpy(rows):
    found = mean_vectors(as_column(rows, pa.list_(pa.float32())), "x").to_pylist()
    for row, vector in zip(rows, found, strict=True):
        if not len(row):
            assert vector is None
            continue
        mean = row.astype("f8").mean(axis=0)
        norm = np.linalg.norm(mean)
        assert np.allclose(vector, mean / norm if norm else mean, atol=1e-5)


def test_dense_columns_go_first():
    data = pa.table({"tokens": as_column(tokens(), pa.list_(pa.float32())),
                     "v": vectors(30).tolist()})  # fmt: skip
    assert open_source(data).info.columns.vector == "v"
    named = data.rename_columns(["embedding", "v"])
    assert open_source(named).info.columns.vector == "embedding"
    assert open_source(data, vector_column="tokens").info.kind == "multi_vector"


# --- sparse ----------------------------------------------------------------------------------


def documents(n_rows: int = 400, n_words: int = 3_000) -> sparse.csr_matrix:
    """Return rows around ten directions."""
    rng = np.random.default_rng(0)
    rows = []
    for row in range(n_rows):
        words = rng.choice(n_words // 10, 20, replace=False) + row % 10 * (n_words // 10)
        rows.append((np.sort(words), rng.random(20) + 0.5))
    indices = np.concatenate([words for words, _ in rows])
    values = np.concatenate([weights for _, weights in rows]).astype("f4")
    return sparse.csr_matrix((values, indices, np.arange(n_rows + 1) * 20), (n_rows, n_words))


def as_struct(matrix: sparse.csr_matrix) -> pa.Array:
    rows = [{"indices": matrix[row].indices.tolist(), "values": matrix[row].data.tolist()}
            for row in range(matrix.shape[0])]  # fmt: skip
    return pa.array(rows, pa.struct({"indices": pa.list_(pa.int32()),
                                     "values": pa.list_(pa.float32())}))  # fmt: skip


def test_sparse_vectors_are_reduced():
    matrix = documents()
    source = open_source(pa.table({"id": names(400), "words": as_struct(matrix)}))
    assert (source.info.kind, source.info.n_features) == ("sparse", REDUCED_FEATURES)
    assert source.info.n_stored <= 3_000
    (note,) = source.info.notes
    assert "reduced to 256 by truncated SVD, fitted on all rows with seed 42" in note
    X = load(source, reporter=Reporter(), batch_bytes=100_000).X
    used = matrix[:, np.unique(matrix.indices)]
    expected = TruncatedSVD(256, n_iter=5, random_state=42).fit_transform(used)
    assert np.allclose(X @ X.T, expected @ expected.T, atol=1e-2)
    exact = (matrix @ matrix.T).toarray()
    assert np.corrcoef((X @ X.T).ravel(), exact.ravel())[0, 1] > 0.9


def test_few_indices_are_laid_out():
    matrix = documents(n_words=200)
    samples = read(pa.table({"id": names(400), "words": as_struct(matrix)}))
    used = np.unique(matrix.indices)
    assert samples.X.tolist() == matrix.toarray()[:, used].tolist()
    assert f"{len(used)} are ever used" in samples.source["notes"][0]


@pytest.mark.parametrize("end", ["parquet", "arrow", "jsonl", "scipy", "coo"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_how_sparse_vectors_are_stored_makes_no_difference(end, with_ids, tmp_path, child):
    matrix = documents(120)
    columns = {"words": as_struct(matrix), "label": pa.array([i % 10 for i in range(120)])}
    data = pa.table({"id": names(120), **columns} if with_ids else columns)
    path = tmp_path / f"x.{end}"
    if end == "jsonl":
        path.write_text("\n".join(map(json.dumps, data.to_pylist())))
    elif end in {"parquet", "arrow"}:
        (write_parquet if end == "parquet" else write_arrow)(path, data)
    else:
        given_ = matrix if end == "scipy" else matrix.tocoo()
        path = (names(120), given_) if with_ids else given_
    here, there = read(path, child=child), read(data)
    assert_same(here, there)
    assert here.source["kind"] == "sparse"


def test_the_reduction_does_not_depend_on_threads():
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            found.append(read(documents(300)).X.tobytes())
    assert found[0] == found[1]


def test_sparse_rows_that_cannot_be_clustered():
    matrix = documents(50, 200)
    rows = as_struct(matrix).to_pylist()
    rows[3], rows[4] = None, {"indices": [], "values": []}
    rows[5]["values"][0], rows[6]["values"][2] = float("nan"), float("inf")
    rows[7]["values"][1] = None
    data = pa.table({"words": pa.array(rows, as_struct(matrix).type)})
    samples = read(data, max_bad_fraction=0.5)
    rejected = {row["row"]: row["reason"] for row in samples.rejected.to_pylist()}
    assert rejected == {3: "null", 4: "zero_norm", 5: "nan", 6: "nan", 7: "nan"}


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"indices": [1, 2], "values": [1.0]}, ShapeError, "row 1: 2 indices for 1 values"),
        ({"indices": None, "values": [1.0]}, ShapeError, "0 indices for 1 values"),
        ({"indices": [-1], "values": [1.0]}, CorruptInputError, "between -1 and 1, 0 are null"),
        ({"indices": [2**40], "values": [1.0]}, CorruptInputError, "0 to 2,147,483,647 expected"),
        ({"indices": [None], "values": [1.0]}, CorruptInputError, "1 are null"),
    ],
)
def test_sparse_vectors_that_are_wrong(row, error, message):
    kind = pa.struct({"indices": pa.list_(pa.int64()), "values": pa.list_(pa.float64())})
    data = pa.table({"words": pa.array([{"indices": [1], "values": [1.0]}, row], kind)})
    with pytest.raises(error, match=message):
        open_source(data)


def test_huge_indices_cost_nothing():
    kind = pa.struct({"indices": pa.list_(pa.int64()), "values": pa.list_(pa.float64())})
    rows = [{"indices": [row, 2**31 - 1], "values": [1.0, 2.0]} for row in range(400)]
    samples = read(pa.table({"words": pa.array(rows, kind)}))
    assert samples.X.shape == (400, 256)
    assert samples.source["n_stored"] == 2**31


def test_sparse_matrices_of_no_numbers():
    with pytest.raises(DtypeError, match="complex64, real numbers expected"):
        open_source(documents().astype("complex64"))


def test_sparse_vectors_can_be_clustered(tmp_path):
    truth = [row % 10 for row in range(400)]
    data = pa.table({"id": names(400), "words": as_struct(documents()), "label": truth})
    run = gpucluster.cluster(
        data,
        algorithm="kmeans",
        algorithm_params={"n_clusters": 10},
        truth_column="label",
        out=tmp_path,
        device="cpu",
    )
    assert run.manifest.external_metrics["ami"] > 0.99
    assert run.manifest.source["kind"] == "sparse"
    assert "truncated SVD" in run.manifest.source["notes"][0]


def test_inspect_says_the_kind(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", pa.table({"words": as_struct(documents())}))
    found = inspect(path)
    assert found.info.kind == "sparse"
    assert found.sampled_rows == 400


# --- manifests -------------------------------------------------------------------------------


def collection(folder, name, data, **feature):
    folder = folder / name
    folder.mkdir()
    write_parquet(folder / "x.parquet", data)
    path = folder / f"{name}.collection.json"
    body = {"collection_id": name, "files": ["x.parquet"], "features": {URI: feature}}
    path.write_text(json.dumps(body))
    return path


def test_manifests_state_the_kind(tmp_path):
    words = pa.table({"id": names(400), "words": as_struct(documents())})
    several = pa.table({"id": names(30), "t": as_column(tokens(), pa.list_(pa.float32()))})
    dense = pa.table({"id": names(5), "v": pa.array([[1.0, 2, 3, 4]] * 5, pa.list_(pa.float32()))})
    sparse_ = collection(tmp_path, "a", words, column="words", kind="sparse", dim=3_000)
    multi = collection(tmp_path, "b", several, column="t", kind="multi_vector", dim=4)
    flat = collection(tmp_path, "c", dense, column="v", dim=4)
    small = collection(tmp_path, "d", words, column="words", kind="sparse", dim=100)
    wrong = collection(tmp_path, "e", words, column="words", dim=3_000)
    assert open_feature(sparse_, URI).info.n_features == 256
    assert open_feature(multi, URI).info.n_features == 4
    with pytest.raises(SchemaMismatchError, match="is multi_vector in b, dense in c"):
        open_feature([multi, flat], URI)
    with pytest.raises(ShapeError, match=r"d: .* has [\d,]+ values in .*, 100 in d.coll"):
        open_feature(small, URI)
    with pytest.raises(SchemaMismatchError, match=r"e: .* is sparse in .*, dense in e.coll"):
        open_feature(wrong, URI)
    other = collection(tmp_path, "f", words, column="words", kind="sparse", dim=3_000)
    with pytest.raises(SchemaMismatchError, match="put their files into one collection"):
        open_feature([sparse_, other], URI)
