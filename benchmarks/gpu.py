"""What gpucluster does on a GPU, beside what the GPU can do and what others do there.

One run of less than ten minutes leaves one result: rates of the machine, agreement of CPU and
GPU, proven labels, kernels, and the stages at 10,000,000 rows, with the goals that they are held
against. ``--cpu`` does all that has a counterpart on the host, small: that the script works.

Each section is a process of its own, because a fault on a GPU ends the process that made it. The
result is written after each row, so what is killed keeps what it measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import gpu_record
from gpu_place import SCALES, Limits, Place
from gpu_record import ONE_PATH, OVER, DeviceLostError, Session, place, without_places
from harness import SCHEMA_VERSION, option_parser

FACTS = "facts"  # not a section: a process that says what the GPU is
GRACE_S = 20.0  # for the subject that is at work when the time of its section ends
LAST_GRACE_S = 5.0  # and when that of the whole run does
MOST_STARTS = 6  # of the process of a section: each goes on behind a subject that ended it
LOST = 3  # exit code of a process that has lost its device
LOST_REASON = "its process has lost the device"


@dataclass(frozen=True)
class Section:
    """A part of the run; `weight` is its share of the time that is left."""

    module: str
    weight: float

    def run(self, session: Session, where: Place) -> None:
        """Measure its subjects."""
        import importlib

        name = session.section
        work: Callable[[Session, Place], None] = getattr(importlib.import_module(self.module), name)
        work(session, where)


SECTIONS = {
    "machine": Section("gpu_machine", 1.5),
    "parity": Section("gpu_parity", 4),
    "certified": Section("gpu_assign", 2),
    "kernels": Section("gpu_kernels", 2),
    "assign": Section("gpu_assign", 4),
    "lloyd": Section("gpu_lloyd", 3.5),
    "whitening": Section("gpu_whitening", 2.5),
    "report": Section("gpu_report", 2),
    "pipeline": Section("gpu_pipeline", 6),
}


def main() -> None:
    """Do what the command line says: the whole run, or for it one section."""
    chosen = _options()
    if chosen.section:
        _one_section(chosen)
    rows = _all_sections(chosen)
    sys.exit(int(any(row["error"] or row["fails"] for row in rows)))


def _options() -> argparse.Namespace:
    parser = option_parser(__doc__, repeats=0)
    parser.epilog = (
        "The exit code is 1 where a row has an error, or misses a goal that is judged and is not "
        "one of speed; else 0."
    )
    parser.add_argument("--seconds", type=float, default=540, help="of the whole run")
    parser.add_argument("--scale", choices=("small", "full"), default="full")
    parser.add_argument("--cpu", action="store_true", help="numpy in place of CuPy, small")
    parser.add_argument("--rows-limit", type=int, default=0, metavar="N", help="no larger shapes")
    for hidden in ("--section", "--file", "--deadline"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.repeats = chosen.repeats or (2 if chosen.cpu else 7)
    return chosen


def _limits(chosen: argparse.Namespace) -> Limits:
    if chosen.rows_limit:
        return Limits(chosen.rows_limit, 48, max(2, chosen.rows_limit // 10))
    return SCALES["cpu" if chosen.cpu else chosen.scale]


def _place(chosen: argparse.Namespace) -> Place:
    return Place("cpu" if chosen.cpu else "gpu", _limits(chosen), chosen.repeats)


# The process of a section.


def _one_section(chosen: argparse.Namespace) -> NoReturn:
    path, name = Path(chosen.file), chosen.section
    where = _place(chosen)
    if name == FACTS:
        from gpu_machine import gpu_facts

        result = gpu_record.read(path)
        gpu_record.write(path, {**result, "gpu": gpu_facts(where)})
        sys.exit(0)
    session = Session(
        path,
        name,
        float(chosen.deadline),
        chosen.only,
        judges_speed=where.on_gpu and chosen.scale == "full" and not chosen.rows_limit,
        is_alive=where.check,
        clear=where.clear,
    )
    try:
        SECTIONS[name].run(session, where)
    except DeviceLostError as error:
        print(f"  the device is lost to this process: {error}", file=sys.stderr)
        os._exit(LOST)  # libraries that clean up would wait for it
    except Exception as error:  # noqa: BLE001 - it says nothing of the other sections
        session.fail(error)
    sys.exit(0)


# The process that starts them.


def _all_sections(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Run them all, and return the rows of the result."""
    from gpu_machine import host_facts

    begun = time.time()
    now = datetime.now(UTC)
    name = "gpu-on-cpu" if chosen.cpu else "gpu"
    path = (chosen.results / f"{name}-{now:%Y-%m-%d}.json").resolve()
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "started_at": now.isoformat(timespec="seconds"),
        "machine": host_facts(),
        "gpu": None,
        "repeats": chosen.repeats,
        "scale": "cpu" if chosen.cpu else chosen.scale,
        "rows_limit": chosen.rows_limit or None,
        "seconds_limit": chosen.seconds,
        "sections": {},
        "columns": {},
        "running": None,
        "rows": [],
    }
    gpu_record.write(path, result)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    end = begun + chosen.seconds
    if not chosen.cpu and _run(chosen, path, FACTS, end, end):
        raise SystemExit("the GPU cannot be used; --cpu runs what needs none")
    left = dict(SECTIONS)
    for section in SECTIONS:
        share = left[section].weight / sum(each.weight for each in left.values())
        del left[section]
        started = time.time()
        deadline = end if not left else started + share * max(0.0, end - started)
        print(f"\n{section}, at most {max(0.0, deadline - started):.0f} s", flush=True)
        _section(chosen, path, section, deadline, end)
        _finish(path, section, time.time() - started)
    result = gpu_record.read(path)
    print(_summary(result, time.time() - begun))
    print(path)
    rows: list[dict[str, Any]] = result["rows"]
    return rows


