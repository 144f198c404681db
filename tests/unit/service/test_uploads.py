"""Documents that are sent: what is taken, how it is made to fit, and what is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.artifacts.store import LocalStore
from gpucluster.errors import (
    ConfigError,
    CorruptArtifactError,
    CorruptInputError,
    DtypeError,
    DuplicateIdsError,
    GpuclusterError,
    InputError,
    SchemaMismatchError,
    ShapeError,
)
from gpucluster.service.collections.appending import KeyReused
from gpucluster.service.collections.columns import named_features
from gpucluster.service.collections.incoming import Limits
from gpucluster.sources.collection import Feature, open_feature
from tests.helpers.documents import (
    DIM,
    FOLDER,
    TEXT,
    add,
    add_file,
    documents,
    everything,
    ids,
    start,
    write_lines,
    write_table,
)

OTHER = "gpucluster://image@v1/image"


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "root")


@pytest.fixture
def versions(store):
    return start(store)


def pack(path, kind):
    content = path.read_bytes()
    if kind == "jsonl.gz":
        content = gzip.compress(content)
    elif kind == "jsonl.zst":
        content = pa.compress(content, "zstd", asbytes=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_lines_of_json(store, versions, tmp_path, kind):
    rows = documents(1, 2, tags=["a", "b"], blob={"url": "s3://x", "n": 1})
    rows[1] |= {"score": 0.5, "tags": None, "text_embedding": None}
    done = add_file(store, versions, pack(write_lines(tmp_path / "x", rows), kind), kind)
    assert (done.added, done.version.number) == (2, 2)
    table = everything(versions)
    assert table.schema.field("text_embedding").type == pa.list_(pa.float32(), DIM)
    assert table.to_pylist() == [row | {"score": row.get("score")} for row in rows]


def test_parquet_is_made_to_fit(store, versions, tmp_path):
    times = pa.array([0, 1, 2], pa.timestamp("ms", "UTC"))
    path = write_table(
        tmp_path / "x.parquet",
        3,
        kind=pa.array(["a", "b", "a"]).dictionary_encode(),
        long=pa.array(["x", None, "y"], pa.large_string()),
        at=times,
    )
    add_file(store, versions, path, "parquet")
    version = versions.latest()
    types = {name: str(version.schema.field(name).type) for name in version.payload}
    assert types == {"kind": "string", "long": "string", "at": "timestamp[ms, tz=UTC]"}
    assert everything(versions)["kind"].to_pylist() == ["a", "b", "a"]
    source = open_feature(str(versions.path(2)), TEXT)
    assert (source.info.dtype, source.info.n_features) == ("float32", DIM)


def test_names_that_stand_for_columns(store):
    versions = start(store, {TEXT: Feature(column="emb", dim=DIM), OTHER: Feature(dim=2)})
    add(store, versions, [{"document_id": "a", TEXT: [1, 2, 3, 4], OTHER: [0.5, 1]}])
    table = everything(versions)
    assert table["emb"].to_pylist() == [[1, 2, 3, 4]]
    assert table["image"].to_pylist() == [[0.5, 1]]
    with pytest.raises(SchemaMismatchError, match="are the same column"):
        add(store, versions, [{"document_id": "b", TEXT: [1, 2, 3, 4], "emb": [1, 2, 3, 4]}])


def test_numbers_of_integers_are_ids_as_text(store, versions):
    add(store, versions, [{"document_id": 7, "text_embedding": [1, 2, 3, 4]}])
    assert ids(versions) == ["7"]


def test_later_values_are_converted_where_none_changes(store, versions):
    add(store, versions, documents(1, price=1.5, at="2026-01-01", n=5))
    add(store, versions, documents(2, price=2, n=5.0))
    table = everything(versions)
    assert table["price"].to_pylist() == [1.5, 2.0]
    assert table["n"].to_pylist() == [5, 5]
    for column, value in (("n", 5.5), ("n", "five"), ("price", "2"), ("at", 3), ("n", [1])):
        with pytest.raises(SchemaMismatchError, match=column):
            add(store, versions, documents(3, **{column: value}))
    assert versions.latest().number == 3


def test_text_becomes_a_time_where_there_is_one(store, versions, tmp_path):
    at = pa.array([0], pa.timestamp("us"))
    add_file(store, versions, write_table(tmp_path / "x.parquet", 1, at=at), "parquet")
    add(store, versions, documents(1, at="2026-01-02T03:04:05"))
    assert [at.as_py().isoformat() for at in everything(versions)["at"]] == [
        "1970-01-01T00:00:00",
        "2026-01-02T03:04:05",
    ]
    with pytest.raises(SchemaMismatchError, match="'at'.*timestamp"):
        add(store, versions, documents(2, at="yesterday"))


def test_vectors_that_are_not_finite_are_taken(store, versions):
    rows = documents(1, 2, 3)
    rows[0]["text_embedding"] = [float("nan"), None, 1.0, 2.0]
    rows[1]["text_embedding"] = None
    rows[2]["text_embedding"] = [1e300, 0, 0, 0]
    add(store, versions, rows)
    found = everything(versions)["text_embedding"].to_pylist()
    assert np.isnan(found[0][:2]).all()
    assert found[1] is None
    assert found[2][0] == np.inf
    (batch,) = open_feature(str(versions.path(2)), TEXT).batches()
    assert batch.null.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        ({"text_embedding": [1.0] * 3}, ShapeError, "doc-1 has 3 values, 4 expected"),
        ({"text_embedding": []}, ShapeError, "has 0 values"),
        ({"text_embedding": "1,2,3,4"}, DtypeError, "text_embedding is no list of numbers"),
        ({"text_embedding": [1, 2, 3, True]}, DtypeError, "no list of numbers"),
        ({"text_embedding": [1, 2, 3, 10**400]}, DtypeError, "beyond float64"),
        ({"document_id": None}, InputError, "document 2 has no id"),
        ({"document_id": ""}, InputError, "an id has 0 bytes"),
        ({"document_id": "x" * 513}, InputError, "an id has 513 bytes"),
        ({"document_id": 1.5}, SchemaMismatchError, "ids|types"),
        ({"document_id": "doc-0"}, DuplicateIdsError, "more than once, such as doc-0"),
        ({"n": "text"}, SchemaMismatchError, "'n'.*several types"),
        ({"\x00": 1}, InputError, "no name of a column"),
        ({" ": 1}, InputError, "no name of a column"),
        ({"x" * 201: 1}, InputError, "no name of a column"),
        ({"half": "\ud800"}, SchemaMismatchError, "'half'"),
        ({"big": 10**30}, SchemaMismatchError, "'big'"),
    ],
)
def test_a_document_that_does_not_fit(store, versions, row, error, said):
    rows = documents(0, 1, n=1)
    rows[1] |= row
    with pytest.raises(error, match=said):
        add(store, versions, rows)
    assert versions.numbers() == [1]
    assert len(store.list(f"{FOLDER}/data")) == 1


def test_a_column_of_ids_is_needed(store, versions):
    with pytest.raises(SchemaMismatchError, match="no column 'document_id'"):
        add(store, versions, [{"text_embedding": [1, 2, 3, 4]}])
    with pytest.raises(InputError, match="no documents"):
        add(store, versions, [])


def test_a_column_without_values_comes_with_its_first(store, versions):
    add(store, versions, documents(1, late=None))
    assert "late" not in versions.latest().schema.names
    add(store, versions, documents(2, late="x"))
    assert everything(versions)["late"].to_pylist() == [None, "x"]


def test_what_is_there_already(store, versions):
    add(store, versions, documents(1, 2, 3, old=True))
    with pytest.raises(DuplicateIdsError, match="2 ids are in col_a already, such as doc-2"):
        add(store, versions, documents(2, 3, 4))
    done = add(store, versions, documents(2, 3, 4), on_duplicate="skip")
    assert (done.added, done.skipped) == (1, 2)
    done = add(store, versions, documents(3, 4, 5, new=True), on_duplicate="replace")
    assert (done.added, done.replaced) == (1, 2)
    rows = {row["document_id"]: row for row in everything(versions).to_pylist()}
    assert [name for name, row in rows.items() if row["new"]] == ["doc-3", "doc-4", "doc-5"]
    assert [name for name, row in rows.items() if row["old"]] == ["doc-1", "doc-2"]
    done = add(store, versions, documents(1, 2), on_duplicate="skip")
    assert (done.added, done.skipped, done.version.number) == (0, 2, 4)


def test_the_same_key_appends_once(store, versions):
    first = add(store, versions, documents(1), key="k")
    add(store, versions, documents(2), key="other")
    again = add(store, versions, documents(1), key="k")
    assert (again.version.number, again.added) == (first.version.number, 1) == (2, 1)
    assert versions.latest().number == 3
    with pytest.raises(KeyReused):
        add(store, versions, documents(3), key="k")
    add(store, versions, documents(1), key="k", pinned=1)  # its answer was lost


def test_pages_carry_checksums(store, versions):
    add(store, versions, documents(*range(50), text="a text that is long enough to be found"))
    file = versions.latest().files[-1]
    path = versions._store.root / versions.key(file)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError):
        everything(versions)


def test_limits(store, versions, tmp_path):
    path = write_lines(tmp_path / "x.jsonl", documents(*range(10)))
    with pytest.raises(InputError, match="at most 10 expected"):
        add_file(store, versions, path, "jsonl", Limits(upload_bytes=10))
    with pytest.raises(InputError, match="10 documents, at most 9"):
        add_file(store, versions, path, "jsonl", Limits(rows=9))
    with pytest.raises(InputError, match="bytes of text"):
        add_file(store, versions, path, "jsonl", Limits(decoded_bytes=100))
    table = write_table(tmp_path / "x.parquet", 10)
    with pytest.raises(InputError, match="10 documents, at most 9"):
        add_file(store, versions, table, "parquet", Limits(rows=9))


def test_what_expands_beyond_reason(store, versions, tmp_path):
    n = 60_000
    same = pa.array(["x" * 5_000]).take(pa.array(np.zeros(n, np.int32)))
    table = pa.table({"document_id": [str(i) for i in range(n)], "text": same.dictionary_encode()})
    path = tmp_path / "bomb.parquet"
    pq.write_table(table, path, compression="zstd")
    with pytest.raises(CorruptInputError, match="more than"):
        add_file(store, versions, path, "parquet", Limits(decoded_bytes=1 << 28))
    lines = tmp_path / "bomb.jsonl.gz"
    lines.write_bytes(gzip.compress((b" " * 1023 + b"\n") * (270 << 10), 6))
    with pytest.raises(CorruptInputError, match="the upload.*more than 200 times"):
        add_file(store, versions, lines, "jsonl.gz")
    assert versions.numbers() == [1]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"PAR1", b"\x00" * 100, b'["a"]\n', b'{"a": 1}\n{"a"']
)
def test_what_is_no_such_file(store, versions, tmp_path, kind, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(GpuclusterError) as error:
        add_file(store, versions, path, kind)
    assert str(tmp_path) not in str(error.value)
    assert versions.numbers() == [1]


def test_two_features_are_not_in_one_column():
    with pytest.raises(ConfigError, match="both in the column"):
        named_features({TEXT: Feature(dim=3), "gpucluster://a@b/text_embedding": Feature(dim=3)})


def test_vectors_of_other_kinds(store):
    sparse, many = "gpucluster://a@v1/sparse", "gpucluster://a@v1/many"
    small = "gpucluster://a@v1/small"
    versions = start(
        store,
        {
            sparse: Feature(dim=100, kind="sparse"),
            many: Feature(dim=2, kind="multi_vector"),
            small: Feature(dim=2, dtype="int8"),
        },
    )
    row = {
        "document_id": "a",
        "sparse": {"indices": [3, 70], "values": [0.5, 1.0]},
        "many": [[1.0, 2.0], [3.0, 4.0]],
        "small": [-3, 100],
    }
    add(store, versions, [row])
    assert everything(versions).to_pylist() == [row]
    assert open_feature(str(versions.path(2)), many).info.kind == "multi_vector"
    assert open_feature(str(versions.path(2)), small).info.dtype == "int8"
    for wrong in ({"small": [0.5, 1]}, {"small": [300, 1]}, {"many": [1.0, 2.0]}, {"sparse": [1]}):
        with pytest.raises((InputError, SchemaMismatchError)):
            add(store, versions, [row | {"document_id": "b"} | wrong])


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(),
    st.lists(st.integers(0, 3)), st.dictionaries(st.text(), st.integers(0, 3), max_size=2),
)  # fmt: skip


@given(st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), min_size=1, max_size=4))
def test_whatever_is_sent_is_taken_whole_or_refused_plainly(tmp_path_factory, rows):
    store = LocalStore(tmp_path_factory.mktemp("any"))
    versions = start(store)
    rows = [{"document_id": str(n), **row} for n, row in enumerate(rows)]
    try:
        done = add(store, versions, rows)
    except GpuclusterError:
        assert versions.numbers() == [1]
    else:
        assert done.added == len(rows) == everything(versions).num_rows
