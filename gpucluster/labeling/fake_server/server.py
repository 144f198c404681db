"""The server: HTTP on loopback, in threads of this process."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from gpucluster.labeling.fake_server.provider import Answer, FakeProvider, refuse

_MAX_REQUEST_BYTES = 32_000_000


class FakeServer(FakeProvider):
    """A server in threads of this process, while a ``with`` block runs.

    Parameters
    ----------
    port : int
        0 takes a free one.
    **options
        Of `FakeProvider`.
    """

    def __init__(self, port: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.ending = threading.Event()
        self._http = _Http(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    @property
    def base_url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ending.set()
        self._http.shutdown()
        self._thread.join()
        self._http.disconnect()
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], fake: FakeServer) -> None:
        super().__init__(address, _Handler)
        self.fake = fake
        self._open: set[Any] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().close_request(request)

    def disconnect(self) -> None:
        """End the connections that clients keep for later."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer on a kept connection takes 40 ms more
    server: _Http

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            model = {"id": "fake", "object": "model", "created": 0, "owned_by": "gpucluster"}
            self._send(Answer(200, {"object": "list", "data": [model]}))
        else:
            self._send(refuse(404, f"there is no {self.path}"))

    def do_POST(self) -> None:
        fake = self.server.fake
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MAX_REQUEST_BYTES:
            self.close_connection = True
            self._send(refuse(413, "too long"))
            return
        fake.working(1)
        try:
            try:
                body = json.loads(self.rfile.read(length))
                made = fake.respond(self.path, body, self.headers.get("Authorization"))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                made = refuse(400, f"cannot read the request: {type(error).__name__}")
            if made.delay_s:
                fake.ending.wait(made.delay_s)
        finally:
            fake.working(-1)
        if made.breaks:
            self._break()
        else:
            self._send(made)

    def _send(self, made: Answer) -> None:
        """Write head and body at once."""
        body = made.body if isinstance(made.body, bytes) else json.dumps(made.body).encode()
        self.send_response(made.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (headers | dict(made.headers)).items():
            self.send_header(name, value)
        buffer: list[bytes] = self._headers_buffer  # type: ignore[attr-defined]
        buffer.append(b"\r\n" + body)
        try:
            self.flush_headers()
        except OSError:  # the client waits no longer
            self.close_connection = True

    def _break(self) -> None:
        """Reset the connection, as a machine does that goes down."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base
        """Say nothing."""
