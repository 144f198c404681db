"""What the stages of one run share: their records, their checkpoints, the plan they follow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from gpucluster.artifacts import Checkpoints
from gpucluster.costing import PlannedStage
from gpucluster.device.fleet import Fleet
from gpucluster.device.memory import PeakMemory, give_back
from gpucluster.device.storage import Site
from gpucluster.device.worker import Worker
from gpucluster.events import Reporter, StageFinished, StageRecord, StageStarted, Warned
from gpucluster.logs import logger
from gpucluster.planner import Plan

MIDWAY_S = 60.0  # what a stage that is killed loses at most of its work
FELL_BACK = "the GPU path failed, a warning says how"


class Account:
    """Times the stages of one piece of work and tells its observer of them.

    Parameters
    ----------
    reporter : Reporter
        Told of every stage.

    Attributes
    ----------
    records : list of StageRecord
        Finished stages, in order.
    facts : dict
        Of the running stage: ``device``, ``backend``, ``method``, ``reason``.
    fleet : Fleet or None
        Who works on the rows of matrices beside this process.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.fleet: Fleet | None = None
        self.records: list[StageRecord] = []
        self.facts: dict[str, Any] = {}
        self._peak = PeakMemory()

    @contextmanager
    def stage(
        self, name: str, *, backend: str = "", planned: PlannedStage | None = None
    ) -> Iterator[Reporter]:
        """Time a stage, measure its memory, record it, and tell the observer."""
        self.reporter.cancel.raise_if_cancelled()
        self.reporter.observer(StageStarted(name))
        storage = "disk" if planned and planned.disk_bytes else "memory"
        give_back()
        self._peak.reset(with_files=storage == "memory")
        begun, n_calls = time.monotonic(), self.fleet.n_calls if self.fleet else 0
        self.facts = {
            "device": "cpu",
            "backend": backend,
            "method": planned.method if planned else "exact",
            "reason": planned.reason if planned else "",
        }
        yield self.reporter.for_stage(name)
        record = StageRecord(
            name=name,
            executor="dask" if self.fleet and self.fleet.n_calls > n_calls else "local",
            storage=storage,
            seconds=round(time.monotonic() - begun, 4),
            peak_bytes=self._peak.read(),
            planned_bytes=planned.bytes if planned else None,
            planned_seconds=planned.seconds if planned else None,
            **self.facts,
        )
        self.records.append(record)
        logger.info(
            "%s: %.2f s, peak %d bytes, %s on %s",
            *(name, record.seconds, record.peak_bytes, record.backend, record.device),
        )
        self.reporter.observer(StageFinished(record))


class Midway:
    """The state of a running stage: two checkpoints in turn, so that one is always whole.

    Parameters
    ----------
    checkpoints : Checkpoints
    stage : str
    key : str
        Digest of all that determines the stage.
    """

    def __init__(self, checkpoints: Checkpoints, stage: str, key: str) -> None:
        self._checkpoints, self._stage, self._key = checkpoints, stage, key
        self._number = 0
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether `MIDWAY_S` have passed since the last one."""
        return time.monotonic() - self._last >= MIDWAY_S

    def get(self) -> Mapping[str, Any] | None:
        """Return the arrays that were kept last, or None."""
        slots = [self._checkpoints.get(self._slot(number), self._key) for number in range(2)]
        found = [slot for slot in slots if slot is not None]
        if not found:
            return None
        last = max(found, key=lambda slot: slot.info["number"])
        self._number = last.info["number"]
        return last.arrays

    def put(self, arrays: Mapping[str, Any]) -> None:
        """Keep arrays, by name, in the place of earlier ones."""
        self._number += 1
        self._checkpoints.put(self._slot(self._number), self._key, arrays, {"number": self._number})
        self._last = time.monotonic()

    def drop(self) -> None:
        """Remove what was kept: the stage is finished."""
        for number in range(2):
            self._checkpoints.drop(self._slot(number), self._key)

    def _slot(self, number: int) -> str:
        return f"{self._stage}.midway-{number % 2}"


class Ledger(Account):
    """The account of one run: its stages, as they were planned.

    Parameters
    ----------
    reporter : Reporter
        Told of every stage.
    plan : Plan
        What was predicted; replaced when the rows are known exactly.

    Attributes
    ----------
    checkpoints : Checkpoints or None
        Where finished stages are kept; None keeps nothing.
    worker : Worker or None
        Where stages compute that must not run in this process; None lends each its own.
    started : datetime
        When the run began.
    """

    def __init__(self, reporter: Reporter, plan: Plan) -> None:
        super().__init__(reporter)
        self.plan = plan
        self.checkpoints: Checkpoints | None = None
        self.worker: Worker | None = None
        self.started = datetime.now(UTC)
        self._first_warning = 0
        self._planned_device = "cpu"

    @contextmanager
    def stage(
        self, name: str, *, backend: str = "", planned: PlannedStage | None = None
    ) -> Iterator[Reporter]:
        """Account for a stage beside what the plan said of it."""
        planned = planned or self.plan.stage(name)
        self._first_warning = len(self.reporter.warnings)
        self._planned_device = planned.device if planned else "cpu"
        with super().stage(name, backend=backend, planned=planned) as reporter:
            yield reporter

    @property
    def site(self) -> Site | None:
        """Where matrices of all rows lie; None: in memory."""
        if self.fleet is not None:
            return self.fleet.site
        return None if self.plan.folder is None else Site(self.plan.folder)

    def note(self, **facts: Any) -> None:
        """Correct the record of the running stage: ``device``, ``backend``, ``method`` ..."""
        if facts.get("device", self._planned_device) != self._planned_device:
            facts.setdefault("reason", FELL_BACK)
        self.facts.update(facts)

    def recall(self, stage: str, key: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        """Return arrays and info of the running stage from a checkpoint, if there is one.

        Its warnings are said again: they hold for this run too.
        """
        done = self.checkpoints.get(stage, key) if self.checkpoints else None
        if done is None:
            return None
        self.note(reused=True, **done.info["facts"])
        for warned in done.info["warnings"]:
            self.reporter.repeat(Warned(**warned))
        return done.arrays, done.info["info"]

    def midway(self, stage: str, key: str) -> Midway | None:
        """Return where the running stage keeps its state on the way, where anything is kept."""
        return None if self.checkpoints is None else Midway(self.checkpoints, stage, key)

    def keep(
        self, stage: str, key: str, arrays: Mapping[str, Any], info: Mapping[str, Any]
    ) -> None:
        """Checkpoint the running stage, with how it was computed and what it warned of."""
        if self.checkpoints is None:
            return
        warned = [asdict(event) for event in self.reporter.warnings[self._first_warning :]]
        facts = {"facts": self.facts, "warnings": warned, "info": dict(info)}
        self.checkpoints.put(stage, key, arrays, facts)
