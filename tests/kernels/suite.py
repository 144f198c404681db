"""What the kernels were tested with: ``python -m tests.kernels.suite`` prints a table.

It runs the tests, and counts those that passed of each kernel: at which sizes, in how many ways
(ties, tiles, grids, dtypes), under how many schedules.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_TEST = re.compile(r"test_kernels\.py::test_(\w+)\[(.+)\]$")
_SIZE = re.compile(r"\([\d, ]+\)")
_PLACE = re.compile(r"schedule\d|gpu")


@dataclass
class Tried:
    """What one kernel was tried with."""

    sizes: dict[str, None] = field(default_factory=dict)  # in order
    ways: set[str] = field(default_factory=set)
    places: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # passed
    failed: int = 0


class Counter:
    """Plugin of pytest that counts by kernel."""

    def __init__(self) -> None:
        self.kernels: dict[str, Tried] = defaultdict(Tried)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that ran."""
        found = _TEST.search(report.nodeid)
        if found is None or report.when != "call" or report.skipped:
            return
        size, place = _SIZE.search(found[2]), _PLACE.search(found[2])
        if size is None or place is None:
            return
        tried = self.kernels[found[1]]
        tried.sizes[size[0]] = None
        tried.ways.add(_PLACE.sub("", found[2]).replace(size[0], ""))
        tried.places[place[0]] += report.passed
        tried.failed += report.failed


def table(kernels: dict[str, Tried]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| kernel | sizes | ways | passed under each schedule | failed |",
        "|---|---|---:|---|---:|",
    ]
    for name, tried in sorted(kernels.items()):
        passed = ", ".join(str(count) for _, count in sorted(tried.places.items()))
        cells = f"`{name}`", " ".join(tried.sizes), len(tried.ways), passed, tried.failed
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    counter = Counter()
    file = str(Path(__file__).with_name("test_kernels.py"))
    status = pytest.main(["-q", "-p", "no:randomly", "--no-header", file], plugins=[counter])
    sys.stdout.write(f"\n{table(counter.kernels)}\n")
    raise SystemExit(status)
