"""Many clusters divided at once, in processes where the work is worth them."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from gpucluster.device.child import Child
from gpucluster.device.select import Decision, Device
from gpucluster.device.worker import Worker
from gpucluster.errors import Cancelled, DeviceError, InternalError, StageCrashedError
from gpucluster.events import Muted, Reporter
from gpucluster.execution import with_fallback
from gpucluster.hierarchy.division import PARALLEL_S, Division, divide_rows, n_workers, node_seconds
from gpucluster.hierarchy.growth import FAILED, Node
from gpucluster.types import Labels, Matrix


class Divider:
    """The `Split` that computes: UMAP and HDBSCAN on the rows of each node alone.

    On a GPU one process does all the work. On the CPU it goes to several where that is worth it,
    which live as long as this context. Results do not depend on that, nor on the order of the
    nodes. A node whose fit fails stays whole; the reason says why.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        What the nodes are divided by.
    division : Division
    decision : Decision
        ``auto`` may fall back for a node.
    reporter : Reporter
        Told after each node, and asked for cancellation.
    workers : int, optional
        Processes on the CPU; 0 for none. Omitted: as the work demands.
    worker : Worker, optional
        The process that has the GPU; omitted: one of its own.
    """

    def __init__(
        self,
        X: Matrix,
        division: Division,
        decision: Decision,
        reporter: Reporter,
        *,
        workers: int | None = None,
        worker: Worker | None = None,
    ) -> None:
        self._X = X
        self._division = division
        self._decision = decision
        self._reporter = reporter
        self._workers = workers
        self._quiet = Muted(reporter.stage, cancel=reporter.cancel)  # of the steps of a node
        self._open = ExitStack()
        self._worker = worker
        self._pool: ThreadPoolExecutor | None = None
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self._done = self._known = 0
        self._methods: set[str] = set()
        self._devices: set[Device] = set()

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

    @property
    def device(self) -> Device:
        """Where all nodes so far were divided; the CPU where any was."""
        return "cpu" if "cpu" in self._devices else self._decision.device

    def _answers(self, nodes: Sequence[Node]) -> Iterator[tuple[Node, Labels | str]]:
        if not self._start_workers(nodes):
            yield from ((node, self._attempt(node)) for node in nodes)
            return
        assert self._pool is not None  # noqa: S101 - it was just started
        running = {self._pool.submit(self._attempt, node): node for node in nodes}
        for future in as_completed(running):
            yield running[future], future.result()

    def _start_workers(self, nodes: Sequence[Node]) -> bool:
        """Whether there are processes for the CPU, started when this level is worth it."""
        if self._decision.device == "gpu":
            return False
        wanted = self._workers
        if wanted is None:
            shapes = ((len(node.rows), self._X.shape[1]) for node in nodes)
            seconds = sum(node_seconds(*shape, self._division) for shape in shapes)
            wanted = n_workers() if seconds > PARALLEL_S and len(nodes) > 1 else 0
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
            (labels, method), device = with_fallback(fit, self._decision, self._reporter)
        except (Cancelled, InternalError):
            raise
        except (StageCrashedError, DeviceError) as error:
            if self._decision.requested == "gpu":  # neither falls back nor leaves a node out
                raise
            return f"{FAILED}: {' '.join(str(error).split())}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the other nodes are not hurt
            return f"{FAILED}: {' '.join(str(error).split())}"
        self._methods.add(method)
        self._devices.add(device)
        return labels

    def _fit(self, node: Node, device: Device) -> tuple[Labels, str]:
        X, seed = self._X[node.rows], self._division.seed(node.id)
        if self._pool is None and device == "cpu":
            return divide_rows(X, self._division, seed, device, self._quiet)
        file = str(Path(self._folder, f"{node.index}.npy"))
        np.save(file, X)
        del X
        settings = {"path": file, "division": asdict(self._division), "seed": seed}
        target = "gpucluster.hierarchy.division:divide_file"
        if device == "gpu":
            if self._worker is None:
                self._worker = self._open.enter_context(Worker())
            method = self._worker.call(target, self._quiet, **settings, device=device)
        else:
            child = self._idle.get()
            try:
                method = child.call(target, **settings, device=device)
            finally:
                self._idle.put(child)
        labels: Labels = np.load(file)
        Path(file).unlink()
        return labels, method
