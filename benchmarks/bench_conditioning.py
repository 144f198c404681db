"""Whether the default decides rightly about centring and whitening, beside each way by itself.

The choice of the default is in its stages' manifest; ``chose`` says it here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import Session, Subject, call, options

COLUMNS = ("clusters", "noise", "ami", "ari", "purity", "seconds")
SETS = ("digits", "banking77", "clinc150", "tail_20k", "loose_20k")
STYLED = ("digits_styled", "banking77_styled", "clinc150_styled", "banking77_scaled")
CHAINS: dict[str, list[dict[str, Any]] | None] = {
    "default": None,
    "none": [],
    "center": [{"method": "center"}],
    "whitening relative:1": [{"method": "whitening", "regularization": "relative:1.0"}],
    "whitening relative:0.1": [
        {"method": "whitening", "regularization": "relative:0.1", "force": True}
    ],
}


def run(out: Path, data: str, seed: str, before: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Cluster as the default does, with what is named before UMAP instead of its own choice."""
    import gpucluster

    plan = gpucluster.plan(data).definition.vector_config
    steps = [step.model_dump() for step in plan.preprocessing_steps or ()]
    if before is not None:
        steps = [*before, steps[-1]]
    for step in steps:
        step.pop("random_state", None)
    found = gpucluster.cluster(
        data,
        algorithm=plan.clustering_method,
        algorithm_params={"min_cluster_size": "auto", "cluster_selection_method": "auto"},
        noise_policy=plan.noise_policy,
        preprocessing_steps=steps,
        random_state=int(seed),
        out=out,
    )
    learned = found.manifest.preparation[0]
    return {"chose": learned.get("chosen"), "tried": learned.get("tried")}


def subject(name: str, before: list[dict[str, Any]] | None) -> Subject:
    """Return one chain as a subject."""
    return call(name, run, data="{data}", seed="{seed}", before=before)


def main() -> None:
    """Measure every chain on every set."""
    chosen = options(__doc__, cases=(*SETS, *STYLED), repeats=3)
    with Session("conditioning", COLUMNS, chosen) as session:
        for case in session.cases:
            for name, before in CHAINS.items():
                session.measure(case, subject(name, before))


if __name__ == "__main__":
    main()
