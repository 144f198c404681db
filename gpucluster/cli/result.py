"""A finished run, as JSON and for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from gpucluster.cli.exits import PARTIAL
from gpucluster.cli.render import NONE, amount, gigabytes, share, shortened, table
from gpucluster.cli.voice import Voice
from gpucluster.errors import GpuclusterError
from gpucluster.report.facts import about, drift, measured
from gpucluster.report.numbers import one_line

if TYPE_CHECKING:
    from gpucluster.artifacts import Run

N_CHILDREN = 3  # of each cluster that was divided, the largest
INDENT = "  "
READ_BYTES = 256 << 20  # of vectors that are read once more for the sake of texts: about a second

_AS_WRITTEN = (
    "mode",
    "base_run_id",
    "metrics",
    "external_metrics",
    "hierarchy",
    "assignment",
    "drift",
    "lineage",
    "recluster_reasons",
    "not_evaluated",
    "not_run",
    "warnings",
    "stages",
    "device",
    "reproducible",
    "definition",
)

# of each cluster
_LISTED = (
    *("cluster_id", "stable_id", "num_members", "label", "summary", "keywords"),
    *("label_source", "label_confidence"),
)


def show_run(voice: Voice, run: Run, n_clusters: int) -> None:
    """Write a run, with the `n_clusters` largest clusters."""
    voice.answer(_record(run, n_clusters), lambda: _text(run, n_clusters, verbose=voice.verbose))


def _record(run: Run, n_clusters: int) -> dict[str, Any]:
    manifest = run.manifest.model_dump(mode="json")
    known = run.centroids.column_names
    listed = run.centroids.select([name for name in _LISTED if name in known])
    largest = listed.sort_by([("num_members", "descending")])
    return {
        "run_id": run.run_id,
        "path": str(run.path),
        **manifest["counts"],
        **{name: manifest[name] for name in _AS_WRITTEN},
        "labeling": None if run.labeling is None else run.labeling.model_dump(mode="json"),
        "clusters": largest.slice(0, n_clusters).to_pylist(),
        "seconds": _seconds(run),
    }


def _text(run: Run, n_clusters: int, *, verbose: bool) -> str:
    metrics = measured(run.metrics) | {"should_recluster": _recluster(run)}
    parts = [_stages(run)] if verbose else []
    parts += [_clusters(run, n_clusters), table(about(run)), table(metrics.items())]
    if run.manifest.drift is not None:
        parts.append(f"beside the fit\n{table(drift(run.manifest.drift))}")
    if run.external_metrics is not None:
        agreement = table(measured(run.external_metrics).items())
        parts.append(f"agreement with the truth\n{agreement}")
    parts.append(table([("seconds", f"{_seconds(run):.1f}"), ("files", str(run.path))]))
    return "\n\n".join(filter(None, parts))


def leave_partial(voice: Voice, run: Run) -> None:
    """End with an exit code of its own where clusters have no name, or not one of the model's."""
    if run.labeling is None:
        raise click.exceptions.Exit(PARTIAL)
    errors = run.labeling.llm_labeling_errors
    for text in errors:
        problem = json.loads(text)
        count = len(problem["clusters"])
        voice.warn(f"{amount(count)} clusters got no name of the model: {problem['error']}")
    if errors:
        raise click.exceptions.Exit(PARTIAL)


def _clusters(run: Run, n_clusters: int) -> str:
    """Return the largest clusters as a table, what they were divided into below them."""
    columns = ["cluster_id", "label", "num_members", "mean_cosine_similarity", "medoid_document_id"]
    columns += ["child_cluster_ids", "hierarchy_level"]
    centroids = run.centroids
    columns += [name for name in ("label_confidence",) if name in centroids.column_names]
    nodes = {node["cluster_id"]: node for node in centroids.select(columns).to_pylist()}
    # they come first; the noise policy may have changed their order by size
    roots = sorted(list(nodes)[: run.num_clusters], key=lambda name: -nodes[name]["num_members"])
    roots = roots[:n_clusters]
    found = list(_tree(nodes, roots))
    if not found:
        return ""
    texts = example_texts(run, [node["medoid_document_id"] for node in found])
    total = run.manifest.counts.num_points
    if run.manifest.mode == "update":  # clusters hold the members of before, too
        total = sum(node["num_members"] for node in nodes.values() if not node["hierarchy_level"])
    named = any(node["label"] for node in found)
    tested = any(node.get("label_confidence") is not None for node in found)
    sure, name = ["sure"][:tested], ["name"][:named]
    rows = [("cluster", "members", "share", "cosine", *sure, *name, "example")]
    for cluster in found:
        medoid, cosine = str(cluster["medoid_document_id"]), cluster["mean_cosine_similarity"]
        confidence = cluster.get("label_confidence")
        rows.append(
            (
                INDENT * cluster["hierarchy_level"] + cluster["cluster_id"],
                amount(cluster["num_members"]),
                share(cluster["num_members"], total),
                NONE if cosine is None else f"{cosine:.2f}",  # nobody joined it
                *[NONE if confidence is None else f"{confidence:.1f}"][:tested],
                *[shortened(cluster["label"] or NONE)][:named],
                shortened(texts.get(medoid, medoid)),
            )
        )
    rest = run.num_clusters - len(roots)
    return table(rows, right=(1, 2, 3, 4)[: 3 + tested]) + (
        f"\nand {amount(rest)} more" if rest > 0 else ""
    )


def _tree(nodes: Mapping[str, Any], ids: list[str]) -> Iterator[Any]:
    """Yield nodes, each followed by the largest of those it was divided into."""
    for cluster_id in ids:
        yield nodes[cluster_id]
        yield from _tree(nodes, nodes[cluster_id]["child_cluster_ids"][:N_CHILDREN])


def example_texts(run: Run, medoids: list[str]) -> Mapping[str, str]:
    """Return the texts of the documents `medoids` by id, as far as they can be read quickly."""
    from gpucluster.sources import read_texts

    try:
        return read_texts(run.manifest.source, medoids, READ_BYTES)
    except GpuclusterError:  # the input is gone, or another one by now: the ids are shown
        return {}


def _stages(run: Run) -> str:
    """Return where each stage ran, how long it took, and why there."""
    rows = [("stage", "device", "backend", "executor", "method", "seconds", "memory", "why")]
    rows += [
        (
            stage.name,
            stage.device,
            stage.backend,
            stage.executor,
            stage.method,
            f"{stage.seconds:.1f}",
            gigabytes(stage.peak_bytes),
            "finished before, reused" if stage.reused else one_line(stage.reason),
        )
        for stage in run.manifest.stages
    ]
    return table(rows, right=(5, 6))


def _recluster(run: Run) -> str:
    """Say whether the result should be redone, and why, in words."""
    from gpucluster.report.reasons import in_words

    reasons = [in_words(reason) for reason in run.manifest.recluster_reasons]
    return f"yes: {'; '.join(reasons)}" if reasons else "no"


def _seconds(run: Run) -> float:
    """Return how long the attempt that finished the run took."""
    manifest = run.manifest
    return float((manifest.completed_at - manifest.created_at).total_seconds())
