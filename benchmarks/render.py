"""Result files as Markdown.

python benchmarks/render.py benchmarks/results/pipeline-2026-01-31.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from process import was_stopped

# value: its title and format
COLUMNS = {
    "seconds": ("seconds", ".1f"),
    "warm_s": ("warm s", ".2f"),
    "exponent": ("time exponent", ".2f"),
    "recall": ("recall@15", ".3f"),
    "spread": ("spread", ".0%"),
    "cpu_seconds": ("CPU s", ".1f"),
    "peak_mb": ("peak MB", ".0f"),
    "held_mb": ("memory held MB", ".0f"),
    "limit_gb": ("limit GB", ".1f"),
    "rows_s": ("rows/s", ",.0f"),
    "base_mb": ("before the call MB", ".0f"),
    "predicted_mb": ("predicted MB", ".0f"),
    "predicted_seconds": ("predicted s", ".1f"),
    "modelled_s": ("by the model s", ".1f"),
    "load_s": ("load s", ".1f"),
    "whitening_s": ("whitening s", ".1f"),
    "kmeans_s": ("k-means s", ".1f"),
    "measure_s": ("measure s", ".1f"),
    "calibrate_s": ("calibrate s", ".1f"),
    "start_s": ("cluster up s", ".1f"),
    "worker_mb": ("peak of a worker MB", ".0f"),
    "sent_mb": ("between processes MB", ",.0f"),
    "modelled_mb": ("by the model MB", ",.0f"),
    "of_one_thread": ("rate of one thread, times", ".2f"),
    "of_one_worker": ("rate of one worker, times", ".2f"),
    "of_half": ("half the rows on one, of this", ".2f"),
    "least_ratio": ("least of the plan", ".2f"),
    "most_ratio": ("most of the plan", ".2f"),
    "others": ("others", ".2f"),
    "clusters": ("clusters", ".0f"),
    "noise": ("noise", ".1%"),
    "ami": ("AMI", ".3f"),
    "ami_range": ("AMI, range", "s"),
    "ari": ("ARI", ".3f"),
    "purity": ("purity", ".3f"),
    "purity_noise_as_error": ("purity, noise as error", ".3f"),
    "ari_reference": ("ARI with the first", ".3f"),
    "overhead": ("overhead", "+.1%"),
    "first_s": ("first call s, with imports", ".2f"),
    "again_s": ("next call s", ".2f"),
    "first_cpu_s": ("first call CPU s", ".2f"),
    "method": ("method", "s"),
    "fit_s": ("s", ".1f"),
    "fit_cpu_s": ("CPU s", ".1f"),
    "planned_s": ("planned s", ".0f"),
    "added_mb": ("added MB", ".0f"),
    "planned_mb": ("planned MB", ".0f"),
    "inertia": ("inertia", ".6g"),
    "open": ("open", ".2%"),
    "wrong": ("wrong without a second look", ".3%"),
    "wrong_proven": ("wrong among the proven", ".3%"),
    "covariance": ("worst entry of the covariance", ".1e"),
    "eigenvalue": ("worst eigenvalue", ".1e"),
    "whitened": ("whitened rows", ".1e"),
    "deviation": ("deviation from white", ".1g"),
    "floor_ratio": ("s, of the products", ".2f"),
    "inertia_ratio": ("inertia, of theirs", ".4f"),
    "cpu_ratio": ("CPU, of theirs", ".2f"),
    "rate": ("GFLOP/s", ".0f"),
    "share": ("share of sgemm", ".1%"),
    "shape_share": ("of its shape", ".1%"),
    "agreement": ("agreement", ".4%"),
    "read_s": ("files s", ".2f"),
    "ids_s": ("ids s", ".2f"),
    "overlap_s": ("overlap s", ".2f"),
    "lineage_s": ("lineage s", ".2f"),
    "names_s": ("names s", ".2f"),
    "asked": ("calls", ",.0f"),
    "billed": ("billed", ",.0f"),
    "by_model": ("named by the model", ".1%"),
    "paid_twice": ("paid twice", ".0f"),
    "faults": ("faults", "s"),
    "ask_s": ("asking s", ".1f"),
    "floor_s": ("latency alone s", ".1f"),
    "obeyed": ("own label changed", ".0f"),
    "others_changed": ("other labels changed", ".0f"),
    "unclean": ("outside the rules", ".0f"),
    "recovered": ("recovered", ".2%"),
    "wrong_links": ("not planted", ".2%"),
    "n_iter": ("iterations", ".0f"),
    "n_core": ("core rows", ".0f"),
    "silhouette": ("silhouette", ".5f"),
    "hit_5": ("intent in 5", ".1%"),
    "hit_5_stem": ("in 5 without endings", ".1%"),
    "hit_10": ("intent in 10", ".1%"),
    "hit_10_stem": ("in 10 without endings", ".1%"),
    "words_5": ("words in 5", ".1f"),
    "hit_5_words": ("in 5 words without endings", ".1%"),
    "blas": ("BLAS", "s"),
}
MEASURED = {"seconds", "first_s", "again_s", "fit_s", "warm_s"}
DISTURBED = "others had more than 15 % of the machine: the times are not to be trusted"


def report(result: Mapping[str, Any]) -> str:
    """Return the table of a result, with the machine and what needs to be known about it."""
    rows = result["rows"]
    notes = [f"- {row['case']}, {row['subject']}: {row['error']}" for row in rows if row["error"]]
    notes += [f"- {note}" for note in fewer(rows, result["repeats"])]
    if any(row["disturbed"] for row in rows):
        notes.append(f"- `!`: {DISTURBED}")
    return "\n\n".join(filter(None, [_heading(result), results_table(result), "\n".join(notes)]))


def fewer(rows: Iterable[Mapping[str, Any]], repeats: int) -> list[str]:
    """Say which rows are medians of fewer runs than the others."""
    found: dict[int, dict[str, list[str]]] = {}
    for row in rows:
        count = len(row["runs"])
        if not row["error"] and count < repeats:
            found.setdefault(count, {}).setdefault(row["subject"], []).append(row["case"])
    return [
        f"{count} of {repeats} runs: "
        + "; ".join(f"{subject} ({', '.join(cases)})" for subject, cases in subjects.items())
        for count, subjects in sorted(found.items())
    ]


def results_table(result: Mapping[str, Any], name: str | None = None) -> str:
    """Return one line for each measured subject, of all tables or of one."""
    if isinstance(result["columns"], Mapping) and name is None:
        measured = dict.fromkeys(row["table"] for row in result["rows"])
        tables = (f"{each}:\n\n{results_table(result, each)}" for each in measured)
        return "\n\n".join(tables)
    columns = columns_of(result, name)
    titles = ["data", "what", *(COLUMNS[name][0] for name in columns)]
    rows = [row for row in result["rows"] if name is None or row["table"] == name]
    return table(titles, [cells(row, columns) for row in rows])


def columns_of(result: Mapping[str, Any], name: str | None) -> Sequence[str]:
    """Return the values that a table of a result shows."""
    columns: Any = result["columns"]
    return columns[name] if isinstance(columns, Mapping) else columns


def line(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row for people who wait."""
    values = zip(columns, cells(row, columns)[2:], strict=True)
    known = (f"{COLUMNS[name][0]} {cell}" for name, cell in values if cell != "-")
    said = row["error"] or ", ".join(known)
    return f"{row['case']}, {row['subject']}: {said}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all but the first two columns are numbers."""
    ruler = ["---", "---", *["---:"] * (len(titles) - 2)]
    return "\n".join(f"| {' | '.join(words)} |" for words in (titles, ruler, *rows))


