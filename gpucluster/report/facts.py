"""What is known of a run beside its clusters and metrics, each in a line of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpucluster.report.numbers import amount, number, one_line, share

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.artifacts.labels import Labeling

Fact = tuple[str, str]  # its name, and what is so

N_SURGED = 3  # clusters that grew most

_RULES = {"cosine": "by cosine", "fit": "by the nearest mean"}
_WAYS = {
    "llm": "by the model",
    "keywords": "by keywords",
    "fallback": "standing in for a name",
    "attribute": "by attributes",
    "reused": "as in the run before",
    "merged": "under a larger one's label",
}


def about(run: Run) -> list[Fact]:
    """Return how many rows and clusters there are, and how they came to be."""
    manifest, counts = run.manifest, run.manifest.counts
    facts = list(_joined(run)) if manifest.base_run_id is not None else []
    facts.append(("clusters", amount(counts.num_clusters)))
    if manifest.hierarchy is not None:
        facts.append(("hierarchy", _hierarchy(manifest.hierarchy)))
    facts += [("conditioned", _ways(step)) for step in manifest.preparation if "tried" in step]
    granularity = (manifest.algorithm_info or {}).get("granularity")
    if granularity is not None:
        facts.append(("chosen", _granularity(granularity)))
    noise = f"{amount(counts.num_noise)} ({share(counts.num_noise, counts.num_points)})"
    facts += [("noise", noise), ("rows", amount(counts.num_rows))]
    facts.append(("rejected", amount(counts.num_rejected) + _why_rejected(run)))
    if run.labeling is not None:
        facts.append(("named", _named(run.labeling)))
    if manifest.lineage is not None:
        facts.append(("lineage", _lineage(manifest.lineage)))
    if manifest.base_run_id is None and manifest.assignment is not None:
        facts.append(("assigning", _agreement(manifest.assignment)))
    return facts


def measured(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return metrics as they are shown, counts as whole numbers."""
    return {
        name: amount(value) if name.startswith("num_") and value is not None else number(value)
        for name, value in metrics.items()
    }


def drift(found: Any) -> Iterator[Fact]:
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
    for one in found["surged"][:N_SURGED]:
        shares = f"{100 * one['share_base']:.1f} % to {100 * one['share']:.1f} %"
        yield "surged", f"{one['cluster_id']}: {shares} of the rows"


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


def _joined(run: Run) -> Iterator[Fact]:
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


def _why_rejected(run: Run) -> str:
    reasons = sorted(run.rejected["reason"].unique().to_pylist())
    return f" ({', '.join(map(one_line, reasons))})" if reasons else ""
