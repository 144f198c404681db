"""What every algorithm shares: one frozen class that is its own configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np
from pydantic import BaseModel, ConfigDict

from gpucluster.device.memory import require_bytes, translated
from gpucluster.device.select import Device
from gpucluster.errors import (
    ConfigError,
    InputError,
    InternalError,
    TooFewSamplesError,
)
from gpucluster.events import Reporter
from gpucluster.ops.duplicates import distinct_rows
from gpucluster.ops.labels import canonical_labels, renumbered
from gpucluster.ops.shards import shown
from gpucluster.types import NOISE, Clustering, Cost, DensityTree, Labels, Matrix, Vector

SMALLEST_SQUARES = 1e-44  # of a row on average; below 1e-45 float32 has no number but 0


@dataclass(frozen=True, slots=True)
class Raw:
    """What a path of an algorithm returns: labels in any numbering, noise negative."""

    labels: Any
    backend: str
    probabilities: Any = None
    method: str = "exact"
    info: Mapping[str, Any] = field(default_factory=dict)
    levels: Any = None
    basins: Any = None  # numbered as the labels
    layers: Any = None
    tree: DensityTree | None = None  # its clusters numbered as the labels


class Algorithm(BaseModel, ABC):
    """Base of the algorithms.

    A subclass declares its parameters as fields (default, range and help text have their
    only home there) and two paths. `fit` is final: it checks the input, runs the path of
    the device, translates errors of libraries, numbers the labels, checks the invariants.

    Third parties add algorithms by the entry-point group ``gpucluster.algorithms``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    aliases: ClassVar[Mapping[str, str]] = {}
    by_gpus_of_a_fleet: ClassVar[bool] = False  # whether they do what the CPU path asks shards for
    may_abort: ClassVar[bool] = False  # whether the CPU path needs a process of its own
    collapses_duplicates: ClassVar[bool] = False  # whether the paths take weights of equal rows
    by_nearest_mean: ClassVar[bool] = False  # whether each row is in the cluster of that mean
    library_bytes: ClassVar[int] = 0  # resident memory of the libraries that the CPU path loads

    @final
    def fit(
        self, X: Matrix, *, device: Device = "cpu", reporter: Reporter | None = None
    ) -> Clustering:
        """Cluster the rows of `X`.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), float32, C-contiguous
            Finite rows on the host. Never written to.
        device : {"cpu", "gpu"}, default "cpu"
            Which path runs.
        reporter : Reporter, optional
            Told of progress; asked for cancellation.

        Returns
        -------
        Clustering
            Labels by falling cluster size, ties by smallest first row; noise is -1.
            ``info["duplicates"]`` counts equal rows where they were collapsed.

        Raises
        ------
        InputError
            `X` is not a finite matrix of float32.
        TooFewSamplesError
            There are fewer rows than the algorithm needs.
        ConfigError
            A parameter does not fit the shape of `X`.
        OutOfMemoryError
            The device ran out of memory.
        """
        reporter = reporter or Reporter(self.name)
        check_matrix(X)
        self.check(len(X), reporter)
        reporter.cancel.raise_if_cancelled()
        path = self._fit_gpu if device == "gpu" else self._fit_cpu
        with translated(self.name):
            if device == "gpu":
                require_bytes(self.name, self.cost(len(X), X.shape[1], "gpu").device_bytes)
            points = self._metric_space(X)
            if self.collapses_duplicates:
                raw = _fit_distinct(path, points, reporter)
            else:
                raw = path(points, reporter)
        found = np.asarray(raw.labels)
        labels = canonical_labels(found)
        probabilities = None
        if raw.probabilities is not None:
            probabilities = np.asarray(raw.probabilities, np.float32)
        _check_invariants(self.name, X, labels, probabilities)
        return Clustering(
            labels_=labels,
            probabilities_=probabilities,
            n_clusters_=int(labels.max(initial=NOISE)) + 1,
            backend=raw.backend,
            method=raw.method,
            info=raw.info,
            levels=raw.levels,
            basins_=None if raw.basins is None else renumbered(raw.basins, found, labels),
            layers_=_layers(raw.layers),
            tree_=None if raw.tree is None else _renamed(raw.tree, found, labels),
        )

    def check(self, n_samples: int, reporter: Reporter) -> None:
        """Raise when the parameters cannot work on `n_samples` rows."""
        if n_samples < 2:
            raise TooFewSamplesError(
                f"insufficient documents: {self.name} got n_samples={n_samples}, needs at least 2"
            )

    def reads_rows(self) -> bool:
        """Whether `X` holds vectors; otherwise it is a square matrix of distances or affinities."""
        return True

    def gpu_limit(self, n_samples: int) -> str | None:
        """Return why the GPU path cannot do this, whatever the rows; None when it can.

        Asked by the plan, before any work.
        """
        return None

    def gpu_obstacle(self, X: Matrix) -> str | None:
        """Return why the GPU path cannot do this fit, or None when it can.

        Asked before the fit is sent to a GPU, so that the CPU path can take it or the
        request be refused.
        """
        return self.gpu_limit(len(X))

    def goes_to_cpu(self, limit: str) -> str:
        """Return the sentence that says so, because of a limit of the GPU path."""
        return f"{self.name}: {limit}; the CPU path runs"

    def _metric_space(self, X: Matrix) -> Matrix:
        """Return the rows as the distance sees them; this is what the paths get."""
        return X

    @abstractmethod
    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return what a fit on data of this shape will take."""

    @abstractmethod
    def _fit_cpu(self, X: Matrix, reporter: Reporter) -> Raw:
        """Cluster on the host."""

    @abstractmethod
    def _fit_gpu(self, X: Matrix, reporter: Reporter) -> Raw:
        """Cluster on a GPU; `X` is still on the host."""


def _fit_distinct(path: Callable[..., Raw], X: Matrix, reporter: Reporter) -> Raw:
    """Run a path on the distinct rows of `X`, and expand what it found to all."""
    distinct = distinct_rows(X)
    if distinct is None:
        return path(X, reporter)
    raw = path(shown(X, X[distinct.rows]), reporter, weights=distinct.weights)
    probabilities = raw.probabilities
    return replace(
        raw,
        labels=np.asarray(raw.labels)[distinct.inverse],
        probabilities=None
        if probabilities is None
        else np.asarray(probabilities)[distinct.inverse],
        info={**raw.info, "duplicates": distinct.summary()},
        levels=None if raw.levels is None else np.asarray(raw.levels)[:, distinct.inverse],
        basins=None if raw.basins is None else np.asarray(raw.basins)[distinct.inverse],
        layers=None if raw.layers is None else [layer[distinct.inverse] for layer in raw.layers],
        tree=None
        if raw.tree is None
        else replace(
            raw.tree,
            row_node=raw.tree.row_node[distinct.inverse],
            row_density=raw.tree.row_density[distinct.inverse],
        ),
    )


def _renamed(tree: DensityTree, old: Any, new: Labels) -> DensityTree:
    """Return a tree whose clusters, numbered as `old`, have the numbers that they have in `new`."""
    return replace(tree, cluster=renumbered(tree.cluster, old, new))


def _layers(found: Any) -> Labels | None:
    """Return clusterings, each numbered by itself; None where there are none."""
    return np.stack([canonical_labels(layer) for layer in found]) if found else None


def require_at_most(path: str, got: int, limit: int, what: str) -> None:
    """Raise `ConfigError` when a count exceeds the rows there are."""
    if got > limit:
        raise ConfigError(
            f"got {got}, but there are {what}",
            path=path,
            got=got,
            expected=f"at most {limit}",
            hint=f"use at most {limit}",
        )


def check_matrix(X: Any) -> None:
    """Raise `InputError` unless `X` is a float32 matrix whose squares float32 can hold."""
    if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype != np.float32:
        got = f"{type(X).__name__} {getattr(X, 'dtype', '')} {getattr(X, 'shape', '')}"
        raise InputError(f"got {got}, expected a float32 matrix (n_samples, n_features)")
    if X.shape[1] == 0:
        raise InputError(f"got rows of 0 dimensions (shape={X.shape}), expected at least 1")
    # a sum is finite only if all its terms are, unless it overflows: then look closely
    squares = float(np.einsum("ij,ij->", X, X))
    if squares < SMALLEST_SQUARES * len(X) and X.any():
        raise InputError(
            "the values are too small: their squares vanish in float32",
            hint="scale them up, or use the l2_normalize step",
        )
    if not np.isfinite(X.sum(dtype=np.float64)) or not np.isfinite(squares):
        if not np.isfinite(X).all():
            raise InputError("the matrix has NaN or infinite values")
        raise InputError(
            "the values are too large: their squares overflow float32",
            hint="scale them down, or use the l2_normalize step",
        )


def _check_invariants(name: str, X: Matrix, labels: Labels, probabilities: Vector | None) -> None:
    if labels.shape != (len(X),):
        raise InternalError(f"{name} returned {labels.shape[0]} labels for {len(X)} rows")
    if probabilities is None:
        return
    inside = np.isfinite(probabilities) & (probabilities >= 0) & (probabilities <= 1)
    if probabilities.shape != labels.shape or not inside.all():
        raise InternalError(f"{name} returned membership probabilities outside [0, 1]")
