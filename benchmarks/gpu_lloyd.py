"""Lloyd's iteration in `gpu.py`: time, whether it is the same every time, and beside others."""

from __future__ import annotations

import statistics
import time
from functools import cache
from typing import Any

import gpu_peers
import numpy as np
from gpu_assign import exact_labels
from gpu_machine import of_half
from gpu_place import Place, Shape
from gpu_record import Goal, Session, Values

ROWS, FEATURES, CLUSTERS = 10_000_000, 768, 1000
CHECKED_ROWS, STREAMED_ROWS = 1_000_000, 4_000_000
ITERATIONS = 10  # of a peer, whose first one is taken off
GOAL_MS = 32.0


def lloyd(session: Session, place: Place) -> None:
    """Time one iteration, and hold its result against itself and float64."""
    # rows, their copies in float16, and those of a peer
    shape = place.shape(ROWS, FEATURES, CLUSTERS, row_bytes=8 * FEATURES + 100)
    checked = place.shape(CHECKED_ROWS, FEATURES, CLUSTERS, row_bytes=16 * FEATURES)
    streamed = _streamed_shape(shape)
    _whole(session, place, shape)
    place.clear()
    session.measure(
        checked.case,
        "gpucluster twice, and float64",
        lambda: _checked(place, checked),
        [
            Goal("same bits", "same_bits", at_least=1),
            Goal("inertia of float64", "inertia_off", at_most=1e-6),
            Goal("labels of float64", "wrong", at_most=0),
        ],
    )
    session.measure(
        streamed.case,
        "gpucluster, rows come from the host",
        lambda: _streamed(place, streamed),
    )


def _start(place: Place, shape: Shape) -> tuple[Any, Any]:
    X, _ = place.clustered(shape.rows, shape.features, max(2, shape.clusters // 2), seed=21)
    step = max(1, shape.rows // shape.clusters)
    return X, X[::step][: shape.clusters].copy()


def _whole(session: Session, place: Place, shape: Shape) -> None:
    data = cache(lambda: _start(place, shape))  # made for the first subject that was asked for
    flop = 2.0 * shape.rows * shape.features * shape.clusters

    def ours() -> Values:
        from gpucluster.ops.half_lloyd import HalfLloyd

        X, centers = data()
        place.synchronize()
        begun = time.perf_counter()
        found = HalfLloyd(X, centers)
        place.synchronize()
        first = 1e3 * (time.perf_counter() - begun)
        taken = place.time(lambda: found.move(found.means()), most_s=15)
        share = found.n_rechecked / shape.rows
        return {"first_ms": first, "open": share, **of_half(session, flop, taken["ms"]), **taken}

    def plain() -> Values:
        from gpucluster.ops.assign import lloyd_step

        taken = place.time(lambda: lloyd_step(*data()), most_s=6)
        return {**of_half(session, flop, taken["ms"]), **taken}

    def peer(name: str) -> Values:
        descend = gpu_peers.LLOYD[name](place, *data())
        descend(1)
        one = _wall(place, lambda: descend(1))
        kept: list[Any] = []
        many = _wall(place, lambda: kept.append(descend(1 + ITERATIONS)))
        went = int(getattr(kept[0], "n_iter_", 1 + ITERATIONS)) - 1  # it may rest before
        ms = (many - one) / max(1, went)
        return {"ms": ms, "first_ms": one, "iterations": went, **of_half(session, flop, ms)}

    bound = round(shape.at_full(GOAL_MS), 2)
    goal = Goal("G2", "ms", at_most=bound, speed=True)
    session.measure(shape.case, "gpucluster", ours, [goal])
    session.measure(shape.case, "plain float32, add.at", plain)
    for name in gpu_peers.LLOYD:
        session.measure(shape.case, name, lambda n=name: peer(n))


def _wall(place: Place, work: Any) -> float:
    place.synchronize()
    begun = time.perf_counter()
    work()
    place.synchronize()
    return 1e3 * (time.perf_counter() - begun)


def _checked(place: Place, shape: Shape) -> Values:
    """Go three steps twice by our way, and once in float64."""
    from gpucluster.ops.half_lloyd import HalfLloyd

    X, centers = _start(place, shape)

    def descend() -> Any:
        found = HalfLloyd(X, centers)
        for _ in range(3):
            found.move(found.means())
        return found

    one, two = descend(), descend()
    same = all(
        place.host(a).tobytes() == place.host(b).tobytes()
        for a, b in ((one.centers, two.centers), (one.labels, two.labels))
    )
    true, labels = _exact_descent(place, X, centers, 3)
    inertia = _inertia(place, X, true, labels)
    ours = float(one.sqdist().sum())
    found = place.host(one.labels)
    return {
        "same_bits": int(same),
        "inertia_off": abs(ours / inertia - 1),
        "wrong": float((found != exact_labels(place, X, one.centers)).mean()),
        "other_than_float64": float((found != labels).mean()),
    }


def _exact_descent(place: Place, X: Any, centers: Any, steps: int) -> tuple[Any, Any]:
    """Return centres and labels of Lloyd's iteration in float64; centres are float32, as ours."""
    for _ in range(steps):
        labels = exact_labels(place, X, centers)
        sums, there = _sums(place, X, labels, len(centers))
        counts = place.xp.asarray(np.bincount(labels, minlength=len(centers)))[:, None]
        moved = (sums / place.xp.maximum(counts, 1)).astype(np.float32)
        centers = place.xp.where(there[:, None], moved, centers)
    return centers, exact_labels(place, X, centers)


def _sums(place: Place, X: Any, labels: Any, n_clusters: int) -> tuple[Any, Any]:
    """Add the rows of each cluster by atomic additions: nothing of the package is in it."""
    xp = place.xp
    sums = xp.zeros((n_clusters, X.shape[1]), np.float64)
    for start in range(0, len(X), 1 << 16):
        part = slice(start, start + (1 << 16))
        xp.add.at(sums, xp.asarray(labels[part]), X[part].astype(np.float64))
    return sums, xp.asarray(np.bincount(labels, minlength=n_clusters) > 0)


def _inertia(place: Place, X: Any, centers: Any, labels: Any) -> float:
    total = 0.0
    for start in range(0, len(X), 1 << 16):
        part = slice(start, start + (1 << 16))
        gap = X[part].astype(np.float64) - centers[place.xp.asarray(labels[part])]
        total += float((gap * gap).sum())
    return total


def _streamed_shape(shape: Shape) -> Shape:
    """Return the rows that come from the host: what it has room for as well."""
    from gpucluster.device.memory import available_bytes

    fits = available_bytes("cpu") // (3 * 4 * FEATURES)
    rows = max(100, min(STREAMED_ROWS, shape.rows, fits))
    return Shape(rows, shape.features, shape.clusters, min(STREAMED_ROWS, shape.wanted))


def _streamed(place: Place, shape: Shape) -> Values:
    from gpucluster.ops.half_lloyd import HalfLloyd

    X, centers = _start(place, shape)
    rows = place.host(X)
    del X
    place.clear()
    found = HalfLloyd(rows, centers)
    times = [_wall(place, lambda: found.move(found.means())) for _ in range(2)]
    ms = statistics.median(times)
    return {"ms": ms, "gb_per_s": rows.nbytes / ms / 1e6, "open": found.n_rechecked / shape.rows}
