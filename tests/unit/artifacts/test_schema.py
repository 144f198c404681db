from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.artifacts import schema
from tests.helpers.runs import LABELS, N_CLUSTERS, N_FEATURES, ROWS, tables

PROVENANCE = {"run_id": "run_a", "random_state": "42"}


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    schema.write_parquet(table, PROVENANCE, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def members() -> pa.Table:
    return tables()["members"]


@pytest.fixture(scope="module")
def centroids() -> pa.Table:
    return tables()["centroids"]


def test_members_have_their_columns_in_their_order(members):
    members.validate(full=True)
    assert members.schema.equals(schema.MEMBERS)
    keys = list(zip(members["cluster_index"].to_pylist(), members["row"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert keys[0][0] == -1
    labels = dict(
        zip(members["row"].to_pylist(), members["cluster_index"].to_pylist(), strict=True)
    )
    assert labels == dict(zip(ROWS.tolist(), LABELS.tolist(), strict=True))


def test_each_row_of_the_members_agrees_with_itself(members):
    for row in members.to_pylist():
        index = row["cluster_index"]
        assert row["document_id"] == f"doc-{row['row']}"
        assert row["z"] is None
        assert 0 <= row["x"] <= 1
        if index == -1:
            assert row["cluster_id"] == "-1"
            assert row["cluster_path"] == []
            assert row["cosine_similarity_to_centroid"] is None
            assert row["distance_to_centroid"] is None
            assert row["nearest_cluster_id"] == "cl_2"
        else:
            assert row["cluster_id"] == row["nearest_cluster_id"] == f"cl_{index}"
            assert row["cluster_path"] == [row["cluster_id"]]
            similarity = row["cosine_similarity_to_centroid"]
            assert row["distance_to_centroid"] == pytest.approx(1 - similarity, abs=1e-7)


@pytest.mark.parametrize("ids", [pa.array([5, 3, 4]), pa.array(["5", "3", "4"], pa.large_string())])
def test_all_noise_and_no_optional_column(ids):
    nothing = np.full(3, -1, np.int32)
    table = schema.members_table(
        ids,
        np.array([2, 0, 1]),
        nothing,
        paths=[],
        similarity=np.full(3, np.nan, np.float32),
        nearest=nothing,
        nearest_similarity=np.full(3, np.nan, np.float32),
        assigned_by=["fit"] * 3,
    )
    table.validate(full=True)
    assert table["document_id"].to_pylist() == ["3", "4", "5"]
    assert table["cluster_id"].to_pylist() == ["-1"] * 3
    assert table["assigned_by"].to_pylist() == ["fit"] * 3
    for name in schema.MEMBERS.names[5:]:
        assert table[name].null_count == (0 if name == "assigned_by" else 3)


def test_no_rows_at_all():
    none = np.empty(0, np.int32)
    table = schema.members_table(
        pa.array([], pa.string()),
        none.astype(np.int64),
        none,
        paths=[],
        similarity=none.astype(np.float32),
        nearest=none,
        nearest_similarity=none.astype(np.float32),
        assigned_by=[],
    )
    assert table.schema.equals(schema.MEMBERS)
    assert table.num_rows == 0
    read = pq.read_table(io.BytesIO(parquet(table)))
    assert read.schema.equals(schema.MEMBERS)
    assert [name for name, _ in schema.parts("members", table)] == ["members.parquet"]


def test_a_hierarchy_is_its_paths():
    paths = [["cl_0"], ["cl_1"], ["cl_0", "cl_0_sub_0"], ["cl_0", "cl_0_sub_1"]]
    members = schema.members_table(
        pa.array(["a", "b", "c", "d"]),
        np.arange(4),
        np.array([2, 3, 0, 1], np.int32),
        paths=paths,
        similarity=np.ones(4, np.float32),
        nearest=np.array([2, 3, 0, 1], np.int32),
        nearest_similarity=np.ones(4, np.float32),
        assigned_by=["fit", "fit", "noise", "fit"],
    ).sort_by("row")
    assert members["cluster_id"].to_pylist() == ["cl_0_sub_0", "cl_0_sub_1", "cl_0", "cl_1"]
    assert members["assigned_by"].to_pylist() == ["fit", "fit", "noise", "fit"]
    assert members["cluster_path"].to_pylist() == [paths[i] for i in (2, 3, 0, 1)]
    ones = np.ones(4, np.float32)
    centroids = schema.centroids_table(
        np.ones((4, 2), np.float32),
        np.array([3, 1, 1, 1]),
        paths=paths,
        mean_similarity=ones,
        min_similarity=ones,
        variance=ones,
        medoid_ids=pa.array(["a", "d", "a", "b"]),
        algorithm="hdbscan",
        run_id="run_a",
        stable_ids=["s0", "s1", "s2", "s3"],
    )
    assert centroids["parent_cluster_id"].to_pylist() == [None, None, "cl_0", "cl_0"]
    assert centroids["child_cluster_ids"].to_pylist() == [["cl_0_sub_0", "cl_0_sub_1"], [], [], []]
    assert centroids["hierarchy_level"].to_pylist() == [0, 0, 1, 1]
    assert centroids["stable_id"].to_pylist() == ["s0", "s1", "s2", "s3"]


def test_centroids_have_their_columns(centroids):
    centroids.validate(full=True)
    assert centroids.schema.equals(schema.centroids_schema(N_FEATURES))
    assert centroids["cluster_index"].to_pylist() == list(range(N_CLUSTERS))
    assert centroids["feature_dimensions"].to_pylist() == [N_FEATURES] * N_CLUSTERS
    assert centroids["child_cluster_ids"].to_pylist() == [[]] * N_CLUSTERS
    vectors = np.stack(centroids["centroid_vector"].to_numpy())
    assert vectors.dtype == np.float32
    assert vectors.shape == (N_CLUSTERS, N_FEATURES)


def test_no_centroids():
    table = schema.centroids_table(
        np.empty((0, 4), np.float32),
        np.empty(0, np.int64),
        paths=[],
        mean_similarity=np.empty(0, np.float32),
        min_similarity=np.empty(0, np.float32),
        variance=np.empty(0, np.float32),
        medoid_ids=pa.array([], pa.string()),
        algorithm="hdbscan",
        run_id="run_a",
    )
    read = pq.read_table(io.BytesIO(parquet(table)))
    assert read.schema.equals(schema.centroids_schema(4))
    assert read.num_rows == 0


@pytest.mark.parametrize("name", ["members", "centroids"])
def test_files_are_read_as_they_were_and_say_where_they_come_from(name):
    table = tables()[name]
    file = pq.ParquetFile(io.BytesIO(parquet(table)), page_checksum_verification=True)
    assert file.read().equals(table)
    assert file.schema_arrow.metadata[b"gpucluster.run_id"] == b"run_a"
    assert file.schema_arrow.metadata[b"gpucluster.random_state"] == b"42"
    group = file.metadata.row_group(0)
    for column in map(group.column, range(group.num_columns)):
        vector = column.path_in_schema.startswith("centroid_vector")
        assert column.compression == ("UNCOMPRESSED" if vector else "ZSTD")
        assert column.is_stats_set
    assert [key.column_index for key in group.sorting_columns] == (
        [3, 1] if name == "members" else [1]
    )


def test_equal_tables_are_equal_files(members):
    chunked = pa.concat_tables([members.slice(0, 50), members.slice(50)])
    assert parquet(tables()["members"]) == parquet(members) == parquet(chunked)
    assert parquet(members.slice(1)) != parquet(members)


@given(rows=st.integers(0, 100), group=st.integers(1, 30), size=st.integers(1, 2000))
def test_large_tables_are_several_files_of_whole_row_groups(rows, group, size):
    table = pa.table({"row": np.arange(rows)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "ROW_GROUP_ROWS", group)
        patch.setattr(schema, "FILE_BYTES", size)
        parts = dict(schema.parts("members", table))
    assert pa.concat_tables(parts.values()).equals(table)
    if table.nbytes <= size:
        assert list(parts) == ["members.parquet"]
    if len(parts) > 1:
        assert list(parts) == [f"members-{n:05d}.parquet" for n in range(len(parts))]
        assert all(part.num_rows % group == 0 for part in list(parts.values())[:-1])
        assert all(part.nbytes <= size + 8 * group for part in parts.values())
