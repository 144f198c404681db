"""Each kernel of the package in `gpu.py`: its bandwidth, beside the same in plain CuPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import gpu_peers
import numpy as np
from gpu_machine import of_copy

from gpucluster.device.kernels import BY_ROW, KERNELS, KernelSpec, launch

if TYPE_CHECKING:
    from gpu_place import Place
    from gpu_record import Session, Values

ROWS, FEATURES, CLUSTERS = 1_000_000, 768, 1000
NEIGHBORS = 32
NO_INDEX = np.iinfo(np.int32).max
FLOAT_MAX = np.finfo(np.float32).max


@dataclass
class Launch:
    """What a kernel is launched with, by the names of its arguments, and the same in other ways.

    A kernel takes of the values those that it declares. `host` is what the package does in its
    place without a GPU.
    """

    values: dict[str, Any]
    plain: dict[str, Callable[[], Any]] = field(default_factory=dict)
    host: Callable[[], Any] | None = None


def kernels(session: Session, place: Place) -> None:
    """Time each kernel, and each plain way."""
    for spec in KERNELS:
        _timed(session, place, spec)
        place.clear()


def _timed(session: Session, place: Place, spec: KernelSpec) -> None:
    family = spec.name.rpartition("_")[0]
    made: list[Launch] = []

    def prepared() -> Launch:
        if family not in PREPARED:
            raise NotImplementedError("nobody has said what it is launched with: see PREPARED")
        if not made:
            made.append(PREPARED[family](place, spec))
        return made[0]

    def kernel() -> Values:
        found = prepared()
        values = tuple(found.values[name] for name, *_ in spec.arguments)
        n_bytes = spec.n_bytes(spec.numbers(values))
        if place.on_gpu:
            taken = place.time(lambda: launch(spec, *values))
        elif found.host is None:
            return {"n_bytes": n_bytes}
        else:
            taken = place.time(found.host)
        return {**of_copy(session, n_bytes, taken["ms"]), "n_bytes": n_bytes, **taken}

    ours = session.measure(spec.name, "kernel" if place.on_gpu else "its place on the host", kernel)
    for name in PLAIN.get(family, ()):

        def plain(name: str = name) -> Values:
            taken = place.time(prepared().plain[name], most_s=4)
            over = taken["ms"] / ours["ms"] if ours.get("ms") else None
            return {"over_kernel": over, **taken}

        session.measure(spec.name, f"plain: {name}", plain)


def _dtype(spec: KernelSpec, name: str) -> str:
    """Return the dtype of an array that a kernel takes."""
    return next(kind.rstrip("*") for each, kind, *_ in spec.arguments if each == name)


def _rows(place: Place, features: int = FEATURES) -> Any:
    shape = place.shape(ROWS, features, row_bytes=24 * features)
    return place.normal(shape.rows, shape.features, 11)


def _scan(place: Place, _: KernelSpec) -> Launch:
    from gpucluster.ops.half import SCAN_ROWS, coarse_middle, half_rows, sample_of

    xp, X = place.xp, _rows(place)
    shift = coarse_middle(sample_of(X))
    n_rows, n_features = X.shape
    cast, flags = xp.empty(X.shape, np.float16), xp.empty(n_rows, np.uint8)
    scales, norms, residuals = (xp.empty(n_rows, np.float32) for _ in range(3))
    sums = xp.empty((-(-n_rows // SCAN_ROWS), n_features), np.float32)
    values = {
        "X": X,
        "shift": shift,
        "n_rows": n_rows,
        "n_features": n_features,
        "rows_per_block": SCAN_ROWS,
        "exponent": BY_ROW,
        "with_sums": 1,
        "cast": cast,
        "scales": scales,
        "norms": norms,
        "residuals": residuals,
        "flags": flags,
        "column_sums": sums,
    }

    def passes() -> Any:
        less = X - shift
        lengths = xp.sqrt((less * less).sum(axis=1))
        bad = xp.isnan(less).any(axis=1) | xp.isinf(less).any(axis=1)
        scale = xp.ldexp(xp.ones_like(lengths), xp.frexp(lengths)[1] - 8)[:, None]
        copy = (less / scale).astype(np.float16)
        lost = less - copy * scale
        return copy, lengths, bad, xp.sqrt((lost * lost).sum(axis=1)), less.sum(axis=0)

    return Launch(
        values,
        {"separate passes": passes},
        lambda: half_rows(X, shift, with_sums=True),
    )


def _scores(place: Place) -> dict[str, Any]:
    """Return products as they come from a tile, and what is known of their rows and columns."""
    xp = place.xp
    shape = place.shape(ROWS // 2, FEATURES, CLUSTERS, row_bytes=16 * CLUSTERS)
    n_rows, n_cols = shape.rows, shape.clusters
    columns = xp.full((5, n_cols), 1e-3, np.float32)
    columns[0] = 1
    known = {name: xp.ones(n_rows, np.float32) for name in ("scales", "norms", "residuals")}
    return {
        "dots": place.normal(n_rows, n_cols, 12),
        "columns": columns,
        **known,
        "first_row": 0,
        "n_rows": n_rows,
        "n_cols": n_cols,
        "first_col": 0,
        "n_centers": n_cols,
        "n_others": n_cols,
        "skip": xp.full(n_rows, -1, np.int32),
    }


def _upper(values: dict[str, Any]) -> Any:
    columns = values["columns"]
    return values["dots"] * columns[0] - columns[1] + (columns[2] + columns[3] + columns[4])


def _fold(place: Place, _: KernelSpec) -> Launch:
    xp, values = place.xp, _scores(place)
    n_rows, dots = values["n_rows"], values["dots"]
    for name in ("best", "second", "floor"):
        values[name] = xp.full(n_rows, -FLOAT_MAX, np.float32)
    values["label"] = xp.full(n_rows, NO_INDEX, np.int32)

    def partition() -> Any:
        upper = _upper(values)
        return upper.argmax(axis=1), xp.partition(upper, upper.shape[1] - 2, axis=1)[:, -2:]

    plain = {"argmax alone": lambda: dots.argmax(axis=1), "argmax and partition": partition}
    return Launch(values, plain)


def _fold_neighbors(place: Place, _: KernelSpec) -> Launch:
    xp, values = place.xp, _scores(place)
    n_rows = values["n_rows"]
    n_kept = min(NEIGHBORS, values["n_cols"] - 1)
    values["n_kept"] = n_kept
    values["bounds"] = xp.full((n_rows, n_kept), -FLOAT_MAX, np.float32)
    values["found"] = xp.full((n_rows, n_kept), NO_INDEX, np.int32)

    def partition() -> Any:
        upper = _upper(values)
        return xp.argpartition(upper, upper.shape[1] - n_kept, axis=1)[:, -n_kept:]

    def topk() -> Any:
        torch = gpu_peers.need_cuda(place)
        return torch.from_dlpack(_upper(values)).topk(n_kept, dim=1)

    return Launch(values, {"argpartition": partition, "topk of torch": topk})


def _pairs(place: Place, spec: KernelSpec) -> Launch:
    from gpucluster.ops.pairs import pair_sqdist

    xp, X = place.xp, _rows(place)
    n_clusters = min(CLUSTERS, place.limits.clusters)
    centers = place.normal(n_clusters, X.shape[1], 13).astype(_dtype(spec, "centers"))
    rows = xp.arange(len(X), dtype=np.int32)
    labels = rows % np.int32(n_clusters)
    sqdist = xp.empty(len(X), np.float64)

    def differences() -> Any:
        out = xp.empty(len(X), np.float64)
        step = max(1, (1 << 30) // (8 * X.shape[1]))
        for start in range(0, len(X), step):
            part = slice(start, start + step)
            gap = X[rows[part]].astype(np.float64) - centers[labels[part]]
            out[part] = xp.einsum("ij,ij->i", gap, gap)
        return out

    return Launch(
        {
            "X": X,
            "centers": centers,
            "rows": rows,
            "labels": labels,
            "sqdist": sqdist,
            "n_pairs": len(rows),
            "n_features": X.shape[1],
        },
        {"einsum of differences": differences},
        lambda: pair_sqdist(X, centers, rows, labels),
    )


def _finish(place: Place, spec: KernelSpec) -> Launch:
    xp, product, dtype = place.xp, _rows(place), _dtype(spec, "out")
    n_rows, n_features = product.shape
    scales, columns = xp.ones(n_rows, np.float32), xp.ones(n_features, np.float32)
    out, norms = xp.empty(product.shape, dtype), xp.empty(n_rows, np.float32)

    def expressions() -> Any:
        rows = product * (scales[:, None] * columns)
        lengths = xp.sqrt(xp.einsum("ij,ij->i", rows, rows))
        return (rows / xp.where(lengths > 0, lengths, 1)[:, None]).astype(dtype)

    return Launch(
        {
            "product": product,
            "first_row": 0,
            "scales": scales,
            "column_scales": columns,
            "out": out,
            "n_rows": n_rows,
            "n_features": n_features,
            "to_unit_length": 1,
            "norms": norms,
        },
        {"expressions": expressions},
    )


def _segments(place: Place, spec: KernelSpec) -> Launch:
    from gpucluster.ops.assign import cluster_sums, segment_parts

    xp, X = place.xp, _rows(place).astype(_dtype(spec, "X"))
    n_clusters = min(CLUSTERS, place.limits.clusters)
    labels = (place.uniform(len(X), 14) * np.float32(n_clusters - 1e-3)).astype(np.int32)
    order = xp.argsort(labels).astype(np.int32)
    ends = xp.searchsorted(labels[order], xp.arange(n_clusters + 1))
    starts, _ = segment_parts(place.host(ends))
    partial = xp.empty((len(starts) - 1, X.shape[1]), np.float64)

    def atomic() -> Any:
        sums = xp.zeros((n_clusters, X.shape[1]), np.float64)
        xp.add.at(sums, labels, X.astype(np.float64))
        return sums

    def products() -> Any:
        sums = xp.zeros((n_clusters, X.shape[1]), np.float32)
        for start in range(0, len(X), 1 << 16):
            part = slice(start, start + (1 << 16))
            is_own = labels[part] == xp.arange(n_clusters, dtype=np.int32)[:, None]
            sums += is_own.astype(np.float32) @ X[part].astype(np.float32)
        return sums

    def sorted_sums() -> Any:
        """Sort by label, and sum slices: the order is ours, without a kernel."""
        rows, bounds = X[xp.argsort(labels)], place.host(ends)
        each = (rows[a:b].sum(axis=0, dtype=np.float64) for a, b in pairwise(bounds))
        return xp.stack(list(each))

    return Launch(
        {
            "X": X,
            "order": order,
            "starts": xp.asarray(starts),
            "sums": partial,
            "n_parts": len(partial),
            "n_features": X.shape[1],
        },
        {"add.at": atomic, "one-hot product": products, "sort and sums": sorted_sums},
        lambda: cluster_sums(X, labels, n_clusters),
    )


PREPARED: dict[str, Callable[[Place, KernelSpec], Launch]] = {
    "scan_cast": _scan,
    "fold_nearest": _fold,
    "fold_neighbors": _fold_neighbors,
    "pair_sqdist": _pairs,
    "finish_rows": _finish,
    "segment_sums": _segments,
}
PLAIN = {
    "scan_cast": ("separate passes",),
    "fold_nearest": ("argmax alone", "argmax and partition"),
    "fold_neighbors": ("argpartition", "topk of torch"),
    "pair_sqdist": ("einsum of differences",),
    "finish_rows": ("expressions",),
    "segment_sums": ("add.at", "one-hot product", "sort and sums"),
}
