"""Names as they are published: the table, and what is said of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from gpucluster.artifacts.labels import LABELS, SOURCES
from gpucluster.naming.names import Naming


def counts(naming: Naming) -> dict[str, int]:
    """Return how many clusters got their name which way."""
    named = list(naming.named.values())
    by_source = Counter(one.source for one in named if one.reused_from is None)
    return {
        "num_clusters": len(named),
        **{f"num_{source}": by_source[source] for source in SOURCES},
        "num_reused": sum(one.reused_from is not None for one in named),
        "num_merged": sum(one.merged_from is not None for one in named),
    }


def errors(naming: Naming) -> Iterator[str]:
    """Yield each problem with the clusters that it left without a name."""
    clusters: dict[str, list[str]] = {}
    for node in sorted(naming.problems):
        clusters.setdefault(naming.problems[node], []).append(naming.evidence.names[node])
    for problem, names in clusters.items():
        yield json.dumps({"error": problem, "clusters": names})


def table(naming: Naming) -> pa.Table:
    """Return the names, `LABELS`."""
    ordered = [naming.named[node] for node in range(len(naming.evidence.names))]
    return pa.table(
        {
            "cluster_id": naming.evidence.names,
            "cluster_index": list(range(len(ordered))),
            "label": [one.label for one in ordered],
            "summary": [one.summary for one in ordered],
            "keywords": [None if one.keywords is None else list(one.keywords) for one in ordered],
            "label_source": [one.source for one in ordered],
            "label_confidence": [one.confidence for one in ordered],
            "label_merged_from": [one.merged_from for one in ordered],
            "label_reused_from": [one.reused_from for one in ordered],
            "label_fields": [one.fields for one in ordered],
        },
        schema=LABELS,
    )
