"""Reports, maps, pictures and exports of runs that are not one plain run of one file."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import normalize

import gpucluster
from gpucluster.cli import main
from gpucluster.errors import ConfigError, SourceError
from gpucluster.finished import Run
from gpucluster.reported import report

TEXT, IMAGE = "mixpeek://text@v1/text_emb", "mixpeek://image@v1/image_emb"
N_ROWS, K = 240, 4
COLUMNS = {"text_column": "text", "truth_column": "topic"}
KMEANS: dict[str, Any] = {
    "algorithm": "kmeans",
    "algorithm_params": {"n_clusters": K, "n_init": 1},
    "preprocessing_steps": [],
    "dimension_reduction": {"method": "pca"},
}
HDBSCAN = KMEANS | {"algorithm": "hdbscan", "algorithm_params": {"min_cluster_size": 10}}
BOTH = {"feature_uris": [TEXT, IMAGE]}
PER_FEATURE = BOTH | {"multi_feature_strategy": "independent", "output_strategy": "per_feature"}
WEIGHTED = BOTH | {"feature_weights": {IMAGE: 0.25}}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Return documents of four topics by their texts, and of two by their images."""
    rng = np.random.default_rng(0)
    topic = rng.integers(0, K, N_ROWS)
    texts = rng.normal(size=(K, 12))[topic] + 0.4 * rng.normal(size=(N_ROWS, 12))
    images = 5 * rng.normal(size=(2, 7))[topic // 2] + 2 * rng.normal(size=(N_ROWS, 7))
    return pa.table(
        {
            "document_id": [f"d{row}" for row in range(N_ROWS)],
            "text_emb": list(texts.astype(np.float32)),
            "image_emb": list(images.astype(np.float32)),
            "text": [f"topic{each}" for each in topic],
            "topic": [f"topic{each}" for each in topic],
        }
    )


@pytest.fixture(scope="module")
def docs(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "docs.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def collections(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return two collections whose columns are called otherwise than their features."""
    folder = tmp_path_factory.mktemp("collections")
    paths = []
    for name, rows in (("old", table.slice(0, 100)), ("new", table.slice(100))):
        columns = {"text_emb": f"{name}_a", "image_emb": f"{name}_b"}
        pq.write_table(rows.rename_columns(columns), folder / f"{name}.parquet")
        manifest = {
            "collection_id": name,
            "files": [f"{name}.parquet"],
            "id_column": "document_id",
            "text_column": "text",
            "features": {
                TEXT: {"column": f"{name}_a", "dim": 12},
                IMAGE: {"column": f"{name}_b", "dim": 7},
            },
        }
        path = folder / f"{name}.collection.json"
        path.write_text(json.dumps(manifest))
        paths.append(str(path))
    return paths


def space(table: pa.Table, names: Sequence[str], weights: Sequence[float]) -> np.ndarray:
    """Return what `features.md` says that the vectors of several features are, of length one."""
    blocks = [normalize(np.stack(table[name].to_numpy()).astype(np.float64)) for name in names]
    parts = [np.sqrt(weight) * block for weight, block in zip(weights, blocks, strict=True)]
    return normalize(np.hstack(parts))


def texts_of(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def silhouette(X: np.ndarray, labels: np.ndarray, noise: Any) -> float:
    clustered = labels != noise
    return float(silhouette_score(X[clustered], labels[clustered], metric="sqeuclidean"))


def check_pictures(run: Run, X: np.ndarray, tmp_path: Path, data: Any = None) -> None:
    """Look at a run in every way, and compare what is told of its vectors with `X`."""
    labels = np.array(run.members.sort_by("row")["cluster_id"].to_pylist())
    told = [text for text in texts_of(run.plot("silhouette", data=data)) if "mean" in text]
    assert told == [f"mean {run.metrics['silhouette_score']:.3f}"]
    top = np.array([label.split("_sub_")[0] for label in labels])
    assert float(told[0].split()[1]) == pytest.approx(silhouette(X, top, "-1"), abs=2e-3)
    for kind in ("map", "sizes", "similarity"):
        assert run.plot(kind).axes
    named = set(texts_of(run.plot("map", colour_by="truth", data=data)))
    assert named
    assert named <= {f"topic{number}" for number in range(K)}
    found = pq.read_table(run.export(tmp_path / "map.parquet", neighbors=3, data=data))
    assert {"x", "y", "text", "truth", "neighbors"} <= {*found.column_names}
    apart = 1 - X @ X.T
    np.fill_diagonal(apart, np.inf)
    for row, each in enumerate(found["neighbors"].to_pylist()):
        np.testing.assert_allclose(each["distances"], np.sort(apart[row])[:3], atol=2e-4)
    page = run.report(tmp_path / "report.html", data=data).read_text()
    assert facts_of(page)["documents"]["num_texts"] == N_ROWS
    assert run.run_id in run.map(data=data)._repr_html_()


def facts_of(page: str) -> dict[str, Any]:
    """Return what a report says of its run."""
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None
    facts: dict[str, Any] = json.loads(found[1])
    return facts


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        pytest.param(KMEANS | BOTH, (1, 1), id="concatenated"),
        pytest.param(HDBSCAN | WEIGHTED, (1, 0.25), id="weighted"),
        pytest.param(
            KMEANS | BOTH | {"multi_feature_strategy": "independent"}, (1, 1), id="independent"
        ),
    ],
)
def test_features_side_by_side(
    docs: Path, table: pa.Table, tmp_path: Path, settings: dict[str, Any], weights: Sequence[float]
) -> None:
    run = gpucluster.cluster(str(docs), settings, out=tmp_path / "runs", **COLUMNS)
    check_pictures(run, space(table, ("text_emb", "image_emb"), weights), tmp_path)


def test_lengths_of_features_that_are_not_normalized(
    docs: Path, table: pa.Table, tmp_path: Path
) -> None:
    settings = KMEANS | WEIGHTED | {"normalize_features": False}
    run = gpucluster.cluster(str(docs), settings, out=tmp_path / "runs", **COLUMNS)
    blocks = [np.stack(table[name].to_numpy()).astype(np.float64) for name in ("text_emb",)]
    blocks.append(0.5 * np.stack(table["image_emb"].to_numpy()))
    check_pictures(run, normalize(np.hstack(blocks)), tmp_path)


def test_attributes_beside_several_features(docs: Path, table: pa.Table, tmp_path: Path) -> None:
    settings = {
        "cluster_type": "attribute",
        "attribute_config": {"attributes": ["topic"]},
        "dimension_reduction": {"method": "pca"},
        **BOTH,
    }
    run = gpucluster.cluster(str(docs), settings, out=tmp_path / "runs", **COLUMNS)
    check_pictures(run, space(table, ("text_emb", "image_emb"), (1, 1)), tmp_path)


def test_a_run_of_each_feature(docs: Path, table: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    first = gpucluster.cluster(str(docs), HDBSCAN | PER_FEATURE, out=out, **COLUMNS)
    (related,) = first.manifest.related
    other = gpucluster.open_run(out / str(related["run_id"]))
    for run, name in ((first, "text_emb"), (other, "image_emb")):
        check_pictures(run, space(table, (name,), (1,)), tmp_path)
        for kind in ("tree", "k-distance"):
            assert run.plot(kind).axes
    (line,) = facts_of(first.report(tmp_path / "a.html").read_text())["related"]
    assert line.startswith(f"{IMAGE}: {other.run_id}; ")
    # the folder of both stands for the one that knows the other
    page = report(out, tmp_path / "b.html").read_text()
    assert facts_of(page)["run_id"] == first.run_id


def test_the_command_of_a_report_repeats_a_run_of_several_features(
    docs: Path, tmp_path: Path
) -> None:
    run = gpucluster.cluster(str(docs), KMEANS | BOTH, out=tmp_path / "a", **COLUMNS)
    command = facts_of(run.report(tmp_path / "a.html").read_text())["command"]
    definition = tmp_path / "definition.json"
    definition.write_text(json.dumps(run.manifest.definition))
    program, *words = shlex.split(command.replace("definition.json", str(definition)))
    assert program == "gpucluster"
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "b"), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["run_id"] == run.run_id


def test_features_of_collections_are_named_once_more(
    collections: list[str], table: pa.Table, tmp_path: Path
) -> None:
    run = gpucluster.cluster(collections, KMEANS | BOTH, out=tmp_path / "runs", **COLUMNS)
    for look in (
        lambda: run.plot("silhouette"),
        lambda: run.export(tmp_path / "map.parquet", neighbors=3),
    ):
        with pytest.raises(SourceError, match="which columns of its collections") as found:
            look()
        assert "with data" in str(found.value.hint)
    assert "text" in pq.read_schema(run.export(tmp_path / "map.parquet")).names
    X = space(table, ("text_emb", "image_emb"), (1, 1))
    check_pictures(run, X, tmp_path, data=collections)


@pytest.mark.parametrize("settings", [KMEANS, KMEANS | WEIGHTED], ids=["one", "weighted"])
def test_documents_that_joined(table: pa.Table, tmp_path: Path, settings: dict[str, Any]) -> None:
    several = "feature_uris" in settings
    names = ("text_emb", "image_emb") if several else ("text_emb",)
    where = {} if several else {"vector_column": "text_emb"}
    paths = [str(tmp_path / f"{name}.parquet") for name in ("old", "new")]
    for path, rows in zip(paths, (table.slice(0, 160), table.slice(160)), strict=True):
        pq.write_table(rows, path)
    base = gpucluster.cluster(paths[0], settings, out=tmp_path / "runs", **where, **COLUMNS)
    X = space(table.slice(160), names, (1, 0.25)[: len(names)])
    moved = base.assign(paths[1], update=True)
    for run in (
        moved,
        moved.assign(paths[1], threshold="auto", scope="all"),
        base.promote("topics").apply(paths[1]),
    ):
        labels = run.members.sort_by("row")["cluster_index"].to_numpy()
        (told,) = (text for text in texts_of(run.plot("silhouette")) if "mean" in text)
        assert float(told.split()[1]) == pytest.approx(silhouette(X, labels, -1), abs=2e-3)
        found = pq.read_table(run.export(tmp_path / "map.parquet", neighbors=2))
        assert "x" not in found.column_names
        apart = 1 - X @ X.T
        np.fill_diagonal(apart, np.inf)
        distances = [each["distances"] for each in found["neighbors"].to_pylist()]
        np.testing.assert_allclose(distances, np.sort(apart)[:, :2], atol=2e-4)
        for kind in ("sizes", "similarity"):
            assert run.plot(kind).axes
        for kind in ("map", "tree", "k-distance"):
            with pytest.raises(ConfigError) as refused:
                run.plot(kind)
            assert f"draw {base.run_id}" in str(refused.value.hint)
        facts = facts_of(run.report(tmp_path / "report.html").read_text())
        assert "no map" in facts["map"]["reason"]


def test_clusters_that_nobody_joined(docs: Path, table: pa.Table, tmp_path: Path) -> None:
    base = gpucluster.cluster(
        str(docs), KMEANS, out=tmp_path / "runs", vector_column="text_emb", **COLUMNS
    )
    labels = base.members.sort_by("row")["cluster_index"].to_numpy()
    some = table.filter(pa.array((labels == 1) | (labels == 3)))
    path = tmp_path / "some.parquet"
    pq.write_table(some, path)
    figure = base.assign(str(path), scope="all").plot("silhouette")
    X = space(some, ("text_emb",), (1,))
    expected = silhouette(X, labels[(labels == 1) | (labels == 3)], -1)
    assert f"mean {expected:.3f}" in texts_of(figure)
    assert {"cl_1", "cl_3"} <= {*texts_of(figure)}
    assert not {"cl_0", "cl_2"} & {*texts_of(figure)}
    nobody = base.assign(str(docs), scope="all", threshold=1.0)
    assert nobody.manifest.counts.num_noise == N_ROWS
    with pytest.raises(ConfigError, match="documents in 0 clusters: a silhouette compares two"):
        nobody.plot("silhouette")
    for kind in ("sizes", "similarity"):
        with pytest.raises(ConfigError, match="joined a cluster: there is nothing to draw"):
            nobody.plot(kind)
    assert nobody.report(tmp_path / "report.html").exists()


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "rows"])
@pytest.mark.parametrize("lacks", [0, 1], ids=["first", "later"])
def test_a_file_without_the_column_of_texts(
    table: pa.Table, tmp_path: Path, lacks: int, *, ids: bool
) -> None:
    halves = [table.slice(0, 100), table.slice(100)]
    halves[lacks] = halves[lacks].drop_columns("text")
    paths = [str(tmp_path / f"{number}.parquet") for number in (0, 1)]
    for path, half in zip(paths, halves, strict=True):
        pq.write_table(half if ids else half.drop_columns("document_id"), path)
    where = {"vector_column": "text_emb", **COLUMNS}
    run = gpucluster.cluster(paths, KMEANS, out=tmp_path / "runs", **where)
    expected = table["text"].to_pylist()
    expected[slice(0, 100) if lacks == 0 else slice(100, None)] = [None] * len(halves[lacks])
    n_texts = sum(text is not None for text in expected)
    for data in (None, paths):
        found = pq.read_table(run.export(tmp_path / "map.parquet", neighbors=2, data=data))
        assert found["text"].to_pylist() == expected
        assert found["truth"].to_pylist() == table["topic"].to_pylist()
        assert run.plot("silhouette", data=data).axes
        assert run.plot("map", colour_by="truth", data=data).axes
        for column in (None, "text"):
            path = run.report(tmp_path / "report.html", data=data, text_column=column)
            assert facts_of(path.read_text())["documents"]["num_texts"] == n_texts
    labelled = run.label(provider="keywords", text_column="text")
    named = pq.read_table(labelled.export(tmp_path / "map.parquet"))
    assert set(named["label"].to_pylist()) == {f"topic{number}" for number in range(K)}
