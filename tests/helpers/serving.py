"""Servers of the service: one in this process, or one that can be killed."""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import uvicorn

from gpucluster.service.app import make_app
from gpucluster.service.server import BACKLOG, KEEP_ALIVE_S
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.wiring import Service

TOKEN = "a-token-for-everything"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SECONDS = 60


@contextmanager
def serving(root: Path, **settings) -> Iterator[tuple[httpx2.Client, Service]]:
    """Yield a client of a server in this process, and what it serves."""
    fields = {"root": str(root), "admin_token": TOKEN, "device": "cpu", **settings}
    service = Service(ServiceSettings(**fields))
    config = uvicorn.Config(
        make_app(service),
        port=0,
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + SECONDS
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < until
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=SECONDS)
    try:
        with client:
            yield client, service
    finally:
        service.is_over.set()
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive(), "the server did not stop"


class Killable:
    """``gpucluster serve`` as a process, which can be started again after it was killed.

    Several on one root need a log each: the address is read from it.
    """

    def __init__(self, root: Path, *options: str, log: Path | None = None) -> None:
        self._command = [
            *(sys.executable, "-m", "gpucluster", "serve", "--root", str(root), "--port", "0"),
            *("--device", "cpu", *options),
        ]
        self._log = log or root.parent / f"{root.name}.log"
        self.process: subprocess.Popen[str] | None = None
        self.client: httpx2.Client | None = None
        atexit.register(self.kill)  # where a test fails before it stops its server

    def kill(self) -> None:
        """End it at once, where it still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(SECONDS)

    def start(self) -> httpx2.Client:
        """Start it, and return a client once it answers."""
        environment = {**os.environ, "GPUCLUSTER_SERVE_ADMIN_TOKEN": TOKEN}
        begun = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, text=True, env=environment
            )
        until = time.monotonic() + SECONDS
        while (
            found := re.search(r"listening at (http://\S+)", self._log.read_text()[begun:])
        ) is None:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        self.client = httpx2.Client(base_url=found[1], headers=HEADERS, timeout=SECONDS)
        return self.client

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        assert self.process is not None
        if self.client is not None:
            self.client.close()
        self.process.send_signal(how)
        return self.process.wait(SECONDS)


def ended(client: httpx2.Client, task_id: str, seconds: float = SECONDS) -> dict:
    """Return a task once it is over."""
    until = time.monotonic() + seconds
    while True:
        task = client.get(f"/v1/tasks/{task_id}").json()
        if task["status"] not in {"PENDING", "IN_PROGRESS"}:
            return task
        assert time.monotonic() < until, task
        time.sleep(0.05)


def workers_of(server: int) -> list[int]:
    """Return the processes of a server that work on tasks."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes() if parent == server else b""
        except OSError:  # it ended meanwhile
            continue
        if b"gpucluster.service.jobs.work" in command:
            found.append(int(folder.name))
    return found
