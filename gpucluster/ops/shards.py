"""Rows in shards, each worked on by a thread of this process or by another process.

A matrix is cut by its shape alone, and what is added up over the rows is added up within each
shard, then over `FAN_IN` shards, over as many of those, and so on. So the bits of a result depend
neither on the number of cores nor on how many processes there are.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, TypeVar

import numpy as np

from gpucluster.device.dask_client import Losses, Lost
from gpucluster.device.fleet import Fleet, fleet_of, kept, opened
from gpucluster.device.memory import available_bytes, rows_per_block
from gpucluster.device.select import Device
from gpucluster.device.storage import lent, like, on_disk
from gpucluster.errors import InternalError
from gpucluster.events import Reporter
from gpucluster.ops.blocks import alone, is_in_block, map_blocks, row_blocks
from gpucluster.types import Matrix

T = TypeVar("T")

SHARDS, FAN_IN = 128, 8
LEAST_SHARDS = 32  # where there are rows enough
TILE_ROWS = 1024
KEPT_SHARE = 8  # of the free memory of a worker, what one shard may keep there


def part_rows(n_samples: int, n_features: int) -> int:
    """Return how many rows are summed at a time: whole tiles, of many rows enough for any core."""
    tiles = min(n_samples // LEAST_SHARDS, rows_per_block(4 * n_features)) // TILE_ROWS
    return max(1, tiles) * TILE_ROWS


def shard_rows(n_samples: int, n_features: int) -> int:
    """Return how many rows a shard has: those of some parts."""
    part = part_rows(n_samples, n_features)
    return -(-n_samples // (SHARDS * part)) * part


@dataclass(frozen=True, slots=True)
class ByRow:
    """An argument with as many rows as the matrix: each shard gets its own."""

    array: Any


class Written(ByRow):
    """An argument that the work writes to, of ``like(X, shape, to_lend=True)``.

    It must not be read by the work, nor be the rows: a shard may be worked on again.
    """


@dataclass(frozen=True, slots=True)
class Shard:
    """What the work on a shard is given before its arguments.

    Attributes
    ----------
    X : ndarray of shape (n_rows, n_features), float32
        Its rows.
    start : int
        The row of the matrix that is its first.
    kept : dict
        What earlier work left here. It may be empty at any time: the process that had it died.
    room : callable
        Of a number of columns; returns an array of as many rows, float32, to be kept.
    device : {"cpu", "gpu"}
        What the process has that works on it.
    """

    X: Matrix
    start: int
    kept: dict[str, Any]
    room: Callable[[int], Matrix]
    device: Device = "cpu"

    def parts(self) -> Iterator[slice]:
        """Yield the rows of the shard, so many as are summed at a time."""
        return row_blocks(len(self.X), rows_per_block(4 * self.X.shape[1]))


class Shards:
    """A matrix in shards, and who works on them: the threads of this process, or a fleet.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Where it lies decides who works. Of `rows` at a time, any array, such as numbers of rows.
    name : str
        What the work is called, where it fails.
    reporter : Reporter, optional
        Asked for cancellation.
    least_rows : int, default 1
        Of a shard.
    rows : int, optional
        Of a shard, where the work itself says how many. More shards than usual cost a fleet time.
    tells : bool, default False
        Whether the reporter is told of progress.
    """

    def __init__(
        self,
        X: Matrix,
        name: str,
        reporter: Reporter | None = None,
        *,
        least_rows: int = 1,
        rows: int | None = None,
        tells: bool = False,
    ) -> None:
        self._X, self._name, self._reporter = X, name, reporter or Reporter()
        self._tells = tells
        self._rows = rows or max(least_rows, shard_rows(*X.shape))
        self._starts = range(0, len(X), self._rows)
        self._fleet = sharing(X)
        self._kept: list[dict[str, Any]] = [{} for _ in self._starts]
        self._rooms: dict[int, Matrix] = {}
        self._lock = threading.Lock()
        if self._fleet is not None:
            self._token = self._fleet.token()
            # few tasks cost less, but all workers are to have some
            many = len(self._starts) >= FAN_IN * self._fleet.n_threads
            self._batch = FAN_IN if many else 1
            self._homes = [""] * -(-len(self._starts) // self._batch)
            weakref.finalize(self, self._fleet.forget, self._token)

    def map(self, work: Callable[..., T], *args: Any, in_flight: int | None = None) -> Iterator[T]:
        """Yield ``work(shard, *args)`` for each shard, in order.

        Parameters
        ----------
        work : callable
            Of a module, as other processes look for it there by name.
        *args
            Those `ByRow` are cut; all are only read, unless they are `Written`.
        in_flight : int, optional
            Most results that exist before they are taken; two for each core if omitted.
        """
        n_done = 0
        if self._fleet is None:
            for found in map_blocks(
                lambda rows: work(self._shard(rows), *_cut(args, rows)),
                *(len(self._X), self._rows),
                in_flight=in_flight,
            ):
                n_done += 1
                self._tell(n_done)
                yield found
            return
        ready: dict[int, Any] = {}
        following, losses = 0, Losses()
        while following < len(self._homes):
            left = [n for n in range(following, len(self._homes)) if n not in ready]
            try:
                for number, future in self._futures(work, None, args, left, losses):
                    ready[number] = self._fleet.result(future, self._reporter)
                    while following in ready:
                        yield from ready.pop(following)
                        following += 1
            except Lost as lost:
                losses.add(lost)

    def reduce(
        self,
        work: Callable[..., T],
        add: Callable[[T, T], T],
        *args: Any,
        in_flight: int | None = None,
    ) -> T:
        """Return what the results of all shards add up to, in the order of the module's text.

        ``add(total, other)`` may write to `total`.
        """
        if self._fleet is None:
            here: T = _Tree(add).total(self.map(work, *args, in_flight=in_flight))
            return here
        losses = Losses()
        while True:
            try:
                there: T = self._reduced(self._fleet, work, add, args, losses)
            except Lost as lost:
                losses.add(lost)
            else:
                return there

    def _reduced(
        self,
        fleet: Fleet,
        work: Callable[..., T],
        add: Callable[[T, T], T],
        args: tuple[Any, ...],
        losses: Losses,
    ) -> Any:
        """Add up where the results are; those of a batch are added up where it was worked on."""
        found = dict(self._futures(work, add, args, range(len(self._homes)), losses))
        level = [found[number] for number in range(len(found))]
        while len(level) > 1:
            groups = [level[rows] for rows in row_blocks(len(level), FAN_IN)]
            level = [fleet.join(self._name, add, group) for group in groups]
        return fleet.result(level[0], self._reporter)

    def _futures(
        self,
        work: Callable[..., Any],
        add: Callable[..., Any] | None,
        args: tuple[Any, ...],
        wanted: Iterable[int],
        losses: Losses,
    ) -> Iterator[tuple[int, Any]]:
        """Yield which of some batches of shards is done, and as what, as soon as it is."""
        assert self._fleet is not None  # noqa: S101 - its callers have asked
        common = tuple(each if isinstance(each, ByRow) else self._fleet.lend(each) for each in args)
        calls = {}
        for batch in wanted:
            shards = []
            numbers = range(batch * self._batch, min((batch + 1) * self._batch, len(self._starts)))
            for number in numbers:
                start = self._starts[number]
                rows = slice(start, min(start + self._rows, len(self._X)))
                X = lent(self._X[rows])
                shards.append((X, start, self._token, number, *_cut(common, rows, lent)))
            name = f"{self._name}, rows {shards[0][1]:,} to {rows.stop - 1:,}"
            calls[batch] = name, (work, add, self._fleet.device, shards)
        finished = self._fleet.call(
            _there, calls, self._homes, self._reporter, one_by_one=losses.count > 0
        )
        for n_done, found in enumerate(finished, 1):
            self._tell(n_done * self._batch)
            yield found

    def _tell(self, n_done: int) -> None:
        """Ask whether to go on, and say how far it is."""
        self._reporter.cancel.raise_if_cancelled()
        if self._tells:
            self._reporter.progress(min(n_done * self._rows, len(self._X)), len(self._X))

    def _shard(self, rows: slice) -> Shard:
        kept_here = self._kept[rows.start // self._rows]
        return Shard(self._X[rows], rows.start, kept_here, partial(self._room, rows))

    def _room(self, rows: slice, n_cols: int) -> Matrix:
        with self._lock:
            if n_cols not in self._rooms:
                self._rooms[n_cols] = like(self._X, (len(self._X), n_cols))
        return self._rooms[n_cols][rows]


def sharing(X: Any) -> Fleet | None:
    """Return who shares the work on the rows of a matrix; None within a block, which is shared."""
    return None if is_in_block() else fleet_of(X)


def joined(results: Iterator[tuple[Any, ...]]) -> Any:
    """Return arrays of all rows, of those that shards returned."""
    return tuple(np.concatenate(each) for each in zip(*results, strict=True))


def shown(X: Any, array: Any) -> Any:
    """Return an array, or a copy of it where those who work on the rows of `X` see it."""
    if sharing(X) is None:
        return array
    copy = like(X, array.shape, array.dtype, to_lend=True)
    copy[...] = array
    return copy


def _cut(args: tuple[Any, ...], rows: slice, lend: Callable[[Any], Any] | None = None) -> Any:
    """Return arguments for some rows; of a file, as others open them."""
    found = []
    for each in args:
        if isinstance(each, ByRow):
            own = None if each.array is None else each.array[rows]
            known = None if lend is None or own is None else lend(own)
            if known is None and lend is not None and isinstance(each, Written):
                raise InternalError("other processes do not see what they are to write")
            found.append(own if known is None else known)
        else:
            found.append(each)
    return found


class _Tree:
    """Adds up results that come one by one, as `Shards.reduce` says; few of them exist at once."""

    def __init__(self, add: Callable[[Any, Any], Any]) -> None:
        self._add = add
        self._levels: list[list[Any]] = []  # of each: how many were added, and what they are

    def total(self, results: Iterator[Any]) -> Any:
        for found in results:
            self._put(0, found)
        for level, (count, total) in enumerate(self._levels):
            if count and level + 1 < len(self._levels):
                self._put(level + 1, total)
            elif count:
                return total
        raise ValueError("there is nothing to add up")

    def _put(self, level: int, found: Any) -> None:
        if level == len(self._levels):
            self._levels.append([0, None])
        count, total = self._levels[level]
        total = found if count == 0 else self._add(total, found)
        if count + 1 == FAN_IN:
            self._levels[level] = [0, None]
            self._put(level + 1, total)
        else:
            self._levels[level] = [count + 1, total]


# What follows runs on the workers of a fleet.


def _there(
    work: Callable[..., T],
    add: Callable[[T, T], T] | None,
    device: Device,
    shards: list[tuple[Any, ...]],
) -> Any:
    """Work on some shards; return what they add up to, or their results."""

    def each(X: Any, start: int, token: str, number: int, *args: Any) -> T:
        rows = opened(X)
        shard = Shard(rows, start, kept(token, number), partial(_room, len(rows)), device)
        return work(shard, *map(opened, args))

    with alone():
        found = (each(*shard) for shard in shards)
        return list(found) if add is None else reduce(add, found)


def _room(n_rows: int, n_cols: int) -> Matrix:
    """Return room for what a shard keeps: in memory, as long as little of it is taken."""
    n_bytes = 4 * n_rows * n_cols
    if n_bytes < available_bytes("cpu") / KEPT_SHARE:
        return np.empty((n_rows, n_cols), np.float32)
    found: Matrix = on_disk((n_rows, n_cols), tempfile.gettempdir())
    return found
