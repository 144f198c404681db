"""Several features: side by side, weighted, and how their clusters lie in each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.errors import SchemaMismatchError
from gpucluster.events import Reporter
from gpucluster.features import WeightLearning, learn_weights, nested_levels, overlaps, weigh
from gpucluster.features.weights import _grid
from gpucluster.sources import load, open_feature
from gpucluster.sources.features import FeaturesSource

TEXT, IMAGE = "mixpeek://text@v1/text_emb", "mixpeek://image@v1/image_emb"


def vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    stream = np.random.default_rng(0)
    text = stream.normal(size=(500, 3)).astype(np.float32)
    image = stream.normal(size=(500, 5)).astype(np.float16) * 10
    text[7] = np.nan
    image[11] = 0
    table = pa.table(
        {
            "id": np.arange(500),
            "text_emb": vectors(text),
            "image_emb": vectors(image),
        }
    )
    pq.write_table(table, tmp_path / "docs.parquet", row_group_size=90)
    return tmp_path / "docs.parquet"


def features(file: Path, *, normalize: bool = True) -> FeaturesSource:
    return FeaturesSource(
        {uri: open_feature(file, uri) for uri in (TEXT, IMAGE)}, normalize=normalize
    )


@pytest.mark.parametrize("budget", [64, 5000, 1 << 20])
def test_features_lie_side_by_side(file: Path, budget: int) -> None:
    source = features(file)
    assert source.info.n_features == 8
    assert source.info.blocks == ((TEXT, 3), (IMAGE, 5))
    samples = load(source, reporter=Reporter(), batch_bytes=budget)
    rejected = samples.rejected.select(["row", "reason"]).to_pylist()
    assert rejected == [{"row": 7, "reason": "nan"}, {"row": 11, "reason": "zero_norm"}]
    table = pq.read_table(file)
    for name, cols in (("text_emb", slice(0, 3)), ("image_emb", slice(3, 8))):
        raw = np.array(table[name].to_pylist(), np.float64)[samples.rows]
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(samples.X[:, cols], unit, atol=1e-6)


def test_features_may_keep_their_lengths(file: Path) -> None:
    samples = load(features(file, normalize=False), reporter=Reporter())
    image = np.array(pq.read_table(file)["image_emb"].to_pylist(), np.float32)
    np.testing.assert_array_equal(samples.X[:, 3:], image[samples.rows])
    assert 11 in samples.rows  # its text says enough


def test_a_feature_needs_a_column_of_its_own(file: Path) -> None:
    other = "mixpeek://video@v1/image_embs"
    sources = {
        TEXT: open_feature(file, TEXT),
        other: open_feature(file, other, vector_column="image_emb"),
    }
    with pytest.raises(SchemaMismatchError, match=r"no column 'image_embs' .*mean image_emb"):
        FeaturesSource(sources, normalize=True)


def test_weights_weigh_inner_products() -> None:
    X = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    weighted = X.copy()
    weigh(weighted, ((TEXT, 3), (IMAGE, 5)), (0.25, 1.0))
    expected = 0.25 * X[:, :3] @ X[:, :3].T + X[:, 3:] @ X[:, 3:].T
    np.testing.assert_allclose(weighted @ weighted.T, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["bayesian", "grid_search"])
@pytest.mark.parametrize("metric", ["silhouette", "davies_bouldin", "calinski_harabasz"])
def test_learning_prefers_the_feature_with_groups(method: str, metric: str) -> None:
    stream = np.random.default_rng(0)
    group = np.arange(400) % 8
    clear = np.eye(8, 8)[group] + stream.normal(scale=0.25, size=(400, 8))
    noise = stream.normal(size=(400, 6))
    blocks = [block / np.linalg.norm(block, axis=1, keepdims=True) for block in (noise, clear)]
    X = np.concatenate(blocks, axis=1).astype(np.float32)
    settings = WeightLearning(method=method, metric=metric, max_iterations=8, sample_size=300)
    found = learn_weights(X, (("noise", 6), ("clear", 8)), settings, 8, Reporter())
    assert found.weights[1] == 1
    assert found.weights[0] < 1
    assert found.score >= found.equal_score
    assert found.n_tried <= 8
    again = learn_weights(X, (("noise", 6), ("clear", 8)), settings, 8, Reporter())
    assert again == found


def test_overlap_finds_the_parent() -> None:
    first = np.array([0, 0, 0, 0, 1, 1, 1, -1], np.int32)
    second = np.array([0, 0, 1, 1, 2, 2, 0, 2], np.int32)
    found = overlaps(first, second, 0.6)
    assert [(o.parent, o.child, o.n_common) for o in found] == [(0, 0, 2), (0, 1, 2), (1, 2, 2)]
    assert [o.share for o in found] == pytest.approx([2 / 3, 1, 2 / 3])
    assert [o.child for o in overlaps(first, second, 0.7)] == [1]


@settings(deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 5), st.integers(1, 8), st.integers(0, 2**16), st.booleans()
)
def test_nested_levels_are_laminar(
    n_samples: int, n_first: int, n_second: int, seed: int, clean: bool
) -> None:
    stream = np.random.default_rng(seed)
    second = stream.integers(-1, n_second, n_samples).astype(np.int32)
    parents = stream.integers(-1, n_first, n_second + 1)
    first = parents[second].astype(np.int32)
    if not clean:
        swapped = stream.random(n_samples) < 0.3
        first[swapped] = stream.integers(-1, n_first, swapped.sum())
    levels, (found,) = nested_levels((first, second), 0.7)
    np.testing.assert_array_equal(levels[0], first)
    children = {pair.child: pair.parent for pair in found}
    for child in np.unique(levels[1][levels[1] >= 0]):
        rows = levels[1] == child
        assert set(first[rows]) == {children[child]}
        assert (second[rows] == child).all()


@pytest.mark.parametrize(("n_blocks", "limit"), [(2, 5), (2, 20), (3, 20), (5, 20), (16, 12)])
def test_a_grid_tries_as_many_weights_as_it_may_and_each_once(n_blocks: int, limit: int) -> None:
    tried = list(_grid(n_blocks, limit, np.random.default_rng(0)))
    assert len(tried) <= limit
    assert len(set(tried)) == len(tried)
    assert tried[0] == (1.0,) * n_blocks
    assert all(max(point) == 1 for point in tried)
    for block in range(n_blocks):
        assert {point[block] for point in tried} != {1.0}
