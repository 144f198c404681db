"""Jobs whose matrices lie on disk, under a limit of memory that the system enforces.

Whitening, k-means, metrics and the run on disk: half a million rows in memory, on disk, and on
disk with less memory than the matrix has bytes; five million rows (7.7 GB as float16, 15.4 GB as
float32) with 6 GB. The limit is that of a control group, so the script needs to be root.

    python benchmarks/bench_disk.py                 both
    python benchmarks/bench_disk.py plain_500k      the smaller one
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import Session, cli, options

COLUMNS = (
    "limit_gb",
    "seconds",
    "predicted_seconds",
    "rows_s",
    "held_mb",
    "predicted_mb",
    "clusters",
    "ami",
    "ari_reference",
)
GROUP = "gpucluster-bench"


@contextmanager
def memory_limit(n_bytes: int) -> Iterator[None]:
    """Put this process, and what it starts, into a control group of so much memory."""
    first = Path("/sys/fs/cgroup/memory")
    root, name = (
        (first, "memory.limit_in_bytes")
        if first.is_dir()
        else (Path("/sys/fs/cgroup"), "memory.max")
    )
    group = root / GROUP
    try:
        group.mkdir(exist_ok=True)
        (group / name).write_text(str(n_bytes))
        before = _own_group(root)
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise SystemExit(f"no control group can be made: {error}") from error
    try:
        yield
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _own_group(root: Path) -> Path:
    kinds = "memory" if root.name == "memory" else ""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, known, path = line.split(":", 2)
        if known == kinds:
            return root / path.lstrip("/")
    return root


def main() -> None:
    """Measure both jobs."""
    chosen = options(__doc__, cases=("plain_500k", "rows_5m"), repeats=1)
    chosen.limit_s = 7200
    with Session("disk", COLUMNS, chosen) as session:
        for case in session.cases:
            small = case.n_samples < 1_000_000
            job = (
                *("--algorithm", "kmeans", "--param", f"n_clusters={100 if small else 1000}"),
                *("--param", "n_init=1", "--param", "max_iter=10", "--steps", "whitening"),
            )
            labels = session.scratch / f"{case.name}.npy"
            ways: list[tuple[str, tuple[str, ...], int | None]] = [
                ("in memory", ("--storage", "memory"), None),
                ("on disk", ("--storage", "disk"), None),
                ("on disk, little memory", (), 1_500_000_000),
            ]
            if not small:
                ways = [("on disk, little memory", (), 6_000_000_000)]
            for name, storage, limit in ways:
                subject = cli(name, *job, *storage)
                first = name == "in memory"
                if limit is None:
                    row = session.measure(
                        case,
                        subject,
                        reference=None if first else labels,
                        keep_labels=labels if first else None,
                    )
                else:
                    session.data(case)  # written outside of the limit
                    with memory_limit(limit):
                        row = session.measure(case, subject, reference=labels)
                _complete(row, case.n_samples, limit)
        session.save()


def _complete(row: dict[str, Any] | None, n_rows: int, limit: int | None) -> None:
    """Add what the stages say: memory that was held, and what was predicted."""
    if not row or row["error"]:
        return
    stages, values = row["stages"], row["values"]
    values["limit_gb"] = None if limit is None else limit / 1e9
    values["rows_s"] = n_rows / values["seconds"]
    values["held_mb"] = max(stage["peak_bytes"] for stage in stages) / 1e6
    values["predicted_mb"] = max(stage["planned_bytes"] for stage in stages) / 1e6
    values["predicted_seconds"] = sum(stage["planned_seconds"] or 0 for stage in stages)


if __name__ == "__main__":
    main()
