"""Cut the sample of this folder out of the whole BANKING77 set.

    python examples/make_sample.py banking77.parquet examples/banking77-sample.parquet

Each intent keeps its share of the rows, and within an intent the first rows of the file are
taken (the whole set is shuffled). Nothing is random: the same input gives the same rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N_SAMPLES = 3_000
COLUMNS = ["document_id", "text", "label", "embedding"]


def stratified_rows(labels: pa.ChunkedArray, n_samples: int) -> np.ndarray:
    """Choose `n_samples` rows in proportion to the labels, by largest remainder.

    Parameters
    ----------
    labels : pyarrow.ChunkedArray of shape (n_rows,), string
        What to keep in proportion.
    n_samples : int
        Rows to choose.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        Positions in `labels`, rising.
    """
    _, codes, counts = np.unique(
        labels.to_numpy(zero_copy_only=False), return_inverse=True, return_counts=True
    )
    shares = counts * n_samples / len(codes)
    quotas = np.floor(shares).astype(np.int64)
    left_over = n_samples - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:left_over]] += 1
    chosen = [np.flatnonzero(codes == code)[:quota] for code, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen))


def main(source: Path, target: Path) -> None:
    """Write the sample of `source` to `target`."""
    table = pq.read_table(source, columns=COLUMNS)
    sample = table.take(stratified_rows(table["label"], N_SAMPLES))
    pq.write_table(
        sample.replace_schema_metadata(None),
        target,
        compression="zstd",
        use_dictionary=["label"],
        write_page_checksum=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
