"""Clusters divided further, level by level, by UMAP and HDBSCAN whatever found them.

`grow` is the recursion: it asks a `Split` for the parts of each node of a level, keeps the
divisions that are worth it, and numbers what comes of them. `Divider` is the `Split` that
computes, in processes of its own where the work is worth them; `nested` takes the levels
from labels that are nested already.
"""

from __future__ import annotations

import hashlib
import queue
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpucluster.algorithms import HDBSCAN, Algorithm, canonical_labels
from gpucluster.device.child import Child
from gpucluster.device.memory import translated
from gpucluster.device.select import Decision, Device
from gpucluster.errors import Cancelled, DeviceUnavailableError, InternalError
from gpucluster.events import Muted, Reporter
from gpucluster.execution import with_fallback
from gpucluster.ops.blocks import n_threads
from gpucluster.ops.nesting import node_paths
from gpucluster.preprocess import UMAP
from gpucluster.types import NOISE, Cost, Hierarchy, Labels, Matrix, Rows

# why a node is a leaf
TOO_SMALL, DEPTH, NO_SPLIT, TOO_NOISY = "too_small", "depth", "no_split", "too_noisy"
FAILED = "failed"  # and what it said
MAX_NOISE = 0.5  # of the rows of a node; a division that loses more is none
N_COMPONENTS = 15
N_NEIGHBORS = 15
START_S = 12.0  # until a process has imported and compiled what it needs
PARALLEL_S = 2 * START_S  # work of a level that is worth processes
MAX_WORKERS = 8
PROCESS_BYTES = 600 << 20  # of one such process, with its libraries
LIBRARY_BYTES = UMAP.library_bytes + HDBSCAN.library_bytes


@dataclass(frozen=True, slots=True)
class Node:
    """A cluster that may be divided: its index, its public id, its rows in rising order."""

    index: int
    id: str
    rows: Rows


