"""Pictures of real runs: every kind, every ending, what is refused, and the export beside them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import silhouette_score

import gpucluster
from gpucluster.cli import main
from gpucluster.cli.plot import plot as plot_command
from gpucluster.errors import (
    BackendUnavailableError,
    ConfigError,
    FallbackWarning,
    SourceError,
    SourceNotFoundError,
)
from gpucluster.exported import export
from gpucluster.finished import Run
from gpucluster.plots import KINDS, plot
from gpucluster.report.drawing.map_plot import COLOUR_BY
from gpucluster.report.drawing.palette import THEMES, colour_of
from gpucluster.report.run_flow import links_between
from tests.helpers.browsing import browser

ROOT = Path(__file__).resolve().parents[2]
BEGINS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
N_ROWS = 1_200


@pytest.fixture(scope="module")
def docs(sample_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "docs.parquet"
    pq.write_table(pq.read_table(sample_path).slice(0, N_ROWS), path)
    return path


@pytest.fixture(scope="module")
def runs(docs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Return a run of k-means with a map in three dimensions, and others of density."""
    out = tmp_path_factory.mktemp("runs")

    def made(name: str, algorithm: str, params: dict[str, Any], **more: Any) -> Run:
        settings = {"algorithm": algorithm, "algorithm_params": params, **more}
        return gpucluster.cluster(
            str(docs), settings, out=out / name, truth_column="label", text_column="text"
        )

    pca = [{"method": "pca", "n_components": 8}]
    layout = [{"method": "umap", "n_components": 5, "n_epochs": 20}]
    radius = {"eps": 0.3, "metric": "cosine", "min_samples": 4}
    points = {"method": "pca", "components": 3}
    return {
        "kmeans": made("a", "kmeans", {"n_clusters": 6, "n_init": 1}, dimension_reduction=points),
        "hdbscan": made("b", "hdbscan", {"min_cluster_size": 15}, preprocessing_steps=layout),
        "dbscan": made("c", "dbscan", radius, preprocessing_steps=[]),
        "optics": made("d", "optics", {"max_eps": 1.0}, preprocessing_steps=pca),
        "levels": made(
            "e",
            "kmeans",
            {"n_clusters": 4, "n_init": 1},
            hierarchical=True,
            dimension_reduction={"method": "pca"},
        ),
    }


