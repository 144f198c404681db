"""A server on a port."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from gpucluster.artifacts import open_store
from gpucluster.errors import ConfigError, PermissionRefusedError
from gpucluster.places import Place
from gpucluster.service.app import make_app
from gpucluster.service.log import logged
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.tokens import ANY
from gpucluster.service.wiring import Service

KEEP_ALIVE_S = 75  # longer than what clients and proxies assume, so that none sends into a close
BACKLOG = 2048
GRACE_S = 10  # for answers that are on their way when the server is told to stop


def serve(settings: ServiceSettings, say: Callable[[str], object], *, quiet: bool = False) -> None:
    """Answer requests until a signal says stop.

    Parameters
    ----------
    settings : ServiceSettings
    say : callable
        Gets lines for the operator, among them the first token of a new service.
    quiet : bool
        Whether errors alone are logged.
    """
    with logged(settings.log_format, logging.ERROR if quiet else logging.INFO):
        _serve(settings, say)


def _serve(settings: ServiceSettings, say: Callable[[str], object]) -> None:
    with _listen(settings.host, settings.port) as listening:
        _check_root(settings.place)
        service = Service(settings)
        host, port = listening.getsockname()[:2]
        if settings.auth and service.tokens.is_empty():
            _, text = service.tokens.issue(ANY, ["admin"], name="first")
            say(f"a token for everything, shown this once: {text}")
        shown = f"[{host}]" if ":" in host else host
        say(f"listening at http://{shown}:{port}")
        config = uvicorn.Config(
            make_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            backlog=BACKLOG,
        )
        _Server(config, service).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Tells those who follow a task that it is over, before it waits for them."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.is_over.set()
        super().handle_exit(sig, frame)


def _check_root(root: Place) -> None:
    """Raise where nothing can be kept; of a bucket, where it cannot be asked."""
    if not isinstance(root, Path):
        open_store(root).list("ns")
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot use {root}: {error.strerror}", path="root") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise PermissionRefusedError(f"no permission to write in {root}")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named as TCP, or asyncio lets small answers wait for those before to be acknowledged
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)  # before anybody is told: who comes early waits
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror}",
            path="port",
            hint="choose another one; 0 is any that is free",
        ) from error
    return listening
