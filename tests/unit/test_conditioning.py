"""Whether to whiten is decided without labels, and rightly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_mutual_info_score

from gpucluster.algorithms.hdbscan import HDBSCAN
from gpucluster.errors import Cancelled
from gpucluster.events import CancelToken, Reporter
from gpucluster.ops import blocks
from gpucluster.preprocess import UMAP, Conditioning, conditioning
from gpucluster.preprocess.conditioning import CLEAR, DOUBTFUL, FEW_ROWS, MARGIN
from gpucluster.types import Matrix


def digits() -> tuple[Matrix, Matrix]:
    X, y = load_digits(return_X_y=True)
    return X.astype(np.float32), y


def with_nuisance(X: Matrix, size: float) -> Matrix:
    """Add three directions that have nothing to do with what the rows show."""
    drawn = np.random.default_rng(0)
    directions = np.linalg.qr(drawn.normal(size=(X.shape[1], 3)))[0].T
    norm = np.linalg.norm(X, axis=1).mean()
    noise = size * norm * drawn.normal(size=(len(X), 3))
    return (X + noise @ directions).astype(np.float32)


def agreement(X: Matrix, y: Matrix) -> float:
    layout = UMAP(n_components=16).fit(X, "cpu", Reporter()).arrays["layout"]
    found = HDBSCAN(min_cluster_size="auto").fit(layout)
    return float(adjusted_mutual_info_score(y, found.labels_))


def test_good_rows_are_left_alone():
    X, _ = digits()
    step = Conditioning()
    fitted = step.fit(X, "cpu", Reporter())
    assert fitted.info["chosen"] == "none"
    assert fitted.arrays == {}
    assert step.output(X, fitted.arrays) is X
    assert step.apply(X[:3], fitted.arrays) is not None


@pytest.mark.filterwarnings("ignore:hdbscan")
@pytest.mark.parametrize("size", [0.5, 1.5])
def test_directions_without_clusters_are_whitened_away(size):
    X, y = digits()
    X = with_nuisance(X, size)
    step = Conditioning()
    fitted = step.fit(X, "cpu", Reporter())
    assert fitted.info["chosen"].startswith("whitening")
    whitened = step.output(X, fitted.arrays)
    assert np.allclose(whitened[:50], step.apply(X[:50], fitted.arrays), atol=1e-5)
    assert agreement(X, y) < 0.4
    assert agreement(whitened, y) > 0.85


def test_what_was_tried_is_told():
    X, _ = digits()
    info = Conditioning().fit(with_nuisance(X, 0.5), "cpu", Reporter()).info
    names = [way["step"] for way in info["tried"]]
    assert names[0] == "none"
    assert info["chosen"] in names
    scores = {way["step"]: way["score"] for way in info["tried"]}
    assert scores[info["chosen"]] >= max(CLEAR, scores["none"] + MARGIN)
    assert info["n_rows"] == len(X)


def test_a_common_offset_is_a_reason_to_try_centring():
    X, _ = digits()
    X -= X.mean(axis=0)

    def tried(shift: float) -> list[str]:
        info = Conditioning().fit(X + np.float32(shift), "cpu", Reporter()).info
        return [way["step"] for way in info["tried"]]

    assert "center" not in tried(0.0)
    assert "center" in tried(50.0)


def test_more_rows_decide_where_it_is_close(monkeypatch):
    X, _ = digits()
    X = with_nuisance(X, 0.5)
    step = Conditioning(sample_size=500)
    assert step.fit(X, "cpu", Reporter()).info["n_rows"] == 500
    looks = []

    def ahead_by_little(tried):
        looks.append(tried)
        return True

    monkeypatch.setattr(conditioning, "_is_doubtful", ahead_by_little)
    info = step.fit(X, "cpu", Reporter()).info
    assert info["n_rows"] == min(len(X), DOUBTFUL * 500)
    assert info["chosen"].startswith("whitening")
    assert len(looks) == 1
    assert step.fit(X[:500], "cpu", Reporter()).info["n_rows"] == 500  # there are no more


@pytest.mark.parametrize(
    ("scores", "doubtful"),
    [
        ((2.0, 1.5), False),
        ((2.0, 2.3), True),
        ((2.0, 2.6), False),
        ((0.2, 0.6), True),
        ((-1.0, 0.2), False),
    ],
)
def test_what_is_close(scores, doubtful):
    ways = (None, conditioning.GENTLE)
    tried = [{"step": way, "score": score} for way, score in zip(ways, scores, strict=True)]
    assert conditioning._is_doubtful(tried) is doubtful


def test_two_clusters_are_enough():
    perfect = np.log(2)
    tried = [{"step": None, "score": -2.5}, {"step": conditioning.GENTLE, "score": perfect}]
    assert conditioning._best(tried) is conditioning.GENTLE
    tried[0]["score"] = 0.5
    assert conditioning._best(tried) is None


def test_noise_is_not_conditioned():
    X = np.random.default_rng(0).normal(size=(1500, 40)).astype(np.float32)
    assert Conditioning().fit(X, "cpu", Reporter()).info["chosen"] == "none"


def test_few_rows_and_few_dimensions():
    X, _ = digits()
    few = Conditioning().fit(X[: FEW_ROWS - 1], "cpu", Reporter())
    assert (few.info["chosen"], few.info["tried"]) == ("none", [])
    drawn = np.random.default_rng(0)
    X = np.repeat(drawn.uniform(-9, 9, (6, 3)), 200, axis=0) + drawn.normal(size=(1200, 3))
    narrow = Conditioning().fit(X.astype(np.float32), "cpu", Reporter())
    assert len(narrow.info["tried"]) >= 2
    equal = Conditioning().fit(np.ones((600, 20), np.float32), "cpu", Reporter())
    assert equal.info["chosen"] == "none"


def test_the_same_on_any_number_of_cores(monkeypatch):
    X, _ = digits()
    X = with_nuisance(X, 0.5)
    found = []
    for n_threads in (1, 3):
        monkeypatch.setattr(blocks, "n_threads", lambda n_threads=n_threads: n_threads)
        found.append(Conditioning().fit(X, "cpu", Reporter()))
    assert found[0].info == found[1].info
    for name, array in found[0].arrays.items():
        assert np.array_equal(array, found[1].arrays[name])


def test_it_can_be_cancelled():
    X, _ = digits()
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        Conditioning().fit(X, "cpu", Reporter(cancel=cancel))