def texts_of(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize(
    ("name", "kind", "ending"),
    [
        ("kmeans", "map", "svg"),
        ("kmeans", "silhouette", "png"),
        ("levels", "sizes", "pdf"),
        ("kmeans", "similarity", "svg"),
        ("hdbscan", "tree", "png"),
        ("levels", "tree", "svg"),
        ("hdbscan", "k-distance", "pdf"),
        ("optics", "k-distance", "svg"),
    ],
)
def test_a_picture_is_a_file_with_the_same_bytes_every_time(
    runs: dict[str, Run], tmp_path: Path, name: str, kind: str, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    assert runs[name].plot(kind, path, dpi=60) == path
    content = path.read_bytes()
    assert content.startswith(BEGINS[ending])
    runs[name].plot(kind, path, dpi=60)
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_dots_are_one_image_and_names_those_of_the_clusters(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    path = tmp_path / "map.svg"
    run = runs["kmeans"]
    run.plot("map", path)
    text = path.read_text()
    assert text.count("<image") == 1
    assert text.count("<path") < 100
    figure = run.plot("map")
    assert set(texts_of(figure)) <= {f"cl_{i}" for i in range(6)}
    sizes = np.concatenate([each.get_sizes() for each in figure.axes[0].collections])
    assert len(sizes) == N_ROWS
    assert sizes.max() > 4 * sizes.min()  # the third component
    assert figure.axes[0].get_xlim() != (0, 1)


def test_a_map_by_truth_has_the_names_of_the_classes(runs: dict[str, Run], docs: Path) -> None:
    figure = runs["kmeans"].plot("map", colour_by="truth", legend=True)
    classes = set(pq.read_table(docs)["label"].to_pylist())
    named = {name.rstrip("\u2026") for name in texts_of(figure)}
    assert named
    assert all(any(each.startswith(name) for each in classes) for name in named)
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries[-1].startswith(f"{len(classes) - 24} others")


def test_a_map_by_similarity_has_a_scale(runs: dict[str, Run]) -> None:
    figure = runs["kmeans"].plot("map", colour_by="similarity", theme="dark")
    assert figure.axes[1].get_ylabel() == "cosine to the centroid"
    assert figure.get_facecolor()[:3] == pytest.approx((20 / 255, 23 / 255, 27 / 255))


def test_deeper_levels_have_other_names(runs: dict[str, Run]) -> None:
    top, deep = (texts_of(runs["levels"].plot("map", level=level)) for level in (0, 2))
    assert all(re.fullmatch(r"cl_\d+", name) for name in top)
    assert any("_sub_" in name for name in deep)


def test_each_cluster_of_a_level_has_its_similarities(runs: dict[str, Run]) -> None:
    figure = runs["levels"].plot("similarity")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert sorted(titles[1:]) == [f"cl_{number}" for number in range(4)]


def test_the_mean_of_the_silhouettes_is_the_metric(runs: dict[str, Run]) -> None:
    for name in ("kmeans", "hdbscan"):
        expected = runs[name].metrics["silhouette_score"]
        texts = texts_of(runs[name].plot("silhouette"))
        assert f"mean {expected:.3f}" in texts


def test_distances_are_in_the_unit_of_eps(runs: dict[str, Run]) -> None:
    figure = runs["dbscan"].plot("k-distance")
    (curve,) = [line for line in figure.axes[0].lines if len(line.get_ydata()) > 2]
    assert len(curve.get_ydata()) == N_ROWS
    assert max(curve.get_ydata()) <= 2
    assert figure.axes[0].get_ylabel() == "cosine distance to neighbour 3"
    texts = texts_of(figure)
    within = 100 * np.mean(np.asarray(curve.get_ydata()) <= 0.3)
    assert f"eps: 0.3, {within:.0f} % within" in texts
    assert any(text.startswith("suggested: ") for text in texts)
    n_core = runs["dbscan"].manifest.algorithm_info["n_core"]
    assert np.sum(np.asarray(curve.get_ydata()) <= 0.3) == pytest.approx(n_core, abs=2)


def test_a_layout_is_that_of_the_checkpoint(runs: dict[str, Run], tmp_path: Path) -> None:
    copy = tmp_path / "runs" / runs["hdbscan"].path.name
    shutil.copytree(runs["hdbscan"].path, copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ConfigError, match="layout that umap made .* is not kept") as found:
        gpucluster.open_run(copy).plot("k-distance")
    assert "--fresh" in str(found.value.hint)
    # another run of the same preparation, which has found it there
    shutil.copytree(runs["hdbscan"].path, copy.with_name("run_other"))
    assert gpucluster.open_run(copy).plot("k-distance").axes


def test_the_tree_is_kept_and_comes_back_from_a_checkpoint(
    runs: dict[str, Run], docs: Path, tmp_path: Path
) -> None:
    run = runs["hdbscan"]
    tree = gpucluster.open_run(run.path, verify=True).tree
    assert sorted(tree["row"].drop_null().to_pylist()) == list(range(N_ROWS))
    selected = tree["cluster_id"].drop_null().to_pylist()
    assert sorted(selected) == sorted(run.centroids["cluster_id"].to_pylist())
    assert tree["size"][0].as_py() == N_ROWS
    copy = tmp_path / run.path.name
    shutil.copytree(run.path, copy)
    (copy / "manifest.json").unlink()
    again = gpucluster.cluster(
        str(docs), run.manifest.definition, out=tmp_path, truth_column="label", text_column="text"
    )
    assert again.tree.equals(tree)
    assert runs["kmeans"].tree is None


@pytest.mark.parametrize(
    ("name", "kind", "options", "says"),
    [
        ("hdbscan", "map", {}, "has no coordinates. it needs --map umap, or dimension_reduction"),
        ("kmeans", "maps", {}, "kind: got 'maps', expected one of map, silhouette"),
        ("kmeans", "tree", {}, "has no tree: it comes from kmeans"),
        ("kmeans", "k-distance", {}, "comes from kmeans. it fits runs of dbscan, optics"),
        ("kmeans", "sizes", {"legend": True}, "legend: sizes has no such option. it is one of map"),
        (
            "kmeans",
            "map",
            {"color_by": "truth"},
            "map has no such option. did you mean colour_by?",
        ),
        ("kmeans", "map", {"colour_by": "size"}, "colour_by: got 'size', expected one of cluster"),
        ("levels", "map", {"level": -1}, "level: got -1, expected 0 or more"),
        ("levels", "map", {"level": "1"}, "level: got '1', expected 0 or more"),
        ("kmeans", "sizes", {"path": "s3://bucket/sizes.png"}, "expected a file on a disk"),
        ("kmeans", "map", {"theme": "blue"}, "theme: got 'blue'"),
        ("kmeans", "map", {"path": "map.gif"}, "cannot draw map.gif. a plot is a file that ends"),
    ],
)
def test_what_cannot_be_drawn(
    runs: dict[str, Run], name: str, kind: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as found:
        runs[name].plot(kind, **options)
    assert says in str(found.value)


def test_one_cluster_or_none_has_no_silhouette(docs: Path, tmp_path: Path) -> None:
    params = {"eps": 1e-6, "min_samples": 5}
    run = gpucluster.cluster(
        str(docs),
        algorithm="dbscan",
        algorithm_params=params,
        preprocessing_steps=[],
        dimension_reduction={"method": "pca"},
        out=tmp_path,
    )
    with pytest.raises(ConfigError, match="documents in 0 clusters: a silhouette compares two"):
        run.plot("silhouette")
    with pytest.raises(ConfigError, match="found no cluster: there is nothing to draw"):
        run.plot("sizes")
    assert len(run.plot("map", colour_by="similarity").axes) == 2  # all of it grey
    with pytest.raises(ConfigError, match="knows no true classes"):
        run.plot("map", colour_by="truth")


def test_vectors_that_are_gone(docs: Path, tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    shutil.copy(docs, path)
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3, "n_init": 1}}
    run = gpucluster.cluster(str(path), settings, out=tmp_path / "runs", text_column="text")
    before = texts_of(run.plot("silhouette"))
    path.unlink()
    with pytest.raises(SourceNotFoundError, match="where the run found its data"):
        run.plot("silhouette")
    assert texts_of(run.plot("silhouette", data=str(docs))) == before
    with pytest.warns(FallbackWarning, match="there are no texts"):
        bare = run.export(tmp_path / "a.parquet")
    assert "text" not in pq.read_schema(bare).names
    with pytest.raises(SourceNotFoundError):
        run.export(tmp_path / "a.parquet", neighbors=3)
    pq.write_table(pq.read_table(docs).slice(1), path)
    with pytest.raises(SourceError, match="does not hold the documents of the run any more"):
        run.plot("silhouette")


def test_rows_in_several_files_that_were_moved(docs: Path, tmp_path: Path) -> None:
    table = pq.read_table(docs)
    files = [tmp_path / name for name in ("a.parquet", "b.parquet")]
    for file, part in zip(files, (table.slice(0, 700), table.slice(700)), strict=True):
        pq.write_table(part, file)
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3, "n_init": 1}}
    run = gpucluster.cluster([str(file) for file in files], settings, out=tmp_path / "runs")
    moved = [str(file.rename(tmp_path / f"moved-{file.name}")) for file in files]
    for asked in (
        ["plot", str(run.path), "silhouette", "-o", str(tmp_path / "a.png")],
        ["export", str(run.path), "-o", str(tmp_path / "a.parquet"), "--neighbors", "2"],
        ["report", str(run.path), "-o", str(tmp_path / "a.html")],
    ):
        found = CliRunner().invoke(main, [*asked, "--data", moved[0], "--data", moved[1]])
        assert found.exit_code == 0, found.output
    assert pq.read_table(tmp_path / "a.parquet")["text"].to_pylist() == table["text"].to_pylist()


def test_no_table_replaces_what_the_run_read(docs: Path, tmp_path: Path) -> None:
    data, other = tmp_path / "docs.parquet", tmp_path / "link.parquet"
    shutil.copy(docs, data)
    other.symlink_to(data)
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3, "n_init": 1}}
    run = gpucluster.cluster(str(data), settings, out=tmp_path / "runs", text_column="text")
    before = data.read_bytes()
    for file in (data, other):
        with pytest.raises(ConfigError, match="is what the run read: it would be lost"):
            run.export(file)
        with pytest.raises(ConfigError, match="is what the run read: it would be lost"):
            run.compare(run).to_parquet(file)
    moved = data.rename(tmp_path / "moved.parquet")
    with pytest.raises(ConfigError, match="it would be lost"):
        run.export(moved, data=str(moved))
    assert moved.read_bytes() == before
    with pytest.warns(FallbackWarning, match="there are no texts"):
        run.export(tmp_path / "map.parquet")


