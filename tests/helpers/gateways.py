"""A proxy that stands for the addresses of model providers, as an operator's own may.

Tasks of the service ask what ``HTTPS_PROXY`` and ``SSL_CERT_FILE`` say; so definitions name their
providers as they would anywhere, and a fake one answers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gpucluster.labeling.fake_server.provider import FakeProvider
from tests.helpers.receivers import Authority

NAMES = ("api.openai.com", "generativelanguage.googleapis.com")


class Gateway(FakeProvider):
    """A fake provider under the names of real ones.

    Attributes
    ----------
    asked : list of tuple
        Host, path and body of each question.
    """

    def __init__(self, authority: Authority, **options) -> None:
        super().__init__(**options)
        self.context = authority.context(*NAMES)
        self.asked: list[tuple[str, str, dict]] = []
        self.port = 0

    def environment(self, authority: Authority) -> dict[str, str]:
        """Return what an operator sets for the server."""
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self.port}",
            "SSL_CERT_FILE": str(authority.file),
            "OPENAI_API_KEY": "key-of-openai",
            "GEMINI_API_KEY": "key-of-google",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: Gateway
    host = ""

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.connection = self.gateway.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.gateway.asked.append((self.host, self.path, body))
        path = "/v1/" + self.path.partition("/openai/" if "openai/" in self.path else "/v1/")[2]
        made = self.gateway.respond(path, body, self.headers.get("Authorization"))
        content = made.body if isinstance(made.body, bytes) else json.dumps(made.body).encode()
        self.send_response(made.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
            self.connection.close()

    def log_message(self, *args) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args) -> None:
        pass  # whoever asks may leave at any time


@contextmanager
def providing(authority: Authority, **options) -> Iterator[Gateway]:
    """Run a gateway."""
    gateway = Gateway(authority, **options)
    handler = type("Handler", (_Handler,), {"gateway": gateway})
    with _Server(("127.0.0.1", 0), handler) as server:
        gateway.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield gateway
        finally:
            server.shutdown()
            thread.join()
