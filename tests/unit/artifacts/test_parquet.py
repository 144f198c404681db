"""How tables are stored: vectors plain, all else compressed, whatever is nested in what."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.artifacts.parquet import parquet_options


def test_every_leaf_is_stored_as_it_should_be() -> None:
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 3), np.float32))
    table = pa.table(
        {
            "id": ["a", "b"],
            "text": ["x", "x"],
            "size": [1, 2],
            "meta": [{"title": "t", "price": 1.5, "emb": [1.0]}] * 2,
            "blobs": [[{"url": "u", "dims": [1, 2]}]] * 2,
            "tags": pa.array([[("k", "v")]] * 2, pa.map_(pa.string(), pa.string())),
            "kind": pa.array(["s", "s"]).dictionary_encode(),
            "tensor": tensor,
            "vector": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)),
            "half": pa.array([[1.0], [2.0]], pa.list_(pa.float32())),
            "patches": pa.array([[[1.0]], [[2.0]]], pa.list_(pa.list_(pa.float32()))),
            "words": [["a"], ["b"]],
        }
    )
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, **parquet_options(table.schema, "id")) as writer:
        writer.write_table(table)
    with pq.ParquetFile(sink) as file:
        assert file.read().equals(table)
        group = file.metadata.row_group(0)
        stored = {c.path_in_schema: c for c in map(group.column, range(group.num_columns))}
    plain = {path for path, column in stored.items() if column.compression == "UNCOMPRESSED"}
    lists = ("tensor", "vector", "half", "meta.emb")
    assert plain == {
        *(f"{name}.list.element" for name in lists),
        "patches.list.element.list.element",
    }
    by_dictionary = {path for path, column in stored.items() if column.has_dictionary_page}
    assert by_dictionary == {
        *("text", "meta.title", "blobs.list.element.url", "kind", "words.list.element"),
        *("tags.key_value.key", "tags.key_value.value"),
    }
