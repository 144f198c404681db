"""What a report says of a run, as JSON values: all that is no point and no document."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.errors import GpuclusterError
from gpucluster.report.facts import about, drift
from gpucluster.report.numbers import amount, one_line
from gpucluster.report.quality import explained
from gpucluster.report.reasons import in_words
from gpucluster.report.run_flow import flow_since

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.types import Vector

N_BINS = 40
MOST_LINKS = 2_000  # of the lineage
MOST_NAMES = 2  # of files, in the head
MOST_PATHS = 8  # in the command that repeats a run
DIGITS = 4  # of what is measured of each cluster

_OF_CLUSTER = (
    *("cluster_id", "stable_id", "num_members", "mean_cosine_similarity", "min_cosine_similarity"),
    *("parent_cluster_id", "child_cluster_ids", "hierarchy_level", "label", "summary", "keywords"),
)
_OF_STAGE = (
    *("name", "device", "backend", "executor", "method", "storage", "seconds", "planned_seconds"),
    *("peak_bytes", "planned_bytes", "reason", "reused"),
)
_OF_LINK = (
    *("kind", "previous_cluster_id", "cluster_id", "num_shared"),
    *("share_of_previous", "share_of_current"),
)


def name_of(run: Run) -> str:
    """Return what a run is called: by its definition, its only file, or its id."""
    names = {PurePosixPath(path).stem for path in run.manifest.paths}
    only = one_line(names.pop()) if len(names) == 1 else run.run_id
    return str(run.manifest.definition.get("cluster_name") or only)


def describe(run: Run, similarity: Vector) -> dict[str, Any]:
    """Return what is known of a run, but for its clusters and documents.

    Parameters
    ----------
    run : Run
    similarity : ndarray of shape (n_members,), float32
        Of all members to their own centroid; NaN for noise.
    """
    manifest = run.manifest.model_dump(mode="json")
    return {
        "run_id": run.run_id,
        "name": name_of(run),
        "input": _input(run),
        "method": _method(run),
        "description": manifest["definition"].get("description"),
        **{name: manifest[name] for name in ("base_run_id", "counts", "created_at")},
        **{name: manifest[name] for name in ("completed_at", "not_evaluated", "not_run")},
        **{name: manifest[name] for name in ("definition", "versions")},
        "gpucluster_version": manifest["gpucluster_version"],
        "device": manifest["device"],
        "facts": about(run),
        "warnings": _warnings(run),
        "metrics": explained(run.metrics),
        "external_metrics": explained(run.external_metrics or {}),
        "reasons": [in_words(reason) for reason in run.manifest.recluster_reasons],
        "drift": [] if run.manifest.drift is None else list(drift(run.manifest.drift)),
        "similarity": _histogram(similarity),
        "rejected": _rejected(run),
        "stages": [{name: stage[name] for name in _OF_STAGE} for stage in manifest["stages"]],
        "lineage": _lineage(run),
        "related": list(_related(run)),
        "command": _command(run),
        "files": [
            {"name": name, "bytes": entry["bytes"], "rows": entry["rows"]}
            for name, entry in manifest["files"].items()
        ],
    }


def clusters(run: Run) -> list[dict[str, Any]]:
    """Return the clusters in the order of the centroids, each without what it has not."""
    table = run.centroids
    names = [name for name in _OF_CLUSTER if name in table.column_names]
    return [
        {
            name: round(value, DIGITS) if isinstance(value, float) else value
            for name, value in row.items()
            if value is not None and value != []
        }
        for row in table.select(names).to_pylist()
    ]


def _warnings(run: Run) -> list[str]:
    """Return what the run warned of, and its naming."""
    found = [warned.message for warned in run.manifest.warnings]
    if run.labeling is not None:
        found += run.labeling.warnings
        if without := len(run.labeling.not_named):
            found.append(f"{amount(without)} clusters got no name of the model")
    return found


def _histogram(values: Vector) -> dict[str, Any] | None:
    """Return how many values lie in each of `N_BINS` equal parts of their range; equal ones in one.

    In float64: float32 has too few numbers for the edges where all are nearly 1.
    """
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return None
    low, high = float(known.min()), float(known.max())
    counts, _ = np.histogram(known, N_BINS if low < high else 1)
    return {"counts": counts.tolist(), "low": low, "high": high}


def _rejected(run: Run) -> dict[str, int]:
    """Return how many rows could not be clustered, by reason."""
    table = run.rejected.group_by("reason").aggregate([("row", "count")])
    return dict(zip(table["reason"].to_pylist(), table["row_count"].to_pylist(), strict=True))


def _lineage(run: Run) -> dict[str, Any] | None:
    """Return what became of the clusters of the run before, those that changed first."""
    found: Any = run.manifest.lineage
    if found is None:
        return None
    from gpucluster.identity import KINDS

    table = run.lineage
    links = [] if table is None else table.to_pylist()
    links = [link for link in links if link["hierarchy_level"] == 0]
    links.sort(key=lambda link: (link["kind"] == "survived", -link["num_shared"]))
    names, flow = _since(run, str(found["previous_run_id"]))
    return {
        "previous_run_id": found["previous_run_id"],
        "matched_by": found["matched_by"],
        "counts": {kind: found[kind] for kind in KINDS},
        "num_links": len(links),
        "links": [
            {name: link[name] for name in _OF_LINK if link[name] is not None}
            | {"previous_name": names.get(link["previous_cluster_id"])}
            for link in links[:MOST_LINKS]
        ],
        "flow": flow,
    }


def _since(run: Run, run_id: str) -> tuple[Mapping[str | None, str], dict[str, Any] | None]:
    """Return the names of the clusters before and the flow from them, where that run is beside."""
    try:
        before = type(run).if_finished(run.path.parent / run_id)
        if before is None:
            return {}, None
        labels = before.cluster_labels
        names: dict[str | None, str] = {name: label for name, label in labels.items() if label}
        return names, flow_since(before, run)
    except GpuclusterError:  # damaged since: its clusters have ids, too
        return {}, None


def _related(run: Run) -> Iterator[str]:
    """Yield the runs of other features of these documents, and how their clusters lie in ours."""
    for each in run.manifest.related:
        other: Any = each
        inside, around = len(other["inside_ours"]), len(other["around_ours"])
        yield (
            f"{other['feature_uri']}: {other['run_id']}; {amount(inside)} of its clusters lie "
            f"inside one of ours, {amount(around)} hold one of ours"
        )


def _input(run: Run) -> str:
    """Return the names of a run's files; of many the first ones."""
    names = list(dict.fromkeys(one_line(PurePosixPath(path).name) for path in run.manifest.paths))
    more = len(names) - MOST_NAMES
    shown = ", ".join(names[:MOST_NAMES]) or "data in memory"
    return f"{shown} and {amount(more)} more" if more > 0 else shown


