"""Coordinates for pictures: all rows get one, near rows stay near, large sets take landmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.neighbors import KNeighborsClassifier

import gpucluster
from gpucluster.errors import BackendUnavailableError, Cancelled, ConfigError, GpuclusterWarning
from gpucluster.events import CancelToken, Progress, Reporter
from gpucluster.ops.placement import place
from gpucluster.preprocess import DisplayReduction
from gpucluster.preprocess.tsne import TSNE

KMEANS = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 5, "n_init": 1}}


def blobs(n_samples: int, n_features: int = 12) -> tuple[np.ndarray, np.ndarray]:
    centers = np.eye(5, n_features) * 5
    X, y = make_blobs(n_samples, centers=centers, cluster_std=0.6, random_state=0)
    return X.astype(np.float32), y


def separation(layout: np.ndarray, y: np.ndarray) -> float:
    """Share of rows whose neighbours in the layout are of their class."""
    half = len(y) // 2
    return KNeighborsClassifier(5).fit(layout[:half], y[:half]).score(layout[half:], y[half:])


@pytest.mark.parametrize("method", ["umap", "pca", "ipca", "tsne"])
@pytest.mark.parametrize("components", [2, 3])
def test_every_method_shows_the_groups(method: str, components: int, tmp_path: Path) -> None:
    X, y = blobs(400)
    run = gpucluster.cluster(
        X,
        KMEANS,
        dimension_reduction={"method": method, "components": components},
        out=tmp_path,
    )
    members = run.members.sort_by("row")
    axes = [name for name in ("x", "y", "z") if members[name].null_count == 0]
    assert axes == ["x", "y", "z"][:components]
    layout = np.column_stack([members[name] for name in axes])
    assert np.isfinite(layout).all()
    assert separation(layout, y) > (0.7 if "pca" in method else 0.98)
    centers = np.column_stack([run.centroids[name] for name in axes])
    labels = members["cluster_index"].to_numpy()
    np.testing.assert_allclose(centers[2], layout[labels == 2].mean(axis=0), rtol=1e-3, atol=1e-3)


def test_landmarks_are_laid_out_and_the_others_placed_among_them(tmp_path: Path) -> None:
    X, y = blobs(3000)
    settings = {"method": "umap", "max_landmarks": 1000}
    run = gpucluster.cluster(X, KMEANS, dimension_reduction=settings, out=tmp_path)
    (stage,) = (stage for stage in run.manifest.stages if stage.name == "display")
    assert stage.method == "landmarks"
    members = run.members.sort_by("row")
    layout = np.column_stack([members["x"], members["y"]])
    assert separation(layout, y) > 0.98
    again = gpucluster.cluster(
        X, KMEANS, dimension_reduction=settings, effective_feature_method="medoid", out=tmp_path
    )
    (stage,) = (stage for stage in again.manifest.stages if stage.name == "display")
    assert stage.reused
    assert again.members.sort_by("row")["x"].equals(members["x"])


@pytest.mark.parametrize(
    ("n_samples", "expected"), [(800, 800), (50_000, 50_000), (50_001, 50_000), (10**6, 50_000)]
)
def test_how_many_rows_are_laid_out(n_samples: int, expected: int) -> None:
    assert DisplayReduction().n_landmarks(n_samples) == expected
    assert DisplayReduction(method="pca").n_landmarks(n_samples) == n_samples
    rows = DisplayReduction().landmark_rows(n_samples, 1)
    assert len(np.unique(rows)) == expected
    assert rows[-1] < n_samples


def test_a_share_of_the_rows_can_be_asked_for() -> None:
    assert DisplayReduction(sample_pct=0.02).n_landmarks(10**6) == 20_000
    assert DisplayReduction(sample_pct=0.02).n_landmarks(10_000) == 1000


def test_a_landmark_lies_near_its_own_place() -> None:
    X, _ = blobs(500)
    layout = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    np.testing.assert_allclose(place(X, X, layout, 1), layout, atol=1e-6)
    whole = place(X, X[:200], layout[:200], 15)
    parts = [
        place(np.ascontiguousarray(part), X[:200], layout[:200], 15) for part in (X[:77], X[77:])
    ]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-5)


def test_tsne_repeats_itself() -> None:
    X, _ = blobs(120)
    first, again = (TSNE().fit(X, "cpu", Reporter()).arrays["layout"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_tsne_can_be_cancelled() -> None:
    X, _ = blobs(300)
    cancel, seen = CancelToken(), []

    def stop(event: object) -> None:
        if isinstance(event, Progress) and event.unit == "iterations":
            seen.append(event.done)
            cancel.cancel()

    with pytest.raises(Cancelled):
        TSNE().fit(X, "cpu", Reporter("display", stop, cancel))
    assert len(seen) == 1


def test_too_few_rows_for_a_layout_are_told_of_by_the_setting_that_was_written() -> None:
    with pytest.raises(ConfigError, match=r"^dimension_reduction: no umap layout in 2 dim.* of 3"):
        DisplayReduction().check(3, 10, 42, Reporter())


def test_tsne_cuts_its_perplexity_and_refuses_what_has_no_picture() -> None:
    with pytest.warns(GpuclusterWarning, match="perplexity 30 cut to 16: there are 50 rows"):
        assert TSNE().check(50, 10, Reporter()).perplexity == 16
    with pytest.raises(ConfigError, match=r"dimension_reduction.method: got 5 rows of 10"):
        TSNE().check(5, 10, Reporter())
    with pytest.raises(ConfigError, match="places no new rows"):
        TSNE().apply(np.ones((2, 3), np.float32), {})


def test_tsne_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucluster.preprocess.tsne.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"gpucluster\[tsne\]"):
        TSNE().check(500, 10, Reporter())
