"""Spectral clustering: k-means where a random walk on a graph of affinities is slow to go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from gpucluster.algorithms.base import Algorithm, Raw, require_at_most
from gpucluster.algorithms.kmeans import FEWER_CLUSTERS, KMeans
from gpucluster.device.arrays import to_device, to_host
from gpucluster.device.memory import COMPILER_BYTES, blocks_bytes, rows_per_block
from gpucluster.device.select import Device
from gpucluster.errors import ConfigError, InputError, NotConvergedWarning
from gpucluster.events import Muted, Reporter
from gpucluster.ops.labels import canonical_labels
from gpucluster.types import NOISE, Cost, Matrix

EXACT_ROWS = 12_000  # of the rbf affinity: above them, its matrix takes more than 0.6 GB
N_LANDMARKS = 3000
LANDMARKS_PER_CLUSTER = 20
NARROW = 3.0  # gamma times a landmark's mean squared distance: its rows are strangers, e^-3
NARROW_SHARE = 0.25  # of the rows, in such landmarks: then it is said


class Spectral(Algorithm):
    """Cut a graph of affinities where the cut is small for the parts it makes.

    Rows are placed by the leading eigenvectors of the normalised affinity, scaled by the
    root of the degree, and k-means partitions them there: scikit-learn's definition. It
    has no noise, and no degree of membership.

    Notes
    -----
    `n_neighbors` counts the row itself, as scikit-learn's does: 10 are nine others.

    References
    ----------
    Shi, Malik 2000, doi:10.1109/34.868688. Ng, Jordan, Weiss 2001, *On spectral
    clustering*. von Luxburg 2007, doi:10.1007/s11222-007-9033-z. Landmarks: Fowlkes,
    Belongie, Chung, Malik 2004, doi:10.1109/TPAMI.2004.1262185.
    """

    name: ClassVar[str] = "spectral"
    aliases: ClassVar[Mapping[str, str]] = {
        "num_clusters": "n_clusters",
        "n_clusters_spectral": "n_clusters",
    }
    library_bytes: ClassVar[int] = COMPILER_BYTES

    n_clusters: Annotated[int, Field(ge=2, le=10_000)] = Field(
        default=8, description="Number of clusters."
    )
    affinity: Literal["rbf", "nearest_neighbors", "precomputed"] = Field(
        default="rbf",
        description="rbf: exp(-gamma d^2); nearest_neighbors: a graph of neighbour lists; "
        "precomputed: the rows are a symmetric matrix of affinities.",
    )
    gamma: Annotated[float, Field(gt=0, le=1e12)] = Field(
        default=1.0, description="Of rbf: one over the squared distance at which affinity is 1/e."
    )
    n_neighbors: Annotated[int, Field(ge=1)] = Field(
        default=10, description="Length of the neighbour lists, the row itself counted."
    )
    n_components: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Eigenvectors to cluster on. Omitted: n_clusters."
    )
    eigen_solver: Literal["arpack", "lobpcg"] | None = Field(
        default=None, description="Accepted for compatibility: all use the Lanczos method."
    )
    assign_labels: Literal["kmeans", "discretize", "cluster_qr"] = Field(
        default="kmeans", description="How clusters come out of the eigenvectors."
    )
    n_init: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=10, description="Starts of k-means, the best one is kept."
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed.")

    @field_validator("eigen_solver", mode="before")
    @classmethod
    def _no_multigrid(cls, value: object) -> object:
        if value == "amg":
            raise ValueError(
                "arpack or lobpcg: amg needs a multigrid library and changes nothing but speed"
            )
        return value

    @model_validator(mode="after")
    def _rotations_are_square(self) -> Spectral:
        if self.assign_labels != "kmeans" and self.dimension() != self.n_clusters:
            raise ValueError(
                f"n_components is {self.n_components} and n_clusters {self.n_clusters}, but "
                f"assign_labels: {self.assign_labels} needs an eigenvector for each cluster: "
                "leave n_components out"
            )
        return self

    def dimension(self) -> int:
        """Return how many eigenvectors the rows are placed by."""
        return self.n_components or self.n_clusters

    def n_landmarks(self, n_samples: int) -> int:
        """Return how many landmarks stand for the rows, where they do."""
        wanted = max(N_LANDMARKS, LANDMARKS_PER_CLUSTER * self.n_clusters)
        return min(n_samples, wanted)

    def check(self, n_samples: int, reporter: Reporter) -> None:
        """Refuse more clusters or eigenvectors than rows; say when lists are cut."""
        super().check(n_samples, reporter)
        rows = f"{n_samples} rows"
        require_at_most("spectral.n_clusters", self.n_clusters, n_samples, rows)
        require_at_most("spectral.n_components", self.dimension(), n_samples, rows)
        if self.affinity == "nearest_neighbors" and self.n_neighbors > n_samples:
            reporter.warn(
                "n_neighbors_above_rows",
                f"spectral.n_neighbors is {self.n_neighbors}, but there are {rows}: "
                f"{n_samples} are used",
            )

    def reads_rows(self) -> bool:
        """Whether `X` holds vectors."""
        return self.affinity != "precomputed"

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rates in docs/algorithms/spectral.md."""
        from gpucluster.ops.landmarks import landmark_cost
        from gpucluster.ops.neighbors import neighbor_cost

        dimension, far = self.dimension(), 4 * n_samples * n_features
        nodes, method, seconds = n_samples, "exact", 0.0
        products = 60 + 3 * dimension
        if self.affinity == "nearest_neighbors":
            lists = neighbor_cost(n_samples, n_features, self.n_neighbors)
            entries = 2 * n_samples * self.n_neighbors
            searched = lists.bytes - far
            graph = 8 * n_samples * self.n_neighbors + 60 * entries
            graph = max(graph, far + 24 * entries)  # islands look for their nearest row
            method = lists.method if device == "cpu" else "exact"
            products = 150 + 12 * dimension
            seconds = (lists.seconds or 0) + products * entries * 3e-9
        elif self._is_exact(n_samples):
            searched, graph = 0, 4 * n_samples**2
            flop = 2.0 * n_samples**2 * n_features if self.affinity == "rbf" else 0
            seconds = flop / 100e9 + n_samples**2 * (5e-9 + products * 4 / 15e9)
        else:
            nodes = self.n_landmarks(n_samples)
            chosen = landmark_cost(n_samples, n_features, nodes)
            searched, method, graph = chosen.bytes - far, "nystrom", 4 * nodes**2
            flop = 2.0 * n_samples * nodes * (n_features + dimension)
            seconds = (chosen.seconds or 0) + flop / 100e9 + n_samples * nodes * 4e-9
            seconds += products * nodes**2 * 4 / 15e9
        vectors = 16 * nodes * (3 * dimension + 10)
        seconds += products * vectors / 15e9  # each product is made orthogonal to those before
        grouped = self._kmeans(self.n_clusters).cost(n_samples, dimension, "cpu")
        # one after the other: the search, the graph and its vectors, the clusters of placed rows
        placed = 20 * n_samples * dimension
        extra = max(searched, graph + vectors, placed + grouped.bytes) + blocks_bytes(far)
        copies: dict[str, Any] = {"rows_bytes": far, "far_bytes": far}
        if device == "gpu":
            return Cost(extra + far, None, method, device_bytes=far, **copies)
        # 30 iterations of each start; few dimensions leave BLAS little to gain
        seconds += self.n_init * 30 * n_samples * (1e-7 + 1e-9 * self.n_clusters)
        return Cost(extra + far, seconds, method, **copies)

    def _is_exact(self, n_samples: int) -> bool:
        return self.affinity != "rbf" or n_samples <= EXACT_ROWS

    def _fit_cpu(self, X: Matrix, reporter: Reporter) -> Raw:
        return self._cluster(X, X, reporter, "scipy")

    def _fit_gpu(self, X: Matrix, reporter: Reporter) -> Raw:
        return self._cluster(X, to_device(X, "gpu"), reporter, "cupy")

    def _cluster(self, X: Matrix, on_device: Any, reporter: Reporter, backend: str) -> Raw:
        """Cluster rows on the device where `on_device` lies; `X` are the same on the host."""
        from gpucluster.ops.eigenvectors import spectral_embedding
        from gpucluster.ops.laplacian import components, mainland

        if not self._is_exact(len(X)):
            return self._by_landmarks(on_device, reporter, backend)
        graph, method, learned = self._graph(on_device, reporter)
        component = components(graph)
        kept = mainland(component, self.n_clusters)
        self._judge(kept, component, len(X), reporter)
        embedding = spectral_embedding(graph, kept, self.dimension(), self.random_state, reporter)
        del graph
        inside = kept != NOISE
        labels = np.empty(len(X), np.int32)
        labels[inside] = self._partition(to_host(embedding.vectors)[inside], reporter)
        if not inside.all():
            labels[~inside] = self._home(X, inside, labels[inside])
        info = {**learned, **_info(component, embedding)}
        return Raw(labels, backend, method=method, info=info)

    def _graph(self, X: Any, reporter: Reporter) -> tuple[Any, str, dict[str, Any]]:
        from gpucluster.ops.laplacian import dense_graph, gaussian_affinities, neighbor_graph
        from gpucluster.ops.neighbors import nearest_neighbors

        if self.affinity == "nearest_neighbors":
            length = min(self.n_neighbors, len(X))
            lists = nearest_neighbors(X, length, random_state=self.random_state, reporter=reporter)
            learned = {"graph_recall": lists.recall}
            return neighbor_graph(to_host(lists.rows)), lists.method, learned
        if self.affinity == "rbf":
            return dense_graph(gaussian_affinities(X, self.gamma, reporter=reporter)), "exact", {}
        _check_affinities(X)
        return dense_graph(X.copy()), "exact", {}

    def _by_landmarks(self, X: Any, reporter: Reporter, backend: str) -> Raw:
        from gpucluster.ops.eigenvectors import extend, spectral_embedding
        from gpucluster.ops.landmarks import landmarks
        from gpucluster.ops.laplacian import (
            components,
            dense_graph,
            gaussian_affinities,
            mainland,
        )

        device: Device = "gpu" if backend == "cupy" else "cpu"
        chosen = landmarks(X, self.n_landmarks(len(X)), self.random_state, reporter)
        means = to_device(chosen.means, device)
        narrow = chosen.weights[self.gamma * chosen.mean_sqdist > NARROW].sum() / len(X)
        if narrow > NARROW_SHARE:
            reporter.warn(
                "landmarks_too_coarse",
                f"spectral.gamma is {self.gamma:g}, but {narrow:.0%} of the rows are in landmarks "
                "wider than that kernel: use a smaller one, affinity: nearest_neighbors, or a "
                "sample",
            )
        # rows lie farther apart than their means, by how far they lie from those
        exponents = np.log(chosen.weights) - self.gamma * chosen.mean_sqdist
        weights = np.exp(exponents - exponents.max())
        own = weights**2 * (1 - 1 / chosen.weights)  # no row has affinity to itself
        affinity = gaussian_affinities(means, self.gamma, to_device(weights, device))
        graph = dense_graph(affinity, to_device(own.astype(np.float32), device))
        component = components(graph)
        kept = mainland(component, self.n_clusters, chosen.weights)
        self._judge(kept[chosen.labels], component, len(X), reporter)
        inside = kept != NOISE
        if not np.bincount(kept[inside], to_host(graph.scale)[inside]).all():
            widest = 1 / max(float(np.median(chosen.mean_sqdist)), 1e-18)
            raise ConfigError(
                f"got {self.gamma:g}, a kernel so narrow that float32 sees no affinity between "
                "rows of one landmark",
                path="spectral.gamma",
                got=self.gamma,
                expected=f"about {widest:.2g} or less",
                hint="lower gamma, or use affinity: nearest_neighbors",
            )
        embedding = spectral_embedding(graph, kept, self.dimension(), self.random_state, reporter)
        reached = to_device(np.where(inside, weights, 0), device)
        placed = extend(X, means, self.gamma, reached, embedding, reporter)
        labels = self._partition(to_host(placed), reporter)
        info = {"n_landmarks": len(means), **_info(component, embedding)}
        return Raw(labels, backend, method="nystrom", info=info)

    def _judge(self, kept: Any, component: Any, n_samples: int, reporter: Reporter) -> None:
        """Say what the components of the graph mean for the clusters."""
        n_islands = int((kept == NOISE).sum())
        if n_islands == n_samples:
            path, hint = {
                "rbf": ("gamma", "lower gamma to about 1 / the squared distance of neighbours"),
                "nearest_neighbors": ("n_neighbors", "raise n_neighbors"),
                "precomputed": ("affinity", "are the affinities all 0?"),
            }[self.affinity]
            raise ConfigError(
                "no component of the graph is large enough for a cluster: "
                f"{component.max() + 1} components of {n_samples} rows",
                path=f"spectral.{path}",
                hint=hint,
            )
        if n_islands:
            reporter.warn(
                "spectral_islands",
                f"{n_islands} rows lie in components of the graph too small for a cluster of "
                "their own: they join the cluster of the nearest row outside",
            )

    def _partition(self, vectors: Any, reporter: Reporter) -> Any:
        """Return the clusters of embedded rows."""
        from gpucluster.ops.rotations import cluster_qr, discretize

        n_clusters = min(self.n_clusters, len(vectors))
        if self.assign_labels == "kmeans":
            scaled = vectors / (np.sqrt(np.square(vectors).mean()) or 1)
            scaled = np.ascontiguousarray(scaled, np.float32)
            muted = Muted(reporter.stage, reporter.observer, reporter.cancel)
            labels = self._kmeans(n_clusters).fit(scaled, reporter=muted).labels_
            for warned in muted.warnings:
                if warned.code != FEWER_CLUSTERS:  # what that means here is said below
                    reporter.repeat(warned)
        elif self.assign_labels == "discretize":
            labels = discretize(vectors, self.random_state)
        else:
            labels = cluster_qr(vectors)
        n_found = len(np.unique(labels))
        if n_found < self.n_clusters:
            reporter.warn(
                "spectral_fewer_clusters",
                f"spectral found {n_found} clusters of the {self.n_clusters} asked for"
                + self._why_fewer(vectors),
                NotConvergedWarning,
            )
        return labels

    def _why_fewer(self, vectors: Any) -> str:
        n_found = vectors.shape[1]
        if n_found >= self.dimension():
            return ": are there fewer distinct rows?"
        remedy = {"nearest_neighbors": "lower n_neighbors", "rbf": "raise gamma"}
        return (
            f": only {n_found} eigenvectors of {self.dimension()} tell rows apart; "
            f"{remedy.get(self.affinity, 'ask for fewer')}"
        )

    def _kmeans(self, n_clusters: int) -> KMeans:
        return KMeans(n_clusters=n_clusters, n_init=self.n_init, random_state=self.random_state)

    def _home(self, X: Matrix, inside: Any, labels: Any) -> Any:
        """Return the cluster of the nearest row inside, or of the greatest affinity to it."""
        from gpucluster.ops.assign import nearest_center

        if self.affinity != "precomputed":
            return labels[nearest_center(X[~inside], X[inside])]
        labels = canonical_labels(labels)  # without any affinity, the largest cluster
        shares = [X[np.ix_(~inside, inside)] @ (labels == k) for k in range(labels.max() + 1)]
        return np.argmax(shares, axis=0)


def _info(component: Any, embedding: Any) -> dict[str, Any]:
    values = [float(value) for value in embedding.eigenvalues]
    drops = -np.diff(values)
    return {
        "eigenvalues": values,
        "largest_eigengap_after": int(drops.argmax()) + 1 if len(drops) else len(values),
        "n_connected_components": int(component.max()) + 1,
    }


def _check_affinities(X: Any) -> None:
    """Refuse what is no symmetric matrix of affinities."""
    from gpucluster.ops.blocks import row_blocks

    wanted = "expected a symmetric matrix of affinities, none negative"
    if X.shape[0] != X.shape[1]:
        raise InputError(
            f"spectral: {wanted}, got {X.shape[0]} rows of {X.shape[1]}",
            hint="use affinity: rbf or nearest_neighbors for vectors",
        )
    for rows in row_blocks(len(X), rows_per_block(12 * len(X))):
        if bool((X[rows] < 0).any()):
            raise InputError(f"spectral: {wanted}, got negative values")
        if bool((abs(X[rows] - X[:, rows].T) > 1e-5 * abs(X[rows]) + 1e-30).any()):
            raise InputError(
                f"spectral: {wanted}, got another value above the diagonal than below",
                hint="use (A + A.T) / 2",
            )
