"""Collections of documents, as tests make them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.artifacts import Store
from gpucluster.service.collections.appending import Appended, append
from gpucluster.service.collections.columns import first_schema, named_features
from gpucluster.service.collections.data import empty_data, read_data
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.uploads import given_documents, open_upload
from gpucluster.service.collections.versions import Version, Versions
from gpucluster.sources.collection import Feature

DIM = 4
TEXT = "mixpeek://text_extractor@v1/text_embedding"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FOLDER = "ns/default/collections/col_a"


def start(store: Store, features: dict[str, Feature] | None = None, **changes: Any) -> Versions:
    """Return a collection without documents."""
    versions = Versions(store, FOLDER)
    named = named_features(features or {TEXT: Feature(dim=DIM)})
    schema = first_schema("document_id", named)
    file = empty_data(store, FOLDER, schema, "document_id")
    first: dict[str, Any] = {
        "collection_id": "col_a",
        "number": 1,
        "created_at": NOW,
        "made_by": "create",
        "id_column": "document_id",
        "text_column": None,
        "features": named,
        "schema": schema,
        "files": (file,),
        "details": {},
        "keys": {},
    }
    versions.commit(Version(**first | changes))
    return versions


def documents(*numbers: int, **fields: Any) -> list[dict[str, Any]]:
    """Return documents with these numbers."""
    return [
        {
            "document_id": f"doc-{number}",
            "text_embedding": [float(number), 1.0, 2.0, 3.0],
            "number": number,
            **fields,
        }
        for number in numbers
    ]


def add(store: Store, versions: Versions, rows: list[dict[str, Any]], **settings: Any) -> Appended:
    """Add documents as a request does that brings a few."""
    latest = versions.latest()
    assert latest is not None
    upload = given_documents(rows, latest, Limits())
    return append(store, versions, upload, **{"now": NOW, **settings})


def add_file(
    store: Store, versions: Versions, path: Path, kind: Any, limits: Any = None, **how: Any
) -> Appended:
    """Add documents of a file that was sent."""
    latest = versions.latest()
    assert latest is not None
    upload = open_upload(path, kind, latest, limits or Limits())
    return append(store, versions, upload, **{"now": NOW, **how})


def everything(versions: Versions, version: Version | None = None) -> pa.Table:
    """Return all documents of a version."""
    version = version or versions.latest()
    assert version is not None
    names = version.schema.names
    batches = [batch for file in version.files for batch in read_data(versions, file, names)]
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    return pa.concat_tables(tables or [version.schema.empty_table()], promote_options="default")


def ids(versions: Versions, version: Version | None = None) -> list[Any]:
    """Return the ids of a version in order."""
    return everything(versions, version)["document_id"].to_pylist()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write one object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_table(path: Path, n: int, **columns: Any) -> Path:
    """Write a Parquet file with `n` documents and vectors of float64 in lists of any length."""
    vectors = np.arange(n * DIM, dtype=np.float64).reshape(n, DIM)
    table = pa.table(
        {
            "document_id": [f"doc-{row}" for row in range(n)],
            "text_embedding": pa.array(vectors.tolist(), pa.list_(pa.float64())),
            **columns,
        }
    )
    pq.write_table(table, path)
    return path
