"""Whitening beside the two matrix products that it cannot do without, and scikit-learn's PCA.

The products are one BLAS call each: of the rows with themselves, and of the rows with a square
matrix. Read `floor_ratio`: our time over theirs, pair by pair. `deviation` is how far the
covariance of the result is from the identity, in its worst entry.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import read_vectors
from harness import Session, call, options

COLUMNS = ("deviation", "first_s", "again_s", "floor_ratio")
EPSILON = 1e-9  # of the variances: nothing to speak of, because scikit-learn's adds nothing


def ours() -> Callable[[Any], Any]:
    """Our step, fitted and applied."""
    from gpucluster.events import Reporter
    from gpucluster.preprocess import Whitening

    step = Whitening(regularization=EPSILON, regularization_mode="relative")
    return lambda X: step.output(X, step.fit(X, "cpu", Reporter()).arrays)


def sklearn() -> Callable[[Any], Any]:
    """scikit-learn's, which rotates the rows as well."""
    from sklearn.decomposition import PCA

    return PCA(whiten=True, svd_solver="covariance_eigh").fit_transform


def products() -> Callable[[Any], Any]:
    """Multiply as whitening does; what that gives is of no use."""
    import numpy as np

    def multiply(X: Any) -> Any:
        return X @ (X.T @ X / np.float32(len(X)))

    return multiply


def prepare(out: Path, data: str) -> dict[str, Any]:
    """Save the vectors as they are."""
    import numpy as np

    np.save(out / "vectors.npy", read_vectors(data))
    return {}


def timed(_out: Path, library: str, folder: str) -> dict[str, Any]:
    """Whiten twice; return how long it took, and how white the result is."""
    import numpy as np

    from gpucluster.ops.moments import moments

    X = np.load(Path(folder, "vectors.npy"))
    seconds, white = [], None
    for _ in range(2):
        white = None  # the first one is gone before the next is made
        begun = time.perf_counter()
        white = globals()[library]()(X)
        seconds.append(time.perf_counter() - begun)
    deviation = None
    if library != "products":
        found = moments(np.ascontiguousarray(white, np.float32)).covariance
        deviation = float(np.abs(found - np.eye(len(found))).max())
    return {
        "deviation": deviation,
        "first_s": seconds[0],
        "again_s": seconds[1],
        "no_labels": True,
    }


def main() -> None:
    """Measure each on every case."""
    chosen = options(__doc__, cases=("fashion_mnist", "plain_500k"), repeats=3)
    with Session("whitening", COLUMNS, chosen) as session:
        for case in session.cases:
            inputs = session.scratch / case.name
            inputs.mkdir()
            session.aside(prepare, inputs, data=str(session.data(case)))
            rows = [
                session.measure(
                    case,
                    call(
                        name,
                        timed,
                        env={"OPENBLAS_CORETYPE": None},
                        library=library,
                        folder=f"{{scratch}}/{case.name}",
                    ),
                )
                for name, library in (
                    ("ours", "ours"),
                    ("the two products", "products"),
                    ("PCA, scikit-learn", "sklearn"),
                )
            ]
            mine, floor, _ = rows
            if mine and floor and not (mine["error"] or floor["error"]):
                pairs = zip(mine["runs"], floor["runs"], strict=True)
                mine["values"]["floor_ratio"] = statistics.median(
                    a["again_s"] / b["again_s"] for a, b in pairs
                )


if __name__ == "__main__":
    main()
