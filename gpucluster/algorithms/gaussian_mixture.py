"""Gaussian mixture: clusters are the components of a density, with soft borders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gpucluster.algorithms.base import Algorithm, Raw, require_at_most
from gpucluster.algorithms.kmeans import KMeans
from gpucluster.device.arrays import is_on_gpu, namespace, to_device, to_host
from gpucluster.device.memory import COMPILER_BYTES
from gpucluster.device.select import Device
from gpucluster.errors import NotConvergedWarning, QualityWarning
from gpucluster.events import Muted, Reporter
from gpucluster.ops.seeding import Seeding, first_centers
from gpucluster.types import Cost, Labels, Matrix

if TYPE_CHECKING:
    from gpucluster.ops.gaussians import Gaussians
    from gpucluster.ops.mixture import Fit, Frame

LOW_RANK = "low_rank"
LEAST_RANK = 16  # principal axes that each covariance has in full, whatever it costs
EXACT_PRODUCTS = 8e12  # rows * components * features^2: about a quarter of an hour on two cores
EXACT_NUMBERS = 125_000_000  # components * features^2: covariances of 1 GB
ITERATIONS = 40  # that a fit takes, about


class GaussianMixture(Algorithm):
    """Fit a mixture of Gaussians by expectation-maximisation; a row joins its likeliest one.

    The parameters, the bound, and when it rests are those of scikit-learn. Above
    `EXACT_PRODUCTS` or `EXACT_NUMBERS`, a full covariance is kept for as many principal axes
    of the data as are affordable, and each other axis is a regression on those with a
    variance of its own; the method is then called ``low_rank``. Everything else is exact.

    References
    ----------
    Dempster, Laird, Rubin 1977, doi:10.1111/j.2517-6161.1977.tb01600.x.
    Pourahmadi 1999, doi:10.1093/biomet/86.3.677 (covariances as regressions).
    """

    name: ClassVar[str] = "gaussian_mixture"
    library_bytes: ClassVar[int] = COMPILER_BYTES
    aliases: ClassVar[Mapping[str, str]] = {
        "n_components_gmm": "n_components",
        "n_clusters": "n_components",
        "num_clusters": "n_components",
    }

    n_components: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1, description="Number of Gaussians."
    )
    covariance_type: Literal["full", "tied", "diag", "spherical"] = Field(
        default="full",
        description="full: each its own; tied: one for all; diag: a variance for each feature; "
        "spherical: one variance for each.",
    )
    tol: Annotated[float, Field(ge=0)] = Field(
        default=1e-3, description="Stop when the mean log likelihood changes by less; in nats."
    )
    reg_covar: Annotated[float, Field(ge=0)] = Field(
        default=1e-6, description="Added to the variances, so that covariances can be inverted."
    )
    max_iter: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=100, description="Most iterations of one start."
    )
    n_init: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Starts, the one of most likelihood is kept."
    )
    init_params: Literal["kmeans", "k-means++", "random", "random_from_data"] = Field(
        default="kmeans",
        description="The first responsibilities: a k-means partition; the nearest of the rows that "
        "k-means++ chooses, or of any rows; random ones.",
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed.")

    @property
    def n_clusters(self) -> int:
        """The most clusters there can be."""
        return self.n_components

    def check(self, n_samples: int, reporter: Reporter) -> None:
        """Refuse more components than rows."""
        super().check(n_samples, reporter)
        require_at_most(
            "gaussian_mixture.n_components", self.n_components, n_samples, f"{n_samples} rows"
        )

    def rank(self, n_samples: int, n_features: int) -> int:
        """Return how many principal axes a covariance of its own has in full; all, if exact."""
        each = float(self.n_components) * n_features
        affordable = min(EXACT_PRODUCTS / (n_samples * each), EXACT_NUMBERS / each)
        return min(n_features, max(LEAST_RANK, int(affordable)))

    def method(self, n_samples: int, n_features: int) -> str:
        """Return ``exact`` or ``low_rank``, for data of this shape."""
        whole = self.rank(n_samples, n_features) == n_features
        return "exact" if whole or self.covariance_type != "full" else LOW_RANK

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rates in its page in docs/algorithms."""
        from gpucluster.ops.gaussians import WIDE_BLOCK_BYTES, Gaussians
        from gpucluster.ops.mixture import working_bytes

        n, d, k = n_samples, n_features, self.n_components
        rank, method = self.rank(n, d), self.method(n, d)
        second = {"full": k * d * (rank + 1), "tied": 2 * d * d, "diag": k * d, "spherical": k}
        extra = 16 * n + working_bytes(
            n,
            3 * d + 4 * k,
            second[self.covariance_type] + k * d + d * d,
            block_bytes=WIDE_BLOCK_BYTES
            if self.covariance_type == "full"
            else Gaussians.block_bytes,
        )
        kmeans = self._kmeans(self.random_state).cost(n, d, device)
        rows = far = 0
        if self.init_params != "random" and k > 1:  # k-means may centre a copy
            far = 4 * n * d
            rows = kmeans.rows_bytes + far
            extra = max(extra, kmeans.bytes) + far + 16 * n
        if device == "gpu":
            return Cost(extra, None, method, device_bytes=4 * n * d, rows_bytes=rows, far_bytes=far)
        flop = {
            # turned rows, members, and the rows that a component is not given up for
            "full": n * d * (2.0 * d + 2.0 * rank + 0.12 * k * rank) + 4.0 * k * rank**2 * d,
            "tied": 4.0 * n * d * k + 6.0 * d**3,
            "diag": 8.0 * n * d * k,
            "spherical": 4.0 * n * d * k,
        }[self.covariance_type]
        iterations = min(self.max_iter, ITERATIONS)
        # blocks of a thousand rows or more, of which each component makes a few small products
        overhead = 1e-3 + 1e-4 * k * min(16, 1 + n // 1000)
        seconds = iterations * (flop / 60e9 + 4e-9 * n * d + 2e-8 * n * k + overhead)
        started = (kmeans.seconds or 0.0) if self.init_params == "kmeans" and k > 1 else 0.0
        return Cost(
            extra,
            self.n_init * (seconds + started),
            method,
            rows_bytes=rows,
            far_bytes=far,
            passes=iterations,
        )

    def _fit_cpu(self, X: Matrix, reporter: Reporter) -> Raw:
        return self._fit(X, X, reporter)

    def _fit_gpu(self, X: Matrix, reporter: Reporter) -> Raw:
        return self._fit(to_device(X, "gpu"), X, reporter)

    def _fit(self, X: Any, host: Matrix, reporter: Reporter) -> Raw:
        """Fit `X`, which is `host` wherever the work runs."""
        from gpucluster.ops.mixture import Frame, expectation_maximization

        method = self.method(*X.shape)
        self._judge_shape(X.shape, method, reporter)
        frame = Frame.of(X)
        if self.covariance_type == "full":
            frame = frame.turned(X)
        best: Fit | None = None
        for start, stream in enumerate(np.random.default_rng(self.random_state).spawn(self.n_init)):
            found = expectation_maximization(
                X,
                frame,
                self._start(X, frame),
                self._first(X, host, stream, reporter),
                tol=self.tol,
                max_iter=self.max_iter,
                reporter=reporter,
                iterations_told=(start * self.max_iter, self.n_init * self.max_iter),
            )
            if best is None or found.log_likelihood > best.log_likelihood:
                best = found
        assert best is not None  # noqa: S101 - there is at least one start
        labels = to_host(best.labels)
        self._judge(labels, best, reporter)
        return Raw(
            labels,
            backend="cupy" if is_on_gpu(X) else "numpy",
            probabilities=to_host(best.shares),
            method=method,
            info={
                "log_likelihood": best.log_likelihood,
                "n_iter": best.n_iter,
                "n_init": self.n_init,
                **self._criteria(X.shape, best.log_likelihood),
            },
        )

    def _start(self, X: Any, frame: Frame) -> Gaussians:
        from gpucluster.ops.gaussians import Axes, Full, Tied
        from gpucluster.ops.mixture import scatter

        means = namespace(X).zeros((self.n_components, X.shape[1]))
        reg = self.reg_covar * frame.scale**2
        if self.covariance_type == "full":
            return Full.start(means, reg, self.rank(*X.shape))
        if self.covariance_type == "tied":
            return Tied.start(means, reg, scatter(X, frame))
        return Axes.start(means, reg, spherical=self.covariance_type == "spherical")

    def _first(self, X: Any, host: Matrix, stream: np.random.Generator, reporter: Reporter) -> Any:
        """Return the component that has each row at first, or the seed of random shares."""
        if self.init_params == "random":
            return int(stream.integers(2**32))
        found = self._partition(host, stream, reporter, on_gpu=is_on_gpu(X))
        return namespace(X).asarray(found)

    def _partition(
        self, X: Matrix, stream: np.random.Generator, reporter: Reporter, *, on_gpu: bool
    ) -> Labels:
        from gpucluster.ops.assign import nearest_center

        k = self.n_components
        if k == 1:
            return np.zeros(len(X), np.int32)
        if self.init_params == "kmeans":
            # k-means need not rest, nor find all clusters, to be a start
            quiet = Muted(reporter.stage, cancel=reporter.cancel)
            kmeans = self._kmeans(int(stream.integers(2**32)))
            fitted = kmeans._fit_gpu(X, quiet) if on_gpu else kmeans._fit_cpu(X, quiet)
            return np.asarray(fitted.labels, np.int32)
        how: Seeding = "k-means++" if self.init_params == "k-means++" else "random"
        return nearest_center(X, first_centers(X, k, how, stream, reporter))

    def _kmeans(self, random_state: int) -> KMeans:
        return KMeans(n_clusters=max(2, self.n_components), n_init=1, random_state=random_state)

    def _criteria(self, shape: tuple[int, int], log_likelihood: float) -> dict[str, float]:
        """Return the information criteria of Schwarz and of Akaike; less is better."""
        (n, d), k = shape, self.n_components
        rank = self.rank(n, d)
        covariances = {
            "full": k * (rank * (rank + 1) // 2 + (d - rank) * (rank + 1)),
            "tied": d * (d + 1) // 2,
            "diag": k * d,
            "spherical": k,
        }[self.covariance_type]
        parameters = covariances + k * d + k - 1
        deviance = -2 * n * log_likelihood
        return {"bic": deviance + parameters * math.log(n), "aic": deviance + 2 * parameters}

    def _judge_shape(self, shape: tuple[int, int], method: str, reporter: Reporter) -> None:
        n_samples, n_features = shape
        singular = n_samples <= self.n_components * n_features
        if singular and self.covariance_type == "full" and method == "exact":
            reporter.warn(
                "gaussian_mixture_few_rows",
                f"gaussian_mixture has {n_samples} rows for {self.n_components} full covariances "
                f"of {n_features} features: fewer than a feature each, so that they are singular "
                "but for reg_covar; use fewer dimensions, or covariance_type tied or diag",
                QualityWarning,
            )

    def _judge(self, labels: Labels, fit: Fit, reporter: Reporter) -> None:
        if not fit.converged:
            reporter.warn(
                "gaussian_mixture_not_converged",
                f"gaussian_mixture stopped at max_iter {self.max_iter} while its likelihood still "
                "changed; raise max_iter or tol",
                NotConvergedWarning,
            )
        n_found = len(np.unique(labels))
        if n_found < self.n_components:
            reporter.warn(
                "gaussian_mixture_fewer_clusters",
                f"gaussian_mixture has rows in {n_found} of the {self.n_components} components "
                "asked for",
                NotConvergedWarning,
            )
