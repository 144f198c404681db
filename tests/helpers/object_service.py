"""An S3 that is a process, and a proxy in front of it that fails when it is told to."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# what happens to a request: it is answered with a status, before or after it was carried out; or
# the connection is reset; or it is carried out without its conditions; or it waits
Fault = str
Decide = Callable[[int, str, str], Fault | None]

# moto looks through its folders at each request: once is enough. It looks at the condition of a
# write and writes without a lock: a service that keeps conditions does both at once.
SERVE = """
import threading
from moto import backends
known = [*backends.list_of_moto_modules()]
backends.list_of_moto_modules = lambda: known
from moto.s3.responses import S3Response
from moto.server import main
turn, write = threading.Lock(), S3Response.put_object
def put_object(self):
    with turn:
        return write(self)
S3Response.put_object = put_object
main(["-H", "127.0.0.1", "-p", "0"])
"""
CONDITIONS = {"if-match", "if-none-match"}


@contextmanager
def serving() -> Iterator[int]:
    """Run moto's server and give its port."""
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVE], stdout=log, stderr=log)
        try:
            yield _port(process, Path(log.name))
        finally:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(f"moto did not start: {log.read_text()}")


def make_bucket(port: int, name: str) -> None:
    """Create a bucket."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()


class Proxy:
    """Passes requests on, but does to the n-th one what `decide` says of it.

    Parameters
    ----------
    target : int
        The port of the service.

    Attributes
    ----------
    decide : callable
        ``decide(n, method, path)`` returns a fault or None; n counts from 1.
    seen : list of (str, str)
        Method and path of each request.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.decide: Decide = lambda n, method, path: None
        self.seen: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, at: int, fault: Fault) -> None:
        """Let the request number `at` from now on go wrong, and no other."""
        self.seen.clear()
        self.decide = lambda n, method, path: fault if n == at else None

    def pass_on(self) -> None:
        """Let all requests pass, and count from 1 again."""
        self.seen.clear()
        self.decide = lambda n, method, path: None

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.seen.append((method, path))
            return self.decide(len(self.seen), method, path)

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.fault(self.command, self.path) or ""
                if fault.startswith("delay"):
                    time.sleep(float(fault.split()[1]))
                if fault == "reset before":
                    return self.reset()
                if fault.isdigit():
                    return self.answer(int(fault), {}, b"<Error><Code>Injected</Code></Error>")
                without = CONDITIONS if fault == "unconditional" else set()
                without = {"if-match"} if fault == "no if-match" else without
                headers = {k: v for k, v in self.headers.items() if k.lower() not in without}
                connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
                connection.request(self.command, self.path, body, headers)
                found = connection.getresponse()
                content = found.read()
                connection.close()
                if fault == "lost reply":
                    return self.reset()
                if fault.endswith("after"):
                    return self.answer(int(fault.split()[0]), {}, b"")
                return self.answer(found.status, dict(found.getheaders()), content)

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
                own = {"content-length", "connection", "transfer-encoding"}
                for name, value in headers.items():
                    if name.lower() not in own:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def reset(self) -> None:
                linger = struct.pack("ii", 1, 0)  # a reset, and no end in order
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.connection.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def finish(self) -> None:
                with suppress(OSError, ValueError):
                    super().finish()

        return Handler
