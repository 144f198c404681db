"""The libraries that `gpu.py` compares with, each only where it can be imported.

A function here raises `AbsentError` with the reason where its library is missing. Imports are in
the order that RAPIDS needs: cuML loads newer CUDA libraries than torch and FAISS bring.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np
from gpu_place import Place
from gpu_record import AbsentError

PACKAGES = (
    *("cupy-cuda13x", "cupy-cuda12x", "cuml-cu13", "cuml-cu12", "cuvs-cu13", "cuvs-cu12"),
    *("rmm-cu13", "rmm-cu12", "nvidia-nvjitlink", "nvidia-cublas", "torch", "triton"),
    *("flash-kmeans", "flashlib", "nvidia-cutlass-dsl", "faiss-gpu", "faiss-gpu-cuvs", "faiss-cpu"),
)
MODULES = ("cuml", "cuvs", "torch", "triton", "flash_kmeans", "flashlib", "faiss")
TILE_BYTES = 512 << 20  # of products that a plain way writes at a time


def need(name: str) -> Any:
    """Import a module, or say why it cannot be."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library for another CUDA raises whatever it likes
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AbsentError(f"{name} cannot be imported: {said}") from error


def need_cuda(place: Place) -> Any:
    """Return torch, where it sees the GPU."""
    need_gpu(place)
    with suppress(AbsentError):
        need("cuml")  # first: torch's nvJitLink is too old for it
    torch = need("torch")
    if not torch.cuda.is_available():
        raise AbsentError("torch finds no CUDA device")
    return torch


def need_gpu(place: Place) -> None:
    """Say that a subject needs a GPU, where there is none."""
    if not place.on_gpu:
        raise AbsentError("only on a GPU")


def versions() -> dict[str, str | None]:
    """Return the versions of the packages; None for one that is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def found() -> dict[str, bool]:
    """Return which modules there are; a row that needs one says whether it can be imported."""
    return {name: find_spec(name) is not None for name in MODULES}


# Nearest centres. Each takes float32 rows and centres where the work is, does what it needs once
# (copies in float16, an index), and returns what is timed, which returns the labels.

Assign = Callable[[Place, Any, Any], Callable[[], Any]]


def plain(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """Multiply in float32, take the largest score: how it is written with numpy and CuPy."""
    xp = place.xp

    def work() -> Any:
        labels = xp.empty(len(X), np.int32)
        offsets = 0.5 * (centers * centers).sum(axis=1)
        for rows in _tiles(len(X), 4 * len(centers)):
            scores = X[rows] @ centers.T
            scores -= offsets
            labels[rows] = scores.argmax(axis=1)
        return labels

    return work


def torch_half(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """Use torch in float16: a product and topk, in pieces."""
    torch = need_cuda(place)
    rows, others = (_to_torch(torch, each).half() for each in (X, centers))
    offsets = 0.5 * others.float().square().sum(dim=1)

    def work() -> Any:
        labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        for part in _tiles(len(rows), 8 * len(others)):
            scores = (rows[part] @ others.T).float() - offsets
            labels[part] = scores.topk(1, dim=1).indices[:, 0]
        return labels

    return work


def torch_tf32(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """Use torch in TF32: a product and argmax, in pieces."""
    torch = need_cuda(place)
    rows, others = _to_torch(torch, X), _to_torch(torch, centers)
    offsets = 0.5 * others.square().sum(dim=1)

    def work() -> Any:
        torch.backends.cuda.matmul.allow_tf32 = True
        labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        for part in _tiles(len(rows), 4 * len(others)):
            labels[part] = (rows[part] @ others.T).sub_(offsets).argmax(dim=1)
        torch.backends.cuda.matmul.allow_tf32 = False
        return labels

    return work


def flash_kmeans(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """flash-kmeans: its Triton kernel on float16 rows."""
    torch = need_cuda(place)
    assign = need("flash_kmeans.assign_euclid_triton").euclid_assign_triton
    rows, others = (_to_torch(torch, each).half()[None] for each in (X, centers))
    squares = _to_torch(torch, (X * X).sum(axis=1))[None]
    return lambda: assign(rows, others, squares)[0]


def flashlib_triton(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """FlashLib: its Triton kernel on float16 rows."""
    return _flashlib(place, X, centers, "euclid_assign_triton")


def flashlib_cutedsl(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """FlashLib: its CuteDSL kernel; above 512 dimensions it would go to Triton."""
    if X.shape[1] > 512:
        raise AbsentError("its kernel ends at 512 dimensions")
    return _flashlib(place, X, centers, "cutedsl_assign_euclid")


def _flashlib(place: Place, X: Any, centers: Any, name: str) -> Callable[[], Any]:
    torch = need_cuda(place)
    kmeans = need("flashlib.primitives.kmeans")
    try:
        assign = getattr(kmeans, name)
    except Exception as error:  # it is loaded at this moment
        raise AbsentError(f"flashlib has no {name} here: {error}") from error
    rows, others = (_to_torch(torch, each).half()[None].contiguous() for each in (X, centers))
    return lambda: assign(rows, others)[0]


def cuml_predict(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """Use cuML's KMeans.predict, of a model that begins and ends with these centres."""
    need_gpu(place)
    model = _cuml_kmeans(centers, max_iter=1)
    model.fit(centers)  # a fit of the centres themselves leaves them where they are
    return lambda: model.predict(X)


