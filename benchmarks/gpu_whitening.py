"""Whitening in `gpu.py`: its parts, what the result is off by, and plain ways beside it."""

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

ROWS, FEATURES = 10_000_000, 1408
SAMPLE_ROWS, BLOCK_ROWS = 100_000, 1 << 18
GOAL_MS = 130.0
SHARE = 1.0  # of the mean eigenvalue that is added, the default of the step
OURS = "gpucluster, all of it"


def whitening(session: Session, place: Place) -> None:
    """Time the parts of whitening and all of it, and hold the result against float64."""
    shape = place.shape(ROWS, FEATURES, row_bytes=8 * FEATURES)  # rows, and what becomes of them
    data = cache(lambda: _rows(place, shape))  # made for the first subject that was asked for
    gram = 1.0 * shape.rows * shape.features**2  # the half of a symmetric product
    applied = 2.0 * gram
    _parts(session, place, shape, data, gram, applied)
    bound = round(shape.at_full(GOAL_MS), 2)
    ways: dict[str, tuple[Callable[[Place, Any], Any], list[Goal]]] = {
        OURS: (
            _ours,
            [
                Goal("G3", "ms", at_most=bound, speed=True),
                Goal("G3", "off", at_most=1e-3),
                Goal("G3", "covariance_off", at_most=6 * (2 / shape.rows) ** 0.5),
            ],
        ),
        "plain float32": (_plain, []),
        "torch TF32": (_tf32, []),
    }
    true: list[Any] = []
    for name, (work, goals) in ways.items():

        def measured(work: Callable[[Place, Any], Any] = work) -> Values:
            X = data()
            taken = place.time(lambda: work(place, X), most_s=12)
            place.clear()
            if not true:
                true.append(_true(place, X))
            white = work(place, X)
            flop = gram + applied
            return {**of_half(session, flop, taken["ms"]), **taken, **_off(place, X, white, true)}

        session.measure(shape.case, name, measured, goals)
    session.measure(
        shape.case,
        "ratios: theirs over ours",
        lambda: {
            "plain": _over(session, shape.case, "plain float32"),
            "tf32": _over(session, shape.case, "torch TF32"),
        },
        [
            Goal("G3", "plain", at_least=10, speed=True),
            Goal("G3", "tf32", at_least=2, speed=True),
        ],
    )


def _over(session: Session, case: str, name: str) -> float | None:
    ours, theirs = (session.values(case, each).get("ms") for each in (OURS, name))
    return theirs / ours if ours and theirs else None


def _rows(place: Place, shape: Shape) -> Any:
    """Return rows whose variances fall from dimension to dimension, with a mean of their own."""
    X = place.normal(shape.rows, shape.features, 31)
    falling = np.arange(1, shape.features + 1, dtype=np.float32) ** np.float32(-0.5)
    X *= place.xp.asarray(falling)
    X += place.normal(1, shape.features, 32)[0] * np.float32(0.1)
    return X


def _matrix(values: Any, vectors: Any) -> Any:
    return (vectors * (values + SHARE * values.mean()) ** -0.5) @ vectors.T


def _ours(place: Place, X: Any) -> Any:
    from gpucluster.ops.half_moments import half_centred_product, half_moments

    found = half_moments(X, place.xp)
    return half_centred_product(X, found.mean, _of_moments(place, found), place.xp)


def _of_moments(place: Place, found: Any) -> Any:
    """Return the matrix; the eigenvalues are on the host."""
    values, vectors = found.eigen()
    return _matrix(place.xp.asarray(values), vectors)


