"""Whitening, UMAP and HDBSCAN in `gpu.py`: a run of gpucluster, beside the same chained by hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gpu_peers
import numpy as np
from gpu_place import Place, Shape
from gpu_record import AbsentError, Goal, Session, Values
from gpu_whitening import SHARE

ROWS, FEATURES, CLUSTERS, COMPONENTS, NEIGHBORS = 1_000_000, 768, 100, 50, 30
FEWER_ROWS, ENOUGH_S = 200_000, 100.0  # of the larger size; with less time it is the smaller
MIN_SAMPLES = 10
GOAL_S = 8.0
NOISE = 0.005  # by which two runs of the same may differ in agreement with the truth
OURS, CHAIN = "gpucluster.cluster", "chained cuML"


def pipeline(session: Session, place: Place) -> None:
    """Cluster labelled synthetic rows both ways, and compare both with the truth."""
    rows = ROWS if session.left() >= ENOUGH_S or not place.on_gpu else FEWER_ROWS
    made = place.shape(rows, FEATURES, CLUSTERS, row_bytes=16 * FEATURES)
    shape = Shape(made.rows, made.features, made.clusters, ROWS)
    data = cache(lambda: _labelled(place, shape))  # made for the first subject that was asked for
    components = min(COMPONENTS, max(2, shape.features // 4))
    size = max(5, shape.rows // 2000)
    whole = shape.is_whole  # neighbours take the square of the rows: fewer say nothing of a time
    ways: dict[str, tuple[Callable[..., Any], list[Goal]]] = {
        OURS: (_ours, [Goal("G7", "stages_s", at_most=GOAL_S, speed=True, here=whole)]),
        CHAIN: (_chained, []),
    }
    for name, (work, goals) in ways.items():

        def measured(work: Callable[..., Any] = work) -> Values:
            X, truth = data()
            begun = time.perf_counter()
            labels, values = work(place, X, components, size)
            taken = time.perf_counter() - begun
            return {"seconds": taken, **values, **_agreement(labels, truth)}

        session.measure(shape.case, name, measured, goals)
    session.measure(
        shape.case,
        "ratios: the chain's over ours",
        lambda: _ratios(session, shape.case),
        [
            Goal("G7", "seconds", at_least=2.5, speed=True, here=whole),
            Goal("G7", "ami_less", at_most=NOISE),
            Goal("G7", "ari_less", at_most=NOISE),
        ],
    )


def _labelled(place: Place, shape: Shape) -> tuple[Any, Any]:
    """Return rows and their true labels, on the host."""
    X, truth = place.clustered(
        shape.rows, shape.features, shape.clusters, seed=51, spread=0.7, tail=True
    )
    found = place.host(X), place.host(truth)
    del X, truth
    place.clear()
    return found


def _ours(place: Place, X: Any, components: int, size: int) -> tuple[Any, Values]:
    """Run the whole of it: from the matrix in memory to the files of a run."""
    import gpucluster

    if place.on_gpu:
        gpu_peers.need("cuml")
    with tempfile.TemporaryDirectory(prefix="gpucluster-bench-") as out:
        run = gpucluster.cluster(
            X,
            algorithm="hdbscan",
            algorithm_params={"min_cluster_size": size, "min_samples": MIN_SAMPLES},
            preprocessing_steps=[
                {"method": "whitening"},
                {"method": "umap", "n_components": components, "n_neighbors": NEIGHBORS},
            ],
            out=Path(out),
            device=place.device,
        )
        stages = {stage.name: stage.seconds or 0.0 for stage in run.manifest.stages}
        labels = np.array(run.labels_)
    computed = [name for name in stages if name.split(".")[0] not in {"load", "measure", "write"}]
    return labels, {
        "stages_s": sum(stages[name] for name in computed),
        **{f"{name}_s": found for name, found in stages.items()},
    }


def _chained(place: Place, X: Any, components: int, size: int) -> tuple[Any, Values]:
    """Do the same as people do it who have cuML: all data on the device, defaults elsewhere."""
    gpu_peers.need_gpu(place)
    clustering, manifold = gpu_peers.need("cuml.cluster"), gpu_peers.need("cuml.manifold")
    xp = place.xp
    marks = [time.perf_counter()]

    def mark() -> None:
        place.synchronize()
        marks.append(time.perf_counter())

    rows = xp.asarray(X)
    mark()
    rows -= rows.mean(axis=0)
    values, vectors = xp.linalg.eigh(rows.T @ rows / np.float32(len(rows) - 1))
    rows = rows @ ((vectors * (values + SHARE * values.mean()) ** -0.5) @ vectors.T)
    mark()
    model = manifold.UMAP(
        n_components=components, n_neighbors=NEIGHBORS, min_dist=0.0, metric="cosine"
    )
    layout = model.fit_transform(rows)
    mark()
    found = clustering.HDBSCAN(min_cluster_size=size, min_samples=MIN_SAMPLES).fit(layout)
    labels = gpu_peers.to_numpy(place, found.labels_)
    mark()
    names = ("upload_s", "whitening_s", "umap_s", "hdbscan_s")
    taken = dict(zip(names, np.diff(marks).tolist(), strict=True))
    return labels, {"stages_s": sum(taken.values()) - taken["upload_s"], **taken}


def _agreement(labels: Any, truth: Any) -> Values:
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    return {
        "clusters": len(np.unique(labels[labels >= 0])),
        "noise": float((labels < 0).mean()),
        "ami": float(adjusted_mutual_info_score(truth, labels)),
        "ari": float(adjusted_rand_score(truth, labels)),
    }


def _ratios(session: Session, case: str) -> Values:
    ours, theirs = session.values(case, OURS), session.values(case, CHAIN)
    if not (ours and theirs):
        raise AbsentError("one of the two was not measured")
    return {
        "seconds": theirs["stages_s"] / ours["stages_s"],
        "ami_less": theirs["ami"] - ours["ami"],
        "ari_less": theirs["ari"] - ours["ari"],
    }
