"""Feature URIs lead to columns, and several collections read as one."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import yaml

import gpucluster
from gpucluster.errors import (
    ConfigError,
    DuplicateIdsError,
    FallbackWarning,
    GpuclusterError,
    SchemaMismatchError,
    ShapeError,
    SourceNotFoundError,
)
from gpucluster.events import Reporter
from gpucluster.sources import Filters, collection_names, load, open_feature, read_attributes
from gpucluster.sources.collection import read_manifest
from tests.helpers.vectors import (
    N_FEATURES,
    N_ROWS,
    assert_same,
    names,
    read,
    table,
    vectors,
    write_json,
    write_npy,
    write_parquet,
)

TEXT = "mixpeek://text_extractor@v1/text_embedding"
IMAGE = "mixpeek://image_extractor@v2/image_embedding"
KMEANS = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3}, "device": "cpu"}


def write_manifest(folder, collection_id="products", **changes):
    body = {
        "collection_id": collection_id,
        "files": ["parts/*.parquet"],
        "id_column": "sku",
        "text_column": "title",
        "features": {
            TEXT: {"column": "emb", "dim": N_FEATURES, "model": "e5"},
            IMAGE: {"column": "img", "dim": N_FEATURES, "normalized": False},
        },
    } | changes
    path = folder / f"{collection_id}.collection.json"
    path.write_text(json.dumps({name: value for name, value in body.items() if value is not None}))
    return path


def products(X=None):
    X = vectors() if X is None else X
    other = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(-X)), X.shape[1])
    ids = [f"sku-{row}" for row in range(len(X))]
    columns = {"title": names(len(X)), "price": list(range(len(X))), "img": other, "label": ids}
    return table(X, ids, **columns).rename_columns(["sku", "emb", "title", "price", "img", "label"])


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "parts").mkdir()
    write_parquet(tmp_path / "parts" / "a.parquet", products()[:25])
    write_parquet(tmp_path / "parts" / "b.parquet", products()[25:])
    return write_manifest(tmp_path)


def open_and_load(data, uri=None, **options):
    return load(open_feature(data, uri, **options), reporter=Reporter())


# --- one collection --------------------------------------------------------------------------


def test_a_manifest_leads_to_the_column(manifest):
    text, image = (open_and_load(manifest, uri) for uri in (TEXT, IMAGE))
    assert text.X.tolist() == vectors().tolist()
    assert image.X.tolist() == (-vectors()).tolist()
    assert text.ids.to_pylist() == [f"sku-{row}" for row in range(N_ROWS)]
    assert text.source["feature"] == TEXT
    assert text.source["columns"] == {
        "id": "sku",
        "vector": "emb",
        "text": "title",
        "truth": None,
    }
    assert text.source["collections"] == [
        {
            "collection_id": "products",
            "n_rows": N_ROWS,
            "paths": text.source["paths"],
            "columns": text.source["columns"],
            "column": "emb",
            "kind": "dense",
            "dim": N_FEATURES,
            "model": "e5",
        }
    ]


def test_yaml_and_folders_with_odd_names(tmp_path):
    folder = tmp_path / "data [1]"
    folder.mkdir()
    write_npy(folder / "x.npy", vectors(), names())
    body = {"collection_id": "c", "files": ["x.npy"], "features": {TEXT: {"dim": N_FEATURES}}}
    path = folder / "c.collection.yaml"
    path.write_text(yaml.safe_dump(body))
    samples = open_and_load(path)
    assert samples.X.tolist() == vectors().tolist()
    assert samples.source["feature"] == TEXT


def test_what_the_caller_names_goes_first(manifest):
    samples = open_and_load(manifest, TEXT, id_column="label", vector_column="img")
    assert samples.X.tolist() == (-vectors()).tolist()
    assert samples.source["columns"]["id"] == "label"
    assert samples.source["feature"] is None


def test_a_run_on_a_manifest_warns_of_nothing(manifest, tmp_path):
    run = gpucluster.cluster(manifest, feature_uris=[TEXT], out=tmp_path / "out", **KMEANS)
    assert [warned.code for warned in run.manifest.warnings] == []
    assert run.manifest.source["columns"]["text"] == "title"


def test_unknown_features(manifest):
    near = TEXT.replace("v1", "v2")
    message = rf"products: there is no feature {near}. did you mean {TEXT}\?"
    with pytest.raises(SchemaMismatchError, match=message):
        open_feature(manifest, near)
    with pytest.raises(ConfigError, match="products has several features: .* name one of them"):
        open_feature(manifest)


def test_manifests_that_disagree_with_their_files(manifest, tmp_path):
    for changes, error, message in (
        ({TEXT: {"column": "emb", "dim": 9}}, ShapeError, "8 values in .*, 9 in products.coll"),
        ({TEXT: {"column": "emb", "dim": 8, "dtype": "int8"}}, SchemaMismatchError, "is float32 "),
        ({TEXT: {"column": "gone", "dim": 8}}, SchemaMismatchError, "'gone' is not among"),
        ({TEXT: {"column": "emb", "dim": 8, "kind": "sparse"}}, SchemaMismatchError, "is dense"),
    ):
        write_manifest(tmp_path, features=changes)
        with pytest.raises(error, match=message):
            open_feature(manifest, TEXT)
    write_manifest(tmp_path, text_column="tilte")
    with pytest.raises(SchemaMismatchError, match="did you mean 'title'"):
        open_feature(manifest, TEXT)
    write_manifest(tmp_path, files=["gone/*.parquet"])
    with pytest.raises(SourceNotFoundError, match=r"gone/\*.parquet: there is no such file"):
        open_feature(manifest, TEXT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"collection_id": None}, "collection_id: missing"),
        ({"files": []}, "files: got"),
        ({"features": {}}, "features: got"),
        ({"features": {"text": {"dim": 8}}}, "features.text.*: got 'text', expected"),
        ({"features": {TEXT: {"dim": 0}}}, "dim: got 0, expected greater than or equal to 1"),
        ({"features": {TEXT: {"dim": 8, "kind": "thick"}}}, "kind: got 'thick', expected 'dense'"),
        ({"features": {TEXT: {"dim": 8, "colunm": "x"}}}, "unknown setting. did you mean column"),
        ({"id_colum": "x"}, "id_colum: unknown setting. did you mean id_column"),
    ],
)
def test_manifests_that_are_wrong(changes, message, tmp_path):
    path = write_manifest(tmp_path, "broken")
    body = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: v for name, v in body.items() if v is not None}))
    with pytest.raises(ConfigError, match=rf"broken.collection.json: .*{message}") as caught:
        open_feature(path)
    assert "\n" not in str(caught.value)


def test_manifests_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="x.collection.json: cannot be read"):
        open_feature(tmp_path / "x.collection.json")
    (tmp_path / "x.collection.yml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="expected an object of settings"):
        open_feature(tmp_path / "x.collection.yml")


# --- without a manifest ----------------------------------------------------------------------


def test_a_uri_names_the_column():
    data = products().rename_columns(["id", "other", "t", "p", "text_embedding", "label"])
    assert open_and_load(data, TEXT).X.tolist() == (-vectors()).tolist()
    with pytest.raises(SchemaMismatchError, match="'text_embedding' is not among"):
        open_feature(products().rename_columns(["id", "a", "t", "p", "b", "label"]), TEXT)


def test_a_uri_without_a_column_of_its_name_warns(tmp_path):
    data = table(vectors())
    with pytest.warns(FallbackWarning, match="'embedding' is used instead"):
        run = gpucluster.cluster(data, feature_uris=[TEXT], out=tmp_path, **KMEANS)
    (warned,) = run.manifest.warnings
    assert "has no column 'text_embedding': 'embedding' is used instead" in warned.message


# --- several collections ---------------------------------------------------------------------


def test_formats_mix(manifest, tmp_path):
    X = vectors()
    other = [
        write_parquet(tmp_path / "b.parquet", table(X[:7], [f"b{i}" for i in range(7)])),
        write_parquet(tmp_path / "c.parquet", table(X[:5], [f"c{i}" for i in range(5)])),
        write_json(tmp_path / "d.jsonl", X[:6], [f"d{i}" for i in range(6)]),
        write_npy(tmp_path / "e.npy", X[:4].astype("float64"), [f"e{i}" for i in range(4)]),
    ]
    samples = open_and_load([manifest, *other], TEXT)
    assert samples.X.tolist() == np.concatenate([X, X[:7], X[:5], X[:6], X[:4]]).tolist()
    assert samples.ids.to_pylist()[-4:] == ["e0", "e1", "e2", "e3"]
    counts = [(c["collection_id"], c["n_rows"]) for c in samples.source["collections"]]
    assert counts == [
        ("products", N_ROWS),
        (f"{other[0]} and 1 more", 12),
        (str(other[2]), 6),
        (str(other[3]), 4),
    ]
    found = collection_names(samples.source, samples.rows).to_pylist()
    assert Counter(found) == dict(counts)
    assert found[N_ROWS - 1 : N_ROWS + 1] == ["products", f"{other[0]} and 1 more"]


@pytest.mark.parametrize("batch_rows", [1, 13, 1000])
@pytest.mark.parametrize("sample_size", [None, 30])
def test_joined_is_as_one(batch_rows, sample_size, tmp_path):
    X = vectors()
    X[[5, 41]] = 0
    whole = table(X, row=list(range(N_ROWS)))
    write_parquet(tmp_path / "a.parquet", whole[:25])
    lines = [{"id": i, "embedding": x.tolist(), "row": r}
             for r, (i, x) in enumerate(zip(names(), X, strict=True))][25:]  # fmt: skip
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_feature([tmp_path / "a.parquet", tmp_path / "b.jsonl"])
    filters = Filters.model_validate({"NOT": [{"row": 3}, {"row": 50}]})
    options = {"max_bad_fraction": 0.5, "sample_size": sample_size, "filters": filters}
    joined = load(source, reporter=Reporter(), batch_bytes=batch_rows * 8 * N_FEATURES, **options)
    assert_same(joined, read(whole, **options))
    assert read_attributes(source, ["row"])["row"].to_pylist() == list(range(N_ROWS))


def test_rows_without_ids_are_numbered_through(tmp_path):
    write_npy(tmp_path / "a.npy", vectors()[:10])
    write_parquet(tmp_path / "b.parquet", table(vectors()[10:]).drop_columns("id"))
    samples = open_and_load([tmp_path / "a.npy", tmp_path / "b.parquet"])
    assert samples.ids.to_pylist() == list(range(N_ROWS))
    assert samples.X.tolist() == vectors().tolist()


def test_a_collection_without_vectors(tmp_path):
    empty = pa.table({"id": ["x", "y"], "embedding": pa.nulls(2, pa.list_(pa.float32()))})
    first = write_parquet(tmp_path / "a.parquet", empty)
    other = write_json(tmp_path / "b.jsonl", vectors(), names())
    samples = load(open_feature([first, other]), reporter=Reporter(), max_bad_fraction=0.1)
    assert samples.rejected.to_pylist() == [
        {"document_id": name, "row": row, "reason": "null"} for row, name in enumerate("xy")
    ]
    assert samples.X.tolist() == vectors().tolist()


def two(tmp_path, X, ids=None, **changes):
    """Write the collections `one` and `two`, of which the second holds X."""
    paths = []
    other = [f"two-{row}" for row in range(len(X))] if ids is None else ids
    for name, matrix, named in (("one", vectors(), names()), ("two", X, other)):
        folder = tmp_path / name
        folder.mkdir()
        write_parquet(folder / "x.parquet", table(matrix, named))
        feature = {"column": "embedding", "dim": matrix.shape[1], "model": "e5"}
        if name == "two":
            feature |= changes
        paths.append(
            write_manifest(
                folder, name, files=["x.parquet"], id_column="id", text_column=None,
                features={TEXT: feature},
            )
        )  # fmt: skip
    return paths


def test_collections_that_do_not_fit(tmp_path):
    paths = two(tmp_path, vectors()[:, :5])
    with pytest.raises(ShapeError, match=f"{TEXT} has 8 values in one, 5 in two"):
        open_feature(paths, TEXT)


def test_collections_of_different_models(tmp_path):
    paths = two(tmp_path, vectors(), model="bge")
    with pytest.raises(SchemaMismatchError, match="computed by e5 in one, by bge in two"):
        open_feature(paths, TEXT)


def test_ids_that_two_collections_share(tmp_path):
    ids = ["doc-7", *(f"two-{row}" for row in range(1, N_ROWS))]
    paths = two(tmp_path, vectors(), ids)
    message = r"ids must be unique, 1 are not: 'doc-7' \('doc-7' is in one and in two\)"
    with pytest.raises(DuplicateIdsError, match=message):
        open_and_load(paths, TEXT)
    with pytest.raises(ConfigError, match="the collection one is given twice"):
        open_feature([paths[0], paths[0]], TEXT)


def test_ids_of_two_kinds(tmp_path):
    paths = two(tmp_path, vectors(), list(range(N_ROWS)))
    with pytest.raises(SchemaMismatchError, match="one has string ids, two has int64 ids"):
        open_and_load(paths, TEXT)


def test_truth_is_read_where_all_name_it(tmp_path):
    first = write_parquet(tmp_path / "a.parquet", table(vectors(), label=list(range(N_ROWS))))
    lines = [{"id": f"b{i}", "embedding": [1.0] * N_FEATURES, "label": "x"} for i in range(3)]
    other = tmp_path / "b.jsonl"
    other.write_text("\n".join(map(json.dumps, lines)))
    truth = open_and_load([first, other], truth_column="label").payload["truth"].to_pylist()
    assert truth == [*map(str, range(N_ROWS)), "x", "x", "x"]
    features = {TEXT: {"column": "embedding", "dim": N_FEATURES}}
    manifest = write_manifest(
        tmp_path, "a", files=["a.parquet"], id_column="id", text_column=None,
        truth_column="label", features=features,
    )  # fmt: skip
    assert open_and_load(manifest).payload["truth"].to_pylist() == list(range(N_ROWS))
    samples = open_and_load([manifest, other], TEXT)
    assert samples.payload == {}
    assert samples.source["notes"] == [f"nothing is compared with the truth: {other} has none"]


# --- damage ----------------------------------------------------------------------------------

N_DAMAGED = 300
WORDS = [
    '"',
    "{",
    "}",
    "[",
    "null",
    "1e9",
    "[[1]]",
    '"x"',
    "*",
    "..",
    "\x00",
    "&a [*a,*a]",
    "9" * 99,
]


@pytest.mark.parametrize("end", ["json", "yaml"])
def test_damaged_manifests(end, manifest, tmp_path):
    body = json.loads(manifest.read_text())
    text = json.dumps(body) if end == "json" else yaml.safe_dump(body)
    tokens = [found.span() for found in re.finditer(r'"[^"]*"|[\w./*:@-]+|\S', text)]
    dice = random.Random(f"manifests {end}")
    path = tmp_path / f"damaged.collection.{end}"
    outcomes: Counter[str] = Counter()
    for _ in range(N_DAMAGED):
        damaged = text
        for start, stop in sorted(dice.sample(tokens, dice.choice([1, 1, 2])), reverse=True):
            damaged = damaged[:start] + dice.choice([*WORDS, ""]) + damaged[stop:]
        path.write_text(damaged)
        try:
            open_feature(path, TEXT)
        except GpuclusterError as caught:
            refused = str(caught)
            outcomes[type(caught).__name__] += 1
        else:
            refused = ""
            outcomes["opened"] += 1
        assert "\n" not in refused, damaged
        assert len(refused) < 1000
    assert outcomes["ConfigError"] > N_DAMAGED / 2


def test_a_yaml_that_stands_for_billions(tmp_path):
    levels = "abcdefghi"
    text = "a: &a [x]\n" + "".join(f"{n}: &{n} [{f'*{p}, ' * 9}]\n" for p, n in pairwise(levels))
    path = tmp_path / "x.collection.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="x.collection.yaml: .*more than 100000 values"):
        read_manifest(path)
