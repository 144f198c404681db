"""k-means from the data to its rest, beside scikit-learn's: same clusters, same starts.

All else is the default of each. The two draw other first centres, so the sums of squares
differ as those of two seeds do: read `inertia_ratio` over several repeats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench_algorithms import timed
from cases import read_vectors
from harness import Session, call, options

COLUMNS = (
    *("inertia", "inertia_ratio", "ami", "n_iter", "first_s", "again_s", "first_cpu_s"),
    *("cpu_ratio", "base_mb", "peak_mb"),
)
# clusters, starts, rows of a batch
PROBLEMS = (
    *((10, 1, None), (10, 10, None), (100, 1, None), (1000, 1, None)),
    *((100, 1, 4096), (1000, 1, 4096)),
)


def prepare(out: Path, data: str) -> dict[str, Any]:
    """Save the vectors as they are."""
    import numpy as np

    np.save(out / "vectors.npy", read_vectors(data))
    return {}


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Add to our row what it is as a share of theirs: medians of the repeats, pair by pair."""
    import statistics

    for ratio, fact in (("inertia_ratio", "inertia"), ("cpu_ratio", "first_cpu_s")):
        pairs = zip(ours["runs"], theirs["runs"], strict=True)
        ours["values"][ratio] = statistics.median(a[fact] / b[fact] for a, b in pairs)


def main() -> None:
    """Measure both on every problem of every case."""
    chosen = options(__doc__, cases=("fashion_mnist", "heavy_tail_100k"), repeats=3)
    with Session("kmeans", COLUMNS, chosen) as session:
        for case in session.cases:
            inputs = session.scratch / case.name
            inputs.mkdir()
            session.aside(prepare, inputs, data=str(session.data(case)))
            for n_clusters, n_init, batch_size in PROBLEMS:
                batches = "" if batch_size is None else f", batches of {batch_size}"
                rows = [
                    session.measure(
                        case,
                        call(
                            f"k={n_clusters}, {n_init} starts{batches}: {library}",
                            timed,
                            library=f"kmeans_rest_{library}",
                            folder=f"{{scratch}}/{case.name}",
                            matrix="vectors",
                            arrays=[],
                            n_clusters=n_clusters,
                            n_init=n_init,
                            random_state="{seed}",
                            batch_size=batch_size,
                        ),
                    )
                    for library in ("ours", "sklearn")
                ]
                ours, theirs = rows
                if ours and theirs and not (ours["error"] or theirs["error"]):
                    compare(ours, theirs)


if __name__ == "__main__":
    main()
