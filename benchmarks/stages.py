"""What each stage took, beside what the plan had said; from the manifests of measured runs.

python benchmarks/stages.py benchmarks/results/*-2026-01-31.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from render import number, table

TITLES = (
    "data",
    "what",
    "stage",
    "predicted s",
    "s",
    "ratio",
    "predicted MB",
    "peak MB",
    "ratio",
)


def stage_rows(row: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the stages of the last run of a row, and the time that belongs to none of them."""
    for stage in row["stages"]:
        yield [
            row["case"],
            row["subject"],
            stage["name"],
            *_compared(stage.get("planned_seconds"), stage["seconds"], ".1f"),
            *_compared(_mb(stage.get("planned_bytes")), _mb(stage.get("peak_bytes")), ".0f"),
        ]
    if row["stages"] and row["runs"]:
        inside = sum(stage["seconds"] for stage in row["stages"])
        outside = row["runs"][-1]["seconds"] - inside
        empty = ["-"] * 4
        yield [row["case"], row["subject"], "(start, end)", "-", f"{outside:.1f}", *empty]


def _compared(predicted: float | None, actual: float | None, form: str) -> list[str]:
    ratio = predicted / actual if predicted is not None and actual else None
    return [number(predicted, form), number(actual, form), number(ratio, ".2f")]


def _mb(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def main() -> None:
    """Print one table for all result files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULT")
    results = [json.loads(file.read_text("utf-8")) for file in parser.parse_args().files]
    rows = [cells for result in results for row in result["rows"] for cells in stage_rows(row)]
    print(table(TITLES, rows))


if __name__ == "__main__":
    main()
