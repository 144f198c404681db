"""The scikit-learn door: cluster a matrix in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from gpucluster.assignment import Assigner, calibrated, check_threshold, cosine_beside
from gpucluster.definition import ClusterDefinition
from gpucluster.device.arrays import is_on_gpu, to_host
from gpucluster.device.select import decide
from gpucluster.device.worker import Worker
from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken, Observer, Reporter, ignore
from gpucluster.execution import fit_algorithm, fit_step, step_output
from gpucluster.ops.assign import cluster_sums
from gpucluster.ops.normalize import unit_rows
from gpucluster.preprocess import check_chain
from gpucluster.types import NOISE, Labels, Matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucluster.device.select import DeviceRequest


class Clusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # its bases have no types
    """Any of the algorithms, with any preparation, as a scikit-learn estimator.

    Rows are clustered as they are: nothing is scaled unless a step says so. Writes no
    files; `gpucluster.cluster` does.

    Parameters
    ----------
    algorithm : str, default "hdbscan"
        Name of the algorithm.
    preprocessing_steps : sequence of dict or Step, optional
        Applied in order before clustering, such as ``[{"method": "umap"}]``.
    device : {"auto", "cpu", "gpu"}, default "auto"
        Where the work runs; ``gpu`` never falls back.
    random_state : int, default 42
        Seed of the steps and of the algorithm.
    **algorithm_params
        Parameters of the algorithm, such as ``min_cluster_size=15``. The parameter that
        dbscan and kmeans call ``algorithm`` cannot be set here, as the name is taken; it
        never changes a result.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), int32
        ``0..n_clusters_-1`` by falling size; noise is -1.
    probabilities_ : ndarray of shape (n_samples,), float32
        Strength of membership; 1 for members and 0 for noise where the algorithm has none.
    cluster_centers_ : ndarray of shape (n_clusters_, n_prepared_features), float32
        Means of the prepared rows of each cluster.
    n_clusters_ : int
        Clusters, noise not counted.
    n_features_in_ : int
        Dimension of the rows seen by `fit`.
    layers_ : ndarray of shape (n_layers, n_samples), int32, or None
        Clusterings of other granularities, finest first, where the algorithm has chosen one.

    Examples
    --------
    >>> import numpy as np
    >>> from gpucluster import Clusterer
    >>> X = np.vstack([np.zeros((5, 2)), np.ones((4, 2))]) + np.arange(9)[:, None] / 100
    >>> Clusterer("kmeans", n_clusters=2, device="cpu").fit_predict(X)
    array([0, 0, 0, 0, 0, 1, 1, 1, 1], dtype=int32)
    """

    def __init__(
        self,
        algorithm: str = "hdbscan",
        *,
        preprocessing_steps: Sequence[Any] | None = None,
        device: DeviceRequest = "auto",
        random_state: int = 42,
        **algorithm_params: Any,
    ) -> None:
        self.algorithm = algorithm
        self.preprocessing_steps = preprocessing_steps
        self.device = device
        self.random_state = random_state
        self._set(algorithm_params)

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 - sklearn's signature
        """Return the parameters, those of the algorithm among them."""
        own: dict[str, Any] = super().get_params(deep)
        return own | self._algorithm_params()

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; `fit` refuses those that the algorithm does not have."""
        self._set(params)
        return self

    def _set(self, params: Mapping[str, Any]) -> None:
        """Keep parameters as attributes, but none that would hide a method or pass for a result."""
        for name, value in params.items():
            if hasattr(type(self), name) or name.startswith("_") or name.endswith("_"):
                # no algorithm has such a parameter: `fit` will say so
                self.__dict__.setdefault("_misnamed", {})[name] = value
            else:
                setattr(self, name, value)

    def _algorithm_params(self) -> dict[str, Any]:
        """Return the attributes that are neither our own parameters nor learned (``name_``)."""
        own = self._get_param_names()
        misnamed: dict[str, Any] = self.__dict__.get("_misnamed", {})
        return misnamed | {
            name: value
            for name, value in vars(self).items()
            if name not in own and not name.startswith("_") and not name.endswith("_")
        }

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        observer: Observer = ignore,
        cancel: CancelToken | None = None,
    ) -> Self:
        """Cluster the rows of `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers; a CuPy array is taken too.
        y : None
            Ignored.
        observer : callable, optional
            Called with every event.
        cancel : CancelToken, optional
            Stops the work between blocks.

        Returns
        -------
        Clusterer

        Raises
        ------
        ConfigError
            A parameter is unknown, out of range, or does not fit the shape of `X`.
        ValueError
            `X` is no finite matrix of numbers.
        """
        original = X = self._matrix(X, reset=True)
        definition = ClusterDefinition.parse(
            algorithm=self.algorithm,
            algorithm_params=self._algorithm_params(),
            preprocessing_steps=tuple(self.preprocessing_steps or ()),
            random_state=self.random_state,
        ).with_seeds()
        config = definition.vector_config
        if config.algorithm is None:
            raise ConfigError("got None, expected the name of an algorithm", path="algorithm")
        decision = decide(self.device)
        reporter = Reporter("prepare", observer, cancel)
        steps = check_chain(config.preprocessing_steps or (), len(X), X.shape[1], reporter)
        self._fitted_steps: list[tuple[Any, Mapping[str, Any]]] = []
        with Worker() as worker:
            for step in steps:
                said = reporter.for_stage(f"prepare.{step.method}")
                fitted, used = fit_step(step, X, decision, said, worker)
                X, _ = step_output(step, X, fitted.arrays, used, decision, said, worker)
                self._fitted_steps.append((step, fitted.arrays))
            said = reporter.for_stage("cluster")
            found, _ = fit_algorithm(config.algorithm, X, decision, said, worker)
        self.labels_: Labels = found.labels_
        self.n_clusters_ = found.n_clusters_
        self.layers_: Labels | None = found.layers_
        self.probabilities_ = (
            (found.labels_ != NOISE).astype(np.float32)
            if found.probabilities_ is None
            else found.probabilities_
        )
        sizes = np.bincount(self.labels_[self.labels_ >= 0], minlength=self.n_clusters_)
        sums = cluster_sums(X, self.labels_, self.n_clusters_)
        self.cluster_centers_: Matrix = (sums / sizes[:, None]).astype(np.float32)
        metric = getattr(config.algorithm, "metric", "euclidean")
        by_angle = config.algorithm.by_nearest_mean and metric == "cosine"
        self._assigner = self._learned(original, X, by_angle=by_angle)
        return self

    def _learned(self, X: Matrix, prepared: Matrix, *, by_angle: bool) -> Assigner:
        """Return how new rows find their cluster: by the centres, as the fit did if it did."""
        labels, n_clusters = self.labels_, self.n_clusters_
        directions = unit_rows(cluster_sums(unit_rows(X), labels, n_clusters).astype(np.float32))
        if not n_clusters:
            return Assigner(directions, np.empty(0, np.int32), np.empty(0, np.float32))
        return Assigner(
            directions=directions,
            parents=np.full(n_clusters, NOISE, np.int32),
            thresholds=calibrated(cosine_beside(X, directions, labels), labels, n_clusters),
            means=cluster_sums(unit_rows(prepared), labels, n_clusters).astype(np.float32)
            if by_angle
            else self.cluster_centers_,
            metric="cosine" if by_angle else "euclidean",
        )

    def predict(self, X: Any, threshold: float | Literal["auto"] | None = None) -> Labels:
        """Return the cluster with the nearest centre for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            New rows; the fitted preparation is applied to them.
        threshold : float, "auto" or None, default None
            Least cosine similarity, in [-1, 1], of a row to the mean direction of its cluster,
            before any preparation; ``auto``: for each cluster the one that all but 1 % of its own
            rows reach. Where it is not reached, the row is noise.

        Returns
        -------
        ndarray of shape (n_samples,), int32
            By Euclidean distance in the prepared space; by angle where the algorithm is k-means
            with ``metric="cosine"``. Without a threshold nothing is called
            noise, unless the fit found no cluster.

        Raises
        ------
        ConfigError
            The threshold is out of range.
        """
        check_is_fitted(self)
        X = self._matrix(X, reset=False)
        least = -1.0 if threshold is None else check_threshold(threshold)
        assigner = self._assigner
        if not isinstance(least, str):
            assigner = assigner.with_threshold(least)
        prepared = X
        for step, arrays in self._fitted_steps:
            prepared = step.apply(prepared, arrays)
        return assigner.assign(X, np.ascontiguousarray(prepared, np.float32)).labels

    def _matrix(self, X: Any, *, reset: bool) -> Matrix:
        """Return `X` as a finite float32 matrix on the host."""
        if is_on_gpu(X):
            X = to_host(X)
        checked = validate_data(self, X, reset=reset, dtype=[np.float32, np.float64], order="C")
        return np.ascontiguousarray(checked, np.float32)
