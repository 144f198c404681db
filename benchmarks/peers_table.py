"""The part of README.md that peers.py writes: the newest result as three tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import render
from cases import CASES
from process import was_stopped

START = "<!-- peers:start -->"
END = "<!-- peers:end -->"
NOTE = "<!-- Written by benchmarks/peers.py --write. Do not edit. -->"

TEXTS = {
    "sets": """\
`gpucluster run` without options, the same on every set, beside its peers. **Cold**: process
start to labels on disk, imports and compilation in it; what libraries keep compiled on disk is
there. **Warm**: file to labels on disk, in a process that has clustered 13,000 of the rows before.
AMI and ARI count noise as one group; purity is over clustered rows.""",
    "growth": """\
How the time grows: warm seconds on synthetic rows of 384 dimensions, 100 heavy-tailed clusters,
a tenth of the rows noise. The exponent is that between a size and the one before it.""",
    "graph": """\
Lists of 15 neighbours by cosine: the first call of a process, import and compilation in it, and
the next one. Recall is that of 1000 rows, against exact lists.""",
}
TITLES = {  # of the columns in README.md
    "sets": {
        "clusters": "clusters",
        "noise": "noise",
        "ami": "AMI",
        "ari": "ARI",
        "purity": "purity",
        "seconds": "cold s",
        "warm_s": "warm s",
        "peak_mb": "peak MB",
    },
    "growth": {
        "warm_s": "warm s",
        "exponent": "exponent",
        "clusters": "clusters",
        "noise": "noise",
        "ami": "AMI",
        "peak_mb": "peak MB",
    },
    "graph": {
        "recall": "recall@15",
        "first_s": "first call s",
        "again_s": "next call s",
        "peak_mb": "peak MB",
    },
}


def newest(folder: Path) -> Path | None:
    """Return the newest result of peers.py in a folder."""
    return max(folder.glob("peers-????-??-??.json"), default=None)


def section(result: Mapping[str, Any] | None) -> str:
    """Return the tables of a result as Markdown; nothing where there is none."""
    if result is None:
        return ""
    parts = [NOTE, _measured_on(result)]
    for name, titles in TITLES.items():
        rows = [row for row in result["rows"] if row["table"] == name]
        sets = list(dict.fromkeys(row["case"] for row in rows))
        rows.sort(key=lambda row: sets.index(row["case"]))  # what was measured later lies apart
        if rows:
            head = ["data", "what", *titles.values()]
            cells = [render.cells(row, list(titles)) for row in rows]
            parts += [TEXTS[name], render.table(head, _grouped(cells))]
            parts += _notes(rows, result["repeats"])
    return "\n\n".join(parts) + "\n"


def _grouped(rows: list[list[str]]) -> list[list[str]]:
    """Name a set in its first row only, with its shape."""
    grouped, last = [], ""
    for case, *rest in rows:
        grouped.append(["" if case == last else _described(case), *rest])
        last = case
    return grouped


def _described(name: str) -> str:
    case = CASES[name]
    return f"{name}, {case.n_samples:,} x {case.n_features}, {case.n_classes} classes"


def _notes(rows: list[dict[str, Any]], repeats: int) -> list[str]:
    """Return what needs to be known about a table."""
    failed = [row for row in rows if row["error"] and not was_stopped(row["error"])]
    notes = [f"{row['case']}, {row['subject']}: {row['error']}." for row in failed]
    if limits := sorted({row["limit_s"] for row in rows if was_stopped(row["error"])}):
        said = ", ".join(f"`over {limit:.0f}`" for limit in limits)
        notes.append(f"{said}: stopped after so many seconds, the warm-up counted in.")
    notes += [f"{note}." for note in render.fewer(rows, repeats)]
    if any(row["disturbed"] for row in rows):
        notes.append(f"`!`: {render.DISTURBED}.")
    return ["\n".join(f"- {note}" for note in notes)] if notes else []


def _measured_on(result: Mapping[str, Any]) -> str:
    """Return machine, versions and the kernels of faiss in one paragraph."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in machine["libraries"].items())
    kernels = ", ".join(f"{name} {s:.2f} s" for name, s in result["faiss_core_types"].items())
    core = "`OPENBLAS_CORETYPE` is unset"
    if kernels:
        core += f", but for faiss, which got the fastest that the processor can run ({kernels})"
    return (
        f"{result['started_at'][:10]}, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB, Python {machine['python']}, medians of "
        f"{result['repeats']}; {versions}. {core}."
    )


def in_readme(readme: Path, result: Mapping[str, Any] | None, *, write: bool) -> int:
    """Write the section between its marks, or return 1 when another one stands there."""
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(f"{START}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not (start and end):
        print(f"{readme.name} has no lines {START} and {END}", file=sys.stderr)
        return 1
    current = "".join((before, start, section(result), end, after))
    if write:
        readme.write_text(current, encoding="utf-8")
    elif current != text:
        print("README.md is not current: python benchmarks/peers.py --write", file=sys.stderr)
        return 1
    return 0
