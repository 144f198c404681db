"""Agglomerative clustering: merge from the closest pair up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gpucluster.algorithms.base import Algorithm, Raw, require_at_most
from gpucluster.device.memory import COMPILER_BYTES
from gpucluster.device.select import Device
from gpucluster.errors import InputError, NotConvergedWarning
from gpucluster.events import Reporter
from gpucluster.types import Cost, Matrix

MATRIX_ROWS = 25_000  # a distance matrix of 2.5 GB
WARD_EXACT_S = 300.0  # planned on two cores; above it, landmarks
LANDMARKS = 10_000
LISTED = 16  # neighbours that the spanning tree looks at first
SYMMETRY = 1e-5  # relative: distances by BLAS differ in their last bits
SHOWN_MERGES = 50


class Agglomerative(Algorithm):
    """Merge the two closest clusters, from single rows up, until few enough are left.

    Ward's linkage merges means and needs no distance matrix; single linkage is read from
    the minimum spanning tree. Average and complete linkage need the matrix: above
    `MATRIX_ROWS` rows they merge weighted landmarks, as Ward's does where all pairs would
    take more than `WARD_EXACT_S`.

    References
    ----------
    Ward 1963, doi:10.1080/01621459.1963.10500845. Müllner 2011, arXiv:1109.2378.
    Landmarks: Wong 1982, *A hybrid clustering method for identifying high-density clusters*;
    Zhang, Ramakrishnan, Livny 1996, doi:10.1145/233269.233324.
    """

    name: ClassVar[str] = "agglomerative"
    aliases: ClassVar[Mapping[str, str]] = {"num_clusters": "n_clusters", "metric": "affinity"}
    library_bytes: ClassVar[int] = COMPILER_BYTES

    n_clusters: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=2, description="Number of clusters; none when distance_threshold is given."
    )
    affinity: Literal["euclidean", "l1", "l2", "manhattan", "cosine", "precomputed"] = Field(
        default="euclidean",
        description="Distance between rows; precomputed: the input is the matrix of them.",
    )
    linkage: Literal["ward", "complete", "average", "single"] = Field(
        default="ward",
        description="Distance between clusters: ward: growth of the sum of squares (euclidean "
        "only); complete, average, single: largest, mean, smallest distance of their rows.",
    )
    distance_threshold: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Height at or above which nothing is merged."
    )
    connectivity: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Merge only clusters that touch in the graph of this many nearest "
        "neighbours. Omitted: any.",
    )
    compute_full_tree: Literal["auto"] | bool = Field(
        default="auto", description="Accepted for compatibility; never changes the result."
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=42, description="Seed of the landmarks."
    )

    @model_validator(mode="before")
    @classmethod
    def _threshold_stands_alone(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("distance_threshold") is not None:
            return {"n_clusters": None, **data}
        return data

    @model_validator(mode="after")
    def _settings_agree(self) -> Agglomerative:
        if (self.n_clusters is None) == (self.distance_threshold is None):
            raise ValueError(
                f"n_clusters is {self.n_clusters} and distance_threshold is "
                f"{self.distance_threshold}: give exactly one of them"
            )
        if self.linkage == "ward" and self._metric() != "euclidean":
            raise ValueError(
                f"linkage is 'ward', but affinity is {self.affinity!r}: ward needs euclidean; "
                "for cosine, put the l2_normalize step before it, or use linkage: average"
            )
        if self.connectivity is not None and self._metric() not in {"euclidean", "cosine"}:
            raise ValueError(
                f"connectivity is given, but affinity is {self.affinity!r}: "
                "neighbours are found by euclidean or cosine"
            )
        return self

    def _metric(self) -> str:
        return {"l2": "euclidean", "l1": "manhattan"}.get(self.affinity, self.affinity)

    def _has_tree(self) -> bool:
        return self.linkage == "single" and self._metric() in {"euclidean", "cosine"}

    def n_landmarks(self) -> int:
        """Return how many landmarks stand for the rows where all rows are too many."""
        return max(LANDMARKS, 2 * (self.n_clusters or 0))

    def _method(self, n_samples: int, n_features: int) -> str:
        from gpucluster.ops.ward import ward_cost

        if self.connectivity is not None:
            return "neighbor_graph"
        if self._has_tree() or n_samples <= self.n_landmarks():
            return "exact"
        if self.linkage == "ward":
            fits = (ward_cost(n_samples, n_features).seconds or 0) <= WARD_EXACT_S
        else:
            fits = n_samples <= MATRIX_ROWS
        return "exact" if fits else "landmarks"

    def check(self, n_samples: int, reporter: Reporter) -> None:
        """Refuse more clusters or neighbours than rows, and a matrix that is too large."""
        super().check(n_samples, reporter)
        rows = f"{n_samples} rows"
        require_at_most("agglomerative.n_clusters", self.n_clusters or 1, n_samples, rows)
        require_at_most("agglomerative.connectivity", self.connectivity or 1, n_samples - 1, rows)
        if self._has_tree() or self.linkage == "ward" or self.connectivity is not None:
            return
        if self._metric() in {"manhattan", "precomputed"}:
            what = f"{MATRIX_ROWS} at most with affinity {self.affinity}, which has no landmarks"
            require_at_most("agglomerative: n_samples", n_samples, MATRIX_ROWS, what)
        elif n_samples > MATRIX_ROWS:
            what = f"{self.n_landmarks()} landmarks wanted for them"
            limit = MATRIX_ROWS // 2
            require_at_most("agglomerative.n_clusters", self.n_clusters or 1, limit, what)

    def reads_rows(self) -> bool:
        """Whether `X` holds vectors."""
        return self.affinity != "precomputed"

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rates in docs/algorithms/agglomerative.md."""
        from gpucluster.ops.landmarks import landmark_cost

        method = self._method(n_samples, n_features)
        merged = n_samples
        seconds = 0.0
        unit = 4 * n_samples * n_features if self.affinity == "cosine" else 0
        if method == "landmarks":
            merged = self.n_landmarks()
            first = landmark_cost(n_samples, n_features, merged)
            seconds += first.seconds or 0.0
        merging = self._merging_cost(merged, n_features)
        needed, far = merging.bytes, merging.far_bytes
        if method == "landmarks":  # are chosen before they are merged
            far = first.far_bytes
            needed = max(first.bytes - far, 4 * merged * n_features + merging.bytes) + far
        seconds += merging.seconds or 0.0
        return Cost(
            unit + needed,
            seconds if device == "cpu" else None,
            method,
            rows_bytes=unit + far,
            unit_bytes=unit,
            far_bytes=far,
        )

    def _merging_cost(self, n_samples: int, n_features: int) -> Cost:
        from gpucluster.ops.linkage import chain_cost
        from gpucluster.ops.neighbors import neighbor_cost
        from gpucluster.ops.ward import ward_cost

        if self.connectivity is not None:
            found = neighbor_cost(n_samples, n_features, self.connectivity + 1)
            extra = n_samples * (24 * n_features + 400 * self.connectivity + 2000)
            merging = n_samples * (1e-4 + 2e-6 * n_features)
            seconds = 2 * (found.seconds or 0.0) + merging
            return Cost(found.bytes + extra, seconds, far_bytes=found.far_bytes)
        if self.linkage == "ward":
            return ward_cost(n_samples, n_features)
        if self._has_tree():
            found = neighbor_cost(n_samples, n_features, LISTED)
            extra = n_samples * (28 * LISTED + 700)
            seconds = 2.5 * (found.seconds or 0.0)
            return Cost(found.bytes + extra, seconds, far_bytes=found.far_bytes)
        return chain_cost(n_samples, n_features, self._metric())

    def _fit_cpu(self, X: Matrix, reporter: Reporter) -> Raw:
        if self.connectivity is not None:
            return self._fit_graph(X, reporter)
        return self._fit(X, reporter, backend="numba")

    def _fit(self, X: Any, reporter: Reporter, backend: str) -> Raw:
        """Merge rows, or landmarks, on the device where `X` is."""
        from gpucluster.ops.landmarks import landmarks

        method = self._method(*X.shape)
        if method == "exact":
            labels, info = self._cut(self._tree(X, reporter), reporter)
        else:
            found = landmarks(X, self.n_landmarks(), self.random_state, reporter)
            labels, info = self._cut(self._landmark_tree(found, X, reporter), reporter)
            labels, info["n_leaves"] = labels[found.labels], len(found.means)
        return Raw(labels, backend=backend, method=method, info=info)

    def _tree(self, X: Any, reporter: Reporter) -> Any:
        from gpucluster.ops.linkage import chain_tree, distance_matrix
        from gpucluster.ops.ward import ward_tree

        if self.linkage == "ward":
            return ward_tree(X, reporter=reporter)
        if self._has_tree():
            return self._spanning_tree(X, reporter)
        if self.affinity == "precomputed":
            D = _checked_distances(X)
        else:
            D = distance_matrix(X, self._metric(), reporter=reporter)
        return chain_tree(D, self.linkage, reporter=reporter)

    def _spanning_tree(self, X: Matrix, reporter: Reporter) -> Any:
        from gpucluster.ops.neighbors import nearest_neighbors
        from gpucluster.ops.spanning import mutual_reachability_tree

        neighbors = nearest_neighbors(X, min(len(X), LISTED), exact=True, reporter=reporter)
        merges = mutual_reachability_tree(X, neighbors, 0, reporter=reporter)
        if self.affinity == "cosine":
            merges[:, 2] = np.square(merges[:, 2]) / 2
        return merges

    def _landmark_tree(self, found: Any, X: Any, reporter: Reporter) -> Any:
        """Merge landmarks as if all their rows were there, as far as means and radii tell.

        For complete linkage the mean radius came nearer to the exact result than the largest.
        """
        from gpucluster.device.arrays import is_on_gpu, to_device
        from gpucluster.ops.linkage import chain_tree, distance_matrix
        from gpucluster.ops.ward import ward_tree

        means = to_device(found.means, "gpu" if is_on_gpu(X) else "cpu")
        if self.linkage == "ward":
            return ward_tree(means, found.weights, reporter)
        D = distance_matrix(means, self._metric(), found.mean_sqdist, reporter)
        return chain_tree(D, self.linkage, found.weights, reporter)

    def _cut(self, merges: Any, reporter: Reporter) -> tuple[Any, dict[str, Any]]:
        """Return the labels that the merges give, and what else they tell."""
        from gpucluster.ops.linkage import cut_tree

        wanted = self.n_clusters
        distinct = 1 + int(np.count_nonzero(merges[:, 2]))
        if wanted is not None and wanted > distinct:
            reporter.warn(
                "agglomerative_fewer_clusters",
                f"agglomerative found {distinct} clusters of the {wanted} asked for; "
                "there are no more distinct rows",
                NotConvergedWarning,
            )
            wanted = distinct
        labels = cut_tree(merges, n_clusters=wanted, height=self.distance_threshold)
        last = np.sort(merges[:, 2])[::-1][:SHOWN_MERGES]
        return labels, {"merge_distances": last.tolist()}

    def _fit_graph(self, X: Matrix, reporter: Reporter) -> Raw:
        """Merge along the neighbour graph, made connected where it is not."""
        from sklearn.cluster import AgglomerativeClustering

        graph, n_components = self._connected_graph(X, reporter)
        model = AgglomerativeClustering(
            n_clusters=self.n_clusters,
            distance_threshold=self.distance_threshold,
            metric=self._metric(),
            linkage=self.linkage,
            connectivity=graph,
            compute_full_tree=True,
            compute_distances=True,
        ).fit(X)
        row = np.arange(2 * len(X) - 1)  # one of each node
        for node, (child, _) in enumerate(model.children_, start=len(X)):
            row[node] = row[child]
        # a graph can put a merge below its parts: the order of the merges counts, as there
        heights = np.maximum.accumulate(model.distances_)
        labels, info = self._cut(np.column_stack((row[model.children_], heights)), reporter)
        info["n_components"] = n_components
        return Raw(labels, backend="sklearn", method="neighbor_graph", info=info)

    def _connected_graph(self, X: Matrix, reporter: Reporter) -> tuple[Any, int]:
        """Return the graph of the nearest neighbours, joined, and how many parts it had."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        from gpucluster.ops.neighbors import nearest_neighbors

        assert self.connectivity is not None  # noqa: S101 - the caller has asked
        found = nearest_neighbors(X, self.connectivity + 1, exact=True, reporter=reporter)
        low: Any = np.repeat(found.rows[:, 0], self.connectivity)
        high: Any = found.rows[:, 1:].ravel()
        shape = (len(X), len(X))
        graph = coo_array((np.ones(len(low)), (low, high)), shape=shape)
        n_components, component = connected_components(graph, directed=False)
        if n_components > 1:
            reporter.warn(
                "agglomerative_joined_components",
                f"the graph of {self.connectivity} neighbours has {n_components} components: they "
                "are joined by edges of the minimum spanning tree; raise connectivity to avoid it",
            )
            ends = self._spanning_tree(X, reporter)[:, :2].astype(np.int32)
            across = ends[component[ends[:, 0]] != component[ends[:, 1]]]
            low, high = np.concatenate((low, across[:, 0])), np.concatenate((high, across[:, 1]))
            graph = coo_array((np.ones(len(low)), (low, high)), shape=shape)
        return graph.tocsr(), int(n_components)

    def gpu_limit(self, n_samples: int) -> str | None:
        """Say what has no GPU path."""
        if self.connectivity is not None:
            return "merging along a neighbour graph is scikit-learn's, which has no GPU path"
        if self._metric() in {"manhattan", "precomputed"}:
            return f"affinity {self.affinity} has no GPU path"
        if self.linkage == "single":
            if self.n_clusters is None:
                return "cuML's single linkage takes n_clusters, no distance_threshold"
            if n_samples > MATRIX_ROWS:
                return f"cuML's exact single linkage holds all distances: {MATRIX_ROWS} rows"
        return None

    def _fit_gpu(self, X: Matrix, reporter: Reporter) -> Raw:
        from gpucluster.device.arrays import to_device

        if self.linkage != "single":
            return self._fit(to_device(X, "gpu"), reporter, backend="cupy")
        from cuml.cluster import AgglomerativeClustering as CumlAgglomerative

        model = CumlAgglomerative(
            n_clusters=self.n_clusters,
            metric="euclidean",
            connectivity="pairwise",  # the other choice, knn, is not exact
            linkage="single",
            output_type="numpy",
        ).fit(X)
        return Raw(model.labels_, backend="cuml")

    def _metric_space(self, X: Any) -> Any:
        from gpucluster.ops.normalize import unit_rows

        return unit_rows(X) if self.affinity == "cosine" else X


def _checked_distances(X: Matrix) -> Matrix:
    """Return a copy of a distance matrix, exactly symmetric."""
    hint = "give all distances between the rows, or another affinity"
    if X.shape[0] != X.shape[1]:
        raise InputError(
            f"affinity precomputed: got a matrix of {X.shape}, expected a square one", hint=hint
        )
    if X.min() < 0:
        raise InputError(
            f"affinity precomputed: got a distance of {X.min():g}, expected none below 0", hint=hint
        )
    if np.diagonal(X).any():
        raise InputError(
            "affinity precomputed: the diagonal is not 0, as distances to oneself are", hint=hint
        )
    D: Matrix = X + X.T
    D /= 2
    largest = D.max()
    uneven = max(float(np.abs(row - mean).max()) for row, mean in zip(X, D, strict=True))
    if uneven > SYMMETRY * largest:
        raise InputError(
            f"affinity precomputed: the matrix is not symmetric, by up to {2 * uneven:g}", hint=hint
        )
    return D
