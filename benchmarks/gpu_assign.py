"""Nearest centres in `gpu.py`: what is proven and what is wrong, and how long others take."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import gpu_peers
import numpy as np
from gpu_machine import of_half
from gpu_record import Goal, Session, Values

if TYPE_CHECKING:
    from gpu_place import Place, Shape

SAMPLE_ROWS = 100_000
BLOCK_BYTES = 256 << 20  # of scores in float64
CLOSE = 1e-9  # of the largest score: nearer ones are compared by differences
PROVEN = [(200_000, d, k) for d in (128, 768, 1408) for k in (1000, 10_000)]
ASSIGNED = [
    (500_000, 384, 10_000),
    *(
        (rows, d, k)
        for d in (768, 1408, 3072)
        for rows, k in ((1_000_000, 1000), (500_000, 10_000))
    ),
]
OURS = "gpucluster, certified"
EXACT = Goal("labels of float64", "wrong", at_most=0)
FEW_OPEN = Goal("G1", "open", at_most=0.1)  # of rows in clusters; ties may all be looked at again


def exact_labels(place: Place, X: Any, centers: Any) -> Any:
    """Return the nearest centres by float64, ties to the lower one, on the host.

    Of all rows by products; where two scores are close, by differences, which are equal bit for
    bit where two centres are.
    """
    xp = place.xp
    exact = centers.astype(np.float64)
    middle = exact.mean(axis=0)
    moved = exact - middle
    offsets = 0.5 * (moved * moved).sum(axis=1)
    labels = np.empty(len(X), np.int64)
    step = max(1, BLOCK_BYTES // (8 * max(X.shape[1], len(centers))))
    for start in range(0, len(X), step):
        rows = X[start : start + step].astype(np.float64) - middle
        scores = rows @ moved.T
        scores -= offsets
        found = scores.argmax(axis=1)
        best = xp.take_along_axis(scores, found[:, None], axis=1)
        size = abs(scores).max(axis=1)[:, None] + (rows * rows).sum(axis=1)[:, None]
        near = place.host((scores >= best - CLOSE * size).sum(axis=1))
        labels[start : start + step] = place.host(found)
        for row in np.flatnonzero(near > 1):
            gap = X[start + int(row)].astype(np.float64) - exact
            sqdist = (gap * gap).sum(axis=1)
            labels[start + row] = int(sqdist.argmin())
    return labels


def half_labels(place: Place, X: Any, centers: Any) -> Any:
    """Return what float16 products alone would say, on the host."""
    from gpucluster.ops.half import half_product, half_rows

    xp = place.xp
    shift = centers.mean(axis=0, dtype=np.float64).astype(np.float32)
    others = half_rows(centers - shift, xp.zeros_like(shift))
    offsets = 0.5 * others.norms * others.norms
    labels = np.empty(len(X), np.int64)
    step = max(1, BLOCK_BYTES // (4 * max(X.shape[1], len(centers))))
    for start in range(0, len(X), step):
        rows = half_rows(X[start : start + step], shift)
        scores = half_product(rows.cast, others.cast)
        scores *= rows.scales[:, None] * others.scales
        scores -= offsets
        labels[start : start + step] = place.host(scores.argmax(axis=1))
    return labels


def certified(session: Session, place: Place) -> None:
    """Count what is open, and what is wrong before and after a second look."""
    for rows, features, clusters in place.within(PROVEN):
        shape = place.shape(rows, features, clusters, row_bytes=16 * features)
        for name, made in (("of k-means", _settled), ("rows of the data", _drawn)):
            session.measure(
                shape.case,
                f"centres: {name}",
                lambda s=shape, m=made: _counted(place, *m(place, s)),
                [EXACT, FEW_OPEN],
            )
    shape = place.shape(20_000, 768, 1000)
    for name, made in TIES.items():
        session.measure(
            shape.case,
            f"ties: {name}",
            lambda m=made: _counted(place, *m(place, shape)),
            [EXACT],
        )


def _counted(place: Place, X: Any, centers: Any) -> Values:
    from gpucluster.ops.certified import certified_nearest

    found = certified_nearest(X, centers)
    labels = place.host(found.labels)
    true = exact_labels(place, X, centers)
    return {
        "open": found.n_rechecked / len(X),
        "wrong_alone": float((half_labels(place, X, centers) != true).mean()),
        "wrong": float((labels != true).mean()),
        "wrong_rows": int((labels != true).sum()),
    }


def _settled(place: Place, shape: Shape) -> tuple[Any, Any]:
    """Return rows, and centres that two of Lloyd's steps have moved from rows."""
    from gpucluster.ops.half_lloyd import HalfLloyd

    X, centers = _drawn(place, shape)
    lloyd = HalfLloyd(X, centers)
    for _ in range(2):
        lloyd.move(lloyd.means())
    return X, lloyd.centers