def cuvs_predict(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """Use cuVS's k-means predict."""
    need_gpu(place)
    kmeans = need("cuvs.cluster.kmeans")
    params = kmeans.KMeansParams(n_clusters=len(centers))
    return lambda: place.xp.asarray(kmeans.predict(params, X, centers)[0])


def faiss_flat(place: Place, X: Any, centers: Any) -> Callable[[], Any]:
    """FAISS's exact index over the centres, on the GPU where there is one."""
    faiss = need("faiss")
    index = faiss.IndexFlatL2(X.shape[1])
    rows = X
    if place.on_gpu:
        if not hasattr(faiss, "StandardGpuResources"):
            raise AbsentError("faiss is here without its GPU code")
        torch = need_cuda(place)
        need("faiss.contrib.torch_utils")  # lets it read rows where they are
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        rows, centers = _to_torch(torch, X), _to_torch(torch, centers)
    index.add(centers)
    return lambda: index.search(rows, 1)[1][:, 0]


ASSIGN: dict[str, Assign] = {
    "plain float32, argmax": plain,
    "torch TF32, argmax": torch_tf32,
    "torch float16, topk": torch_half,
    "flash-kmeans float16": flash_kmeans,
    "FlashLib float16, Triton": flashlib_triton,
    "FlashLib float16, CuteDSL": flashlib_cutedsl,
    "cuML predict": cuml_predict,
    "cuVS predict": cuvs_predict,
    "FAISS IndexFlatL2": faiss_flat,
}


def to_numpy(place: Place, labels: Any) -> Any:
    """Return labels of any library on the host."""
    if hasattr(labels, "detach"):
        return labels.detach().cpu().numpy()
    return place.host(labels)


def _tiles(n_rows: int, row_bytes: int) -> list[slice]:
    step = max(1, TILE_BYTES // row_bytes)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def _to_torch(torch: Any, array: Any) -> Any:
    """Return a tensor of the same memory."""
    return torch.from_dlpack(array)


# Lloyd's iteration. Each returns a function of the number of iterations.

Lloyd = Callable[[Place, Any, Any], Callable[[int], Any]]


def _cuml_kmeans(centers: Any, *, max_iter: int) -> Any:
    model = need("cuml.cluster")
    if not hasattr(model, "KMeans"):
        raise AbsentError("this cuml has no KMeans")
    return model.KMeans(
        n_clusters=len(centers), init=centers, n_init=1, max_iter=max_iter, tol=1e-30
    )


def cuml_lloyd(place: Place, X: Any, centers: Any) -> Callable[[int], Any]:
    """Use cuML's KMeans, from given centres."""
    need_gpu(place)
    _cuml_kmeans(centers, max_iter=1)
    return lambda n_iter: _cuml_kmeans(centers, max_iter=n_iter).fit(X)


def flash_lloyd(place: Place, X: Any, centers: Any) -> Callable[[int], Any]:
    """flash-kmeans on float16 rows, from given centres."""
    torch = need_cuda(place)
    descend = need("flash_kmeans.kmeans_triton_impl").batch_kmeans_Euclid
    return _torch_lloyd(torch, descend, X, centers)


def flashlib_lloyd(place: Place, X: Any, centers: Any) -> Callable[[int], Any]:
    """FlashLib on float16 rows, from given centres, by the way that it chooses."""
    torch = need_cuda(place)
    return _torch_lloyd(torch, need("flashlib.primitives.kmeans").flash_kmeans, X, centers)


def _torch_lloyd(torch: Any, descend: Any, X: Any, centers: Any) -> Callable[[int], Any]:
    rows = torch.empty(X.shape, dtype=torch.float16, device="cuda")[None]
    for part in _tiles(len(X), 4 * X.shape[1]):
        rows[0, part] = _to_torch(torch, X[part]).half()
    begin = _to_torch(torch, centers).half()[None]
    names = inspect.signature(descend).parameters
    asked = {"tol": -1.0} if "tol" in names else {}  # it never stops before the last iteration
    return lambda n_iter: descend(
        rows, len(centers), max_iters=n_iter, init_centroids=begin.clone(), **asked
    )


LLOYD: dict[str, Lloyd] = {
    "cuML KMeans": cuml_lloyd,
    "flash-kmeans float16": flash_lloyd,
    "FlashLib float16": flashlib_lloyd,
}
