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
from gpucluster.device.memory import PeakMemory, give_back
from gpucluster.device.worker import Worker
from gpucluster.events import Reporter, StageFinished, StageRecord, StageStarted, Warned
from gpucluster.logs import logger
from gpucluster.planner import Plan

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
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
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
        begun = time.monotonic()
        self.facts = {
            "device": "cpu",
            "backend": backend,
            "method": planned.method if planned else "exact",
            "reason": planned.reason if planned else "",
        }
        yield self.reporter.for_stage(name)
        record = StageRecord(
            name=name,
            executor="local",
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

    def keep(
        self, stage: str, key: str, arrays: Mapping[str, Any], info: Mapping[str, Any]
    ) -> None:
        """Checkpoint the running stage, with how it was computed and what it warned of."""
        if self.checkpoints is None:
            return
        warned = [asdict(event) for event in self.reporter.warnings[self._first_warning :]]
        facts = {"facts": self.facts, "warnings": warned, "info": dict(info)}
        self.checkpoints.put(stage, key, arrays, facts)
