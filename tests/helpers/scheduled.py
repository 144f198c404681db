"""Triggers over a real catalog, with a clock that is set, and definitions that run nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Catalog, Query, Record, Transaction
from gpucluster.service.identifiers import new_id
from gpucluster.service.refusals import ConflictError, NotFoundError, UnavailableError
from gpucluster.service.triggers.loop import TriggerLoop
from gpucluster.service.triggers.port import Question
from gpucluster.service.triggers.triggers import Triggers
from gpucluster.wire.triggers import (
    CreateTriggerRequest,
    TriggerExecutionConfig,
    TriggerHistoryRequest,
    TriggerModel,
)
from tests.helpers.clocks import FakeClock

NS = "shop"
CLUSTER = "clust_a"
START = datetime(2026, 3, 1, tzinfo=UTC)
CREATE = TypeAdapter(CreateTriggerRequest)
EXECUTION = "execution"


class Definitions:
    """Definitions of which each can have one live execution; it ends when a test says so.

    Attributes
    ----------
    configs : dict
        Those that are there, by id.
    n_rows : int
        Of their collections.
    lasts : bool
        Whether executions last; or they are over when they begin.
    errors : list
        Raised by the next starts, after they wrote.
    look : Record or None
        The latest look at the drift, where nothing has changed since.
    started : callable
        Called there, too.
    """

    def __init__(self) -> None:
        self.configs = {CLUSTER: TriggerExecutionConfig(collection_ids=["docs"], config={})}
        self.n_rows = 1000
        self.lasts = True
        self.errors: list[Exception] = []
        self.look: Record | None = None
        self.started: Callable[[], None] = lambda: None

    def define(self, ns: str, cluster_id: str, config: TriggerExecutionConfig) -> None:
        self.configs[cluster_id] = config

    def config_of(
        self, tx: Transaction, ns: str, identifier: str
    ) -> tuple[str, TriggerExecutionConfig]:
        if identifier not in self.configs:
            raise NotFoundError(f"there is no cluster {identifier}")
        return identifier, self.configs[identifier]

    def start(
        self,
        tx: Transaction,
        ns: str,
        cluster_id: str,
        *,
        mode: str,
        trigger_id: str,
        purpose: str | None = None,
    ) -> str:
        self.config_of(tx, ns, cluster_id)
        query = Query(parent=cluster_id, status="pending")
        live = tx.page(ns, EXECUTION, query).records if self.lasts else ()
        if live:
            raise ConflictError(f"{cluster_id} is being executed: {live[0].id}")
        body = {"trigger_id": trigger_id, "mode": mode, "purpose": purpose}
        status = "pending" if self.lasts else "completed"
        run = new_id("execution")
        tx.create(
            Record(ns=ns, kind=EXECUTION, id=run, parent=cluster_id, status=status, body=body)
        )
        self.started()
        if self.errors:
            raise self.errors.pop(0)
        return run

    def wake(self) -> None:
        pass

    def collection_id(self, tx: Transaction, ns: str, identifier: str) -> str:
        if identifier == "nowhere":
            raise NotFoundError("there is no collection nowhere")
        return "docs" if identifier == "documents" else identifier

    def latest(
        self, tx: Transaction, ns: str, cluster_id: str, *, mode: str | None = None
    ) -> Record | None:
        runs = tx.page(ns, EXECUTION, Query(parent=cluster_id, status="completed")).records
        return next((run for run in runs if mode in {None, run.body["mode"]}), None)

    def num_rows(self, tx: Transaction, ns: str, cluster_id: str) -> int:
        return self.n_rows

    def last_look(self, tx: Transaction, ns: str, cluster_id: str) -> Record | None:
        return self.look


class Answers:
    """Addresses that answer what they were told to, or not at all."""

    def __init__(self) -> None:
        self.reply: Any = {"fire": False}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.secrets: list[Any] = []

    def check(self, url: str, *, path: str) -> None:
        pass

    def ask(self, question: Question) -> Any:
        self.asked.append((question.url, question.body))
        self.secrets.append(question.secrets)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


class Stage:
    """A service of which only the triggers are there."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.clock = catalog.clock
        self.definitions = Definitions()
        self.answers = Answers()
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.triggers = Triggers(catalog, self.definitions, self._emit, self.answers)
        self.loop = TriggerLoop(catalog, self.triggers)

    def _emit(
        self, tx: Transaction, ns: str, event: str, kind: str, of: str, told: Mapping[str, Any]
    ) -> None:
        assert (ns, kind) == (NS, "trigger")
        self.events.append((event, of, dict(told)))

    def create(self, kind: str, schedule: Mapping[str, Any], **more: Any) -> str:
        """Make a trigger, and return its id."""
        given = {"trigger_type": kind, "schedule_config": schedule, **more}
        if "execution_config" not in more:
            given.setdefault("cluster_id", CLUSTER)
        request = CREATE.validate_python(given)
        made = self.triggers.create(
            NS, new_id("trigger"), request, cluster_id=new_id("cluster"), created_by="tok"
        )
        return made.trigger_id

    def get(self, trigger_id: str) -> TriggerModel:
        return self.triggers.get(NS, trigger_id)

    def record(self, trigger_id: str) -> Record:
        with self.catalog.reading() as tx:
            found = tx.get(NS, "trigger", trigger_id)
        assert found is not None
        return found

    def run(self) -> int:
        """See to all that is due, and return how many that were."""
        n_times = 0
        while self.loop.step():
            n_times += 1
        return n_times

    def history(self, trigger_id: str, **more: Any) -> list[Any]:
        """Return the entries of a history, the oldest first."""
        request = TriggerHistoryRequest(limit=1000, **more)
        return self.triggers.history(NS, trigger_id, request).executions[::-1]

    def runs(self) -> list[Record]:
        """Return all executions, the oldest first."""
        with self.catalog.reading() as tx:
            query = Query(limit=10_000, sort="created_at", direction="asc")
            return list(tx.page(NS, EXECUTION, query).records)

    def add_run(self, mode: str = "full", **facts: Any) -> str:
        """Let an execution that no trigger started have been completed."""
        body = {"mode": mode, "trigger_id": None, "num_rows": 1000, **facts}
        run = new_id("execution")
        record = Record(
            ns=NS, kind=EXECUTION, id=run, parent=CLUSTER, status="completed", body=body
        )
        with self.catalog.writing() as tx:
            tx.create(record)
        return run

    def finish(self, run: str | None = None, status: str = "completed", **facts: Any) -> None:
        """Let an execution end: the live one, where none is named."""
        with self.catalog.writing() as tx:
            if run is None:
                run = next(iter(tx.page(NS, EXECUTION, Query(status="pending")).records)).id
            record = tx.get(NS, EXECUTION, run)
            body = {**record.body, "num_rows": self.definitions.n_rows, **facts}
            record = tx.replace(replace(record, body=body, status=status))
            self.triggers.finished(tx, record)


def serve_rounds(url: str, barrier: Any, n_rounds: int, seconds: int) -> None:
    """See to triggers as a server of its own, as often as others do, each time so much later."""
    stage = Stage(open_catalog(url, clock=FakeClock(START)))
    stage.definitions.lasts = False
    for _ in range(n_rounds):
        stage.clock.advance(seconds=seconds)
        barrier.wait(60)
        stage.run()
        barrier.wait(60)


class Mortal:
    """A catalog that ends the process at the n-th beginning, end or middle of a transaction."""

    def __init__(self, catalog: Catalog, at: int) -> None:
        self._catalog = catalog
        self._left = at
        self.clock = catalog.clock

    def reading(self) -> Any:
        return self._catalog.reading()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        self.step()
        with self._catalog.writing() as tx:
            yield tx
            self.step()
        self.step()

    def step(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def die_at(path: str, now: datetime, at: int) -> None:
    """See to what is due, and die on the way."""
    catalog = Mortal(open_catalog(path, clock=FakeClock(now)), at)
    stage = Stage(catalog)
    stage.definitions.lasts = False
    stage.definitions.started = catalog.step
    stage.run()


UNANSWERED = UnavailableError("the address does not answer")
