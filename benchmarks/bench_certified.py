"""How many labels of float16 and bfloat16 products are proven, at the centres of k-means.

`open` is the share of rows whose label the products leave open, and that are looked at again in
float64; `wrong` the share that the products alone would get wrong; `wrong_proven` the share of
wrong ones among the proven, which must be nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases import read_unit_vectors
from harness import Session, call, options

COLUMNS = ("open", "wrong", "wrong_proven")
CLUSTERS = (10, 100, 1000)
KINDS = ("float16", "bfloat16")


def prepare(out: Path, data: str) -> dict[str, Any]:
    """Save the unit vectors, and the centres of k-means among them."""
    import numpy as np

    from gpucluster.algorithms import KMeans

    X = read_unit_vectors(data)
    np.save(out / "vectors.npy", X)
    for n_clusters in CLUSTERS:
        labels = KMeans(n_clusters=n_clusters, n_init=1).fit(X).labels_
        centers = np.stack([X[labels == each].mean(axis=0) for each in range(n_clusters)])
        np.save(out / f"centers-{n_clusters}.npy", centers.astype(np.float32))
    return {}


def bfloat16(values: Any) -> Any:
    """Round float32 to the nearest bfloat16, ties to even; as float32."""
    import numpy as np

    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def rounded_rows(X: Any, shift: Any, kind: str) -> Any:
    """Return rows as products of a kind see them, with what that loses."""
    import numpy as np

    from gpucluster.ops.certified import HalfRows, half_rows

    if kind == "float16":
        return half_rows(X, shift)
    less = X - shift
    cast = bfloat16(less)
    norms = (np.linalg.norm(each, axis=1).astype(np.float32) for each in (less, less - cast))
    return HalfRows(cast, *norms, shift)


def count(_out: Path, folder: str, n_clusters: int, kind: str) -> dict[str, Any]:
    """Return which share of the labels is open, and which wrong."""
    import numpy as np

    from gpucluster.ops import certified

    X = np.load(Path(folder, "vectors.npy"))
    centers = np.load(Path(folder, f"centers-{n_clusters}.npy"))
    shift = centers.mean(axis=0, dtype=np.float64).astype(np.float32)
    exact = centers.astype(np.float64) - shift
    half_sqnorms = 0.5 * np.square(exact).sum(axis=1)
    true = np.concatenate(
        [
            ((part.astype(np.float64) - shift) @ exact.T - half_sqnorms).argmax(axis=1)
            for part in np.array_split(X, -(-len(X) // 4096))
        ]
    )
    rows, others = (rounded_rows(each, shift, kind) for each in (X, centers))
    best, second, labels = certified._top2(rows.cast, others.cast, half_sqnorms.astype(np.float32))
    is_open = ~(best - second > 2 * certified._bound(rows, others, half_sqnorms))
    return {
        "open": float(is_open.mean()),
        "wrong": float((labels != true).mean()),
        "wrong_proven": float((labels != true)[~is_open].mean()) if not is_open.all() else 0.0,
        "no_labels": True,
    }


def main() -> None:
    """Count both kinds at every number of clusters of every case."""
    cases = ("banking77", "clinc150", "fashion_mnist", "heavy_tail_100k")
    with Session("certified", COLUMNS, options(__doc__, cases=cases, repeats=1)) as session:
        for case in session.cases:
            inputs = session.scratch / case.name
            inputs.mkdir()
            session.aside(prepare, inputs, data=str(session.data(case)))
            for n_clusters in CLUSTERS:
                for kind in KINDS:
                    folder = f"{{scratch}}/{case.name}"
                    asked = {"folder": folder, "n_clusters": n_clusters, "kind": kind}
                    session.measure(case, call(f"k={n_clusters}, {kind}", count, **asked))


if __name__ == "__main__":
    main()