def _parts(
    session: Session,
    place: Place,
    shape: Shape,
    data: Callable[[], Any],
    gram: float,
    applied: float,
) -> None:
    from gpucluster.ops.half_moments import half_centred_product, half_moments

    kept: list[Any] = []

    def moments() -> Any:
        if not kept:
            kept.append(half_moments(data(), place.xp))
        return kept[0]

    def timed(work: Callable[[], Any], flop: float) -> Values:
        taken = place.time(work, most_s=5)
        return {**of_half(session, flop, taken["ms"]), **taken}

    def apply() -> Values:
        X, matrix = data(), _of_moments(place, moments())
        work = lambda: half_centred_product(X, moments().mean, matrix, place.xp)  # noqa: E731
        return timed(work, applied)

    session.measure(
        shape.case,
        "part: half_moments",
        lambda: timed(lambda: half_moments(data(), place.xp), gram),
    )
    session.measure(
        shape.case, "part: eigen", lambda: place.time(lambda: moments().eigen(), most_s=5)
    )
    session.measure(shape.case, "part: half_centred_product", apply)


def _blocks(n_rows: int) -> list[slice]:
    return [slice(start, start + BLOCK_ROWS) for start in range(0, n_rows, BLOCK_ROWS)]


def _plain(place: Place, X: Any) -> Any:
    """Whiten in float32, in blocks: a centred copy of all rows would not fit beside the result."""
    xp = place.xp
    mean = X.mean(axis=0)
    covariance = xp.zeros((X.shape[1], X.shape[1]), np.float32)
    for rows in _blocks(len(X)):
        block = X[rows] - mean
        covariance += block.T @ block
    values, vectors = xp.linalg.eigh(covariance / np.float32(len(X) - 1))
    matrix = _matrix(values, vectors)
    out = xp.empty_like(X)
    for rows in _blocks(len(X)):
        out[rows] = (X[rows] - mean) @ matrix
    return out


def _tf32(place: Place, X: Any) -> Any:
    """Do the same by torch, in TF32; the eigenvectors in float32."""
    torch = gpu_peers.need_cuda(place)
    torch.backends.cuda.matmul.allow_tf32 = True
    rows = torch.from_dlpack(X)
    mean = rows.mean(dim=0)
    width = rows.shape[1]
    covariance = torch.zeros((width, width), device=rows.device)
    for part in _blocks(len(rows)):
        block = rows[part] - mean
        covariance += block.T @ block
    values, vectors = torch.linalg.eigh(covariance / (len(rows) - 1))
    matrix = (vectors * (values + SHARE * values.mean()) ** -0.5) @ vectors.T
    out = torch.empty_like(rows)
    for part in _blocks(len(rows)):
        torch.matmul(rows[part] - mean, matrix, out=out[part])
    torch.backends.cuda.matmul.allow_tf32 = False
    return place.xp.from_dlpack(out)


def _moments64(place: Place, X: Any) -> tuple[Any, Any]:
    """Return mean and covariance by float64 products of all rows."""
    xp = place.xp
    shift = X[: 1 << 12].mean(axis=0, dtype=np.float64)
    total, outer = xp.zeros(X.shape[1], np.float64), xp.zeros((X.shape[1],) * 2, np.float64)
    for start in range(0, len(X), 1 << 16):
        block = X[start : start + (1 << 16)] - shift
        total += block.sum(axis=0)
        outer += block.T @ block
    offset = total / len(X)
    return offset + shift, (outer - len(X) * xp.outer(offset, offset)) / (len(X) - 1)


def _true(place: Place, X: Any) -> tuple[Any, Any, Any]:
    """Return mean, matrix and the covariance of the result, all by float64."""
    mean, covariance = _moments64(place, X)
    matrix = _matrix(*place.xp.linalg.eigh(covariance))
    return mean, matrix, matrix @ covariance @ matrix


def _off(place: Place, X: Any, white: Any, true: list[Any]) -> Values:
    """Say how far rows of a sample, and the covariance of all, are from those by float64."""
    xp = place.xp
    mean, matrix, covariance = true[0]
    step = max(1, len(X) // SAMPLE_ROWS)
    wanted = (X[::step].astype(np.float64) - mean) @ matrix
    gap = xp.sqrt(((white[::step] - wanted) ** 2).sum(axis=1))
    length = xp.sqrt((wanted**2).sum(axis=1))
    found = _moments64(place, white)[1]
    return {
        "off": float(xp.sqrt((gap**2).sum() / (length**2).sum())),
        "worst_row_off": float((gap / length).max()),
        "covariance_off": float(abs(found - covariance).max()),
    }