def _drawn(place: Place, shape: Shape) -> tuple[Any, Any]:
    """Return rows, and some of them as centres: more than there are clusters."""
    n_true = max(2, shape.clusters // 3)
    X, _ = place.clustered(shape.rows, shape.features, n_true, seed=shape.features)
    step = max(1, shape.rows // shape.clusters)
    return X, X[::step][: shape.clusters].copy()


def _copies(place: Place, shape: Shape) -> tuple[Any, Any]:
    """Return rows, and centres that all occur twice."""
    X, centers = _drawn(place, shape)
    once = centers[: max(1, len(centers) // 2)]
    return X, place.xp.concatenate((once, once))


def _grid(place: Place, shape: Shape) -> tuple[Any, Any]:
    """Return rows and centres of few small integers: many distances are equal."""
    xp = place.xp
    X, centers = (
        xp.rint(xp.clip(place.normal(n, shape.features, seed), -1, 1)) for seed, n in _both(shape)
    )
    X[:, 8:] = 0
    centers[:, 8:] = 0
    return X, centers


def _same(place: Place, shape: Shape) -> tuple[Any, Any]:
    """Return rows that are all one, and centres that are all another."""
    X, centers = (place.xp.ones((n, shape.features), np.float32) for _, n in _both(shape))
    return X, centers * np.float32(3)


def _far(place: Place, shape: Shape) -> tuple[Any, Any]:
    """Return rows and centres far from zero."""
    X, centers = _drawn(place, shape)
    return X + np.float32(100), centers + np.float32(100)


def _mixed(place: Place, shape: Shape) -> tuple[Any, Any]:
    """Return rows of lengths over twelve powers of ten, zero among them, and centres as long."""
    X, _ = _drawn(place, shape)
    lengths = np.float32(10.0) ** (np.arange(len(X)) % 12 - 6).astype(np.float32)
    X *= place.xp.asarray(lengths)[:, None]
    X[::7] = 0
    step = max(1, shape.rows // shape.clusters)
    return X, X[1::step][: shape.clusters].copy()


def _both(shape: Shape) -> tuple[tuple[int, int], tuple[int, int]]:
    return (1, shape.rows), (2, shape.clusters)


TIES: dict[str, Callable[[Place, Shape], tuple[Any, Any]]] = {
    "every centre twice": _copies,
    "few small integers": _grid,
    "all rows equal": _same,
    "far from zero": _far,
    "lengths of all sizes": _mixed,
}


def assign(session: Session, place: Place) -> None:
    """Time the search beside the others, and count their wrong labels on a sample."""
    for rows, features, clusters in place.within(ASSIGNED):
        # the rows, a copy in float16 here and one of a peer
        _assigned(session, place, place.shape(rows, features, clusters, row_bytes=10 * features))


def _assigned(session: Session, place: Place, shape: Shape) -> None:
    data = cache(lambda: _drawn(place, shape))  # made for the first subject that was asked for
    sample = min(SAMPLE_ROWS, shape.rows)
    true: list[Any] = []  # only where a subject comes that far

    def judged(labels: Any) -> Values:
        X, centers = data()
        if not true:
            true.append(exact_labels(place, X[:sample], centers))
        found = gpu_peers.to_numpy(place, labels)[:sample]
        return {"wrong": float((found != true[0]).mean())}

    def timed(work: Callable[[], Any]) -> Values:
        taken = place.time(work, most_s=4)
        flop = 2.0 * shape.rows * shape.features * shape.clusters
        return {**of_half(session, flop, taken["ms"]), **taken, **judged(work())}

    def ours() -> Values:
        from gpucluster.ops.certified import certified_nearest
        from gpucluster.ops.half import coarse_middle, half_rows, sample_of

        X, centers = data()
        shift = coarse_middle(sample_of(X))
        half = half_rows(X, shift)
        kept: list[Any] = []

        def work() -> Any:
            kept[:] = [certified_nearest(X, centers, half, shift)]
            return kept[0].labels

        values = timed(work)
        return {"open": kept[0].n_rechecked / shape.rows, **values}

    def with_copies() -> Values:
        from gpucluster.ops.certified import certified_nearest

        return timed(lambda: certified_nearest(*data()).labels)

    speed = [Goal("G1", "tflop_per_s", at_least=600, speed=True)] if shape.features >= 768 else []
    session.measure(shape.case, OURS, ours, [*speed, EXACT, FEW_OPEN])
    session.measure(shape.case, "gpucluster, copies made each time", with_copies, [EXACT])
    for name, peer in gpu_peers.ASSIGN.items():
        session.measure(shape.case, name, lambda p=peer: timed(p(place, *data())))
    session.measure(
        shape.case,
        "ratios: theirs over ours",
        lambda: _ratios(session, shape.case),
        [
            Goal("G1", "flashlib", at_least=1.6, speed=True),
            Goal("G1", "cuvs_or_cuml", at_least=6, speed=True),
        ],
    )


def _ratios(session: Session, case: str) -> Values:
    ours = session.values(case, OURS).get("ms")

    def best(*prefixes: str) -> float | None:
        names = [name for name in gpu_peers.ASSIGN if name.startswith(prefixes)]
        times = [session.values(case, name).get("ms") for name in names]
        known = [each for each in times if each is not None]
        return min(known) / ours if known and ours else None

    return {
        "plain": best("plain"),
        "torch": best("torch"),
        "flash_kmeans": best("flash-kmeans"),
        "flashlib": best("FlashLib"),
        "cuvs_or_cuml": best("cuML", "cuVS"),
        "faiss": best("FAISS"),
    }