def test_documents_that_joined_have_no_map(runs: dict[str, Run], docs: Path) -> None:
    joined = runs["kmeans"].assign(str(docs), scope="all")
    with pytest.raises(ConfigError, match=f"get none; draw {runs['kmeans'].run_id}"):
        joined.plot("map")


@pytest.fixture(scope="module")
def joined(runs: dict[str, Run], docs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Return runs of documents that joined two clusters, and of such that joined none."""
    base, folder = runs["kmeans"], tmp_path_factory.mktemp("joined")
    members = base.members.sort_by("row")
    chosen = np.isin(members["cluster_index"].to_numpy(), (1, 4))
    pq.write_table(pq.read_table(docs).filter(pa.array(chosen)), folder / "two.parquet")
    two = base.assign(str(folder / "two.parquet"), scope="all", out=folder)
    none = base.assign(str(folder / "two.parquet"), scope="all", threshold=1.0, out=folder)
    return [two, none, base.assign(str(docs), out=folder)]  # the last knows them all


def test_clusters_that_no_document_joined_have_no_place(joined: list[Run]) -> None:
    run = joined[0]
    texts = texts_of(run.plot("silhouette"))
    assert [text for text in texts if text.startswith("cl_")] == ["cl_1", "cl_4"]
    titles = [axes.get_title(loc="left") for axes in run.plot("similarity").axes]
    assert sorted(titles[1:]) == ["cl_1", "cl_4"]
    facts = run.plot("sizes").texts[0].get_text()
    assert facts.startswith("2 clusters, median ")
    assert f"entropy {run.metrics['cluster_size_entropy']:.3f}, noise" in facts
    for other in joined[1:]:
        for kind in ("sizes", "similarity"):
            with pytest.raises(ConfigError, match="no document of .* joined a cluster"):
                other.plot(kind)
        with pytest.raises(ConfigError, match="documents in 0 clusters"):
            other.plot("silhouette")


def test_a_silhouette_is_beside_clusters_with_documents_only(joined: list[Run]) -> None:
    run = joined[0]
    source = pq.read_table(run.manifest.source["paths"][0])
    X = np.stack(source["embedding"].to_numpy()).astype(np.float64)
    labels = run.members.sort_by("row")["cluster_index"].to_numpy()
    exact = silhouette_score(X[labels >= 0], labels[labels >= 0], metric="cosine")
    assert f"mean {exact:.3f}" in texts_of(run.plot("silhouette"))


def test_a_taxonomy_is_no_run(runs: dict[str, Run], docs: Path, tmp_path: Path) -> None:
    taxonomy = runs["kmeans"].promote("topics", out=tmp_path)
    version = next(tmp_path.rglob("tax_*/**/manifest.json")).parent
    for kind in KINDS:
        with pytest.raises(ConfigError, match="is a version of a taxonomy, no run"):
            plot(version, kind)
    with pytest.raises(ConfigError, match="is a version of a taxonomy, no run"):
        export(version, tmp_path / "map.parquet")
    with pytest.raises(ConfigError, match="is a version of a taxonomy, no run"):
        gpucluster.compare(runs["kmeans"], version)
    with pytest.raises(ConfigError) as found:
        taxonomy.apply(str(docs), out=tmp_path).plot("map")
    assert f"draw {runs['kmeans'].run_id}" in str(found.value.hint)  # a taxonomy has no documents


def test_documents_in_another_order_lend_no_texts_and_classes(docs: Path, tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    shutil.copy(docs, path)
    settings = {
        "algorithm": "kmeans",
        "algorithm_params": {"n_clusters": 3, "n_init": 1},
        "dimension_reduction": {"method": "pca"},
    }
    columns = {"text_column": "text", "truth_column": "label"}
    run = gpucluster.cluster(str(path), settings, out=tmp_path / "runs", **columns)
    written = pq.read_table(run.export(tmp_path / "a.parquet"))
    assert written["text"].to_pylist() == pq.read_table(docs)["text"].to_pylist()
    table = pq.read_table(docs)
    pq.write_table(table.take(np.arange(len(table))[::-1]), path)
    with pytest.raises(SourceError, match="does not hold the documents of the run any more"):
        run.plot("map", colour_by="truth")
    with pytest.raises(SourceError, match="does not hold the documents"):
        run.export(tmp_path / "a.parquet", data=path)
    with pytest.warns(FallbackWarning, match="there are no texts"):
        names = pq.read_schema(run.export(tmp_path / "a.parquet")).names
    assert "x" in names
    assert not {"text", "truth"} & {*names}


def test_data_in_memory_are_given_once_more(docs: Path, tmp_path: Path) -> None:
    table = pq.read_table(docs)
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3, "n_init": 1}}
    run = gpucluster.cluster(table, settings, out=tmp_path)
    with pytest.raises(SourceNotFoundError, match="in memory") as found:
        run.plot("silhouette")
    assert "with data" in str(found.value.hint)
    assert run.plot("silhouette", data=table).axes


def test_matplotlib_is_an_extra(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailableError, match="needs Matplotlib") as found:
        runs["kmeans"].plot("map")
    assert found.value.hint == "pip install 'gpucluster[plot]'"


@pytest.fixture(scope="module")
def series(docs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of three runs of one definition, and of one that joined the last."""
    out = tmp_path_factory.mktemp("series")
    table = pq.read_table(docs)
    for count in (600, 900, 1_200):
        run = gpucluster.cluster(
            table.slice(0, count),
            algorithm="kmeans",
            algorithm_params={"n_clusters": 5, "n_init": 1},
            out=out,
        )
    run.assign(table.slice(0, 100), scope="all")
    return out


def test_a_comparison_is_drawn(series: Path, tmp_path: Path) -> None:
    (found_runs,) = gpucluster.history(series).series
    first, *_, last = [run for run in found_runs.runs if run.manifest.mode == "full"]
    found = gpucluster.compare(first, last)
    assert found.plot(tmp_path / "flow.svg") == tmp_path / "flow.svg"
    texts = texts_of(found.plot())
    assert sum(text.startswith("cl_") for text in texts) == 10
    by_centroids = gpucluster.compare(first, last, by="centroids").plot()
    assert by_centroids.axes[0].collections  # ribbons of links
    clusters = np.array([0, 1, -1, 3], np.int32), np.array([4, 0, 2, -1], np.int32)
    links = links_between(first, last, *clusters, matched_by="centroids")
    sizes = [run.centroids["num_members"].to_pylist() for run in (first, last)]
    assert links.tolist() == [[i, j, min(sizes[0][i], sizes[1][j])] for i, j in ((0, 4), (1, 0))]


def test_a_history_flows(series: Path, tmp_path: Path) -> None:
    history = gpucluster.history(series)
    path = history.flow(tmp_path / "flow.png")
    assert path.read_bytes().startswith(BEGINS["png"])
    with pytest.raises(ConfigError, match="there are 1 that found clusters"):
        history.select(last=2).flow(tmp_path / "flow.png")


def test_an_export_has_rows_in_order_and_exact_neighbours(
    runs: dict[str, Run], docs: Path, tmp_path: Path
) -> None:
    run = runs["levels"]
    table = pq.read_table(run.export(tmp_path / "map.parquet", neighbors=3))
    source = pq.read_table(docs)
    assert table.column_names == [
        *("document_id", "x", "y", "cluster", "cluster_id", "label", "similarity"),
        *("text", "truth", "neighbors"),
    ]
    for name, theirs in (("document_id", "document_id"), ("text", "text"), ("truth", "label")):
        assert table[name].to_pylist() == source[theirs].to_pylist()
    assert table["cluster_id"].to_pylist() == run.members.sort_by("row")["cluster_id"].to_pylist()
    assert all(re.fullmatch(r"cl_\d+", name) for name in table["cluster"].to_pylist())
    X = np.stack(source["embedding"].to_numpy()).astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    apart = 1 - X @ X.T
    np.fill_diagonal(apart, np.inf)
    found = table["neighbors"].to_pylist()
    assert table.schema.field("neighbors").type == pa.struct(
        [("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))]
    )
    for row in range(0, N_ROWS, 97):
        assert len(set(found[row]["ids"]) - {row}) == 3
        np.testing.assert_allclose(found[row]["distances"], np.sort(apart[row])[:3], atol=2e-4)


def test_an_export_is_what_embedding_atlas_loads(runs: dict[str, Run], tmp_path: Path) -> None:
    """Version 0.26 reads it by pandas into DuckDB, and finds neighbours by the number of a row."""
    path = runs["levels"].export(tmp_path / "map.parquet", neighbors=3)
    loaded = pd.read_parquet(path)
    loaded["__row_index__"] = range(len(loaded))
    types = duckdb.sql("select column_name, column_type from (describe from loaded)").fetchall()
    assert types == [
        ("document_id", "VARCHAR"),
        ("x", "FLOAT"),
        ("y", "FLOAT"),
        *((name, "VARCHAR") for name in ("cluster", "cluster_id", "label")),
        ("similarity", "FLOAT"),
        *((name, "VARCHAR") for name in ("text", "truth")),
        ("neighbors", "STRUCT(ids BIGINT[], distances FLOAT[])"),
        ("__row_index__", "BIGINT"),
    ]
    found = duckdb.sql(
        "select loaded.__row_index__, near.id from loaded, "
        "(select __row_index__ as row, unnest(neighbors.ids) as id from loaded) near "
        "where near.row = loaded.__row_index__"
    ).fetchall()
    assert len(found) == 3 * N_ROWS
    assert all(row != near and 0 <= near < N_ROWS for row, near in found)


def test_rows_beside_a_sample_have_no_coordinates(docs: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        str(docs),
        algorithm="kmeans",
        algorithm_params={"n_clusters": 3, "n_init": 1},
        sample_size=300,
        sample_mode="fit_then_assign",
        dimension_reduction={"method": "pca"},
        out=tmp_path / "runs",
    )
    data = pd.read_parquet(run.export(tmp_path / "map.parquet"))
    assert len(data) == N_ROWS
    shown = duckdb.sql("SELECT * FROM data WHERE x IS NOT NULL").fetchall()  # as plots.md has it
    assert len(shown) == 300


def test_an_export_goes_where_it_may(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["kmeans"]
    for path in (tmp_path / "map.csv", run.path / "map.parquet"):
        with pytest.raises(ConfigError, match=r"expected a name that ends in \.parquet, outside"):
            run.export(path)
    for path in ("s3://bucket/map.parquet", "~nobody-of-this-name/map.parquet"):
        with pytest.raises(ConfigError, match="a disk|not known"):
            run.export(path)
    for neighbors in (1_200, 0, "3", True):
        with pytest.raises(ConfigError, match="neighbors: got .+, but there are 1,200 rows"):
            run.export(tmp_path / "map.parquet", neighbors=neighbors)


def test_noise_has_a_name_in_an_export(runs: dict[str, Run], tmp_path: Path) -> None:
    table = pq.read_table(runs["dbscan"].export(tmp_path / "map.parquet"))
    is_noise = np.array(table["cluster_id"].to_pylist()) == "-1"
    assert is_noise.any()
    assert set(np.array(table["cluster"].to_pylist())[is_noise]) == {"noise"}
    assert "x" not in table.column_names  # no coordinates


def invoke(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_the_commands(runs: dict[str, Run], series: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "map.svg")
    done = invoke("plot", str(runs["kmeans"].path.parent), "map", "-o", out, "--legend", "--json")
    assert json.loads(done.stdout) == {"kind": "map", "path": out}
    table = str(tmp_path / "map.parquet")
    done = invoke("export", str(runs["kmeans"].path), "-o", table)
    assert done.stdout.strip() == table
    flow = str(tmp_path / "flow.png")
    done = invoke("history", str(series), "--flow", flow, "--json")
    assert json.loads(done.stdout)["flow"] == flow
    first, second = (str(run.path) for run in gpucluster.history(series).series[0].runs[:2])
    drawn = str(tmp_path / "two.pdf")
    done = invoke("compare", first, second, "--plot", drawn, "--json")
    assert json.loads(done.stdout)["plot"] == drawn
    done = invoke("plot", str(runs["kmeans"].path), "tree", "-o", out)
    assert done.exit_code == 2
    assert "has no tree" in done.stderr
    done = invoke("plot", str(runs["kmeans"].path), "map", "-o", out, "--theme", "blue")
    assert done.exit_code == 2


def test_the_command_offers_what_can_be_drawn() -> None:
    offered = {
        option.name: list(option.type.choices)
        for option in plot_command.params
        if hasattr(option.type, "choices")
    }
    assert offered == {"kind": [*KINDS], "colour_by": [*COLOUR_BY], "theme": [*THEMES]}
    for name, kind in KINDS.items():
        assert re.search(rf"^ *{name} +{re.escape(kind.about)}$", plot_command.help, re.MULTILINE)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as context:
        yield context.new_page()


def test_colours_are_those_of_the_browser(page: Any) -> None:
    code = (ROOT / "gpucluster" / "report" / "web" / "colours.js").read_text()
    theirs = page.evaluate(
        """async (code) => {
            const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
            const { colourOf, GROUND } = await import(url);
            const of = (theme) => Array.from({ length: 500 }, (_, i) => colourOf(i - 1, theme));
            return { light: of("light"), dark: of("dark"), ground: GROUND };
        }""",
        code,
    )
    for name, theme in THEMES.items():
        assert [list(colour_of(i - 1, name)) for i in range(500)] == theirs[name]
        assert list(theme.background) == theirs["ground"][name]
