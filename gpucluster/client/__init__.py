"""Talking to a service: `Client`, and `AsyncClient` with the same methods to be awaited.

A call is described once, as a value or as a generator of what is to be sent, slept and read
(`calls`, `flows`); two drivers do that, one blocking and one not (`drivers`). Answers are models of
`gpucluster.wire`, which the service is made of too.
"""

from __future__ import annotations

from gpucluster.client.retries import Retries
from gpucluster.errors import BackendUnavailableError

try:
    from gpucluster.client.doors import AsyncClient, Client
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise BackendUnavailableError(
        "the client needs httpx2, which is missing", hint="pip install 'gpucluster[client]'"
    ) from error

__all__ = ["AsyncClient", "Client", "Retries"]