# Labels of each node's rows (by falling size; noise -1), or the reason why there are none.
Split = Callable[[Sequence[Node]], Sequence[Labels | str]]


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
            size, samples = algorithm.min_cluster_size, algorithm.density_neighbors(n_samples)
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
        size = self.min_cluster_size or max(5, n_rows // 20)
        return HDBSCAN(min_cluster_size=size, min_samples=self.min_samples or min(5, size))


def grow(flat: Labels, levels: int, min_split_size: int, split: Split) -> Hierarchy:
    """Divide clusters, and what comes of them, until nothing is worth it.

    Parameters
    ----------
    flat : ndarray of shape (n_samples,), int32
        The roots: canonical labels; noise -1 stays noise.
    levels : int
        Levels of the hierarchy, that of the roots included.
    min_split_size : int
        Smaller nodes are leaves.
    split : Split
        Given all nodes of a level that may be divided.

    Returns
    -------
    Hierarchy
        A division is kept when it has two parts or more and at most `MAX_NOISE` of the rows
        are in none; those rows stay with the node.
    """
    labels = flat.copy()
    parents = [NOISE] * (int(flat.max(initial=NOISE)) + 1)
    reasons: list[str | None] = []
    parts = [np.flatnonzero(flat == root) for root in range(len(parents))]
    for level in range(levels):
        first = len(parents) - len(parts)
        ids = (path[-1] for path in node_paths(parents)[first:])
        nodes = [Node(first + i, *part) for i, part in enumerate(zip(ids, parts, strict=True))]
        large = [node for node in nodes if len(node.rows) >= min_split_size]
        reasons += [DEPTH if len(node.rows) >= min_split_size else TOO_SMALL for node in nodes]
        parts = []
        if level + 1 == levels or not large:
            break
        for node, found in zip(large, split(large), strict=True):
            reasons[node.index] = _why_not(found)
            if isinstance(found, str) or reasons[node.index] is not None:
                continue
            for part in range(int(found.max()) + 1):
                rows = node.rows[found == part]
                labels[rows] = len(parents)
                parents.append(node.index)
                parts.append(rows)
    return Hierarchy(labels, np.array(parents, np.int32), tuple(reasons))


def _why_not(found: Labels | str) -> str | None:
    """Return why a division is not kept, or None."""
    if isinstance(found, str):
        return found
    if found.max(initial=NOISE) < 1:
        return NO_SPLIT
    return TOO_NOISY if (found == NOISE).mean() > MAX_NOISE else None


def nested(labels_by_level: Labels, levels: int) -> Hierarchy:
    """Return the hierarchy of labels that are nested already.

    Parameters
    ----------
    labels_by_level : ndarray of shape (n_granularities, n_samples), int32
        From the coarsest to the finest clustering of the same rows; noise is -1. Each cluster
        lies within one of the row above, whose rows it need not exhaust.
    levels : int
        Levels of the hierarchy, at most.

    Returns
    -------
    Hierarchy
        A node is divided at the next granularity that parts it in two or more: one smaller
        cluster is no division, so there may be fewer levels than granularities.
    """

    def parts(node: Node) -> Labels | str:
        rows = np.arange(len(node.rows))
        for labels in labels_by_level[1:]:
            found = labels[node.rows[rows]]
            clusters = np.unique(found[found >= 0])
            if len(clusters) > 1:
                whole = np.full(len(node.rows), NOISE, np.int32)
                whole[rows] = found
                return canonical_labels(whole)
            if len(clusters) == 1:
                rows = rows[found == clusters[0]]
        return NO_SPLIT

    def split(nodes: Sequence[Node]) -> list[Labels | str]:
        return [parts(node) for node in nodes]

    return grow(canonical_labels(labels_by_level[0]), levels, 2, split)


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
    labels, method = divide_rows(np.load(path), Division(**division), seed, device, reporter)
    np.save(path, labels)
    return method


class Divider:
    """The `Split` that computes: UMAP and HDBSCAN on the rows of each node alone.

    Where the work of a level is worth it, and on a GPU always, it goes to processes that live
    as long as this context. Results do not depend on that, nor on the order of the nodes. A
    node whose fit fails stays whole; the reason says why.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        What the nodes are divided by.
    division : Division
    decision : Decision
        On a GPU one process does all the work; ``auto`` may fall back for a node.
    reporter : Reporter
        Told after each node, and asked for cancellation.
    workers : int, optional
        Processes; 0 for none. Omitted: as the work demands.

    """

    def __init__(
        self,
        X: Matrix,
        division: Division,
        decision: Decision,
        reporter: Reporter,
        *,
        workers: int | None = None,
    ) -> None:
        self._X = X
        self._division = division
        self._decision = decision
        self._reporter = reporter
        self._workers = workers
        self._quiet = Muted(reporter.stage, cancel=reporter.cancel)  # of the steps of a node
        self._open = ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self._done = self._known = 0
        self._methods: set[str] = set()

    def __enter__(self) -> Self:
        self._folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="gpucluster-"))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def __call__(self, nodes: Sequence[Node]) -> list[Labels | str]:
        """Divide the nodes of a level."""
        self._known += len(nodes)
        found: dict[int, Labels | str] = {}
        largest_first = sorted(nodes, key=lambda node: -len(node.rows))
        for node, answer in self._answers(largest_first):
            if isinstance(answer, str):
                self._reporter.warn("node_failed", f"{node.id} is not divided: {answer}")
            found[node.index] = answer
            self._done += 1
            self._reporter.progress(self._done, self._known, "nodes")
        return [found[node.index] for node in nodes]

    @property
    def method(self) -> str:
        """``exact``, or the approximations of the nodes so far."""
        return ", ".join(sorted(self._methods - {"exact"})) or "exact"

    def _answers(self, nodes: Sequence[Node]) -> Iterator[tuple[Node, Labels | str]]:
        if not self._start_workers(nodes):
            yield from ((node, self._attempt(node)) for node in nodes)
            return
        assert self._pool is not None  # noqa: S101 - it was just started
        running = {self._pool.submit(self._attempt, node): node for node in nodes}
        for future in as_completed(running):
            yield running[future], future.result()

    def _start_workers(self, nodes: Sequence[Node]) -> bool:
        """Whether there are processes, which are started when this level is worth it."""
        wanted = self._workers
        if wanted is None:
            shapes = ((len(node.rows), self._X.shape[1]) for node in nodes)
            seconds = sum(_node_seconds(*shape, self._division) for shape in shapes)
            wanted = n_workers() if seconds > PARALLEL_S and len(nodes) > 1 else 0
            if self._decision.device == "gpu":
                wanted = 1
        if self._pool is None and wanted:
            # the processes end before the threads that started them, which they would follow
            self._pool = ThreadPoolExecutor(wanted)
            self._open.callback(self._pool.shutdown, cancel_futures=True)
            for _ in range(wanted):
                self._idle.put(
                    self._open.enter_context(Child(self._reporter.stage, reporter=self._quiet))
                )
            self._open.callback(self._pool.shutdown, wait=False, cancel_futures=True)
        return self._pool is not None

    def _attempt(self, node: Node) -> Labels | str:
        """Return the parts of a node, or how its fit failed."""
        fit = partial(self._fit, node)
        try:
            (labels, method), _ = with_fallback(fit, self._decision, self._reporter)
        except (Cancelled, InternalError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other nodes are not hurt
            return f"{FAILED}: {' '.join(str(error).split())}"
        self._methods.add(method)
        return labels

    def _fit(self, node: Node, device: Device) -> tuple[Labels, str]:
        X, seed = self._X[node.rows], self._division.seed(node.id)
        if self._pool is None:
            return divide_rows(X, self._division, seed, device, self._quiet)
        file = str(Path(self._folder, f"{node.index}.npy"))
        np.save(file, X)
        del X
        child = self._idle.get()
        try:
            method = child.call(
                "gpucluster.hierarchy:divide_file",
                path=file,
                division=asdict(self._division),
                seed=seed,
                device=device,
            )
        finally:
            self._idle.put(child)
        labels: Labels = np.load(file)
        Path(file).unlink()
        return labels, method


def n_workers() -> int:
    """Return how many processes divide nodes, where the work is worth them."""
    return min(n_threads(), MAX_WORKERS)


def division_cost(n_samples: int, n_features: int, n_clusters: int, division: Division) -> Cost:
    """Return the cost of a `Divider` on all levels, on the CPU.

    Bytes hold for nodes of any size: those in work at a time have no more rows than there
    are. Seconds are those of roots of equal size.
    """
    layout = division.layout(n_samples, n_features, 0)
    width = n_features if layout is None else layout.n_components
    costs = [division.algorithm(n_samples).cost(n_samples, width, "cpu")]
    if layout is not None:
        costs.append(layout.cost(n_samples, n_features))
    n_bytes = 8 * n_samples * n_features + sum(cost.bytes for cost in costs)
    workers = 0
    if _node_seconds(n_samples, n_features, division) > PARALLEL_S:
        workers = n_workers()
    rows = n_samples // max(1, n_clusters)
    seconds = 0.0
    if rows >= division.min_split_size:
        each = _node_seconds(rows, n_features, division)
        seconds = START_S + (division.levels - 1) * n_clusters * each / max(1, workers)
    return Cost(n_bytes + workers * PROCESS_BYTES, seconds, costs[-1].method)


def _node_seconds(n_rows: int, n_features: int, division: Division) -> float:
    """Return how long one node takes when everything is compiled."""
    layout = division.layout(n_rows, n_features, 0)
    width = n_features if layout is None else layout.n_components
    seconds = division.algorithm(n_rows).cost(n_rows, width, "cpu").seconds or 0.0
    if layout is not None:
        seconds += layout.cost(n_rows, n_features).seconds or 0.0
        seconds -= layout.cost(4, n_features).seconds or 0.0  # the compilation
    return seconds
