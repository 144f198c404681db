"""Runs under a name that the caller gives."""

from __future__ import annotations

import numpy as np
import pytest

import gpucluster
from gpucluster.errors import ConfigError

X = np.random.default_rng(0).normal(size=(300, 8)).astype("float32")


def clustered(out, n_clusters=3, **options):
    params = {"n_clusters": n_clusters}
    return gpucluster.cluster(
        X, algorithm="kmeans", algorithm_params=params, out=out, device="cpu", **options
    )


def test_a_run_gets_the_name_it_is_given_and_is_finished_once(tmp_path):
    run = clustered(tmp_path, run_id="run_first")
    assert (run.run_id, run.path) == ("run_first", tmp_path / "run_first")
    assert set(run.centroids["run_id"].to_pylist()) == {"run_first"}
    again = clustered(tmp_path, run_id="run_first")
    assert again.manifest.completed_at == run.manifest.completed_at


def test_another_name_is_another_run_that_follows_the_first(tmp_path):
    clustered(tmp_path, run_id="run_first")
    second = clustered(tmp_path, run_id="run_second")
    assert second.manifest.lineage["previous_run_id"] == "run_first"
    assert any(stage.reused for stage in second.manifest.stages)


def test_a_name_that_is_taken_by_something_else_is_refused(tmp_path):
    clustered(tmp_path, run_id="run_first")
    with pytest.raises(ConfigError, match="run_first is finished, and is of something else"):
        clustered(tmp_path, n_clusters=4, run_id="run_first")


def test_assigned_rows_get_a_name_too(tmp_path):
    base = clustered(tmp_path)
    run = gpucluster.assign(X[:50], run=base, scope="all", run_id="run_later")
    assert (run.run_id, run.path) == ("run_later", tmp_path / "run_later")
    again = gpucluster.assign(X[:50], run=base, scope="all", run_id="run_later")
    assert again.manifest.completed_at == run.manifest.completed_at


@pytest.mark.parametrize("name", ["", ".hidden", "../run", "a/b", "a" * 129, 7])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="run_id"):
        clustered(tmp_path, run_id=name)
    assert not list(tmp_path.iterdir())
