"""A fleet without processes: its workers forget, do things twice, and finish in any order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpucluster.device import fleet as fleet_module
from gpucluster.device.dask_client import Lost
from gpucluster.device.fleet import Fleet
from gpucluster.device.select import Device
from gpucluster.events import Reporter


class FickleFleet(Fleet):
    """Does all that a `Fleet` may do to a caller.

    Parameters
    ----------
    folder : Path
    seed : int
        Of what goes wrong.
    loss : float
        Share of the calls before which a worker dies, and all that it kept with it.
    threads : int
        As many as the workers say that they have.
    device : {"cpu", "gpu"}
    """

    def __init__(
        self,
        folder: Path,
        seed: int = 0,
        loss: float = 0.2,
        threads: int = 2,
        device: Device = "cpu",
    ) -> None:
        super().__init__(None, folder, device)
        self._stream, self._loss, self._threads = np.random.default_rng(seed), loss, threads
        self.sent: list[int] = []  # bytes that went out with each call

    @property
    def n_threads(self) -> int:
        return self._threads

    def call(
        self,
        function: Callable[..., Any],
        calls: Mapping[int, tuple[str, tuple[Any, ...]]],
        homes: list[str],
        reporter: Reporter,
        *,
        one_by_one: bool = False,
    ) -> Iterator[tuple[int, Any]]:
        self.n_calls += 1
        for number in self._stream.permutation(list(calls)):
            reporter.cancel.raise_if_cancelled()
            if self._stream.random() < self._loss:
                fleet_module._KEPT.clear()
                if self._stream.random() < 1 / 4 and not one_by_one:  # and all others with it
                    raise Lost([calls[number][0]], 1)
            sent = pickle.dumps((function, calls[number][1]))
            self.sent.append(len(sent))
            for _ in range(1 + (self._stream.random() < self._loss)):  # an answer that was lost
                again, args = pickle.loads(sent)
                found = again(*args)
            yield int(number), pickle.dumps(found)

    def join(self, name: str, add: Callable[[Any, Any], Any], futures: Sequence[Any]) -> Any:
        found = [pickle.loads(each) for each in futures]
        return pickle.dumps(fleet_module._added(add, found))

    def result(self, future: Any, reporter: Reporter) -> Any:
        return pickle.loads(future)

    def forget(self, token: str) -> None:
        fleet_module._forget([token])
