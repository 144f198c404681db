"""Collections that are made of files: where they lie, or copied; and from nowhere else."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.documents import DIM, TEXT, documents, write_lines, write_table
from tests.helpers.serving import serving

FEATURES = {TEXT: {"dim": DIM}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def server(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("service") / "root"
    with serving(root, import_roots=(str(files),)) as found:
        yield found


@pytest.fixture
def client(server):
    return server[0]


def made(client, **fields):
    answer = client.post("/v1/collections?wait=true", json={"features": FEATURES, **fields})
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "READY", answer.text
    return answer.json()


def path_of(collection, *more):
    return "/".join(["/v1/collections", collection["collection_id"], *more])


def test_a_collection_of_files_where_they_lie(client, files):
    folder = files / "catalogue"
    folder.mkdir()
    for n in range(3):
        table = pa.table({
            "sku": [f"{n}-{row}" for row in range(5)],
            "emb": pa.array(np.ones((5, DIM), np.float16).tolist(), pa.list_(pa.float16())),
            "title": [f"Title {row}" for row in range(5)],
        })  # fmt: skip
        pq.write_table(table, folder / f"{n}.parquet")
    body = {
        "features": {TEXT: {"column": "emb", "dim": DIM}},
        "id_column": "sku",
        "text_column": "title",
        "source": {"paths": [str(folder)]},
    }
    collection = made(client, **body)
    assert collection["num_documents"] == 15
    assert collection["features"][TEXT]["dtype"] == "float16"
    found = client.post(path_of(collection, "documents/list"), json={"search": "title 3"}).json()
    assert [each["document_id"] for each in found["results"]] == ["0-3", "1-3", "2-3"]
    row = {"document_id": "new", TEXT: [0, 1, 0, 1], "title": "Title 3"}
    assert (
        client.post(path_of(collection, "documents"), json={"documents": [row]}).json()[
            "num_documents"
        ]
        == 16
    )
    path = path_of(collection, "documents/delete")
    assert client.post(path, json={"document_ids": ["1-3"]}).json()["num_documents"] == 15
    assert pq.read_metadata(folder / "1.parquet").num_rows == 5  # theirs is as it was
    pq.write_table(table.slice(1), folder / "0.parquet")
    changed = client.post(path_of(collection, "documents/list"), json={})
    assert changed.status_code == 409
    assert "not the file that it was" in changed.json()["error"]["message"]
    for wrong, said in (
        ({"features": {TEXT: {"column": "emb", "dim": 5}}}, "4 values.*5 in"),
        ({"features": {TEXT: {"column": "none", "dim": 4}}}, "'none' is not among"),
        ({"id_column": "none"}, "'none' is not among"),
        ({"text_column": "none"}, "'none' is not among"),
        ({"features": {TEXT: {"column": "emb", "dim": 4, "dtype": "float32"}}}, "float16"),
        ({"source": {"paths": [str(folder / "none")]}}, "no such file"),
        ({"source": {"paths": [str(folder)], "cpoy": True}}, "did you mean 'copy'|no such field"),
    ):
        answer = client.post("/v1/collections", json={**body, **wrong})
        assert answer.status_code == 422, answer.text
        assert re.search(said, answer.text), answer.text


def test_a_collection_of_copies(client, files):
    folder = files / "copies"
    folder.mkdir()
    write_table(folder / "a.parquet", 5)
    lines = write_lines(folder / "b.jsonl", documents(*range(5, 8), kind="x"))
    source = {"paths": [str(folder / "a.parquet"), str(lines)], "copy": True}
    collection = made(client, source=source)
    assert (collection["version"], collection["num_documents"]) == (1, 8)
    (folder / "a.parquet").unlink()
    found = client.post(path_of(collection, "documents/list"), json={}).json()["results"]
    assert [each["document_id"] for each in found] == [f"doc-{n}" for n in range(8)]
    write_table(folder / "a.parquet", 6)
    body = {"features": FEATURES, "source": source}
    twice = client.post("/v1/collections?wait=true", json=body).json()
    assert twice["status"] == "FAILED"
    assert "more than once, such as doc-5" in twice["error"]


def test_files_elsewhere_are_nobodys_business(client, files, tmp_path, server):
    outside = write_table(tmp_path / "secret.parquet", 3)
    (files / "link.parquet").symlink_to(outside)
    (files / "folder").symlink_to(tmp_path)
    own = server[1].settings.root
    for path in (
        str(outside),
        str(tmp_path),
        str(files / "link.parquet"),
        str(files / "folder"),
        f"{files}/../{tmp_path.name}/secret.parquet",
        f"{files}/*/../../secret.parquet",
        "relative.parquet",
        "/etc/passwd",
        "~/x.parquet",
        "s3://bucket/x.parquet",
        f"{own}/ns/default",
        "/proc/self/environ",
    ):
        for copied in (False, True):
            body = {"features": FEATURES, "source": {"paths": [path], "copy": copied}}
            answer = client.post("/v1/collections", json=body)
            assert answer.status_code in {403, 422}, (path, answer.text)
            if answer.status_code == 422:
                assert "no such file" in answer.text or "no file that" in answer.text, answer.text


@pytest.mark.parametrize("name", ["x\0.parquet", "loop.parquet", f"{'x' * 300}.parquet"])
@pytest.mark.parametrize("copied", [False, True])
def test_a_path_that_no_disk_takes_is_refused_like_any_other(client, files, name, copied):
    loop = files / "loop.parquet"
    if not loop.is_symlink():
        loop.symlink_to(loop)
    source = {"paths": [str(files / name)], "copy": copied}
    answer = client.post("/v1/collections", json={"features": FEATURES, "source": source})
    assert answer.status_code == 422, answer.text


def test_nothing_is_imported_where_no_operator_says_so(tmp_path):
    write_table(tmp_path / "x.parquet", 3)
    with serving(tmp_path / "root", max_jobs=0) as (client, _):
        source = {"paths": [str(tmp_path / "x.parquet")]}
        answer = client.post("/v1/collections", json={"features": FEATURES, "source": source})
    assert answer.status_code == 403
    assert "import_roots" in answer.json()["error"]["details"]["hint"]
