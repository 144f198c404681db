"""What a definition says of its executions, as each of them ends.

The counts of a definition are those of its clustering: the latest full run. Runs by which documents
join it change none of them; how many joined stands beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gpucluster.service.catalog.port import Record


def after_execution(
    body: Mapping[str, Any], execution: Record, now: datetime, result: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the body of a definition once an execution is over.

    Parameters
    ----------
    body : mapping
        As it was.
    execution : Record
        As it ended.
    now : datetime
    result : mapping, optional
        What came of it; None where it failed.
    """
    noted = {**body, "last_executed_at": now.isoformat()}
    if body["live_run_id"] == execution.id:
        noted["live_run_id"] = None
    noted["num_executions"] += 1
    if result is None or execution.body.get("purpose") is not None:
        return noted
    noted |= {"last_run_id": execution.id, "completed_at": now.isoformat()}
    if execution.body["mode"] == "full":
        return noted | _clustering(body, execution, result)
    joined = _joined(body, execution)
    return noted if joined is None else noted | joined


def _clustering(
    body: Mapping[str, Any], execution: Record, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a full run makes of a definition."""
    features = result["features"] or {}
    is_learned = features.get("learned")
    metrics = dict(result["metrics"])
    stats = {
        "num_clusters": execution.body["num_clusters"],
        "noise_points": execution.body["num_noise"],
        "silhouette_score": metrics.pop("silhouette_score", None),
        "extra": metrics,
    }
    return {
        "cluster_stats": stats,
        "parquet_path": result["path"],
        "members_key": result["members_key"],
        "clustering_run_id": execution.id,
        "num_clusters": execution.body["num_clusters"],
        "num_documents_clustered": execution.body["num_points"],
        "num_documents_joined": 0,
        "joined_by": {},
        "execution_time_seconds": execution.body["execution_time_ms"] / 1000,
        "hierarchy_detected": result["hierarchy"] is not None,
        "llm_labeling_errors": result["llm_labeling_errors"],
        "algorithm": result["definition"]["vector_config"]["clustering_method"]
        or body["algorithm"],
        "learned_weights": features["feature_weights"] if is_learned else None,
        "learning_quality_score": features["learning_quality_score"] if is_learned else None,
    }


def _joined(body: Mapping[str, Any], execution: Record) -> dict[str, Any] | None:
    """Return how many documents have joined the clustering.

    A run takes in all documents that its base does not have, so it counts instead of the runs
    before it of the same base, and on top of those that moved that base's centroids. None where
    they joined an older clustering, or were all of them, those of the clustering too.
    """
    base, known = execution.body["base_run_id"], body.get("joined_by", {})
    is_older = base != body.get("clustering_run_id") and base not in known
    if is_older or execution.body["request"].get("scope") == "all":
        return None
    joined = known.get(base, 0) + execution.body["num_points"] - execution.body["num_noise"]
    moved = execution.body["mode"] == "update"
    return {
        "num_documents_joined": joined,
        "joined_by": {**known, execution.id: joined} if moved else known,
    }
