"""gpucluster turns embeddings into structure.

It reads documents and their vectors, prepares them, clusters them, measures the
result and leaves it on disk as a Run. Importing it is cheap: the numerical
libraries are loaded when they are first needed, a GPU is never touched.

>>> import gpucluster
>>> run = gpucluster.cluster("docs.parquet", algorithm="kmeans")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gpucluster.api import cluster, history, inspect, open_run, plan, sweep
    from gpucluster.definition import ClusterDefinition
    from gpucluster.enriched import enrich, undo_enrichment
    from gpucluster.errors import GpuclusterError
    from gpucluster.estimator import Clusterer
    from gpucluster.events import CancelToken
    from gpucluster.finished import Run, Taxonomy, assign, compare, estimate_labels, label
    from gpucluster.taxonomies import open_taxonomy, promote

_HOMES = {
    "CancelToken": "gpucluster.events",
    "ClusterDefinition": "gpucluster.definition",
    "Clusterer": "gpucluster.estimator",
    "GpuclusterError": "gpucluster.errors",
    "Run": "gpucluster.finished",
    "Taxonomy": "gpucluster.finished",
    "assign": "gpucluster.finished",
    "compare": "gpucluster.finished",
    "enrich": "gpucluster.enriched",
    "undo_enrichment": "gpucluster.enriched",
    "estimate_labels": "gpucluster.finished",
    "label": "gpucluster.finished",
    "cluster": "gpucluster.api",
    "history": "gpucluster.api",
    "inspect": "gpucluster.api",
    "open_run": "gpucluster.api",
    "plan": "gpucluster.api",
    "sweep": "gpucluster.api",
    "open_taxonomy": "gpucluster.taxonomies",
    "promote": "gpucluster.taxonomies",
}

__all__ = [
    "CancelToken",
    "ClusterDefinition",
    "Clusterer",
    "GpuclusterError",
    "Run",
    "Taxonomy",
    "assign",
    "cluster",
    "compare",
    "enrich",
    "estimate_labels",
    "history",
    "inspect",
    "label",
    "open_run",
    "open_taxonomy",
    "plan",
    "promote",
    "sweep",
    "undo_enrichment",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gpucluster' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
