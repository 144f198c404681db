"""A finished run, as JSON and for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from gpucluster.cli.exits import PARTIAL
from gpucluster.cli.render import NONE, amount, gigabytes, number, share, shortened, table
from gpucluster.cli.voice import Voice, one_line
from gpucluster.errors import GpuclusterError

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.artifacts.labels import Labeling

N_CHILDREN = 3  # of each cluster that was divided, the largest
INDENT = "  "
READ_BYTES = 256 << 20  # of vectors that are read once more for the sake of texts: about a second

_RULES = {"cosine": "by cosine", "fit": "by the nearest mean"}
_WAYS = {
    "llm": "by the model",
    "keywords": "by keywords",
    "fallback": "standing in for a name",
    "attribute": "by attributes",
    "reused": "as in the run before",
    "merged": "under a larger one's label",
}
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
    counts = run.manifest.counts
    facts = [
        ("clusters", amount(counts.num_clusters)),
        ("noise", f"{amount(counts.num_noise)} ({share(counts.num_noise, counts.num_points)})"),
        ("rows", amount(counts.num_rows)),
        ("rejected", amount(counts.num_rejected) + _why_rejected(run)),
    ]
    granularity = (run.manifest.algorithm_info or {}).get("granularity")
    if granularity is not None:
        facts[1:1] = [("chosen", _granularity(granularity))]
    facts[1:1] = [
        ("conditioned", _ways(step)) for step in run.manifest.preparation if "tried" in step
    ]
    if run.manifest.hierarchy is not None:
        facts[1:1] = [("hierarchy", _hierarchy(run.manifest.hierarchy))]
    if run.manifest.base_run_id is not None:
        facts[:0] = list(_joined(run))
    if run.labeling is not None:
        facts.append(("named", _named(run.labeling)))
    if run.manifest.lineage is not None:
        facts.append(("lineage", _lineage(run.manifest.lineage)))
    if run.manifest.base_run_id is None and run.manifest.assignment is not None:
        facts.append(("assigning", _agreement(run.manifest.assignment)))
    metrics = measured(run.metrics) | {"should_recluster": _recluster(run)}
    parts = [_stages(run)] if verbose else []
    parts += [_clusters(run, n_clusters), table(facts), table(metrics.items())]
    if run.manifest.drift is not None:
        parts.append(f"beside the fit\n{table(_drift(run.manifest.drift))}")
    if run.external_metrics is not None:
        agreement = table(measured(run.external_metrics).items())
        parts.append(f"agreement with the truth\n{agreement}")
    parts.append(table([("seconds", f"{_seconds(run):.1f}"), ("files", str(run.path))]))
    return "\n\n".join(filter(None, parts))


def measured(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return metrics as they are shown, counts as whole numbers."""
    return {
        name: amount(value) if name.startswith("num_") and value is not None else number(value)
        for name, value in metrics.items()
    }


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


def _named(found: Labeling) -> str:
    """Say who named the clusters, how many, and what it cost."""
    counts = {
        name.removeprefix("num_"): count
        for name, count in found.counts.items()
        if name != "num_clusters" and count
    }
    ways = ", ".join(f"{amount(count)} {_WAYS.get(name, name)}" for name, count in counts.items())
    ways = ways or "there is no cluster"
    if found.usage is None:
        return ways
    usage: Any = found.usage
    cost = "" if usage["usd"] is None else f", {usage['usd']:.4f} USD"
    return f"{ways}; {found.model_name or found.provider}: {amount(usage['calls'])} calls{cost}"


def _joined(run: Run) -> Iterator[tuple[str, str]]:
    """Say whose clusters were joined, and how."""
    manifest = run.manifest
    how: Any = manifest.assignment
    moved = ", and moved them" if manifest.mode == "update" else ""
    threshold = how["threshold"]
    shown = "one for each cluster" if threshold == "auto" else number(threshold)
    yield "joined", f"the clusters of {manifest.base_run_id}{moved}"
    yield "threshold", f"{shown}; {_random_pairs(how)}"
    if how["scope"] == "new":
        yield "known", f"{amount(manifest.counts.num_known)} rows are in the base run, left out"


