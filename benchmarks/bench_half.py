"""What float16 products cost a whitening, by the shift that rows are less before they are rounded.

``covariance`` is the error of the worst entry over the largest; ``eigenvalue`` that of the worst
eigenvalue over their mean; ``whitened`` the norm of what the whitened rows are off by over theirs.
All against float64, at the default strength.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases import read_unit_vectors
from harness import Session, call, options

COLUMNS = ("covariance", "eigenvalue", "whitened")
WAYS = ("float32 products", "float16, less the mean", "float16, less a middle of few digits")


def compare(_out: Path, data: str, way: str) -> dict[str, Any]:
    """Return the errors of one way."""
    import numpy as np

    from gpucluster.ops import half_moments as half
    from gpucluster.ops.moments import centred_product, moments
    from gpucluster.preprocess import Whitening

    X = read_unit_vectors(data)
    if way == WAYS[1]:
        half.coarse_middle = lambda rows: rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    found = moments(X) if way == WAYS[0] else half.half_moments(X)
    exact = X.astype(np.float64)
    mean = exact.mean(axis=0)
    covariance = np.cov(exact.T)
    values = np.linalg.eigvalsh(covariance)
    off = np.abs(np.sort(found.eigen()[0]) - values).max() / values.mean()

    def matrix(covariance: Any) -> Any:
        values, vectors = np.linalg.eigh(covariance)
        values = np.clip(values, 0, None)
        return (vectors * (values + Whitening().epsilon(values.mean())) ** -0.5) @ vectors.T

    product = centred_product if way == WAYS[0] else half.half_centred_product
    whitened = product(X, found.mean, matrix(found.covariance))
    expected = (exact - mean) @ matrix(covariance)
    return {
        "covariance": float(np.abs(found.covariance - covariance).max() / np.abs(covariance).max()),
        "eigenvalue": float(off),
        "whitened": float(np.linalg.norm(whitened - expected) / np.linalg.norm(expected)),
        "no_labels": True,
    }


def main() -> None:
    """Compare the ways on every case."""
    cases = ("banking77", "clinc150", "fashion_mnist", "heavy_tail_100k")
    with Session("half", COLUMNS, options(__doc__, cases=cases, repeats=1)) as session:
        for case in session.cases:
            for way in WAYS:
                asked = {"data": "{data}", "way": way}
                session.measure(case, call(way, compare, **asked))


if __name__ == "__main__":
    main()
