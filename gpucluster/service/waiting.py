"""Answers that wait until tasks are over, without a thread of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool

from gpucluster.service.calls import Call
from gpucluster.service.catalog.port import Record
from gpucluster.wire.tasks import LIVE

WAIT_S = 300.0
LOOK_S = 0.2


async def when_over(call: Call, task_ids: Sequence[str]) -> list[Record]:
    """Return tasks once all of them are over, or as they are after `WAIT_S`.

    They are returned as they are, too, where the server is told to stop: another one goes on.
    """
    until, is_over = time.monotonic() + WAIT_S, call.service.is_over
    while True:
        found = [
            await run_in_threadpool(call.service.tasks.get, call.ns, each) for each in task_ids
        ]
        if all(task.status not in LIVE for task in found):
            return found
        if is_over.is_set() or time.monotonic() > until:
            return found
        await asyncio.sleep(LOOK_S)
