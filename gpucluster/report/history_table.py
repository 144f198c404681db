"""A history as one table: a row a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

DRIFT = "drift_"  # begins the names of what is no metric of the run itself
_LAST = ("should_recluster", "reasons")


def history_table(
    rows: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    drift: Sequence[Mapping[str, Any]],
) -> pa.Table:
    """Return what each run has, all metrics of all runs, and the numbers of their drift.

    Parameters
    ----------
    rows : sequence of mapping
        What every run has, by column.
    metrics : sequence of mapping
        Of the same runs; what is no number is null. They become float64, and int64 where the
        name begins with ``num_``.
    drift : sequence of mapping
        Of the same runs; what is no number in any of them is left out.

    Returns
    -------
    pyarrow.Table
    """
    import pyarrow as pa

    schema = pa.schema(_fixed(pa))
    columns = dict(zip(schema.names, pa.Table.from_pylist(list(rows), schema).columns, strict=True))
    last = {name: columns.pop(name) for name in _LAST}
    for prefix, values in (("", metrics), (DRIFT, drift)):
        for name in dict.fromkeys(name for each in values for name in each):
            column = [finite(each.get(name)) for each in values]
            empty = all(value is None for value in column)
            if prefix + name not in schema.names and not (prefix and empty):
                is_count = name.startswith("num_") and all(v is None or v % 1 == 0 for v in column)
                kind = pa.int64() if is_count else pa.float64()
                columns[prefix + name] = pa.array(column, pa.float64()).cast(kind)
    return pa.table(columns | last)


def _fixed(pa: Any) -> list[tuple[str, Any]]:
    texts = ("run_id", "series", "cluster_name", "mode", "base_run_id")
    counts = ("num_rows", "num_points", "num_clusters", "num_noise")
    return [
        *((name, pa.string()) for name in texts),
        *((name, pa.timestamp("us", "UTC")) for name in ("created_at", "completed_at")),
        *((name, pa.int64()) for name in counts),
        ("should_recluster", pa.bool_()),
        ("reasons", pa.string()),
    ]


def finite(value: Any) -> float | None:
    """Return a number that is one, and None for everything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