def _lineage(found: Any) -> str:
    """Say which run this one follows, and what became of its clusters."""
    from gpucluster.identity import KINDS

    counts = ", ".join(f"{amount(found[kind])} {kind}" for kind in KINDS)
    return f"{counts}, since {found['previous_run_id']} (by {found['matched_by']})"


def _agreement(how: Any) -> str:
    """Say how far the rule by which later rows are placed agrees with the fit."""
    agrees = how["agreement"]
    if agrees is None:
        return "there is no cluster to join"
    return (
        f"{_RULES[how['rule']]}: {100 * agrees:.1f} % of the members again; threshold 0.5 leaves "
        f"out {100 * how['0.5_rejects']:.0f} %, auto {100 * how['auto_rejects']:.0f} %"
    )


def _random_pairs(how: Any) -> str:
    pairs = how["random_pair_cosine"]
    return f"random pairs have a cosine of {number(pairs and pairs['mean'])}"


def _drift(found: Any) -> Iterator[tuple[str, str]]:
    """Say how far the rows are from those of the fit, beside what chance gives."""
    rise, fall = found["noise_ratio_rise"], found["mean_cosine_fall"]
    yield "rows", f"{100 * found['growth']:.0f} % more"
    yield "noise", f"{number(found['noise_ratio_base'])} then, {rise:+.3f}"
    if fall is not None:
        yield "cosine", f"{number(found['mean_cosine_base'])} then, {-fall:+.3f}"
    for name, key in (("shares", "share_divergence"), ("mean row", "mean_shift")):
        if found[key] is not None:
            apart = f"apart by {number(found[key])}"
            yield name, f"{apart}, {number(found[f'{key}_expected'])} by chance"
    if "centroid_shift" in found:
        way = "of half the way to the next one"
        yield "centroids", f"moved by up to {number(found['centroid_shift'])} {way}"
    for one in found["surged"][:N_CHILDREN]:
        shares = f"{100 * one['share_base']:.1f} % to {100 * one['share']:.1f} %"
        yield "surged", f"{one['cluster_id']}: {shares} of the rows"


def _hierarchy(found: Mapping[str, Any]) -> str:
    """Say how far the clusters were divided, and why not further."""
    why = ", ".join(
        f"{amount(n)} {one_line(reason)}" for reason, n in found["leaf_reasons"].items()
    )
    return (
        f"{amount(found['levels'])} levels, {amount(found['num_nodes'])} clusters, "
        f"{amount(found['num_leaves'])} not divided ({why or 'there is none'})"
    )


def _granularity(found: Any) -> str:
    """Say which size was taken, and why."""
    best = found["chosen"]
    return (
        f"min_cluster_size {amount(best['min_cluster_size'])} ({best['method']}), of "
        f"{amount(len(found['tried']))} ways: {100 * best['stability']:.0f} % of "
        f"it is found again in halves of the rows"
    )


def _ways(step: Any) -> str:
    """Say whether the rows were centred or whitened, and how stable clusters were each way."""
    scores = ", ".join(f"{way['step']} {way['score']:.2f}" for way in step["tried"])
    feature = f"{step['feature_uri']}: " if "feature_uri" in step else ""
    return f"{feature}{step['chosen']}; " + (
        f"scores: {scores}" if scores else "too few rows to try more"
    )


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


def _why_rejected(run: Run) -> str:
    reasons = sorted(set(run.rejected["reason"].to_pylist()))
    return f" ({', '.join(map(one_line, reasons))})" if reasons else ""


def _seconds(run: Run) -> float:
    """Return how long the attempt that finished the run took."""
    manifest = run.manifest
    return float((manifest.completed_at - manifest.created_at).total_seconds())
