"""Which clusters make a taxonomy: what a floor of stability leaves, and what rivals are for.

Half, then 65 %, then 80 % of the texts are clustered, and the clusters of the last run that reach
a floor are promoted. The others, a fifth, are classified: how many find a node, and how many of
these a node most of whose members have their intent. `alone`: of the texts that would find a node
besides, if they were compared with the nodes only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import numpy as np
from cases import CASES, real_path
from living import Texts
from scipy.stats import spearmanr

import gpucluster

HERE = Path(__file__).parent
SHARES = (0.5, 0.65, 0.8)
FLOORS = (None, 0.6, 0.75)


def measured(texts: Texts, name: str, way: str, out: Path) -> Iterator[dict[str, Any]]:
    """Yield what each floor leaves of the clusters of one way."""
    order = np.random.default_rng(0).permutation(len(texts.ids))
    ids, X, intents = texts.ids[order], texts.X[order], texts.intents[order]
    known, truth = np.unique(intents, return_inverse=True)
    fields: dict[str, Any] = {"cluster_name": way}
    if way == "kmeans":
        fields |= {"algorithm": "kmeans", "algorithm_params": {"n_clusters": len(known)}}
    for share in SHARES:
        n = int(share * len(ids))
        run = gpucluster.cluster((list(ids[:n]), X[:n]), out=out, device="cpu", **fields)
    seen, held = truth[:n], truth[n:]
    counts = [np.bincount(seen[run.labels_ == k]) for k in range(run.num_clusters)]
    intent = np.array([each.argmax() for each in counts])
    purity = np.array([each.max() / each.sum() for each in counts])
    for floor in FLOORS:
        taxonomy = run.promote(
            f"{way} {floor}", min_stability=floor, skip_unstable=floor is not None
        )
        own = taxonomy.nodes["source_cluster_id"].to_pylist()
        nodes = np.array([int(cluster.removeprefix("cl_")) for cluster in own])
        joined = taxonomy.apply((list(ids[n:]), X[n:]), device="cpu")
        placed = joined.labels_ >= 0
        right = intent[nodes][joined.labels_] == held
        alone, where = _alone(taxonomy, X[n:])
        besides = alone & ~placed
        stability = taxonomy.nodes["stability"].to_numpy(zero_copy_only=False)
        told = ~np.isnan(stability)
        yield {
            "data": name,
            "way": way,
            "floor": floor,
            "nodes": len(nodes),
            "clusters": run.num_clusters,
            "without_history": int((~told).sum()),
            "placed": float(placed.mean()),
            "right": float(right[placed].mean()),
            "besides": float(besides.mean()),
            "right_besides": float((intent[nodes][where] == held)[besides].mean())
            if besides.any()
            else None,
            "stability_and_purity": float(
                spearmanr(stability[told], purity[nodes][told]).statistic
            ),
        }


def _alone(taxonomy: gpucluster.Taxonomy, X: Any) -> tuple[Any, Any]:
    """Return which rows reach a node, and which one, by cosine to the nodes alone."""
    centers = np.array(taxonomy.nodes["centroid_vector"].to_pylist())
    cosine = X @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T
    cosine /= np.linalg.norm(X, axis=1, keepdims=True)
    where = cosine.argmax(axis=1)
    reached = cosine.max(axis=1) >= taxonomy.nodes["threshold"].to_numpy()[where]
    return reached, where


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    folder = parser.parse_args().results
    warnings.simplefilter("ignore")
    rows = []
    for name in ("banking77", "clinc150"):
        for way in ("kmeans", "default"):
            with tempfile.TemporaryDirectory() as out:
                for row in measured(Texts.read(real_path(CASES[name])), name, way, Path(out)):
                    print(row)
                    rows.append(row)
    folder.mkdir(exist_ok=True)
    result = {
        "benchmark": "taxonomy",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.record(),
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    (folder / f"taxonomy-{datetime.now(UTC):%Y-%m-%d}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
