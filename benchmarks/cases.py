"""Named workloads: labelled real sets, and synthetic ones that a seed determines.

Every case is a Parquet file with `document_id`, `label` (the truth) and `embedding`
(fixed_size_list<float16>). Real sets lie in the folder that GPUCLUSTER_DATA names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_ROWS = 8192  # also the row groups of the real sets
NOISE_SHARE = 0.1
SPREAD = 1.0  # of a cluster: its rows have a cosine of about 0.7 to their centre
ROUGH = 0.2  # of a flat cluster's spread, in all dimensions
TAILS = {
    "tail_5k": 5_000,
    "tail_20k": 20_000,
    "tail_50k": 50_000,
    "tail_200k": 200_000,
    "tail_1m": 1_000_000,
}
GROWN = {
    "rows_10k": 10_000,
    "rows_20k": 20_000,
    "rows_50k": 50_000,
    "rows_100k": 100_000,
    "rows_500k": 500_000,
    "rows_1m": 1_000_000,
}


@dataclass(frozen=True)
class Case:
    """A workload; `seed` is None for a real set, `text_bytes` counts over all rows.

    `part_of` names the set that another one is drawn from, with `seed`. `spread` is that of the
    synthetic clusters: in all dimensions, or for each along `directions` of its own, as embeddings
    do (the neighbours of real ones spread in 7 to 15). A `bundled` set comes with scikit-learn.
    What has nothing to do with the classes is added to a part: `style` along three directions, in
    lengths of a row, and `scale` by factors of the dimensions, of which it is the standard
    deviation in logarithms.
    """

    name: str
    n_samples: int
    n_features: int
    n_classes: int
    seed: int | None = None
    text_bytes: int = 0
    part_of: str | None = None
    spread: float = SPREAD
    directions: int = 0
    bundled: bool = False
    style: float = 0.0
    scale: float = 0.0

    @property
    def is_file(self) -> bool:
        """Whether it lies on disk already."""
        return self.seed is None and not self.bundled


CASES = {
    case.name: case
    for case in (
        Case("banking77", 13_083, 384, 77),
        Case("clinc150", 23_700, 384, 151),
        Case("fashion_mnist", 70_000, 784, 10),
        Case("fashion_5k", 5_000, 784, 10, seed=0, part_of="fashion_mnist"),
        Case("fashion_20k", 20_000, 784, 10, seed=0, part_of="fashion_mnist"),
        Case("digits", 1_797, 64, 10, bundled=True),
        Case("digits_styled", 1_797, 64, 10, seed=5, part_of="digits", style=0.5),
        Case("banking77_styled", 13_083, 384, 77, seed=5, part_of="banking77", style=0.5),
        Case("clinc150_styled", 23_700, 384, 151, seed=5, part_of="clinc150", style=1.5),
        Case("banking77_scaled", 13_083, 384, 77, seed=5, part_of="banking77", scale=1.0),
        *(Case(name, n_samples, 384, 100, seed=3) for name, n_samples in TAILS.items()),
        Case("flat_20k", 20_000, 384, 100, seed=6, directions=16),
        Case("loose_20k", 20_000, 384, 300, seed=4, spread=2.5),
        Case("smoke", 3_000, 64, 12, seed=0),
        Case("heavy_tail_100k", 100_000, 768, 300, seed=1),
        Case("text_500k", 500_000, 768, 300, seed=2, text_bytes=400_000_000),
        Case("plain_500k", 500_000, 768, 300, seed=2),
        *(Case(name, n_samples, 768, 100, seed=8) for name, n_samples in GROWN.items()),
        Case("rows_5m", 5_000_000, 768, 1000, seed=8),
        Case("text_20k", 20_000, 768, 50, seed=2, text_bytes=16_000_000),
        Case("plain_20k", 20_000, 768, 50, seed=2),
    )
}
REAL = ("banking77", "clinc150", "fashion_mnist")


def real_path(case: Case) -> Path:
    """Return the file of a real set."""
    folder = os.environ.get("GPUCLUSTER_DATA")
    if not folder:
        raise SystemExit(f"{case.name} is a real set: GPUCLUSTER_DATA must name its folder")
    path = Path(folder, f"{case.name}.parquet")
    if not path.exists():
        raise SystemExit(f"{path} is missing")
    return path


def write_synthetic(out: Path, name: str) -> None:
    """Write a case that a seed determines below `out`, piece by piece."""
    import pyarrow.parquet as pq

    case = CASES[name]
    if case.bundled:
        pq.write_table(_bundled(name), out / f"{name}.parquet")
        return
    if case.part_of is not None:
        whole = CASES[case.part_of]
        if not whole.is_file:
            write_synthetic(out, whole.name)
        source = real_path(whole) if whole.is_file else out / f"{whole.name}.parquet"
        write_part(out, str(source), case.n_samples, f"{name}.parquet", case.seed)
        if case.style or case.scale:
            _disturb(out / f"{name}.parquet", case)
        return
    pieces = _pieces(case)
    first = next(pieces)
    with pq.ParquetWriter(out / f"{name}.parquet", first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for piece in pieces:
            writer.write_table(piece)


def write_part(out: Path, data: str, n_samples: int, name: str, seed: int | None = 0) -> None:
    """Write rows of a file, drawn with `seed`, in their order; all where there are not more."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(data)
    n_samples = min(n_samples, len(table))
    drawn = np.random.default_rng(seed).choice(len(table), n_samples, replace=False)
    pq.write_table(table.take(np.sort(drawn)), out / name)