def _method(run: Run) -> str | None:
    """Return how the rows came to their clusters; None where they joined those of another run."""
    definition: Any = run.manifest.definition
    if run.manifest.base_run_id is not None:
        return None
    if definition.get("cluster_type") == "attribute":
        return f"by {', '.join(definition['attribute_config']['attributes'])}"
    config = definition.get("vector_config") or {}
    on = f" on {', '.join(config['feature_uris'])}" if config.get("feature_uris") else ""
    return f"{config['clustering_method']}{on}" if config else None


def _command(run: Run) -> str:
    """Return the command that repeats a run, or one line of Python for data in memory."""
    manifest = run.manifest
    paths = run.manifest.paths
    how: Any = manifest.assignment
    if not paths:
        if manifest.base_run_id is not None:
            return f"gpucluster.assign(data, run={manifest.base_run_id!r})"
        return 'gpucluster.cluster(data, "definition.json")'
    shown = list(_short(paths))
    threshold = ["--threshold", str(how["threshold"])] if how and "threshold" in how else []
    if manifest.taxonomy is not None:
        name, version = (str(manifest.taxonomy[key]) for key in ("taxonomy_id", "version"))
        words = ["classify", *shown, "--taxonomy", name, "--version", version, *threshold]
        return shlex.join(["gpucluster", *words])
    if manifest.base_run_id is not None:
        words = ["assign", *shown, "--run", manifest.base_run_id, *threshold]
        return shlex.join(["gpucluster", *words] + ["--update"] * (manifest.mode == "update"))
    flags: list[str] = []
    roles = ["id", "vector", "text", "truth"]
    if manifest.source.get("blocks"):  # each feature URI names its column
        roles.remove("vector")
    for role in roles:
        names = {(part.get("columns") or {}).get(role) for part in run.manifest.parts}
        if len(names) == 1 and None not in names:  # else some part has no such column
            flags += [f"--{role}-column", str(*names)]
    return shlex.join(["gpucluster", "run", *shown, "--config", "definition.json", *flags])


def _short(paths: list[str]) -> Iterator[str]:
    """Yield paths; of many in one folder, that."""
    folders = {str(PurePosixPath(path).parent) for path in paths}
    if len(paths) > MOST_PATHS and len(folders) == 1 and "://" not in paths[0]:
        yield one_line(folders.pop())
    else:
        yield from map(one_line, paths)
