"""Who takes up tasks: a thread that starts a process for each, and one that watches it."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import IO, Any

from gpucluster.errors import ArtifactError, ConfigError
from gpucluster.service.catalog.port import Catalog, Changed, Full, Record
from gpucluster.service.refusals import Refusal
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.tasks import KIND, Tasks
from gpucluster.sources.filters import Condition, Filters
from gpucluster.wire.collections import SOURCE_PREFIX

logger = logging.getLogger(__name__)

POLL_S = 1.0  # for tasks that another server was given
SAVE_S = 1.0  # between two writes of progress
STOP_S = 60.0  # until a process that was asked to stop is made to
MAX_DEATHS = 3  # of the process, without a word about the reason
MAX_TAKEOVERS = 20  # of servers, during one task


VISIBLE = "CUDA_VISIBLE_DEVICES"
# What a job may compute on is among what it gets; one that gets none computes nothing
ON_CPU = Filters(NOT=(Condition(field="job.args.device", operator="in", value=["auto", "gpu"]),))


def uses_gpu(task: Record) -> bool:
    """Whether a task may need a GPU."""
    return task.body["job"]["args"].get("device") in {"auto", "gpu"}


class JobHost:
    """Works on tasks, so many at a time.

    Parameters
    ----------
    catalog : Catalog
    tasks : Tasks
    places : int
        Processes at a time.
    hold : timedelta
        Silence after which another server takes a task over.
    gpus : sequence of str
        As ``CUDA_VISIBLE_DEVICES`` names them. A job that may use a GPU is given one of them, and
        waits until one is free; without any, jobs find their device themselves.
    """

    def __init__(
        self,
        catalog: Catalog,
        tasks: Tasks,
        places: int,
        hold: timedelta,
        gpus: Sequence[str] = (),
    ) -> None:
        self._catalog = catalog
        self._tasks = tasks
        self.n_places = places
        self.n_gpus = len(gpus)
        self._places = threading.Semaphore(places)
        self._free_gpus = list(gpus)  # only the thread that takes up tasks takes from it
        self._hold = hold
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._take_up, name="jobs", daemon=True)
        self._watchers: set[threading.Thread] = set()

    @property
    def n_running(self) -> int:
        """Jobs that work now."""
        return len(self._watchers)

    @property
    def n_gpus_free(self) -> int:
        """GPUs that no job has."""
        return len(self._free_gpus)

    def start(self) -> None:
        """Begin to take up tasks."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the processes, and give their tasks back."""
        self._is_over.set()
        self._tasks.wake()
        self._thread.join()
        for watcher in tuple(self._watchers):
            watcher.join()

    def _take_up(self) -> None:
        while not self._is_over.is_set():
            if not self._places.acquire(timeout=POLL_S):
                continue
            task = None
            try:
                task = self._claimed()
            except Full:
                pass  # another writer has the catalog
            except Exception:  # such as a database that is away: this thread is the only one
                logger.exception("no task was taken up; the next try is soon")
                self._is_over.wait(POLL_S)
            if task is None:
                self._places.release()
                self._tasks.news.wait(POLL_S)
                self._tasks.news.clear()
                continue
            gpu = self._free_gpus.pop(0) if self.n_gpus and uses_gpu(task) else None
            watcher = threading.Thread(target=self._watch, args=(task, gpu), name=task.id)
            self._watchers.add(watcher)
            watcher.start()

    def _claimed(self) -> Record | None:
        """Take up a task; None where there is none, or it ended instead."""
        with self._catalog.writing() as tx:
            only = ON_CPU if self.n_gpus and not self._free_gpus else None
            due = tx.claim(KIND, hold=self._hold, limit=1, filters=only)
            if not due:
                return None
            task = due[0]
            body = dict(task.body)
            if task.status == "IN_PROGRESS":  # of a server that fell silent
                body["takeovers"] = body.get("takeovers", 0) + 1
            if body.get("takeovers", 0) > MAX_TAKEOVERS:
                task = self._tasks.end(tx, task, _failed(f"{MAX_TAKEOVERS} servers died over it"))
            elif body["cancel"]:
                task = self._tasks.end(tx, task, {"ok": False, "canceled": True})
            else:
                body["data"] = {**body["data"], "started_at": self._catalog.clock().isoformat()}
                task = tx.replace(replace(task, body=body, status="IN_PROGRESS"))
                begun = self._tasks.starters.get(body["job"]["verb"])
                if begun is not None:
                    begun(tx, task)
                return task
        self._tasks.follow(task)
        return None

    def _watch(self, task: Record, gpu: str | None) -> None:
        """See a task through, and free its place and its GPU."""
        try:
            Watched(self._catalog, self._tasks, task, self._hold, self._is_over).see_through(gpu)
        except Changed:
            logger.warning("%s was taken over by another server", task.id)
        except Exception:
            logger.exception("%s was left; it will be taken up again", task.id)
        finally:
            self._watchers.discard(threading.current_thread())
            if gpu is not None:
                self._free_gpus.append(gpu)
            self._places.release()
            self._tasks.wake()


