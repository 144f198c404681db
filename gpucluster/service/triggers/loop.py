"""The loop that sees to triggers when they are due; several servers may run it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from gpucluster.errors import GpuclusterError
from gpucluster.service.catalog.port import Catalog, Changed, Full, Record, Transaction
from gpucluster.service.refusals import Refusal, TooManyError, UnavailableError
from gpucluster.service.triggers.conditions import Verdict, judge_reply
from gpucluster.service.triggers.custom import question_of
from gpucluster.service.triggers.record import KIND, trigger_of
from gpucluster.service.triggers.triggers import Triggers
from gpucluster.wire.triggers import CustomSchedule

logger = logging.getLogger(__name__)

HOLD = timedelta(seconds=60)  # longer than an address takes to answer
POLL_S = 10.0
RECOVER_S = 1.0
TRIES = 5
UNEXPECTED = "an error of the service; its log has more"


class TriggerLoop:
    """Takes up triggers that are due, one after the other.

    Whoever takes one up moves its due time on by `HOLD`. What it then does (the execution, the
    entry of the history, the next time) is one transaction, in which the trigger has to be due at
    the same time still: a server that dies before leaves it to the next one, and one that was
    only slow changes nothing.

    Parameters
    ----------
    catalog : Catalog
    triggers : Triggers
    poll_s : float
        Longest sleep; what another server plans is seen after it.
    """

    def __init__(self, catalog: Catalog, triggers: Triggers, poll_s: float = POLL_S) -> None:
        self._catalog = catalog
        self._triggers = triggers
        self._poll_s = poll_s
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in a thread."""
        self._is_over.clear()
        self._thread = threading.Thread(target=self._run, name="triggers")
        self._thread.start()

    def stop(self) -> None:
        """End after what is being done."""
        self._is_over.set()
        self._triggers.news.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def step(self) -> bool:
        """See to one trigger that is due, and say whether there was one."""
        with self._catalog.writing() as tx:
            claimed = tx.claim(KIND, hold=HOLD, limit=1)
        for record in claimed:
            self._see_to(record)
        return bool(claimed)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                if self.step():
                    continue
                sleep_s = self._sleep_s()
            except Full:
                logger.warning("the catalog is busy; triggers wait")
                sleep_s = min(RECOVER_S, self._poll_s)
            except Exception:
                logger.exception("triggers wait after an error")
                sleep_s = min(RECOVER_S, self._poll_s)
            self._triggers.news.wait(sleep_s)
            self._triggers.news.clear()

    def _sleep_s(self) -> float:
        with self._catalog.reading() as tx:
            due = tx.next_due(KIND)
        if due is None:
            return self._poll_s
        return min(self._poll_s, max(0.0, (due - self._catalog.clock()).total_seconds()))

    def _see_to(self, claimed: Record) -> None:
        firing, now = self._triggers.firing, self._catalog.clock()
        try:
            self._decide(claimed, now)
        except Full:
            raise
        except TooManyError as refusal:
            later = now + timedelta(seconds=refusal.after_s)
            self._in_turn(claimed, lambda tx, found: tx.replace(replace(found, due_at=later)))
        except Exception as error:
            logger.exception("%s could not start anything", claimed.id)
            told = str(error) if isinstance(error, GpuclusterError | Refusal) else UNEXPECTED
            self._in_turn(claimed, lambda tx, found: firing.fail(tx, found, now, told))

    def _decide(self, claimed: Record, now: datetime) -> None:
        """Let a trigger do what it is for; if an address has a say in that, ask it first."""
        firing = self._triggers.firing
        try:
            verdict = self._asked(claimed)
        except UnavailableError as refusal:
            error = refusal.message
            self._in_turn(claimed, lambda tx, found: firing.unanswered(tx, found, now, error))
            return
        self._in_turn(claimed, lambda tx, found: firing.see_to(tx, found, now, verdict))
        self._triggers.clusters.wake()

    def _in_turn(self, claimed: Record, act: Callable[[Transaction, Record], object]) -> None:
        """Do something about a trigger, if it is due at the same time still."""
        due = trigger_of(claimed).next_scheduled_at
        for _ in range(TRIES):
            with suppress(Changed), self._catalog.writing() as tx:
                found = tx.get(claimed.ns, KIND, claimed.id)
                if found is not None and trigger_of(found).next_scheduled_at == due:
                    act(tx, found)
                return
        logger.warning("%s is changed all the time; it is seen to later", claimed.id)

    def _asked(self, claimed: Record) -> Verdict | None:
        """Ask the address of a condition, outside of any transaction."""
        trigger = trigger_of(claimed)
        schedule = trigger.schedule
        if not isinstance(schedule, CustomSchedule):
            return None
        question = question_of(claimed, trigger, schedule, self._catalog.clock())
        return judge_reply(schedule, self._triggers.asks.ask(question))
