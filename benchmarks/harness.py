"""What all benchmarks share: fresh processes, quality before time, one format of results."""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import process
import render
from cases import CASES, REAL, Case, real_path, write_synthetic
from score import score

HERE = Path(__file__).resolve().parent
SCHEMA_VERSION = 1
FIRST_SEED = 42
CHILD = ("{python}", "{here}/child.py")

Check = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True)
class Subject:
    """One measured thing: a command that reads ``{data}`` and leaves its answer in ``{out}``.

    ``{seed}`` is another one in each repeat, and the same for all subjects: what one seed finds
    says little about a method. `warm` is a command that does the same in a process that has
    done a smaller one before, and leaves facts, ``warm_s`` among them, but no answer. It goes
    first: what libraries keep on disk is there when `command` is measured.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    warm: tuple[str, ...] = ()


def call(
    name: str,
    function: Callable[..., Any],
    /,
    *,
    env: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Subject:
    """Return a function of a benchmark script as a subject; it gets the folder and `arguments`."""
    target = f"{Path(function.__code__.co_filename).stem}:{function.__name__}"
    return Subject(name, (*CHILD, target, json.dumps(arguments), "{out}"), env or {})


def cli(name: str, *options: str, env: Mapping[str, Any] | None = None) -> Subject:
    """Return ``gpucluster run`` with `options` as a subject."""
    command = ("{python}", "-m", "gpucluster", "run", "{data}", *options, "--out", "{out}")
    return Subject(name, command, env or {})


def options(
    description: str | None, *, cases: Iterable[str] = REAL, repeats: int = 3
) -> argparse.Namespace:
    """Parse the command line that all benchmarks have."""
    parser = option_parser(description, repeats=repeats)
    parser.add_argument(
        "cases", nargs="*", default=list(cases), metavar="CASE", help=", ".join(CASES)
    )
    parsed = parser.parse_args()
    check_cases(parser, parsed.cases)
    return parsed


def option_parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument(
        "--repeats", type=int, default=repeats, help="of each; medians are reported"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="measure subjects of this name")
    parser.add_argument("--limit-s", type=float, default=1800, help="longest time of one process")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    return parser


def check_cases(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """End with a message when there is no case of a name."""
    if unknown := set(names) - set(CASES):
        parser.error(f"unknown case {', '.join(unknown)}; known are {', '.join(CASES)}")


class Session:
    """One run of a benchmark script; every measured row is saved at once.

    Parameters
    ----------
    name : str
        Of the benchmark, and of its result file.
    columns : sequence of str, or mapping of str to sequence of str
        Values that the table shows, or those of each table.
    chosen : argparse.Namespace
        What `options` returned. With ``resume``, the newest result of that name goes on: rows
        that were measured are kept, those that failed or were disturbed are measured again. It
        may ask for fewer repeats than the result began with.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[str] | Mapping[str, Sequence[str]],
        chosen: argparse.Namespace,
    ) -> None:
        now = datetime.now(UTC)
        self.cases = [CASES[case] for case in chosen.cases]
        self.chosen = chosen
        self.path: Path = chosen.results / f"{name}-{now:%Y-%m-%d}.json"
        self.result: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "started_at": now.isoformat(timespec="seconds"),
            "machine": None,
            "repeats": chosen.repeats,
            "columns": columns,
            "rows": [],
        }
        if getattr(chosen, "resume", False):
            self._resume(name)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="gpucluster-bench-")
        self.scratch = Path(self._folder.name)
        described = subprocess.run(
            [sys.executable, HERE / "machine.py"], capture_output=True, text=True, check=True
        )
        machine = json.loads(described.stdout)
        self._require_same(machine)
        self.result["machine"] = self.result["machine"] or machine
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
        self.save()
        print(render.report(self.result))

    def _resume(self, name: str) -> None:
        found = sorted(self.path.parent.glob(f"{name}-????-??-??.json"))
        if found:
            self.path = found[-1]
            written = json.loads(self.path.read_text(encoding="utf-8"))
            self.result = {**written, "columns": self.result["columns"]}

    def _require_same(self, machine: Mapping[str, Any]) -> None:
        """End with a message when rows of two machines or versions would be in one table."""
        before = self.result["machine"] or machine
        facts = (set(before) | set(machine)) - {"load_average"}
        changed = sorted(fact for fact in facts if before.get(fact) != machine.get(fact))
        if self.result["repeats"] < self.chosen.repeats:  # fewer are a note below the table
            changed.append("number of repeats")
        if changed:
            raise SystemExit(f"{self.path.name} cannot go on: another {', '.join(changed)}")

    def data(self, case: Case) -> Path:
        """Return the file of a case; a synthetic one is written when it is first asked for."""
        if case.is_file:
            return real_path(case)
        path = self.scratch / f"{case.name}.parquet"
        if not path.exists():
            self.aside(write_synthetic, self.scratch, name=case.name)
        return path

    def aside(self, function: Callable[..., Any], out: Path, **arguments: Any) -> dict[str, Any]:
        """Call a function in a process that is not measured; return its facts."""
        subject = call("", function, **arguments)
        command = self._expanded(subject.command, Path(), out)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{function.__name__} failed:\n{done.stderr[-2000:]}")
        facts: dict[str, Any] = json.loads((out / "facts.json").read_text(encoding="utf-8"))
        return facts

    def measure(
        self,
        case: Case,
        subject: Subject,
        *,
        table: str | None = None,
        limit_s: float | None = None,
        check: Check | None = None,
        reference: Path | None = None,
        keep_labels: Path | None = None,
    ) -> dict[str, Any] | None:
        """Measure a subject as often as was asked for; return its row, unless it is left out.

        Parameters
        ----------
        case : Case
        subject : Subject
        table : str, optional
            Where the row belongs, in a result of several tables.
        limit_s : float, optional
            Longest time of one process, where it is not that of the command line.
        check : callable, optional
            Gets the values of an answer; what it returns is why the answer is wrong. A wrong
            answer is reported without a time.
        reference : Path, optional
            Labels to compare with.
        keep_labels : Path, optional
            Where the labels are to be kept.
        """
        if not re.search(self.chosen.only, subject.name):
            return None
        limit_s = limit_s or self.chosen.limit_s
        known = self._known(table, case, subject)
        if known is not None and _is_final(known, limit_s):
            return known
        runs: list[dict[str, Any]] = []
        answer: dict[str, Any] = {}
        error = None
        for repeat in range(self.chosen.repeats):
            seed = FIRST_SEED + repeat
            warmed: dict[str, Any] = {}
            if subject.warm:
                first = replace(subject, command=subject.warm)
                warmed, values = self._fresh(case, first, seed, limit_s, None, None)
                if error := warmed.pop("error"):
                    break
                warmed = {"warm_others": warmed["others"], **values["values"]}
            used, answer = self._fresh(case, subject, seed, limit_s, reference, keep_labels)
            error = used.pop("error") or (check(answer["values"]) if check else None)
            if error:
                break
            used["others"] = max(used["others"], warmed.pop("warm_others", 0.0))
            runs.append({**used, **warmed, **answer["values"]})
        return self._add(
            {
                "table": table,
                "case": case.name,
                "subject": subject.name,
                "command": list(subject.command),
                "environment": dict(subject.env),
                "limit_s": limit_s,
                "values": {} if error else _medians(runs),
                "disturbed": any(run["others"] > process.OTHERS_LIMIT for run in runs),
                "error": error and self._without_places(error),
                "runs": runs,
                "stages": answer.get("stages", []),
            }
        )

    def leave_out(
        self, case: Case, subject: Subject, reason: str, *, table: str | None = None
    ) -> None:
        """Say in the table why a subject was not measured."""
        if re.search(self.chosen.only, subject.name):
            empty = {"environment": dict(subject.env), "values": {}, "runs": [], "stages": []}
            where = {"table": table, "case": case.name, "subject": subject.name}
            self._add({**where, **empty, "disturbed": False, "error": f"not tried: {reason}"})

    def _known(self, table: str | None, case: Case, subject: Subject) -> dict[str, Any] | None:
        wanted = (table, case.name, subject.name)
        return next((row for row in self.result["rows"] if _place(row) == wanted), None)

    def _add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Put a row where it was before, or last; save it."""
        rows = self.result["rows"]
        places = [_place(known) for known in rows]
        if _place(row) in places:
            rows[places.index(_place(row))] = row
        else:
            rows.append(row)
        self.save()
        print(render.line(row, render.columns_of(self.result, row["table"])), file=sys.stderr)
        return row

    def _fresh(
        self,
        case: Case,
        subject: Subject,
        seed: int,
        limit_s: float,
        reference: Path | None,
        keep_labels: Path | None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            place = Path(folder)
            return self._once(case, subject, seed, limit_s, place, reference, keep_labels)

    def _once(
        self,
        case: Case,
        subject: Subject,
        seed: int,
        limit_s: float,
        folder: Path,
        reference: Path | None,
        keep_labels: Path | None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run a subject in a fresh process, then score its answer in another."""
        out, scored = folder / "out", folder / "scored"
        out.mkdir()
        scored.mkdir()
        data = self.data(case)
        env = {
            name: value and value.replace("{out}", str(out)) for name, value in subject.env.items()
        }
        load = os.getloadavg()[0]
        usage = process.run(
            self._expanded(subject.command, data, out, seed),
            env=env,
            log=folder / "log",
            limit_s=limit_s,
        )
        used = {**asdict(usage), "load_before": load}
        answer: dict[str, Any] = {"values": {}, "stages": []}
        if usage.error:
            return used, answer
        facts_file = out / "facts.json"
        facts = json.loads(facts_file.read_text(encoding="utf-8")) if facts_file.exists() else {}
        if not facts.pop("no_labels", False):
            arguments = {"answer": str(out), "data": str(data)}
            if reference is not None and reference.exists():
                arguments["reference"] = str(reference)
            answer = self.aside(score, scored, **arguments)
            if keep_labels is not None:
                keep_labels.write_bytes((scored / "labels.npy").read_bytes())
        answer["stages"] = facts.pop("stages", answer["stages"])
        answer["values"] |= facts
        peaks = [stage.get("peak_bytes") or 0 for stage in answer["stages"]]
        used["peak_mb"] = max([used["peak_mb"], *(peak / 1e6 for peak in peaks)])
        return used, answer

    def _expanded(
        self, command: Iterable[str], data: Path, out: Path, seed: int = FIRST_SEED
    ) -> list[str]:
        places = {
            "python": sys.executable,
            "here": HERE,
            "scratch": self.scratch,
            "data": data,
            "out": out,
            "seed": seed,
        }
        expanded = []
        for word in command:
            full = word
            for name, place in places.items():
                full = full.replace(f"{{{name}}}", str(place))
            expanded.append(full)
        return expanded

    def _without_places(self, text: str) -> str:
        """Return what a process said, without the folders of this machine."""
        for place in (self.scratch, HERE.parent, Path(sys.prefix), Path.home()):
            text = text.replace(f"{place}/", "")
        return text

    def save(self) -> None:
        """Write the result file; a reader sees it whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def _place(row: Mapping[str, Any]) -> tuple[str | None, str, str]:
    return row.get("table"), row["case"], row["subject"]


def _is_final(row: Mapping[str, Any], limit_s: float) -> bool:
    """Whether measuring a row again would say nothing new."""
    if row["error"]:
        return process.was_stopped(row["error"]) and row["limit_s"] >= limit_s
    return not row["disturbed"]


def _ends(values: Iterable[float]) -> tuple[float, float]:
    known = sorted(values)
    return known[0], known[-1]


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every number, and the last of everything else."""
    found = {}
    for name, last in runs[-1].items():
        numbers = [run[name] for run in runs if isinstance(run.get(name), int | float)]
        found[name] = statistics.median(numbers) if len(numbers) == len(runs) else last
    seconds = [run["seconds"] for run in runs]
    found["spread"] = (max(seconds) - min(seconds)) / found["seconds"]
    if "ami" in found:
        found["ami_range"] = "{:.3f}-{:.3f}".format(*_ends(run["ami"] for run in runs))
    return found