class Watched:
    """One task and its process."""

    def __init__(
        self,
        catalog: Catalog,
        tasks: Tasks,
        task: Record,
        hold: timedelta,
        is_over: threading.Event,
    ) -> None:
        self._catalog = catalog
        self._tasks = tasks
        self._task = task
        self._hold = hold
        self._is_over = is_over
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._data: dict[str, Any] = {}

    def see_through(self, gpu: str | None = None) -> None:
        """Start the process, write down how far it is, and in the end what came of it.

        Parameters
        ----------
        gpu : str, optional
            The only one that it sees.
        """
        command = [sys.executable, "-m", "gpucluster.service.jobs.work"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=_environment(os.environ, self._task.body["job"]["env"])
            | ({} if gpu is None else {VISIBLE: gpu}),
        )
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            self._write(process, json.dumps(self._task.body["job"]))
            outcome = self._wait(process)
        finally:
            process.kill()
            process.wait()
            reader.join()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        if outcome is None and self._is_over.is_set():
            self._give_back()
        elif outcome is None:
            self._died(process.returncode)
        else:
            self._end(outcome)

    def _read(self, lines: IO[str] | None) -> None:
        for line in lines or ():
            self._news.put(line)
        self._news.put(None)

    def _wait(self, process: subprocess.Popen[str]) -> Mapping[str, Any] | None:
        """Return the outcome; None where the process ended without one."""
        outcome: Mapping[str, Any] | None = None
        saved, asked_at = time.monotonic(), None
        while True:
            line: str | None = ""
            with suppress(queue.Empty):
                line = self._news.get(timeout=SAVE_S)
            if line is None:
                return outcome
            message = json.loads(line) if line else {}
            outcome = message.get("outcome", outcome)
            self._note(message)
            now = time.monotonic()
            if now - saved >= SAVE_S:
                self._save()
                saved = now
            is_wished = self._task.body["cancel"] or self._is_over.is_set()
            if is_wished and asked_at is None:
                self._write(process, "cancel")
                asked_at = now
            if asked_at is not None and now - asked_at > STOP_S:
                process.kill()

    def _note(self, message: Mapping[str, Any]) -> None:
        if "progress" in message:
            self._data["progress"] = message["progress"]
        if "path" in message:
            self._data["path"] = message["path"]
        if "waiting" in message:
            self._data["waiting"] = message["waiting"]

    def _save(self) -> None:
        """Write down how far the task is, and keep it; learn whether it is to stop."""
        for _ in range(2):
            task = self._task
            body = {**task.body, "data": {**task.body["data"], **self._data}}
            due = self._catalog.clock() + self._hold
            try:
                with self._catalog.writing() as tx:
                    self._task = tx.replace(replace(task, body=body, due_at=due))
            except Changed:
                self._reread()
            except Full:
                return  # there is time until the hold ends
            else:
                return
        raise Changed(self._task.id)

    def _reread(self) -> None:
        """Take in that somebody asked for a stop; anything else means that the task is lost."""
        task = self._task
        with self._catalog.reading() as tx:
            found = tx.get(task.ns, KIND, task.id)
        if found is not None and found.version == task.version:
            return  # what was changed is something that hangs on it
        is_only_asked = (
            found is not None
            and found.version == task.version + 1
            and found.body["cancel"]
            and not task.body["cancel"]
        )
        if found is None or not is_only_asked:
            raise Changed(task.id)
        self._task = found

    def _end(self, outcome: Mapping[str, Any]) -> None:
        if outcome.get("canceled") and self._is_over.is_set() and not self._task.body["cancel"]:
            self._give_back()
            return
        for _ in range(3):
            try:
                self._tasks.prepare(self._task, outcome)
                with self._catalog.writing() as tx:
                    task = self._tasks.end(tx, self._task, outcome)
            except Changed:
                self._reread()
            except (Refusal, ConfigError, ArtifactError) as error:  # the next try ends like this
                if not outcome["ok"]:
                    raise
                outcome = {"ok": False, "error": {"code": error.code, "message": str(error)}}
            else:
                self._tasks.follow(task)
                return
        raise Changed(self._task.id)

    def _give_back(self) -> None:
        """Let the next server take the task up at once."""
        now = self._catalog.clock()
        with self._catalog.writing() as tx:
            tx.replace(replace(self._task, status="PENDING", due_at=now))

    def _died(self, code: int) -> None:
        """Try again, unless the process died too often without a word."""
        deaths = self._task.body["deaths"] + 1
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self._task.body["cancel"]:
            self._end({"ok": False, "canceled": True})
        elif deaths >= MAX_DEATHS:
            self._end(_failed(f"its process died {deaths} times, the last time by {reason}"))
        else:
            body = {**self._task.body, "deaths": deaths}
            now = self._catalog.clock()
            with self._catalog.writing() as tx:
                tx.replace(replace(self._task, body=body, status="PENDING", due_at=now))

    @staticmethod
    def _write(process: subprocess.Popen[str], line: str) -> None:
        with suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.write(line + "\n")
                process.stdin.flush()


def _environment(variables: Mapping[str, str], needed: Sequence[str]) -> dict[str, str]:
    """Leave out the settings of the server, and of the sources all that a job does not need."""
    secret = (ServiceSettings.model_config["env_prefix"], SOURCE_PREFIX)
    return {
        name: value
        for name, value in variables.items()
        if name in needed or not name.startswith(secret)
    }


def _failed(message: str) -> dict[str, Any]:
    error = {"type": "StageCrashedError", "code": "stage_crashed", "message": message}
    return {"ok": False, "error": error}
