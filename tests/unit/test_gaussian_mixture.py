"""The Gaussian mixture: densities, moves, what it says, and what it costs."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

from gpucluster.algorithms import GaussianMixture
from gpucluster.algorithms import gaussian_mixture as module
from gpucluster.definition import ClusterDefinition
from gpucluster.errors import ConfigError, InputError, NotConvergedWarning, QualityWarning
from gpucluster.events import Cancelled, CancelToken, Event, Progress, Reporter
from gpucluster.ops import blocks, mixture
from gpucluster.ops.gaussians import Axes, Full, Gaussians, Tied
from gpucluster.ops.mixture import Fit, Frame, expectation_maximization, scatter

FORMS = ("full", "tied", "diag", "spherical")
forms = pytest.mark.parametrize("form", FORMS)


def overlapping(n_samples: int = 900, n_features: int = 6, seed: int = 0) -> Any:
    """Return rows of three components of different shape that overlap, and the component."""
    random = np.random.default_rng(seed)
    y = random.choice(3, n_samples, p=[0.5, 0.3, 0.2])
    shapes = random.normal(size=(3, n_features, n_features)) / np.sqrt(n_features)
    centers = random.normal(size=(3, n_features)) * 1.5
    X = np.einsum("ij,ijk->ik", random.normal(size=(n_samples, n_features)), shapes[y])
    return (X + centers[y] + 5).astype(np.float32), y


def start(form: str, X: Any, frame: Frame, k: int, reg: float = 1e-6) -> Gaussians:
    means, reg = np.zeros((k, X.shape[1])), reg * frame.scale**2
    if form == "full":
        return Full.start(means, reg, X.shape[1])
    if form == "tied":
        return Tied.start(means, reg, scatter(X, frame))
    return Axes.start(means, reg, spherical=form == "spherical")


def fit(form: str, X: Any, y: Any, **options: Any) -> Fit:
    """Fit from the partition `y`."""
    frame = Frame.of(X)
    options = {"tol": 1e-3, "max_iter": 100, **options}
    first = start(form, X, frame, y.max() + 1)
    return expectation_maximization(X, frame, first, y, reporter=Reporter(), **options)


def sklearn_fit(form: str, X: Any, y: Any, **options: Any) -> SklearnGaussianMixture:
    """Fit scikit-learn's mixture from the partition `y`, in float64."""

    class FromPartition(SklearnGaussianMixture):
        def _initialize_parameters(self, X: Any, *_: Any, **__: Any) -> None:
            self._initialize(X, np.eye(self.n_components)[y])

    return FromPartition(y.max() + 1, covariance_type=form, **options).fit(X.astype(np.float64))


def covariances(gaussians: Gaussians, frame: Frame) -> Any:
    """Return the covariances as scikit-learn shapes them."""
    unscaled = frame.scale**-2
    if isinstance(gaussians, Full):
        inverse = np.linalg.inv(gaussians.factors.astype(np.float64))
        return inverse.transpose(0, 2, 1) @ inverse * unscaled
    assert isinstance(gaussians, Axes)
    variances = gaussians.variances * unscaled
    return variances[:, 0] if variances.shape[1] == 1 else variances


@forms
def test_is_the_mixture_of_scikit_learn(form: str) -> None:
    X, y = overlapping()
    ours, theirs = fit(form, X, y), sklearn_fit(form, X, y)
    frame = Frame.of(X)
    assert ours.n_iter == theirs.n_iter_
    assert ours.converged == theirs.converged_
    assert ours.log_likelihood == pytest.approx(theirs.score(X.astype(np.float64)), abs=1e-5)
    means = ours.gaussians.means / frame.scale + frame.shift
    np.testing.assert_allclose(means, theirs.means_, atol=2e-5)
    np.testing.assert_allclose(np.exp(ours.gaussians.log_weights), theirs.weights_, atol=2e-5)
    if form != "tied":
        found = covariances(ours.gaussians, frame)
        np.testing.assert_allclose(found, theirs.covariances_, atol=2e-5)
    shares = theirs.predict_proba(X.astype(np.float64))
    np.testing.assert_array_equal(ours.labels, shares.argmax(axis=1))
    np.testing.assert_allclose(ours.shares, shares.max(axis=1), atol=1e-4)