def number(value: Any, form: str) -> str:
    """Return a value in a format, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Return case, subject and values of a row as they are shown."""
    shown = [number(row["values"].get(name), COLUMNS[name][1]) for name in columns]
    if row["disturbed"]:
        shown = [
            f"{cell}!" if name in MEASURED and cell != "-" else cell
            for name, cell in zip(columns, shown, strict=True)
        ]
    if was_stopped(row["error"]) and "limit_s" in row:
        over = f"over {row['limit_s']:.0f}"
        shown = [over if name in MEASURED else "-" for name in columns]
    return [row["case"], row["subject"], *shown]


def _heading(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    memory = machine["memory_bytes"] / 1e9
    libraries = ", ".join(f"{name} {found}" for name, found in machine["libraries"].items())
    facts = (
        f"{machine['cpu']}, {machine['cores']} cores, {memory:.0f} GB",
        f"Python {machine['python']}",
        *machine["blas"],
        *(f"{name}={value}" for name, value in sorted(machine["environment"].items())),
        f"commit {machine['commit']}",
        libraries,
    )
    name, day, repeats = result["name"], result["started_at"][:10], result["repeats"]
    return f"{name}, {day}: {'; '.join(facts)}. Medians of {repeats}."


def main() -> None:
    """Print the reports of result files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULT")
    for file in parser.parse_args().files:
        print(report(json.loads(file.read_text(encoding="utf-8"))), end="\n\n")


if __name__ == "__main__":
    main()
