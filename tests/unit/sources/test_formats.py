"""Every format that is read gives the same samples."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpucluster.errors import (
    ConfigError,
    CorruptInputError,
    DtypeError,
    SchemaMismatchError,
    ShapeError,
    SourceNotFoundError,
)
from gpucluster.sources import open_source
from tests.helpers.vectors import (
    N_FEATURES,
    N_ROWS,
    WITH_IDS,
    WITHOUT_IDS,
    assert_same,
    names,
    read,
    table,
    vectors,
    write_arrow,
    write_bin,
    write_json,
    write_npy,
    write_npz,
    write_parquet,
    write_vecs,
)


@pytest.mark.parametrize("name", WITH_IDS)
@pytest.mark.parametrize("ids", [names(), list(range(7, 7 + N_ROWS))], ids=["string", "int"])
def test_formats_agree(name, ids, tmp_path, child):
    path = WITH_IDS[name](tmp_path / name, vectors(), ids)
    assert_same(read(path, child=child), read((ids, vectors())))


@pytest.mark.parametrize("name", WITHOUT_IDS)
def test_formats_without_ids_agree(name, tmp_path):
    dtype, write = WITHOUT_IDS[name]
    path = write(tmp_path / name, vectors(dtype=dtype))
    samples = read(path)
    assert_same(samples, read(vectors(dtype=dtype)))
    assert samples.ids.equals(pa.array(range(N_ROWS)))
    assert samples.source["dtype"] == dtype


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8"])
@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.npy", "x.npz"])
def test_dtypes(name, dtype, tmp_path, child):
    path = WITH_IDS[name](tmp_path / name, vectors(dtype=dtype), names())
    samples = read(path, child=child)
    assert samples.source["dtype"] == dtype
    assert_same(samples, read((names(), vectors(dtype=dtype).astype("float32"))))


@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_view(pa.float32()),
        pa.large_list_view(pa.float16()),
        pa.list_(pa.float32(), N_FEATURES),
        pa.fixed_shape_tensor(pa.float32(), [N_FEATURES]),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_list_types(name, type_, tmp_path, child):
    storage = getattr(type_, "storage_type", type_)
    values = [None if row == 5 else x for row, x in enumerate(vectors().tolist())]
    column = pa.array(values, storage)
    if type_ != storage:
        column = pa.ExtensionArray.from_storage(type_, column)
    data = pa.table({"id": names(), "embedding": column})
    write = write_parquet if name == "x.parquet" else write_arrow
    samples = read(write(tmp_path / name, data), child=child, max_bad_fraction=0.1)
    assert samples.X.tolist() == np.delete(vectors(), 5, axis=0).tolist()
    assert samples.rejected.to_pylist() == [{"document_id": "doc-5", "row": 5, "reason": "null"}]


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
@pytest.mark.parametrize(
    "type_", [pa.binary(N_FEATURES * 4), pa.binary(), pa.binary_view()], ids=str
)
def test_bytes_are_float32_unless_said_otherwise(name, type_, tmp_path, child):
    write = write_parquet if name == "x.parquet" else write_arrow
    values = [None if row == 5 else x.tobytes() for row, x in enumerate(vectors())]
    data = pa.table({"id": names(), "embedding": pa.array(values, type_)})
    path = write(tmp_path / name, data)
    samples = read(path, child=child, max_bad_fraction=0.1)
    assert samples.X.tolist() == np.delete(vectors(), 5, axis=0).tolist()
    assert samples.source["notes"] == ["column 'embedding' holds bytes: read as float32"]
    halves = open_source(path, child=child, vector_dtype="float16").info
    assert (halves.n_features, halves.dtype, halves.notes) == (2 * N_FEATURES, "float16", ())


def test_bytes_say_what_they_are(tmp_path):
    values = [x.tobytes() for x in vectors(dtype="float16")]
    field = pa.field("embedding", pa.binary(N_FEATURES * 2), metadata={"dtype": "float16"})
    data = pa.table([pa.array(values, field.type)], pa.schema([field]))
    samples = read(write_parquet(tmp_path / "x.parquet", data))
    assert samples.X.tolist() == vectors().tolist()
    assert samples.source["notes"] == []


@pytest.mark.parametrize("n_bytes", [9, 10])
def test_bytes_of_no_dtype(n_bytes, tmp_path):
    fixed = pa.table({"embedding": pa.array([b"x" * n_bytes], pa.binary(n_bytes))})
    with pytest.raises(
        DtypeError, match=rf"{n_bytes} bytes.* no multiple of float32 .*vector_dtype"
    ):
        read(write_parquet(tmp_path / "a.parquet", fixed))
    free = pa.table({"embedding": pa.array([b"x" * n_bytes], pa.binary())})
    with pytest.raises(DtypeError, match=rf"{n_bytes} bytes is no multiple of float32"):
        read(write_parquet(tmp_path / "b.parquet", free))


def test_vector_dtype_is_checked(tmp_path):
    data = pa.table({"embedding": pa.array([b"1234"])})
    path = write_parquet(tmp_path / "x.parquet", data)
    with pytest.raises(ConfigError, match="vector_dtype: 'object' is no dtype of vectors.*float16"):
        open_source(path, vector_dtype="object")


@pytest.mark.parametrize("many", ["folder", "glob", "list"])
@pytest.mark.parametrize("end", ["parquet", "arrow", "npy", "npz", "jsonl"])
def test_many_files_are_one(many, end, tmp_path, child):
    X, ids = vectors(), names()
    paths = []
    for part, stop in enumerate([20, 45, N_ROWS]):
        start = [0, 20, 45][part]
        path = tmp_path / f"part-{part}.{end}"
        paths.append(WITH_IDS[f"x.{end}"](path, X[start:stop], ids[start:stop]))
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "notes.txt").write_text("not data")
    data = {"folder": tmp_path, "glob": str(tmp_path / f"*.{end}"), "list": paths}[many]
    samples = read(data, child=child)
    assert_same(samples, read((ids, X)))
    assert samples.source["paths"] == list(map(str, paths))


@pytest.mark.parametrize("many", [1, 2])
def test_formats_without_ids_can_be_many(many, tmp_path):
    for part in range(many):
        write_bin(tmp_path / f"{part}.fbin", vectors())
    assert read(tmp_path).ids.equals(pa.array(range(many * N_ROWS)))


def test_ids_beside_an_array(tmp_path):
    path = write_npy(tmp_path / "x.npy", vectors())
    assert read(path).ids.equals(pa.array(range(N_ROWS)))
    beside = tmp_path / "x.ids.txt"
    beside.write_text("".join(f"{i}\n" for i in names()))
    assert read(path).ids.to_pylist() == names()
    beside.unlink()
    pq.write_table(pa.table({"n": range(N_ROWS), "doc_id": names()}), tmp_path / "x.ids.parquet")
    assert read(path).ids.to_pylist() == names()
    np.save(tmp_path / "x.ids.npy", np.arange(N_ROWS))
    with pytest.raises(SchemaMismatchError, match=r"x\.ids\.npy and in x\.ids\.parquet"):
        read(path)
    (tmp_path / "x.ids.parquet").unlink()
    assert read(path).ids.equals(pa.array(range(N_ROWS)))
    np.save(tmp_path / "x.ids.npy", np.arange(N_ROWS - 1))
    with pytest.raises(ShapeError, match="59 ids for 60 vectors"):
        read(path)
    np.save(tmp_path / "x.ids.npy", np.array(names(), dtype=object), allow_pickle=True)
    with pytest.raises(CorruptInputError, match=r"x\.ids\.npy"):
        read(path)


def test_arrays_keep_order_and_bytes(tmp_path):
    X = vectors()
    np.save(tmp_path / "f.npy", np.asfortranarray(X))
    np.save(tmp_path / "b.npy", X.astype(">f4"))
    np.savez(tmp_path / "f.npz", X=np.asfortranarray(X))
    for name in ("f.npy", "b.npy", "f.npz"):
        assert_same(read(tmp_path / name), read(X))


def test_npz_roles(tmp_path):
    truth = np.arange(N_ROWS) % 3
    path = write_npz(tmp_path / "x.npz", vectors(), names(), truth=truth, text=np.array(names()))
    samples = read(path, truth_column="truth", text_column="text")
    assert samples.payload["truth"].to_pylist() == truth.tolist()
    assert samples.payload["text"].to_pylist() == names()
    np.savez(tmp_path / "two.npz", a=vectors(), b=vectors())
    with pytest.raises(ConfigError, match=r"vector_column: .*a \(float32 \[60, 8\]\), b"):
        read(tmp_path / "two.npz")
    assert_same(read(tmp_path / "two.npz", vector_column="b"), read(vectors()))
    np.savez(tmp_path / "one.npz", a=vectors(), b=np.arange(3))
    assert read(tmp_path / "one.npz").source["columns"]["vector"] == "a"


def test_json_oddities(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '\ufeff{"id": "a", "embedding": [1, 2.5, null]}\n'
        "\n"
        '{"id": "b", "embedding": [NaN, 1, 2]}\r\n'
        '{"id": "c", "embedding": [1, -Infinity, 2]}\n'
        '{"id": "d", "embedding": [1e999, 1, 2]}\n'
        '{"id": "e"}\n'
        '{"id": "f", "embedding": [3, 4, 5], "tail": [{}]}',
        encoding="utf-8",
    )
    samples = read(path, max_bad_fraction=1)
    assert (samples.ids.to_pylist(), samples.X.tolist()) == (["f"], [[3, 4, 5]])
    assert samples.rejected["reason"].to_pylist() == ["nan", "nan", "nan", "inf", "null"]
    assert samples.rejected["row"].to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("{", CorruptInputError, r"line 5: it is no JSON \(Expecting property name"),
        ('{"id": "x", "embedding": [1, 2', CorruptInputError, r"line 5: it is no JSON"),
        ("[1, 2]", CorruptInputError, r"line 5: a JSON object expected, got \[1, 2\]"),
        ("[" * 100_000, CorruptInputError, r"line 5: it is no JSON"),
        (
            '{"id": 5, "embedding": [1]}',
            SchemaMismatchError,
            "line 5: id is 5, string in the first",
        ),
        ('{"id": "x", "embedding": "no"}', DtypeError, 'line 5: embedding is "no", a list of numb'),
        ('{"id": "x", "embedding": [true]}', DtypeError, r"line 5: embedding is \[true\], a list"),
        (
            '{"id": "x", "embedding": [1]}',
            ShapeError,
            r"row 3 \(document_id 'x'\): embedding has 1",
        ),
    ],
)
def test_bad_lines_are_named(line, error, message, tmp_path):
    path = write_json(tmp_path / "x.jsonl", vectors(3), names(3))
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(error, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_json_of_another_encoding(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"id": "ä", "embedding": [1]}'.encode("latin-1"))
    with pytest.raises(CorruptInputError, match="line 1: it is no JSON .*utf-8"):
        read(path)


@pytest.mark.parametrize("end", ["pkl", "pickle", "pt", "pth", "joblib", "csv", "tsv", "json"])
def test_refused_formats_say_what_to_use(end, tmp_path):
    path = tmp_path / f"x.{end}"
    path.touch()
    with pytest.raises(DtypeError, match=rf"\.{end} files are not read\. .*(save|[Ww]rite)"):
        open_source(path)


def test_unknown_formats_and_places(tmp_path):
    (tmp_path / "x.xyz").touch()
    with pytest.raises(DtypeError, match=r"x\.xyz.*\.parquet.*\.npy"):
        open_source(tmp_path / "x.xyz")
    with pytest.raises(SourceNotFoundError, match=r"gone\.parquet: there is no such file"):
        open_source(tmp_path / "gone.parquet")
    with pytest.raises(SourceNotFoundError, match="holds no file that can be read"):
        open_source(tmp_path)
    write_npy(tmp_path / "x.npy", vectors())
    write_parquet(tmp_path / "x.parquet", table(vectors()))
    with pytest.raises(SchemaMismatchError, match="are of different formats"):
        open_source(tmp_path)


def test_files_must_agree(tmp_path):
    X = vectors()
    first = write_parquet(tmp_path / "a.parquet", table(X))
    cases = {
        "b": (table(X[:, :4], [f"{i}" for i in range(N_ROWS)]), ShapeError, "4 values a row, 8 in"),
        "c": (table(X.astype("f8")), SchemaMismatchError, "vectors are float64 and ids strings"),
        "d": (table(X, range(N_ROWS)), SchemaMismatchError, "vectors are float32 and ids integers"),
        "e": (
            table(X).rename_columns(["id", "v"]),
            SchemaMismatchError,
            "'embedding' is not among",
        ),
    }
    for name, (data, error, message) in cases.items():
        other = write_parquet(tmp_path / f"{name}.parquet", data)
        with pytest.raises(error, match=message) as caught:
            open_source([first, other])
        assert str(other) in str(caught.value)
    write_npy(tmp_path / "a.npy", X, names())
    write_npy(tmp_path / "b.npy", X)
    with pytest.raises(SchemaMismatchError, match="without ids, .* with string ids"):
        open_source([tmp_path / "a.npy", tmp_path / "b.npy"])


def test_arrays_have_no_columns(tmp_path):
    path = write_npy(tmp_path / "x.npy", vectors())
    with pytest.raises(ConfigError, match=r"id_column: npy files have no columns.*\.ids\.npy"):
        open_source(path, id_column="id")


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.ones(5), ShapeError, r"has shape \(5,\), \(rows, features\) expected"),
        (np.ones((5, 2, 2)), ShapeError, r"has shape \(5, 2, 2\)"),
        (np.ones((5, 0)), ShapeError, "its vectors have no values"),
        (np.ones((5, 2), complex), DtypeError, "holds complex128, real numbers expected"),
        (np.array([["a"]]), DtypeError, "holds <U1, real numbers expected"),
    ],
)
def test_arrays_that_are_no_vectors(array, error, message, tmp_path):
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", X=array)
    for data in (array, tmp_path / "x.npy"):
        with pytest.raises(error, match=message):
            open_source(data)
    with pytest.raises((error, SchemaMismatchError)):
        open_source(tmp_path / "x.npz")
    with pytest.raises(error, match=message):
        open_source(tmp_path / "x.npz", vector_column="X")


def test_object_arrays_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    array = np.array([[Bomb()]], dtype=object)
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    np.savez(tmp_path / "x.npz", X=array)
    for data in (array, tmp_path / "x.npy", tmp_path / "x.npz"):
        with pytest.raises((DtypeError, CorruptInputError)):
            read(data)
    assert not tmp_path.joinpath("exploded").exists()


def npy_claiming(shape) -> bytes:
    header = json.dumps({"descr": "<f4", "fortran_order": False, "shape": "@"})
    header = header.replace('"@"', repr(shape)).replace("false", "False").ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", npy_claiming((10**9, 10**3)), "its header stands for"),
        ("x.npy", npy_claiming((1, 10**7)), "its header stands for"),
        ("x.npy", npy_claiming((-1, 4)), r"shape \(-1, 4\)"),
        (
            "x.fbin",
            np.array([2**32 - 1, 2**20 - 1], "<u4").tobytes(),
            "vectors of 1,048,575 values",
        ),
        ("x.fbin", np.array([2**32 - 1, 100], "<u4").tobytes() + b"\0" * 400, "its header stands"),
        (
            "x.fvecs",
            np.array([2**31 - 1], "<i4").tobytes() + b"\0" * 400,
            "vectors of 2,147,483,647",
        ),
        ("x.fvecs", np.array([3], "<i4").tobytes() + b"\0" * 13, "16 bytes, the file has 17"),
        ("x.fvecs", b"", "cannot be read"),
        ("x.parquet", b"PAR1 and no more", "cannot be read"),
        ("x.arrow", b"ARROW1\0\0 and no more", "cannot be read"),
        ("x.npz", b"PK and no more", "cannot be read"),
        ("x.jsonl.gz", b"\x1f\x8b and no more", "cannot be read"),
        ("x.jsonl.zst", b"(\xb5/\xfd and no more", "cannot be read"),
    ],
)
def test_hostile_headers(name, content, message, tmp_path, child):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorruptInputError, match=message) as caught:
        read(path, child=child)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ragged_vecs_name_the_row(tmp_path):
    path = write_vecs(tmp_path / "x.fvecs", vectors())
    content = bytearray(path.read_bytes())
    content[7 * (4 + 4 * N_FEATURES)] = 5
    path.write_bytes(content)
    with pytest.raises(ShapeError, match=r"x\.fvecs row 7: the vector has 5 values, 8 expected"):
        read(path)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
def test_compressed_bombs(name, tmp_path, monkeypatch):
    monkeypatch.setattr("gpucluster.sources.base.FREE_EXPANSION_BYTES", 1 << 20)
    blank = b"\n" * (8 << 20)
    path = tmp_path / name
    path.write_bytes(
        gzip.compress(blank) if name.endswith("gz") else pa.compress(blank, "zstd", asbytes=True)
    )
    with pytest.raises(CorruptInputError, match="more than 200 times as much"):
        read(path)


@pytest.mark.parametrize("name", ["x.parquet", "x.npz"])
def test_claims_beyond_reason(name, tmp_path, monkeypatch):
    monkeypatch.setattr("gpucluster.sources.base.FREE_EXPANSION_BYTES", 1 << 20)
    path = WITH_IDS[name](tmp_path / name, np.zeros((300_000, N_FEATURES), "f4"), [0] * 300_000)
    with pytest.raises(CorruptInputError, match="more than 200 times as much"):
        open_source(path)


def test_too_many_columns(tmp_path, child):
    wide = pa.table({f"c{i}": [1] for i in range(10_001)})
    for path in (
        write_parquet(tmp_path / "x.parquet", wide),
        write_arrow(tmp_path / "x.arrow", wide),
    ):
        with pytest.raises(CorruptInputError, match="10,001 columns, at most 10,000 expected"):
            open_source(path, child=child)


@pytest.mark.parametrize("name", WITH_IDS)
def test_empty_inputs(name, tmp_path, child):
    path = WITH_IDS[name](tmp_path / name, vectors(0), [])
    with pytest.raises((SchemaMismatchError, ValueError), match=r"no columns|it has no rows"):
        read(path, child=child)
