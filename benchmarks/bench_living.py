"""Clusters that live: where later rows belong, when to cluster anew, a month of a collection.

``placing`` fits on half of the texts of most intents and assigns the others by either rule: how
often the fit's own rows go where they were, how often a new text goes to a cluster most of whose
members have its intent, and how well the similarity tells texts of unseen intents (area under the
curve), and what ``auto`` leaves out of both.

``flag`` fits on a part of the intents of clinc150 and assigns a later batch, with drift or without,
in 50 random scenarios; precision and recall are of the rules beside the fit, as they are by
default. ``month`` lets intents appear, grow, be told apart and vanish, assigns every batch,
clusters anew when the flag fires, and compares the lineage with what was done to the data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import numpy as np
from cases import CASES, real_path
from living import Month, Scenario, Texts, scenario

import gpucluster

HERE = Path(__file__).parent
WAYS: dict[str, dict[str, Any]] = {"kmeans": {"algorithm": "kmeans"}, "default": {}}
THRESHOLDS = (0.5, "auto")
PLACED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kmeans", ()),
    ("kmeans", ("whitening",)),
    ("default", ()),
)
FIRST_SEED = 1000  # the rules were looked at with others


def definition(way: str, n_intents: int) -> dict[str, Any]:
    """Return the definition of a way; k-means is told how many intents there are."""
    params = {"algorithm_params": {"n_clusters": n_intents}} if way == "kmeans" else {}
    return {**WAYS[way], **params}


def placing(texts: Texts, name: str, out: Path) -> list[dict[str, Any]]:
    """Return how well each rule places texts that the fit has not seen."""
    rng = np.random.default_rng(1)
    unseen = rng.choice(texts.names, len(texts.names) // 8, replace=False)
    half = rng.random(len(texts.ids)) < 0.5
    strange = np.isin(texts.intents, unseen)
    old, new = np.flatnonzero(half & ~strange), np.flatnonzero(~half | strange)
    rows = []
    for way, steps in PLACED:
        for rule in ("cosine", "fit"):
            asked = {**definition(way, len(texts.names) - len(unseen)), "assign_by": rule}
            if steps:
                asked["preprocessing_steps"] = [{"method": step} for step in steps]
            base = gpucluster.cluster(
                (list(texts.ids[old]), texts.X[old]), asked, out=out / name, device="cpu"
            )
            joined = base.assign(
                (list(texts.ids[new]), texts.X[new]), threshold=-1, scope="all", device="cpu"
            )
            auto = base.assign(
                (list(texts.ids[new]), texts.X[new]), threshold="auto", scope="all", device="cpu"
            )
            measured = _placed(texts, base, joined, old, new, strange[new])
            left_out = auto.labels_ < 0
            rows.append(
                {
                    "data": name,
                    "way": "+".join([way, *steps]),
                    "rule": rule,
                    "agreement": (base.manifest.assignment or {})["agreement"],
                    **measured,
                    "auto_leaves_out": [
                        float(left_out[~strange[new]].mean()),
                        float(left_out[strange[new]].mean()),
                    ],
                }
            )
    return rows


def _placed(
    texts: Texts, base: gpucluster.Run, joined: gpucluster.Run, old: Any, new: Any, strange: Any
) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    table = joined.members.select(["row", "nearest_cluster_similarity"]).to_pydict()
    similarity = np.array(table["nearest_cluster_similarity"])[np.argsort(table["row"])]
    majority = {
        cluster: Counter(texts.intents[old[base.labels_ == cluster]].tolist()).most_common(1)[0][0]
        for cluster in range(base.num_clusters)
    }
    right = [
        majority[label] == intent
        for label, intent in zip(joined.labels_, texts.intents[new], strict=True)
    ]
    return {
        "right": float(np.array(right)[~strange].mean()),
        "auc_unseen": float(roc_auc_score(strange, -similarity)),
    }


def flag(texts: Texts, n_scenarios: int, out: Path) -> list[dict[str, Any]]:
    """Return what each scenario gave, for each way to cluster and each threshold."""
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + n_scenarios):
        made = scenario(texts, seed)
        for way in WAYS:
            base = gpucluster.cluster(
                (list(texts.ids[made.base]), texts.X[made.base]),
                definition(way, made.n_intents),
                out=out / f"{way}-{seed}",
                device="cpu",
            )
            found += [{"seed": seed, "way": way, **_flagged(base, made, t)} for t in THRESHOLDS]
    return found


def _flagged(base: gpucluster.Run, made: Scenario, threshold: Any) -> dict[str, Any]:
    names = [f"new-{row}" for row in made.new]
    run = base.assign((names, made.vectors), threshold=threshold, device="cpu")
    drift = run.manifest.drift or {}
    kept = ("share_divergence", "share_divergence_expected", "noise_ratio_rise")
    return {
        "kind": made.kind,
        "strength": made.strength,
        "threshold": threshold,
        "n_new": len(made.new),
        "fired": [reason["metric"] for reason in run.manifest.recluster_reasons],
        **{name: drift[name] for name in (*kept, "mean_cosine_fall", "mean_shift")},
    }


def scores(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return precision and recall of the flag, for each way and threshold."""
    rows = []
    for way in WAYS:
        for threshold in THRESHOLDS:
            own = [one for one in found if (one["way"], one["threshold"]) == (way, threshold)]
            drifted = [one for one in own if one["kind"] != "none"]
            fired = [one for one in own if one["fired"]]
            right = [one for one in fired if one["kind"] != "none"]
            by_kind = Counter(one["kind"] for one in right)
            rows.append(
                {
                    "way": way,
                    "threshold": threshold,
                    "scenarios": len(own),
                    "drifted": len(drifted),
                    "precision": len(right) / len(fired) if fired else None,
                    "recall": len(right) / len(drifted),
                    "found": dict(sorted(by_kind.items())),
                    "missed": [
                        f"{one['kind']} {one['strength']:.2f} of {one['n_new']}"
                        for one in drifted
                        if not one["fired"]
                    ],
                    "wrong": [one["fired"] for one in fired if one["kind"] == "none"],
                    "by": dict(Counter(metric for one in right for metric in one["fired"])),
                }
            )
    return rows