@forms
def test_narrow_components_far_apart_keep_their_digits(form: str) -> None:
    y = np.repeat(np.arange(3), 200)
    random = np.random.default_rng(0)
    X = random.normal(size=(600, 3)) * 1e-2 + np.array([[0, 0, 0], [90, 0, 40], [0, 70, 20]])[y]
    X = X.astype(np.float32)
    ours, theirs = fit(form, X, y), sklearn_fit(form, X, y)
    assert ours.log_likelihood == pytest.approx(theirs.score(X.astype(np.float64)), abs=2e-3)
    np.testing.assert_array_equal(ours.labels, y)


@settings(max_examples=20, deadline=None)
@given(
    n_features=st.sampled_from([1, 3, 64, 65, 150]),
    n_components=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
def test_full_gives_up_only_what_is_out_of_reach(
    n_features: int, n_components: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    means = random.normal(size=(n_components, n_features)) * 2
    factors = np.linalg.qr(random.normal(size=(n_components, n_features, n_features)))[1]
    factors += 2 * np.eye(n_features)
    diagonal = np.abs(np.diagonal(factors, axis1=1, axis2=2))
    factors[:, np.arange(n_features), np.arange(n_features)] = diagonal + 0.1
    weights = random.dirichlet(np.ones(n_components))
    gaussians = Full(means, np.log(weights), 0.0, factors, np.empty((n_components, 0)))
    block = means[random.integers(n_components, size=40)] + random.normal(size=(40, n_features))
    likely = random.integers(-1, n_components, 40).astype(np.int32)
    joint = gaussians.log_joint(block, likely)
    expected = np.stack(
        [
            np.log(w)
            + np.log(np.diag(f)).sum()
            - n_features / 2 * np.log(2 * np.pi)
            - 0.5 * (((block - m) @ f) ** 2).sum(axis=1)
            for w, m, f in zip(weights, means, factors, strict=True)
        ],
        axis=1,
    )
    kept = np.isfinite(joint)
    np.testing.assert_allclose(joint[kept], expected[kept], rtol=1e-9, atol=1e-9)
    assert ((expected < expected.max(axis=1, keepdims=True) - 44) | kept).all()
    np.testing.assert_allclose(logsumexp(joint, axis=1), logsumexp(expected, axis=1), rtol=1e-12)


def low_rank(X: Any, y: Any, rank: int, **options: Any) -> Fit:
    """Fit from the partition `y`, with covariances in full for `rank` principal axes."""
    frame = Frame.of(X).turned(X)
    means = np.zeros((y.max() + 1, X.shape[1]))
    first = Full.start(means, 1e-6 * frame.scale**2, rank)
    options = {"tol": 1e-3, "max_iter": 100, **options}
    return expectation_maximization(X, frame, first, y, reporter=Reporter(), **options)


def planes(n_samples: int = 1500, n_features: int = 20, rank: int = 3) -> Any:
    """Return rows of two components that spread in `rank` directions, with noise."""
    random = np.random.default_rng(1)
    y = (np.arange(n_samples) % 3 == 0).astype(int)
    loadings = random.normal(size=(2, rank, n_features))
    X = np.einsum("ij,ijk->ik", random.normal(size=(n_samples, rank)), loadings[y])
    X += random.normal(size=X.shape) * 0.3 + random.normal(size=(2, n_features))[y] * 0.3
    return X.astype(np.float32), y


@pytest.mark.parametrize(("n_features", "rank"), [(20, 3), (90, 70), (150, 40)])
def test_low_rank_densities_are_those_of_their_covariances(n_features: int, rank: int) -> None:
    X, y = planes(600, n_features)
    found = low_rank(X, y, rank, max_iter=3, tol=0)
    model = found.gaussians
    assert isinstance(model, Full)
    block = Frame.of(X).turned(X).view(X, np.float64)
    expected = []
    for k in range(2):
        whitening = np.zeros((n_features, n_features))
        whitening[:rank] = model.factors[k]
        whitening[range(rank, n_features), range(rank, n_features)] = model.scales[k]
        covariance = np.linalg.inv(whitening @ whitening.T)
        density = multivariate_normal(model.means[k], covariance).logpdf(block)
        expected.append(density + model.log_weights[k])
        # what is modelled is what there is: first axes in full, and every variance
        share = np.exp(model.log_joint(block.astype(model.dtype), found.labels))
        assert np.isfinite(share).all()
    joint = model.log_joint(block.astype(model.dtype), found.labels)
    kept = np.isfinite(joint)
    np.testing.assert_allclose(joint[kept], np.stack(expected, axis=1)[kept], rtol=1e-4, atol=1e-2)


def test_low_rank_keeps_the_first_axes_and_every_variance() -> None:
    X, y = planes(900)
    frame = Frame.of(X).turned(X)
    rank = 5
    start = Full.start(np.zeros((2, 20)), 0.0, rank)
    model = mixture._Sweep(X, frame, Reporter()).maximized(start, y)
    for k in range(2):
        members = frame.view(X[y == k], np.float64)
        sample = np.cov(members, rowvar=False, bias=True)
        whitening = np.zeros((20, 20))
        whitening[:rank] = model.factors[k]
        whitening[range(rank, 20), range(rank, 20)] = model.scales[k]
        covariance = np.linalg.inv(whitening @ whitening.T)
        np.testing.assert_allclose(covariance[:rank], sample[:rank], atol=1e-5)
        np.testing.assert_allclose(np.diag(covariance), np.diag(sample), atol=1e-5)


def test_low_rank_is_full_where_the_rest_is_independent() -> None:
    X, y = planes()
    guess = np.random.default_rng(2).permutation(y)
    guess[: len(y) // 2] = y[: len(y) // 2]
    full, low, whole = fit("full", X, guess), low_rank(X, guess, 8), low_rank(X, guess, 20)
    assert adjusted_rand_score(full.labels, low.labels) > 0.99
    assert low.log_likelihood == pytest.approx(full.log_likelihood, abs=0.2)
    np.testing.assert_array_equal(whole.labels, full.labels)
    assert whole.log_likelihood == pytest.approx(full.log_likelihood, abs=1e-5)


@pytest.mark.parametrize("form", [*FORMS, "low_rank"])
def test_likelihood_never_falls(form: str) -> None:
    X, y = overlapping(600, 8)
    guess = np.random.default_rng(0).permutation(y)
    run = (
        (lambda n: low_rank(X, guess, 3, max_iter=n, tol=0))
        if form == "low_rank"
        else (lambda n: fit(form, X, guess, max_iter=n, tol=0))
    )
    found = [run(n).log_likelihood for n in range(1, 12)]
    assert (np.diff(found) > -1e-5).all()
    assert found[-1] > found[0] + 0.01


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data"])
@forms
def test_every_start_finds_what_is_far_apart(form: str, init: str) -> None:
    X, y = overlapping(600)
    X = X + (20 * np.eye(3, 6, dtype=np.float32))[y]
    found = GaussianMixture(n_components=3, covariance_type=form, init_params=init, n_init=4).fit(X)
    assert adjusted_rand_score(y, found.labels_) == 1
    assert found.probabilities_ is not None
    assert found.probabilities_.min() > 0.99
    assert found.method == "exact"


def test_random_start_repeats_itself_and_follows_the_seed() -> None:
    X, _ = overlapping(400)
    settings = {"n_components": 3, "init_params": "random", "max_iter": 3}
    with pytest.warns(NotConvergedWarning, match="stopped at max_iter 3"):
        first, again, other = (
            GaussianMixture(**settings, random_state=seed).fit(X) for seed in (1, 1, 2)
        )
    np.testing.assert_array_equal(first.labels_, again.labels_)
    assert first.info == again.info
    assert first.info["log_likelihood"] != other.info["log_likelihood"]


def test_the_best_of_several_starts_is_kept() -> None:
    X, _ = overlapping(400)
    settings = {"n_components": 4, "init_params": "random_from_data", "covariance_type": "diag"}
    one = GaussianMixture(**settings).fit(X).info["log_likelihood"]
    best = GaussianMixture(**settings, n_init=6).fit(X).info["log_likelihood"]
    assert best > one


def test_information_criteria_are_those_of_scikit_learn_and_find_three() -> None:
    X, y = overlapping()
    theirs = sklearn_fit("full", X, y)
    found = {k: GaussianMixture(n_components=k, n_init=3).fit(X) for k in (1, 2, 3, 5)}
    assert min(found, key=lambda k: found[k].info["bic"]) == 3
    assert found[3].info["bic"] == pytest.approx(theirs.bic(X.astype(np.float64)), rel=1e-3)
    assert found[3].info["aic"] == pytest.approx(theirs.aic(X.astype(np.float64)), rel=1e-3)
    assert found[1].n_clusters_ == 1
    assert (found[1].probabilities_ == 1).all()


@pytest.mark.parametrize("form", [*FORMS, "low_rank"])
def test_result_does_not_depend_on_the_number_of_cores(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, _ = overlapping(5000, 20)
    if form == "low_rank":
        monkeypatch.setattr(module, "EXACT_NUMBERS", 0)
        form = "full"
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(blocks, "n_threads", lambda cores=cores: cores)
        monkeypatch.setattr(mixture, "n_threads", lambda cores=cores: cores)
        model = GaussianMixture(n_components=4, covariance_type=form, max_iter=4, tol=1e9)
        found.append(model.fit(X))
    np.testing.assert_array_equal(found[0].labels_, found[1].labels_)
    np.testing.assert_array_equal(found[0].probabilities_, found[1].probabilities_)
    assert found[0].info == found[1].info


def test_units_of_the_data_do_not_matter() -> None:
    X, _ = overlapping(500)
    one = GaussianMixture(n_components=3).fit(X)
    for unit in (2.0**-40, 2.0**50):
        settings = {"n_components": 3, "reg_covar": 1e-6 * unit**2}
        other = GaussianMixture(**settings).fit(X * np.float32(unit))
        np.testing.assert_array_equal(one.labels_, other.labels_)
        expected = one.info["log_likelihood"] - X.shape[1] * np.log(unit)
        assert other.info["log_likelihood"] == pytest.approx(expected, rel=1e-6)


def test_above_the_limit_full_is_low_rank_in_plan_and_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = planes(600)
    model = GaussianMixture(n_components=2, n_init=3)
    assert model.cost(*X.shape, "cpu").method == model.fit(X).method == "exact"
    for limit, value in (("EXACT_NUMBERS", 2 * 20 * 8), ("EXACT_PRODUCTS", 600 * 2 * 20 * 8)):
        with monkeypatch.context() as patched:
            patched.setattr(module, limit, value)
            patched.setattr(module, "LEAST_RANK", 3)
            assert model.rank(*X.shape) == 8
            found = model.fit(X)
            assert model.cost(*X.shape, "cpu").method == found.method == "low_rank"
            assert adjusted_rand_score(y, found.labels_) > 0.9
            diagonal = GaussianMixture(n_components=2, covariance_type="diag")
            assert diagonal.cost(*X.shape, "cpu").method == diagonal.fit(X).method == "exact"


def test_limits_are_where_the_page_says() -> None:
    def method(k: int, n: int, d: int) -> str:
        return GaussianMixture(n_components=k).cost(n, d, "cpu").method

    assert method(10, 70_000, 784) == method(100, 200_000, 384) == "exact"
    assert method(300, 500_000, 768) == method(100, 2_000_000, 384) == "low_rank"


@pytest.mark.parametrize("form", [*FORMS, "low_rank"])
def test_memory_stays_within_the_cost(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, _ = overlapping(20_000, 64)
    if form == "low_rank":
        monkeypatch.setattr(module, "EXACT_NUMBERS", 0)
    shape = "full" if form == "low_rank" else form
    init = "kmeans" if form == "full" else "k-means++"
    model = GaussianMixture(
        n_components=20, covariance_type=shape, max_iter=2, tol=1e9, init_params=init
    )
    model.fit(X[:2000])  # what is imported is no matter of the fit
    tracemalloc.start()
    model.fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < model.cost(*X.shape, "cpu").bytes


def test_more_components_than_rows_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"gaussian_mixture.n_components: got 9, but there are 5 rows"
    ):
        GaussianMixture(n_components=9).fit(np.eye(5, dtype=np.float32))


@pytest.mark.parametrize("name", ["n_components", "n_components_gmm", "n_clusters", "num_clusters"])
def test_the_number_of_components_has_four_names(name: str) -> None:
    definition = ClusterDefinition.parse(
        {"algorithm": "gaussian_mixture", "algorithm_params": {name: 7}}
    )
    assert definition.vector_config.algorithm == GaussianMixture(n_components=7)
    assert GaussianMixture(n_components=7).n_clusters == 7


@pytest.mark.parametrize("form", ["full", "tied", "diag", "low_rank"])
def test_a_singular_covariance_is_an_error_that_helps(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.zeros((60, 3), np.float32)
    X[:, 0] = np.arange(60) % 2
    if form == "low_rank":
        monkeypatch.setattr(module, "EXACT_NUMBERS", 0)
        monkeypatch.setattr(module, "LEAST_RANK", 1)
        form = "full"
    for n_components in (1, 2):
        model = GaussianMixture(n_components=n_components, covariance_type=form, reg_covar=0)
        with pytest.raises(InputError, match=r"not positive definite.* raise reg_covar"):
            model.fit(X)
    found = GaussianMixture(n_components=2, covariance_type=form).fit(X)
    assert adjusted_rand_score(X[:, 0], found.labels_) == 1


def test_says_when_components_stay_empty() -> None:
    X = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    with pytest.warns(NotConvergedWarning, match="rows in 2 of the 5 components"):
        found = GaussianMixture(n_components=5).fit(X)
    assert found.n_clusters_ == 2


@pytest.mark.filterwarnings("ignore::gpucluster.errors.NotConvergedWarning")
def test_says_when_covariances_have_too_few_rows() -> None:
    X = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    with pytest.warns(QualityWarning, match="60 rows for 3 full covariances of 20 features"):
        GaussianMixture(n_components=3).fit(X)


def test_cancel_stops_between_iterations() -> None:
    X, _ = overlapping(300)
    cancel = CancelToken()
    seen = []

    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            seen.append((event.done, event.total))
            cancel.cancel()

    with pytest.raises(Cancelled):
        GaussianMixture(n_components=3, tol=0).fit(X, reporter=Reporter("cluster", stop, cancel))
    assert seen == [(1, 100)]


def test_a_start_by_kmeans_does_not_speak_of_itself(recwarn: pytest.WarningsRecorder) -> None:
    X, _ = overlapping(300)
    GaussianMixture(n_components=3).fit(X)
    assert not recwarn.list


def test_what_is_added_to_sums_stays_as_it_is() -> None:
    parts = [
        mixture._Sums(np.ones(1), np.ones((1, 2)), second, 1.0, [number], [number])
        for number, second in enumerate(({}, {0: np.ones((2, 2))}, {0: np.ones((2, 2))}))
    ]
    total = parts[0].add(parts[1]).add(parts[2])
    assert (total.second[0] == 2).all()
    assert (parts[1].second[0] == 1).all()
    assert total.labels == [0, 1, 2]
    assert parts[1].labels == [1]
