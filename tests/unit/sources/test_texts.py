"""Texts of single documents are found again, whatever their columns are called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpucluster.errors import SourceError
from gpucluster.events import Reporter
from gpucluster.sources import load, open_feature, read_texts
from tests.helpers.vectors import table, vectors, write_parquet

FEATURE = "mixpeek://text@v1/sentence"
ENOUGH = 1 << 30


def collection(folder: Path, name: str, *, ids: bool = True) -> Path:
    """Write five rows whose columns are named after their collection."""
    X = vectors()[:5]
    texts = [f"text {row} of {name}" for row in range(4)] + [None]
    columns = {f"{name}_text": pa.array(texts)}
    rows = table(X, [f"{name}-{row}" for row in range(5)], **columns)
    rows = rows.rename_columns([f"{name}_id", f"{name}_vector", f"{name}_text"])
    write_parquet(folder / f"{name}.parquet", rows if ids else rows.drop_columns(f"{name}_id"))
    manifest = {
        "collection_id": name,
        "files": [f"{name}.parquet"],
        "text_column": f"{name}_text",
        "features": {FEATURE: {"column": f"{name}_vector", "dim": X.shape[1]}},
    }
    if ids:
        manifest["id_column"] = f"{name}_id"
    path = folder / f"{name}.collection.json"
    path.write_text(json.dumps(manifest))
    return path


def described(*paths: Path) -> dict[str, object]:
    samples = load(open_feature([str(path) for path in paths], FEATURE), reporter=Reporter())
    assert samples.X.dtype == np.float32
    return json.loads(json.dumps(samples.source))  # as the manifest of a run holds it


def test_each_collection_has_its_own_columns(tmp_path: Path) -> None:
    source = described(collection(tmp_path, "a"), collection(tmp_path, "b"))
    found = read_texts(source, ["a-1", "b-3", "b-4", "c-0"], ENOUGH)
    assert found == {"a-1": "text 1 of a", "b-3": "text 3 of b"}


def test_without_ids_rows_are_counted_through(tmp_path: Path) -> None:
    paths = (collection(tmp_path, name, ids=False) for name in "ab")
    found = read_texts(described(*paths), ["1", "8", "9"], ENOUGH)
    assert found == {"1": "text 1 of a", "8": "text 3 of b"}


def test_a_file_may_lack_the_column(tmp_path: Path) -> None:
    first = table(vectors()[:5], [f"a-{row}" for row in range(5)], text=pa.array(list("abcde")))
    write_parquet(tmp_path / "0.parquet", first)
    write_parquet(tmp_path / "1.parquet", table(vectors()[:5], [f"b-{row}" for row in range(5)]))
    paths = sorted(map(str, tmp_path.glob("*.parquet")))
    source = json.loads(json.dumps(load(open_feature(paths, None), reporter=Reporter()).source))
    assert read_texts(source, ["a-1", "b-1"], ENOUGH) == {"a-1": "b"}


def test_what_is_too_large_or_gone_is_not_read(tmp_path: Path) -> None:
    source = described(collection(tmp_path, "a"))
    assert read_texts(source, ["a-1"], 10) == {}
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(SourceError):
        read_texts(source, ["a-1"], ENOUGH)