def month(texts: Texts, way: str, out: Path, threshold: Any = "auto") -> dict[str, Any]:
    """Live through a month; return its days, and what became of each intent."""
    plan = Month(texts)
    asked = {**definition(way, len(plan.first)), "cluster_name": "month"}

    def data(rows: list[int]) -> tuple[list[str], Any]:
        return list(texts.ids[rows]), texts.X[rows]

    run = gpucluster.cluster(data(plan.alive), asked, out=out, device="cpu")
    days: list[dict[str, Any]] = [
        {"batch": 0, "rows": len(plan.alive), "clusters": run.num_clusters}
    ]
    fitted = list(plan.alive)
    for number in range(1, plan.n_batches + 1):
        rows = plan.batch(number)
        plan.alive += rows
        since = [row for row in plan.alive if row not in set(fitted)]
        joined = gpucluster.assign(data(since), run=run, threshold=threshold, device="cpu")
        drift = joined.manifest.drift or {}
        day = {
            "batch": number,
            "rows": len(rows),
            "done": plan.events.get(number),
            "noise": joined.metrics["noise_ratio"],
            "divergence": drift["share_divergence"],
            "by_chance": drift["share_divergence_expected"],
            "growth": drift["growth"],
            "fired": [reason["metric"] for reason in joined.manifest.recluster_reasons],
        }
        # documents that are gone are in no batch: nothing that is assigned can tell
        day["forced"] = bool(plan.gone(number)) and number == min(
            other for other in plan.events if plan.gone(other)
        )
        if joined.metrics["should_recluster"] or day["forced"]:
            before = run
            if way == "kmeans":
                intents = len(set(texts.intents[plan.alive]))
                asked["algorithm_params"] = {"n_clusters": intents}
            run = gpucluster.cluster(data(plan.alive), asked, out=out, device="cpu")
            fitted = list(plan.alive)
            day |= {"clusters": run.num_clusters, **_lineage(texts, before, run)}
        days.append(day)
    return {"way": way, "events": plan.events, "days": days}


def _lineage(texts: Texts, before: gpucluster.Run, run: gpucluster.Run) -> dict[str, Any]:
    """Return what became of the clusters, in the intents that most of their texts have."""
    of = dict(zip(texts.ids.tolist(), texts.intents.tolist(), strict=True))
    names = [_intents(each, of) for each in (before, run)]
    told: dict[str, list[str]] = {}
    lineage = run.lineage
    for link in [] if lineage is None else lineage.to_pylist():
        if link["kind"] != "survived":
            old = names[0].get(link["previous_cluster_id"])
            new = names[1].get(link["cluster_id"])
            told.setdefault(link["kind"], []).append(f"{old or '-'} > {new or '-'}")
    return {
        "lineage": {
            kind: (run.manifest.lineage or {})[kind]
            for kind in ("survived", "split", "merged", "born", "died")
        },
        "links": told,
        "same_intent_same_id": _stability(before, run, names),
    }