def _disturb(path: Path, case: Case) -> None:
    """Add to the unit vectors of a file what has nothing to do with its classes."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    X = read_unit_vectors(path)
    drawn = np.random.default_rng(case.seed)
    directions = np.linalg.qr(drawn.normal(size=(X.shape[1], 3)))[0].T
    X += case.style * drawn.normal(size=(len(X), 3)) @ directions
    X *= np.exp(case.scale * drawn.normal(size=X.shape[1]))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.astype(np.float16).ravel()), X.shape[1])
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(table.column_names.index("embedding"), "embedding", vectors), path
    )


def _bundled(name: str) -> pa.Table:
    """Return a set that comes with scikit-learn."""
    import numpy as np
    import pyarrow as pa
    from sklearn import datasets

    X, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    vectors = pa.array(X.astype(np.float16).ravel())
    return pa.table(
        {
            "document_id": pa.array([f"doc-{row}" for row in range(len(X))]),
            "label": pa.array(labels.astype(str)),
            "embedding": pa.FixedSizeListArray.from_arrays(vectors, X.shape[1]),
        }
    )


def _pieces(case: Case) -> Iterator[pa.Table]:
    """Yield heavy-tailed clusters around random directions, a tenth of the rows anywhere."""
    import numpy as np
    import pyarrow as pa

    seed = case.seed or 0
    centers = np.random.default_rng([seed, 0]).normal(size=(case.n_classes, case.n_features))
    centers = (centers / np.linalg.norm(centers, axis=1, keepdims=True)).astype(np.float32)
    shares = 1 / np.arange(1, case.n_classes + 1)
    for start in range(0, case.n_samples, PIECE_ROWS):
        count = min(PIECE_ROWS, case.n_samples - start)
        drawn = np.random.default_rng([seed, 1, start])
        labels = drawn.choice(case.n_classes, count, p=shares / shares.sum())
        X = drawn.standard_normal((count, case.n_features), np.float32)
        X *= case.spread / np.sqrt(case.n_features)
        noise = drawn.random(count) < NOISE_SHARE
        if case.directions:
            _flatten(X, np.where(noise, -1, labels), case, drawn)
        X[~noise] += centers[labels[~noise]]
        vectors = pa.array(X.astype(np.float16).ravel())
        columns = {
            "document_id": pa.array([f"doc-{row}" for row in range(start, start + count)]),
            "label": pa.array(np.where(noise, "noise", labels.astype(str))),
            "embedding": pa.FixedSizeListArray.from_arrays(vectors, case.n_features),
        }
        if case.text_bytes:
            each = case.text_bytes // case.n_samples
            stream = np.random.default_rng([seed, 2, start])
            columns["title"] = _texts(stream, count, each // 4)
            columns["text"] = _texts(stream, count, each - each // 4)
        yield pa.table(columns)


def _flatten(X: Any, labels: Any, case: Case, drawn: Any) -> None:
    """Let the rows of each cluster spread along directions of its own, and hardly elsewhere.

    Rows with a negative label stay as they are.
    """
    import numpy as np

    shape = case.n_classes, case.directions, case.n_features
    axes = np.random.default_rng([case.seed or 0, 3]).standard_normal(shape, np.float32)
    axes *= case.spread / np.sqrt(case.directions * case.n_features)
    X[labels >= 0] *= ROUGH
    for label in np.unique(labels[labels >= 0]):
        rows = labels == label
        X[rows] += drawn.standard_normal((rows.sum(), case.directions), np.float32) @ axes[label]


def _texts(stream: Any, count: int, length: int) -> pa.Array:
    """Return `count` random texts of `length` letters, which compress about as text does."""
    import numpy as np
    import pyarrow as pa

    letters = stream.integers(ord("a"), ord("z") + 1, count * length, np.uint8)
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(length)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(letters)]
    return pa.Array.from_buffers(pa.string(), count, buffers)


def read_vectors(path: str | Path) -> Any:
    """Return the vectors as a user of numpy reads them: float32, C-contiguous."""
    import numpy as np
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)


def read_unit_vectors(path: str | Path) -> Any:
    """Return the vectors, scaled to unit length."""
    import numpy as np

    X = read_vectors(path)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X


def read_truth(path: str | Path) -> pa.Array:
    """Return the true labels."""
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=["label"])["label"].combine_chunks()
