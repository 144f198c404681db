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


def bfloat16_rows(X: Any, shift: Any) -> Any:
    """Do what `half_rows` does, for products of bfloat16."""
    import numpy as np

    from gpucluster.ops.half import HalfRows

    less = X - shift
    cast = bfloat16(less)
    norms = (np.linalg.norm(each, axis=1).astype(np.float32) for each in (less, less - cast))
    scales, flags = np.ones(len(X), np.float32), np.zeros(len(X), np.uint8)
    return HalfRows(cast, scales, *norms, flags, shift)


def count(_out: Path, folder: str, n_clusters: int, kind: str) -> dict[str, Any]:
    """Return which share of the labels is open, and which wrong."""
    import numpy as np

    from gpucluster.ops import certified
    from gpucluster.ops.half import half_product

    if kind == "bfloat16":
        certified.half_rows = bfloat16_rows
    X = np.load(Path(folder, "vectors.npy"))
    centers = np.load(Path(folder, f"centers-{n_clusters}.npy")).astype(np.float64)
    shift = centers.mean(axis=0).astype(np.float32)
    search = certified.CertifiedSearch.of(centers, shift, None)
    rows = certified.half_rows(X, shift)
    found = search.bounds(rows, np.full(len(X), -1, np.int32))
    is_open = ~(found.floor > found.second)
    exact = centers - shift
    half_sqnorms = 0.5 * np.square(exact).sum(axis=1)
    true, alone = np.empty((2, len(X)), np.int64)
    for part in np.array_split(np.arange(len(X)), -(-len(X) // 4096)):
        true[part] = ((X[part].astype(np.float64) - shift) @ exact.T - half_sqnorms).argmax(axis=1)
        dots = half_product(rows.cast[part], search.scores.cast)
        scales, offsets = search.scores.columns[:2]
        alone[part] = (dots * (rows.scales[part, None] * scales) - offsets).argmax(axis=1)
    return {
        "open": float(is_open.mean()),
        "wrong": float((alone != true).mean()),
        "wrong_proven": float((found.label != true)[~is_open].mean()) if not is_open.all() else 0.0,
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
