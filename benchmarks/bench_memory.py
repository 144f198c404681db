"""Memory of a large job, and whether columns that nobody asked for cost any.

Half a million vectors of 768 float16 (0.8 GB in the file, 1.5 GB as float32 in memory), with
400 MB of text beside them, and without.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import Session, cli, options

COLUMNS = (
    "clusters",
    "ami",
    "seconds",
    "predicted_seconds",
    "cpu_seconds",
    "peak_mb",
    "predicted_mb",
)
JOB = (
    *("--algorithm", "kmeans", "--param", "n_clusters=100", "--param", "n_init=1"),
    *("--steps", "whitening"),
)


def planned(data: Path) -> dict[str, Any]:
    """Return what ``gpucluster plan`` says of the job."""
    command = [sys.executable, "-m", "gpucluster", "plan", str(data), *JOB, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def main() -> None:
    """Measure the job with and without the texts."""
    chosen = options(__doc__, cases=("text_500k", "plain_500k"))
    with Session("memory", COLUMNS, chosen) as session:
        for case in session.cases:
            plan = planned(session.data(case))
            row = session.measure(case, cli("whitening + k-means, k=100", *JOB))
            if row and not row["error"]:
                row["values"]["predicted_mb"] = plan["peak_bytes"] / 1e6
                row["values"]["predicted_seconds"] = plan["seconds"]


if __name__ == "__main__":
    main()
