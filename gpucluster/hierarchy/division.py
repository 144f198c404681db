"""How one cluster is divided: a layout by UMAP, parts by HDBSCAN, and what that costs."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gpucluster.algorithms import HDBSCAN, Algorithm
from gpucluster.device.cores import n_threads
from gpucluster.device.memory import translated
from gpucluster.device.select import Device
from gpucluster.device.worker import with_memory
from gpucluster.errors import DeviceUnavailableError
from gpucluster.events import Reporter
from gpucluster.preprocess import UMAP
from gpucluster.types import Cost, Labels, Matrix

N_COMPONENTS = 15
N_NEIGHBORS = 15
START_S = 12.0  # until a process has imported and compiled what it needs
PARALLEL_S = 2 * START_S  # work of a level that is worth processes
MAX_WORKERS = 8
PROCESS_BYTES = 600 << 20  # of one such process, with its libraries
LIBRARY_BYTES = max(UMAP.library_bytes, HDBSCAN.library_bytes)


@dataclass(frozen=True, slots=True)
class Division:
    """How clusters are divided.

    Attributes
    ----------
    levels : int
        Levels of the hierarchy, that of the roots included.
    min_split_size : int
        Rows that a node needs to be divided.
    min_cluster_size, min_samples : int or None
        Of HDBSCAN, for nodes of any size; None follows the size of the node.
    random_state : int
        Each node has a seed of its own, made of this one and its id.
    """

    levels: int
    min_split_size: int
    min_cluster_size: int | None = None
    min_samples: int | None = None
    random_state: int = 42

    @classmethod
    def below(
        cls,
        algorithm: Algorithm,
        *,
        levels: int,
        min_split_size: int | None,
        n_samples: int,
        random_state: int,
    ) -> Self:
        """Return how the clusters that `algorithm` found are divided.

        Parameters
        ----------
        algorithm : Algorithm
            HDBSCAN's own sizes hold for all levels.
        levels : int
        min_split_size : int or None
            None: three times the least cluster, and at least 100.
        n_samples : int
            Rows that were clustered.
        random_state : int
        """
        size = samples = None
        if isinstance(algorithm, HDBSCAN):
            samples = algorithm.density_neighbors(n_samples)
            size = algorithm.min_cluster_size if algorithm.min_cluster_size != "auto" else None
        return cls(levels, min_split_size or max(3 * (size or 0), 100), size, samples, random_state)

    def seed(self, node_id: str) -> int:
        """Return the seed of a node: the same whenever and wherever it is divided."""
        name = hashlib.sha256(f"{self.random_state}/{node_id}".encode())
        return int.from_bytes(name.digest()[:4])

    def layout(self, n_rows: int, n_features: int, seed: int) -> UMAP | None:
        """Return the reduction of a node, or None where there is nothing to reduce."""
        if n_features < 3:
            return None
        return UMAP(
            n_components=min(N_COMPONENTS, n_features - 1, n_rows - 2),
            n_neighbors=min(N_NEIGHBORS, n_rows - 1),
            random_state=seed,
        )

    def algorithm(self, n_rows: int) -> HDBSCAN:
        """Return what finds the parts of a node."""
        size = self.min_cluster_size or max(5, math.isqrt(n_rows))
        return HDBSCAN(min_cluster_size=size, min_samples=self.min_samples or min(5, size))


def divide_rows(
    X: Matrix, division: Division, seed: int, device: Device, reporter: Reporter
) -> tuple[Labels, str]:
    """Return the parts of one node's rows, by falling size with noise -1, and the method."""
    layout, method = division.layout(len(X), X.shape[1], seed), "exact"
    if layout is not None:
        with translated(layout.method):
            fitted = layout.fit(X, device, reporter)
        X, method = layout.output(X, fitted.arrays), fitted.method
    algorithm = division.algorithm(len(X))
    obstacle = algorithm.gpu_obstacle(X) if device == "gpu" else None
    if obstacle is not None:
        raise DeviceUnavailableError(obstacle, hint="use --device auto or cpu")
    found = algorithm.fit(X, device=device, reporter=reporter)
    return found.labels_, found.method if method == "exact" else method


def divide_file(
    path: str, division: dict[str, Any], seed: int, device: Device, reporter: Reporter
) -> str:
    """Put the labels of the rows in the file `path` in their place; return the method."""
    X, settings = np.load(path), Division(**division)
    labels, method = with_memory(
        lambda: divide_rows(X, settings, seed, device, reporter), device, reporter
    )
    np.save(path, labels)
    return method


def n_workers() -> int:
    """Return how many processes divide nodes, where the work is worth them."""
    return min(n_threads(), MAX_WORKERS)


def division_cost(n_samples: int, n_features: int, n_clusters: int, division: Division) -> Cost:
    """Return the cost of a `Divider` on all levels, on the CPU.

    Bytes are those of nodes in work that have half of the rows, of unit length. Where processes
    do the work, this one only hands them their rows. Seconds are those of roots of equal size.
    """
    half = max(4, n_samples // 2)
    layout = division.layout(half, n_features, 0)
    width = n_features if layout is None else layout.n_components
    costs = [division.algorithm(half).cost(half, width, "cpu")]
    if layout is not None:
        costs.append(layout.cost(half, n_features))
    # one after the other
    n_bytes, copy = max(cost.bytes - cost.unit_bytes for cost in costs), 4 * half * n_features
    workers = 0
    if node_seconds(n_samples, n_features, division) > PARALLEL_S:
        workers = n_workers()
    rows = n_samples // max(1, n_clusters)
    seconds = 0.0
    if rows >= division.min_split_size:
        each = node_seconds(rows, n_features, division)
        seconds = START_S + (division.levels - 1) * n_clusters * each / max(1, workers)
    if not workers:
        return Cost(copy + n_bytes, seconds, costs[-1].method)
    helpers = workers * PROCESS_BYTES + copy + n_bytes
    return Cost(copy, seconds, costs[-1].method, helper_bytes=helpers)


def node_seconds(n_rows: int, n_features: int, division: Division) -> float:
    """Return how long one node takes when everything is compiled."""
    layout = division.layout(n_rows, n_features, 0)
    width = n_features if layout is None else layout.n_components
    seconds = division.algorithm(n_rows).cost(n_rows, width, "cpu").seconds or 0.0
    if layout is not None:
        seconds += layout.cost(n_rows, n_features).seconds or 0.0
        seconds -= layout.cost(4, n_features).seconds or 0.0  # the compilation
    return seconds
