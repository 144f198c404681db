"""The result of `gpu.py`: one JSON file, to which each subject adds its row as soon as it has it.

The file is the state: what was running when a process died stands in it, so that the next one
can say so and go on with what is left.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Values = dict[str, Any]
OVER = "the time was over"
ONE_PATH = "one path"  # value `ways` of a row whose two sides are the same code here


class AbsentError(Exception):
    """A subject cannot be measured here; the message is the reason."""


class DeviceLostError(Exception):
    """The device can be used no more by this process."""


@dataclass(frozen=True)
class Goal:
    """What a value of a row should be.

    A goal of `speed` is one of a GPU at full size: it is not judged elsewhere. Nor is one that is
    not of what is measured `here`. `name` is the one in the list of goals, or of the gate.
    """

    name: str
    value: str
    at_most: float | None = None
    at_least: float | None = None
    speed: bool = False
    here: bool = True

    def __str__(self) -> str:
        sign, bound = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        return f"{self.name}: {self.value} {sign} {bound:g}"

    def is_met(self, values: Mapping[str, Any]) -> bool:
        """Whether the value is there, and as it should be."""
        found = values.get(self.value)
        if found is None or math.isnan(found):
            return False
        above = self.at_most is not None and found > self.at_most
        return not above and not (self.at_least is not None and found < self.at_least)


def read(path: Path) -> dict[str, Any]:
    """Return the result that a file holds."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result; a reader sees it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def blank(table: str, case: str, subject: str) -> dict[str, Any]:
    """Return a row in which nothing is measured yet, of the form that all results have."""
    return {
        "table": table,
        "case": case,
        "subject": subject,
        "values": {},
        "target": None,
        "met": None,
        "judged": {},  # each goal that was, and whether it is met
        "fails": False,  # one that is not of speed is missed
        "absent": None,
        "skipped": None,
        "error": None,
        "disturbed": False,
        "environment": {},
        "runs": [],
        "stages": [],
    }


