"""What a job can be: verbs of the engine, called with JSON values.

A verb returns what the service keeps of its result, as JSON values; the rest lies in the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from gpucluster.artifacts.run import Run
from gpucluster.events import CancelToken, Observer

Verb: TypeAlias = Callable[[Mapping[str, Any], Observer, CancelToken], dict[str, Any]]


def cluster(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Cluster collections; `args` are those of `gpucluster.cluster`."""
    import gpucluster

    return describe(gpucluster.cluster(**args, observer=observer, cancel=cancel))


def assign(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Let documents join the clusters of a run; `args` are those of `gpucluster.assign`."""
    import gpucluster

    return describe(gpucluster.assign(**args, observer=observer, cancel=cancel))


def enrich(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Write what a run knows into collections; `args` are those of `jobs.enriching.enrich`."""
    from gpucluster.service.jobs.enriching import enrich

    return enrich(args, observer, cancel)


def promote(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Make clusters the nodes of a taxonomy; `args` are those of `gpucluster.promote`."""
    import gpucluster

    return gpucluster.promote(**args, observer=observer, cancel=cancel).to_json()


def classify(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Let documents join a taxonomy; `args` are those of `Taxonomy.apply` and where it lies."""
    import gpucluster

    own = dict(args)
    taxonomy = gpucluster.open_taxonomy(own.pop("taxonomy"), version=own.pop("version"))
    run = taxonomy.apply(**own, observer=observer, cancel=cancel)
    is_named = any(label is not None for label in run.centroids["label"].to_pylist())
    return {**describe(run), "is_named": is_named}


def import_(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Make a collection of documents that are elsewhere; `args` are those of `jobs.importing`."""
    from gpucluster.service.jobs.importing import import_documents

    return import_documents(args, observer, cancel)


def write_back(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Write columns to where documents came from; `args` are those of `jobs.writing_back`."""
    from gpucluster.service.jobs.writing_back import write_back

    return write_back(args, observer, cancel)


VERBS: dict[str, Verb] = {
    "cluster": cluster,
    "assign": assign,
    "enrich": enrich,
    "promote": promote,
    "classify": classify,
    "import": import_,
    "write_back": write_back,
}


def describe(run: Run) -> dict[str, Any]:
    """Return what the service keeps of a run."""
    manifest = json.loads(run.manifest.model_dump_json())
    seconds = sum(stage["seconds"] for stage in manifest["stages"])
    labeling, members = run.labeling, run.files_of("members")
    return {
        "run_id": run.run_id,
        "path": str(run.path),
        "members_key": str(run.path / members[0]) if len(members) == 1 else None,
        "mode": manifest["mode"],
        "base_run_id": manifest["base_run_id"],
        "definition": manifest["definition"],
        "counts": manifest["counts"],
        "metrics": manifest["metrics"],
        "recluster_reasons": manifest["recluster_reasons"],
        "not_evaluated": manifest["not_evaluated"],
        "drift": manifest["drift"],
        "hierarchy": manifest["hierarchy"],
        "features": manifest["features"],
        "lineage": manifest["lineage"],
        "device": manifest["device"]["device"],
        "warnings": [warned["message"] for warned in manifest["warnings"]],
        "seconds": seconds,
        "labels": None if labeling is None else [n for n in _names(run) if n is not None],
        "llm_labeling_errors": None if labeling is None else list(labeling.llm_labeling_errors),
        "related": [other["run_id"] for other in manifest["related"]],
    }


def _names(run: Run) -> list[str | None]:
    names: list[str | None] = run.centroids["label"].to_pylist()
    return names[:1000]  # what a search looks in
