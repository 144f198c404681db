"""A server before another one, which breaks what it is told to break."""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

PASS = "pass"
LOST_REQUEST = "lost request"  # the connection ends before the service hears of it
LOST_REPLY = "lost reply"  # the service did it, and nobody hears of that
HALF_REPLY = "half reply"
OWN = {"connection", "content-length", "host", "transfer-encoding", "accept-encoding"}


@dataclass(frozen=True)
class Answer:
    """Answered without asking the service."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Faulty:
    """The address of the server, what it does next, and what it saw."""

    url: str
    script: deque = field(default_factory=deque)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def keys(self) -> list[str | None]:
        return [headers.get("idempotency-key") for _, _, headers in self.seen]


@contextmanager
def faulty(behind: str) -> Iterator[Faulty]:
    """Yield a server before the one at `behind`."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self._body(headers)
            with lock:
                control.seen.append((self.command, self.path, headers))
                fault = control.script.popleft() if control.script else PASS
            if fault == LOST_REQUEST:
                self._reset()
                return
            if isinstance(fault, Answer):
                self._answer(fault.status, fault.headers, fault.body)
                return
            passed = {name: value for name, value in headers.items() if name not in OWN}
            reply = httpx2.request(
                self.command, behind + self.path, headers=passed, content=body, timeout=60
            )
            if fault == LOST_REPLY:
                self._reset()
            elif fault == HALF_REPLY:
                self._answer(reply.status_code, dict(reply.headers), reply.content, cut=True)
            else:
                self._answer(reply.status_code, dict(reply.headers), reply.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815

        def _body(self, headers: dict[str, str]) -> bytes:
            if headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(headers.get("content-length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(
            self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in {*OWN, "content-encoding", "date", "server"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.wfile.flush()
                self.close_connection = True

        def _reset(self) -> None:
            """Close the connection so that the other side sees a reset."""
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def shutdown_request(self, request: socket.socket) -> None:
            request.close()  # a shutdown first would hide the reset

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    control = Faulty(f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield control
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