def _intents(run: gpucluster.Run, of: dict[str, str]) -> dict[str, str]:
    """Return the intent that most members of each cluster have."""
    members: dict[str, Counter[str]] = {}
    table = run.members.select(["document_id", "cluster_id"]).to_pydict()
    for document, cluster in zip(*table.values(), strict=True):
        members.setdefault(cluster, Counter())[of[document]] += 1
    return {cluster: counts.most_common(1)[0][0] for cluster, counts in members.items()}


def _stability(before: gpucluster.Run, run: gpucluster.Run, names: Any) -> float:
    """Return how many of the intents that are one cluster in both runs kept its stable id."""
    ids = []
    for each, intents in zip((before, run), names, strict=True):
        table = each.centroids.select(["cluster_id", "stable_id"]).to_pydict()
        once = Counter(intents[cluster] for cluster in table["cluster_id"])
        ids.append(
            {
                intents[cluster]: stable
                for cluster, stable in zip(*table.values(), strict=True)
                if once[intents[cluster]] == 1
            }
        )
    both = ids[0].keys() & ids[1].keys()
    return sum(ids[0][name] == ids[1][name] for name in both) / max(1, len(both))


def show(result: dict[str, Any]) -> None:
    """Print what was found."""
    for row in result["placing"]:
        seen, unseen = row["auto_leaves_out"]
        print(
            f"placing {row['data']:10} {row['way']:17} {row['rule']:6} {row['agreement']:.4f} agree"
            f"  right {row['right']:.3f}  AUC {row['auc_unseen']:.3f}"
            f"  auto leaves out {seen:.3f} seen, {unseen:.3f} unseen"
        )
    for row in result["flag"]:
        print(
            f"flag  {row['way']:8} threshold {row['threshold']!s:5} {row['scenarios']} scenarios, "
            f"{row['drifted']} drifted: precision {row['precision']}, recall {row['recall']:.2f}; "
            f"found {row['found']}, by {row['by']}, missed {row['missed']}, wrong {row['wrong']}"
        )
    for lived in result["month"]:
        print(f"\nmonth, {lived['way']}")
        for day in lived["days"]:
            _show_day(day)


def _show_day(day: dict[str, Any]) -> None:
    known = [name for name in ("noise", "divergence", "growth") if name in day]
    numbers = " ".join(f"{name} {day[name]:.3f}" for name in known)
    fired = f"FLAG {', '.join(day['fired'])}" if day.get("fired") else ""
    print(f"  batch {day['batch']:2} {day['rows']:5} rows  {numbers}  {fired}")
    if day.get("done"):
        print(f"      done: {day['done']}")
    if "lineage" in day:
        asked = " (no rule fired)" if day["forced"] else ""
        print(f"      clustered anew{asked}: {day['clusters']} clusters, {day['lineage']}")
        for kind, links in day["links"].items():
            print(f"        {kind}: {'; '.join(links[:8])}")
        kept = day["same_intent_same_id"]
        print(f"        intents with one cluster that kept its id: {kept:.3f}")


def main() -> None:
    """Run both, print them, and keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenarios", type=int, default=50)
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    texts = Texts.read(real_path(CASES["clinc150"]))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        placed = placing(texts, "clinc150", Path(scratch, "placing"))
        banking = Texts.read(real_path(CASES["banking77"]))
        placed += placing(banking, "banking77", Path(scratch, "placing"))
        found = flag(texts, chosen.scenarios, Path(scratch))
        lived = [month(texts, way, Path(scratch, "month", way)) for way in WAYS]
    result = {
        "benchmark": "living",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.record(),
        "seconds": round(time.monotonic() - begun, 1),
        "placing": placed,
        "flag": scores(found),
        "month": lived,
        "scenarios": found,
    }
    show(result)
    chosen.results.mkdir(parents=True, exist_ok=True)
    name = f"living-{datetime.now(UTC):%Y-%m-%d}.json"
    text = json.dumps(result, indent=1, default=lambda value: np.asarray(value).item())
    (chosen.results / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
