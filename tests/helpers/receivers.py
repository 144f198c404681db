"""Receivers of webhooks on loopback, over TLS with a CA of their own, that fail as told."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME = "hooks.example"

# what happens to a call: a status is answered, or the connection is reset; or nothing comes; or
# the answer trickles in, header or body
Behaviour = int | str
Decide = Callable[["Call"], Behaviour]


@dataclass(frozen=True)
class Call:
    """What a receiver was sent."""

    number: int
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A receiver, what it was sent, and what it was told to do."""

    port: int
    decide: Decide
    calls: list[Call] = field(default_factory=list)
    accepted: list[Call] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    reply: bytes = b"ok"

    def url(self, path: str = "/hook", name: str = NAME) -> str:
        return f"https://{name}:{self.port}{path}"


class Authority:
    """A CA, whose certificate lies in a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        certificate = self._sign(self._name, self._key.public_key(), None)
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str) -> ssl.SSLContext:
        """Return what a server of these names needs."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        certificate = self._sign(subject, key.public_key(), names)
        file = self._folder / f"{names[0]}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _sign(self, subject, key, names):
        now = datetime.now(UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        )
        if names is not None:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            built = built.add_extension(alternatives, critical=False)
        return built.sign(self._key, hashes.SHA256())


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver
    lock: threading.Lock
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        it = self.receiver
        with self.lock:
            sent = {name.lower(): value for name, value in self.headers.items()}
            call = Call(len(it.calls), self.path, sent, body)
            it.calls.append(call)
        match it.decide(call):
            case "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.shutdown(socket.SHUT_RDWR)
            case "hang":
                it.closing.wait(30)
            case "drip":
                self._answer(200, 10_000, b"")
                self._drip()
            case "drip header":
                self._drip(b"HTTP/1.1 200 OK\r\nX: ")
            case "endless":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while not it.closing.is_set():
                    self.wfile.write(b"x" * 10_000)
            case "redirect":
                self.send_response(302)
                self.send_header("Location", self.receiver.url("/elsewhere"))
                self.send_header("Content-Length", "0")
                self.end_headers()
            case status:
                if 200 <= status < 300:
                    it.accepted.append(call)
                self._answer(status, len(it.reply), it.reply)

    def _answer(self, status: int, length: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def _drip(self, lead: bytes = b"") -> None:
        """Send a byte at a time, for as long as somebody listens."""
        self.wfile.write(lead)
        while not self.receiver.closing.wait(0.01):
            self.wfile.write(b"x")
            self.wfile.flush()

    def log_message(self, *args) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    context: ssl.SSLContext | None

    def get_request(self):
        connection, address = super().get_request()
        if self.context is not None:
            # the handshake is the thread's business
            connection = self.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, *args) -> None:
        pass  # whoever calls may leave at any time

    def shutdown_request(self, request) -> None:
        with suppress(OSError):
            request.close()


@contextmanager
def receiving(decide: Decide, context: ssl.SSLContext | None) -> Iterator[Receiver]:
    """Run a receiver, over TLS where a context is given."""
    handler = type("Handler", (_Handler,), {"lock": threading.Lock()})
    with _Server(("127.0.0.1", 0), handler) as server:
        server.context = context
        handler.receiver = Receiver(server.server_port, decide)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield handler.receiver
        finally:
            handler.receiver.closing.set()
            server.shutdown()
            thread.join()
