"""A small run, made of arrays, without a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from gpucluster.artifacts import schema
from gpucluster.artifacts.finishing import publish, write_files
from gpucluster.artifacts.manifest import Counts, Manifest
from gpucluster.artifacts.store import Store
from gpucluster.device.select import Decision
from gpucluster.events import StageRecord, Warned

N_CLUSTERS, N_FEATURES, N_REJECTED = 5, 8, 3
LABELS = np.random.default_rng(0).integers(-1, N_CLUSTERS, 200).astype(np.int32)
ROWS = np.delete(np.arange(len(LABELS) + N_REJECTED), [7, 11, 90])


def tables() -> dict[str, pa.Table]:
    rng = np.random.default_rng(1)
    ids = pa.array([f"doc-{row}" for row in ROWS])
    members = schema.members_table(
        ids,
        ROWS,
        LABELS,
        paths=schema.flat_paths(N_CLUSTERS),
        similarity=rng.random(len(LABELS), dtype=np.float32),
        nearest=np.where(LABELS < 0, 2, LABELS).astype(np.int32),
        nearest_similarity=rng.random(len(LABELS), dtype=np.float32),
        assigned_by=["fit"] * len(LABELS),
        probabilities=rng.random(len(LABELS), dtype=np.float32),
        coordinates=rng.random((len(LABELS), 2), dtype=np.float32),
    )
    centroids = schema.centroids_table(
        rng.random((N_CLUSTERS, N_FEATURES), dtype=np.float32),
        np.bincount(LABELS[LABELS >= 0]),
        paths=schema.flat_paths(N_CLUSTERS),
        mean_similarity=rng.random(N_CLUSTERS, dtype=np.float32),
        min_similarity=rng.random(N_CLUSTERS, dtype=np.float32),
        variance=rng.random(N_CLUSTERS, dtype=np.float32),
        medoid_ids=ids.slice(0, N_CLUSTERS),
        algorithm="kmeans",
        run_id="run_a",
    )
    rejected = schema.rejected_table(
        pa.table(
            {
                "reason": ["nan", "inf", "zero_norm"],
                "document_id": pa.array(["a", "b", None], pa.large_string()),
                "row": [7, 11, 90],
            }
        )
    )
    return {"members": members, "centroids": centroids, "rejected": rejected}


def model() -> dict[str, dict[str, object]]:
    matrix = np.arange(64, dtype=np.float64).reshape(8, 8)
    return {"0-whitening": {"settings": {"method": "whitening"}, "arrays": {"matrix": matrix}}}


def manifest(**changes: object) -> Manifest:
    now = datetime.now(UTC)
    fields = {
        "run_id": "run_a",
        "created_at": now,
        "completed_at": now,
        "gpucluster_version": "0.1.0",
        "versions": {"numpy": np.__version__},
        "definition": {"algorithm": {"name": "kmeans", "n_clusters": N_CLUSTERS}},
        "definition_sha256": "0" * 64,
        "data_sha256": "1" * 64,
        "random_state": 42,
        "source": {"paths": ["docs.parquet"]},
        "counts": Counts(
            num_rows=len(LABELS) + N_REJECTED,
            num_points=len(LABELS),
            num_rejected=N_REJECTED,
            num_clusters=N_CLUSTERS,
            num_noise=int((LABELS < 0).sum()),
        ),
        "metrics": {"silhouette_score": 0.25, "noise_ratio": None},
        "stages": (StageRecord("fit", "cpu", "sklearn", "local", "asked for", 1.5, 1000),),
        "warnings": (Warned("small", "few rows"),),
        "device": Decision("auto", "cpu", "cupy is not installed"),
        "reproducible": "exact",
    }
    return Manifest.model_validate(fields | changes)


def publish_whole(store: Store, draft: Manifest, tables: Mapping[str, pa.Table]) -> Manifest:
    """Write files and manifest as the pipeline does, under the lease that the caller holds."""
    if store.exists(f"{draft.run_id}/manifest.json"):
        published = Manifest.from_json(store.read_bytes(f"{draft.run_id}/manifest.json"), "")
        files = published.files
    else:
        origin = {"random_state": str(draft.random_state), "version": draft.gpucluster_version}
        files = write_files(store, draft.run_id, tables=tables, model=model(), provenance=origin)
    return publish(store, draft.model_copy(update={"files": files}))


def publish_small(store: Store, **changes: object) -> Manifest:
    """Publish the run under its lease."""
    draft = manifest(**changes)
    with store.lease(draft.run_id):
        return publish_whole(store, draft, tables())