def _section(
    chosen: argparse.Namespace, path: Path, section: str, deadline: float, end: float
) -> None:
    """Run a section to its end, behind each subject that ends its process."""
    for _ in range(MOST_STARTS):
        if time.time() >= end:
            _note(path, gpu_record.blank(section, "-", "the rest of it") | {"skipped": OVER})
            return
        before = len(gpu_record.read(path)["rows"])
        reason = _run(chosen, path, section, deadline, end)
        if reason is None:
            return
        result = gpu_record.read(path)
        if result["running"]:
            _note(path, gpu_record.blank(*result["running"]) | {"error": reason})
        elif reason != LOST_REASON or len(result["rows"]) == before:  # it would end so again
            _note(path, gpu_record.blank(section, "-", "the process") | {"error": reason})
            return


def _note(path: Path, row: dict[str, Any]) -> None:
    """Add a row that the process of its section could not."""
    result = gpu_record.read(path)
    gpu_record.write(path, {**result, "rows": [*result["rows"], row], "running": None})
    print(f"  {gpu_record.line(row)}", flush=True)


def _run(
    chosen: argparse.Namespace, path: Path, section: str, deadline: float, end: float
) -> str | None:
    """Run the process of a section; return why it did not come to its end."""
    command = [sys.executable, __file__, "--section", section, "--file", str(path)]
    command += ["--deadline", str(deadline), "--only", chosen.only, "--scale", chosen.scale]
    command += ["--repeats", str(chosen.repeats), "--rows-limit", str(chosen.rows_limit)]
    command += ["--cpu"] if chosen.cpu else []
    now = time.time()
    limit = min(max(deadline, now) + GRACE_S, end + LAST_GRACE_S, now + chosen.limit_s)
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            code = process.wait(limit - now)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also what a section has started, and when this process is stopped
            _end(process)
    if code is None:
        return "stopped: it was at work when the time was over"
    if code == 0:
        return None
    if code == LOST:
        return LOST_REASON
    return f"its process ended by {signal.Signals(-code).name if code < 0 else f'code {code}'}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the session of a process."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # nothing is
        return
    process.wait()


def _finish(path: Path, section: str, seconds: float) -> None:
    """Note what a section took, and print its table."""
    result = gpu_record.read(path)
    rows = [row for row in result["rows"] if row["table"] == section]
    if not rows:
        return
    result["sections"][section] = round(seconds, 2)
    result["columns"][section] = list(dict.fromkeys(n for row in rows for n in row["values"]))
    gpu_record.write(path, result)
    print(f"\n{gpu_record.table(rows)}", flush=True)


def _summary(result: dict[str, Any], seconds: float) -> str:
    """Return what was held against goals, and what could not be measured."""
    rows = result["rows"]
    gpu = result["gpu"]["name"] if result["gpu"] else "no GPU"
    lines = [f"\n{gpu}: {len(rows)} rows in {seconds:.0f} s"]
    for word, wanted in (("met", True), ("MISSED", False)):
        lines += [
            f"{word}: {', '.join(place(row))}: {goal}"
            for row in rows
            for goal, is_met in row["judged"].items()
            if is_met is wanted
        ]
    same = [row["subject"] for row in rows if row["values"].get("ways") == ONE_PATH]
    lines += [f"{ONE_PATH}, so nothing is compared: {'; '.join(same)}"] if same else []
    for kind in ("error", "skipped"):
        lines += [
            f"{kind}: {', '.join(place(r))}: {r[kind].splitlines()[0]}" for r in rows if r[kind]
        ]
    absent = {f"{row['subject']}: {row['absent']}": None for row in rows if row["absent"]}
    lines += [f"absent: {reason}" for reason in absent]
    return without_places("\n".join(lines))


if __name__ == "__main__":
    main()