class Session:
    """One section at work: measures subjects and saves each row at once.

    Parameters
    ----------
    path : Path
        The result file, which exists.
    section : str
        The table that the rows belong to.
    deadline : float
        Of the section, as `time.time` counts.
    only : str
        A regular expression: other subjects are left out.
    judges_speed : bool
        Whether the goals of speed are judged.
    is_alive : callable
        Raises `DeviceLostError` where the device can be used no more; asked after each error.
    clear : callable
        Gives memory back; called after each subject.
    """

    def __init__(
        self,
        path: Path,
        section: str,
        deadline: float,
        only: str,
        *,
        judges_speed: bool,
        is_alive: Callable[[], None],
        clear: Callable[[], None],
    ) -> None:
        self.path, self.section, self.deadline = path, section, deadline
        self._only, self._judges_speed = only, judges_speed
        self._is_alive, self._clear = is_alive, clear
        self.result = read(path)

    def left(self) -> float:
        """Return the seconds that are left to the section."""
        return self.deadline - time.time()

    def wants(self, case: str, subject: str) -> bool:
        """Whether a subject was asked for."""
        return re.search(self._only, f"{self.section} {case} {subject}") is not None

    def values(self, case: str, subject: str, section: str | None = None) -> Values:
        """Return what was measured of a subject; nothing if nothing was."""
        known = self._known(case, subject, section or self.section)
        return known["values"] if known else {}

    def measure(
        self, case: str, subject: str, work: Callable[[], Values], goals: Iterable[Goal] = ()
    ) -> Values:
        """Do some work, and save what it returns as a row; return that.

        A subject that raises has a row with its error, and the section goes on. One that is in
        the result already is not measured again: a process before this one has.
        """
        if not self.wants(case, subject):
            return {}
        known = self._known(case, subject, self.section)
        if known is not None:
            return known["values"]
        row = blank(self.section, case, subject)
        if self.left() <= 0:
            row["skipped"] = OVER
            return self._add(row)
        self.result["running"] = [self.section, case, subject]
        write(self.path, self.result)
        begun, failed = time.perf_counter(), False
        try:
            row["values"] = work()
        except AbsentError as reason:
            row["absent"] = str(reason)
        except ModuleNotFoundError as reason:  # a stage of ours that needs a library
            row["absent"] = str(reason)
        except Exception as error:  # noqa: BLE001 - one subject says nothing of the others
            failed = True
            row["error"] = without_places(f"{type(error).__name__}: {error}".strip()[:2000])
            row["traceback"] = without_places(traceback.format_exc()[-4000:])
        row["runs"] = row["values"].pop("runs", [])
        row["seconds"] = time.perf_counter() - begun
        self._judge(row, tuple(goals))
        values = self._add(row)
        if failed:
            self._is_alive()
        self._clear()
        return values

    def leave_out(self, case: str, subject: str, reason: str) -> None:
        """Say in the result why a subject is not measured here."""
        if self.wants(case, subject) and self._known(case, subject, self.section) is None:
            self._add({**blank(self.section, case, subject), "skipped": reason})

    def fail(self, error: Exception) -> None:
        """Say that a section ended before its time, outside of its subjects."""
        if self._known("-", "the rest of it", self.section) is None:
            said = without_places(f"{type(error).__name__}: {error}")
            row = blank(self.section, "-", "the rest of it") | {"error": said}
            self._add({**row, "traceback": without_places(traceback.format_exc()[-4000:])})

    def _known(self, case: str, subject: str, section: str) -> dict[str, Any] | None:
        wanted = section, case, subject
        rows = self.result["rows"]
        return next((row for row in rows if place(row) == wanted), None)

    def _judge(self, row: dict[str, Any], goals: tuple[Goal, ...]) -> None:
        if not goals:
            return
        judged = [goal for goal in goals if goal.here and (self._judges_speed or not goal.speed)]
        row["target"] = "; ".join(
            str(goal) if goal in judged else f"{goal} (not judged here)" for goal in goals
        )
        if row["values"] and judged:
            row["judged"] = {str(goal): goal.is_met(row["values"]) for goal in judged}
            row["met"] = all(row["judged"].values())
            row["fails"] = any(not (goal.speed or row["judged"][str(goal)]) for goal in judged)

    def _add(self, row: dict[str, Any]) -> Values:
        self.result["rows"].append(row)
        self.result["running"] = None
        write(self.path, self.result)
        print(f"  {line(row)}", flush=True)
        return row["values"]


def place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what tells a row from the others."""
    return row["table"], row["case"], row["subject"]


def without_places(text: str) -> str:
    """Return what an error says, without the folders of this machine."""
    for folder in (Path(__file__).resolve().parents[1], Path(sys.prefix), Path.home()):
        text = text.replace(f"{folder}/", "")
    return text


def line(row: Mapping[str, Any]) -> str:
    """Return a row for people who wait."""
    said = row["error"] and f"ERROR {row['error']}"
    said = said or (row["absent"] and f"absent: {row['absent']}")
    said = said or (row["skipped"] and f"skipped: {row['skipped']}")
    said = said or ", ".join(f"{name} {shown(value)}" for name, value in row["values"].items())
    judged = {True: "  [met]", False: "  [MISSED]", None: ""}[row["met"]]
    return f"{row['case']}, {row['subject']}: {said.splitlines()[0] if said else ''}{judged}"


def shown(value: Any) -> str:
    """Return a value with the digits that people read."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows of a section as Markdown: all values that any of them has.

    Rows without values are below the table, with the reason.
    """
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row["values"]))
    lines = [["case", "subject", *names, "target", "met"]]
    lines.append(["---", "---", *("---:" for _ in names), "---", "---"])
    for row in (row for row in rows if row["values"]):
        cells = [shown(row["values"][name]) if name in row["values"] else "" for name in names]
        met = {True: "yes", False: "NO", None: ""}[row["met"]]
        lines.append([row["case"], row["subject"], *cells, row["target"] or "", met])
    notes = [
        f"- {row['case']}, {row['subject']}: {kind}: {row[kind].splitlines()[0]}"
        for row in rows
        for kind in ("error", "absent", "skipped")
        if row[kind]
    ]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in lines), "", *notes])
