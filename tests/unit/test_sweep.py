"""Sizes of clusters, swept from one fit."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import gpucluster
from gpucluster.algorithms import HDBSCAN
from gpucluster.cli import main
from gpucluster.errors import ConfigError, GpuclusterWarning, TooFewSamplesError
from gpucluster.events import StageFinished
from gpucluster.ops import sweep as module
from gpucluster.ops.sweep import _widest_plateau, default_sizes, next_size


def nested(per_group: int = 16, n_features: int = 3) -> np.ndarray:
    """Return five far groups, each of four near ones: 20 clusters, or 5."""
    stream = np.random.default_rng(0)
    far = stream.normal(size=(5, n_features)) * 300
    near = np.repeat(far, 4, axis=0) + stream.normal(size=(20, n_features)) * 20
    return (
        np.repeat(near, per_group, axis=0) + stream.normal(size=(20 * per_group, n_features))
    ).astype(np.float32)


def test_sizes_are_judged_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sizes: got \[1\], expected sizes of 2 and more"):
        gpucluster.sweep(tmp_path / "not-even-there.parquet", sizes=[1])
    with pytest.raises(ConfigError, match="sizes: got 320, but there are 320 rows"):
        HDBSCAN().sweep(nested(), sizes=[5, 320])


@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
def test_a_row_is_what_a_fit_of_that_size_gives() -> None:
    X = nested()
    X = np.concatenate([X, X[:40]])
    swept = HDBSCAN(min_samples=4).sweep(X, [3, 8, 12, 30])
    assert [row.min_cluster_size for row in swept.rows] == [3, 8, 12, 30]
    for row in swept.rows:
        found = HDBSCAN(min_cluster_size=row.min_cluster_size, min_samples=4).fit(X)
        assert row.n_clusters == found.n_clusters_
        assert row.noise_ratio == pytest.approx((found.labels_ < 0).mean())
        assert 0 < row.persistence <= 1


def test_the_middle_of_the_widest_plateau_is_recommended() -> None:
    swept = HDBSCAN(min_samples=4).sweep(nested(), range(3, 24))
    plateau = [row.min_cluster_size for row in swept.rows if row.is_plateau]
    counts = {row.n_clusters for row in swept.rows if row.is_plateau}
    assert counts == {20}
    assert swept.recommended in plateau
    assert plateau[0] < swept.recommended < plateau[-1]
    cliffs = [row.min_cluster_size for row in swept.rows if row.is_cliff]
    assert cliffs
    for size in cliffs:
        before, after = swept.row(size).n_clusters, swept.row(next_size(size)).n_clusters
        assert abs(before - after) > max(before, after) / 3
    with pytest.raises(KeyError):
        swept.row(24)


def test_min_samples_stays_where_it_is() -> None:
    X = nested()
    omitted = HDBSCAN(min_cluster_size=7).sweep(X, [5, 10])
    assert omitted.min_samples == 7
    assert omitted == HDBSCAN(min_cluster_size=90, min_samples=7).sweep(X, [10, 5, 5])


def test_a_size_near_a_cliff_is_said() -> None:
    X = nested()
    swept = HDBSCAN(min_samples=4).sweep(X)
    edge = max(row.min_cluster_size for row in swept.rows if row.n_clusters == 20)
    assert swept.row(edge).is_cliff
    with pytest.warns(GpuclusterWarning, match=rf"min_cluster_size {edge} gives 20 clusters, but"):
        HDBSCAN(min_cluster_size=edge, min_samples=4).fit(X)
    HDBSCAN(min_cluster_size=swept.recommended, min_samples=4).fit(X)  # says nothing


@given(st.integers(2, 10**6))
def test_sizes_rise_by_a_tenth(n_rows: int) -> None:
    sizes = default_sizes(n_rows)
    assert sizes[0] == 5
    assert sizes[-1] <= max(5, n_rows // 20)
    assert all(a < b <= max(a + 1, 1.1 * a) for a, b in pairwise(sizes))


SIZES = [5, 10, 20, 40, 80, 160, 320]


@pytest.mark.parametrize(
    ("counts", "plateau"),
    [
        ([40, 30, 21, 20, 20, 12, 8], [20, 40, 80]),  # 20 to 21 is less than 10 %
        ([40, 30, 12, 8, 7, 6, 5], []),
        ([40, 30, 12, 12, 2, 2, 2], [20, 40]),  # two clusters are none while there is another
        ([40, 30, 12, 8, 2, 2, 2], [80, 160, 320]),  # but they are where there is nothing else
        ([2, 2, 2, 1, 1, 0, 0], [5, 10, 20]),
        ([0, 0, 0, 0, 0, 0, 0], []),
        ([9, 9, 5, 4, 4, 3, 3], [5, 10]),  # equally wide: the first
        ([99, 50, 50, 4, 3, 3, 3], [80, 160, 320]),
        ([100, 95, 91, 87, 83, 10, 10], [5, 10, 20]),  # the change counts from end to end
    ],
)
def test_plateaus(counts: list[int], plateau: list[int]) -> None:
    assert _widest_plateau(SIZES, counts, [0.1] * 7) == plateau


def test_faint_plateaus_are_narrower() -> None:
    counts, clarity = [99, 50, 50, 4, 3, 3, 3], [0.3, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1]
    assert _widest_plateau(SIZES, counts, clarity) == [10, 20]


@pytest.mark.parametrize("sizes", [[], [1], [5, 0]])
def test_sizes_that_cannot_be_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match="expected sizes of 2 and more"):
        HDBSCAN().sweep(nested(), sizes)


def test_one_distinct_row_cannot_be_swept() -> None:
    with pytest.raises(TooFewSamplesError, match="got 1 distinct rows"):
        HDBSCAN().sweep(np.ones((9, 2), np.float32))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    np.save("docs.npy", nested(n_features=8))
    return "docs.npy"


SETTINGS = {"algorithm": "hdbscan", "algorithm_params": {"min_samples": 4}}


def test_the_verb_prepares_as_a_run_does(path: str) -> None:
    events: list[object] = []
    steps = [{"method": "pca", "n_components": 3}]
    swept = gpucluster.sweep(
        path, preprocessing_steps=steps, device="cpu", observer=events.append, **SETTINGS
    )
    names = [event.record.name for event in events if isinstance(event, StageFinished)]
    assert names == ["load", "prepare.0.pca", "sweep"]
    run = gpucluster.cluster(
        path,
        preprocessing_steps=steps,
        device="cpu",
        algorithm="hdbscan",
        algorithm_params={"min_samples": 4, "min_cluster_size": swept.recommended},
    )
    assert run.num_clusters == swept.row(swept.recommended).n_clusters


def test_another_algorithm_has_no_sizes(path: str) -> None:
    with pytest.raises(ConfigError, match="got kmeans, a sweep is of hdbscan"):
        gpucluster.sweep(path, algorithm="kmeans")


def test_the_command_says_how_to_run(path: str) -> None:
    runner = CliRunner()
    steps = ("--steps", "pca", "--step-param", "pca.n_components=3", "--device", "cpu")
    options = ("--algorithm", "hdbscan", "--param", "min_samples=4", *steps)
    shown = runner.invoke(main, ["sweep", path, *options, "--quiet"])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["size", "clusters", "noise", "persistence"]
    assert sum(line.endswith("recommended") for line in lines) == 1
    assert any("cliff" in line for line in lines)
    answer = json.loads(runner.invoke(main, ["sweep", path, *options, "--json", "-q"]).stdout)
    assert answer["min_samples"] == 4
    assert len(answer["rows"]) == len(default_sizes(320))
    command = shlex.split(lines[-1].removeprefix("run it"))
    assert answer["command"] == command
    assert command[:3] == ["gpucluster", "run", path]
    run = runner.invoke(main, [*command[1:], "--json", "-q"])
    clusters = {row["min_cluster_size"]: row["n_clusters"] for row in answer["rows"]}
    assert json.loads(run.stdout)["num_clusters"] == clusters[answer["recommended"]]


def test_the_command_names_what_the_plan_chose(path: str) -> None:
    runner = CliRunner()
    answer = json.loads(runner.invoke(main, ["sweep", path, "--json", "-q"]).stdout)
    words = answer["command"]
    assert words[2:7] == [path, "--algorithm", "hdbscan", "--steps", "none"]
    assert words[7:] == [
        *("--param", f"min_cluster_size={answer['recommended']}", "--param", "min_samples=5")
    ]


def test_a_definition_is_run_with_the_size(path: str) -> None:
    Path("topics.yaml").write_text(
        f"collection_ids: [{path}]\nclustering_method: hdbscan\n"
        "algorithm_params: {min_samples: 4, min_cluster_size: 9}\n"
    )
    runner = CliRunner()
    shown = runner.invoke(main, ["sweep", "topics.yaml", "--json", "-q", "--param", "alpha=1.0"])
    words = json.loads(shown.stdout)["command"]
    assert words[:5] == ["gpucluster", "run", "topics.yaml", "--param", "alpha=1.0"]
    assert runner.invoke(main, [*words[1:], "--json", "-q"]).exit_code == 0


def test_sizes_are_numbers(path: str) -> None:
    shown = CliRunner().invoke(main, ["sweep", path, "--sizes", "5,ten"])
    assert isinstance(shown.exception, BaseException)
    assert "expected numbers, as 5,10,20" in str(shown.output) + str(shown.exception)


def test_the_constants_are_those_of_the_help() -> None:
    assert (module.CHANGE, module.FIRST_SIZE, module.LAST_SHARE) == (0.1, 5, 20)
