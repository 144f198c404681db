"""Plain columns come aligned with the ids, whatever the format."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest

from gpucluster.errors import SchemaMismatchError
from gpucluster.sources import open_feature, open_source, read_attributes
from tests.helpers.vectors import table, vectors, write_arrow, write_npy, write_parquet

N = 40
BRANDS = ["Apple" if row % 3 else None for row in range(N)]
META = [{"brand": {"name": brand}, "size": row} if row % 7 else None
        for row, brand in enumerate(BRANDS)]  # fmt: skip
TAGS = [["a", "b"][: row % 3] for row in range(N)]


def documents() -> pa.Table:
    return table(vectors(N), meta=pa.array(META), tags=pa.array(TAGS), kind=pa.array(BRANDS))


def as_jsonl(folder):
    path = folder / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, documents().to_pylist())))
    return path


SOURCES = {
    "parquet": lambda folder: write_parquet(folder / "x.parquet", documents(), row_group_size=7),
    "arrow": lambda folder: write_arrow(folder / "x.arrow", documents()),
    "jsonl": as_jsonl,
    "pyarrow": lambda folder: documents(),
    "dataset": lambda folder: pyarrow.dataset.dataset(documents()),
    "pandas": lambda folder: documents().to_pandas(),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_attributes_of_every_source(kind, tmp_path, child):
    source = open_source(SOURCES[kind](tmp_path), child=child)
    found = read_attributes(source, ["meta.brand.name", "tags", "meta.size", "kind"])
    assert found.column_names == ["meta.brand.name", "tags", "meta.size", "kind"]
    assert found["kind"].to_pylist() == BRANDS
    assert found["tags"].to_pylist() == TAGS
    expected = [meta and meta["brand"]["name"] for meta in META]
    assert found["meta.brand.name"].to_pylist() == expected
    assert found["meta.size"].to_pylist() == [meta and meta["size"] for meta in META]


def test_a_field_that_is_not_there(tmp_path):
    source = open_source(write_parquet(tmp_path / "x.parquet", documents()))
    for name, near in {"tag": "tags", "meta.brand.nam": "meta.brand.name"}.items():
        message = rf"x.parquet: there is no field '{name}'. did you mean '{near}'\?"
        with pytest.raises(SchemaMismatchError, match=message):
            read_attributes(source, ["kind", name])
    with pytest.raises(SchemaMismatchError, match="known are: "):
        read_attributes(source, ["tags.zzzzzzzz"])


def test_formats_without_attributes(tmp_path):
    source = open_source(write_npy(tmp_path / "x.npy", vectors(N)))
    with pytest.raises(SchemaMismatchError, match="npy data have no columns"):
        read_attributes(source, ["kind"])


def test_a_name_with_a_dot_goes_first():
    data = table(vectors(2)).append_column("a", pa.array([{"b": 1}, {"b": 2}]))
    data = data.append_column("a.b", pa.array([3, 4]))
    assert read_attributes(open_source(data), ["a.b"])["a.b"].to_pylist() == [3, 4]


def test_files_that_differ(tmp_path):
    first = table(vectors(N)[:9], kind=pa.array(range(9)))
    second = table(vectors(N)[9:20], [f"b{i}" for i in range(11)], other=["x"] * 11)
    paths = [
        write_parquet(tmp_path / "a.parquet", first),
        write_parquet(tmp_path / "b.parquet", second),
    ]
    found = read_attributes(open_source(paths), ["kind", "other"])
    assert found["kind"].to_pylist() == [*range(9), *[None] * 11]
    assert found["other"].to_pylist() == [None] * 9 + ["x"] * 11
    third = table(vectors(N)[20:], [f"c{i}" for i in range(20)], kind=["x"] * 20)
    write_parquet(tmp_path / "c.parquet", third)
    with pytest.raises(SchemaMismatchError, match="differ in the type of kind"):
        read_attributes(open_source(tmp_path), ["kind"])
    frame = pd.DataFrame({"id": ["x"], "embedding": [[1.0] * 8], "kind": [7]})
    (tmp_path / "d.jsonl").write_text(frame.to_json(orient="records", lines=True))
    joined = open_feature([paths[0], tmp_path / "d.jsonl"])
    assert read_attributes(joined, ["kind"])["kind"].to_pylist() == [*range(9), 7]
