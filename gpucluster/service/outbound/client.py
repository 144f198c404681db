"""The one client that calls addresses which people gave us."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from socket import SOCK_STREAM, getaddrinfo
from time import monotonic
from typing import Any, Final, Literal, TypeAlias

import httpcore2

from gpucluster.errors import ConfigError
from gpucluster.internet import Address
from gpucluster.service.outbound.targets import OutboundSettings, Rules, Target

TIMEOUT_S: Final = 10.0  # of a whole call: names, connection, question and answer
MAX_REPLY_BYTES: Final = 65_536
_PIECE: Final = 16_384  # bytes, one record of TLS: it is sent as a whole, or not in time

Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
Kind: TypeAlias = Literal["refused", "unreachable", "timeout", "tls", "broken"]


class OutboundError(Exception):
    """There is no reply.

    Parameters
    ----------
    message : str
        Holds nothing of what was sent, nor of where to.
    kind : str
        ``refused``: not called at all.
    """

    def __init__(self, message: str, kind: Kind) -> None:
        super().__init__(message)
        self.kind: Final = kind


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: at most `MAX_REPLY_BYTES` of the body; no redirect is followed."""

    status: int
    body: bytes
    elapsed_s: float


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name."""
    return [str(info[4][0]) for info in getaddrinfo(host, port, type=SOCK_STREAM)]


class Outbound:
    """Calls addresses of the open internet, and those that operators allow.

    A name is looked up once, each of its addresses must be allowed, and the connection goes to
    one of them, so that a name which changes its mind changes nothing. The certificate is checked
    for the name. Neither redirects nor proxies are followed, no cookie is kept, and nothing is
    decompressed.

    Parameters
    ----------
    settings : OutboundSettings
    resolve : callable
        Gives the addresses of a name.
    network : httpcore2.NetworkBackend, optional
        Connects.

    Raises
    ------
    ConfigError
        The file of certificates is none.

    Notes
    -----
    Threads may share one.
    """

    def __init__(
        self,
        settings: OutboundSettings,
        resolve: Resolve = resolve,
        network: httpcore2.NetworkBackend | None = None,
    ) -> None:
        self._rules = Rules(settings)
        self._resolve = resolve
        self._network = network or httpcore2.SyncBackend()
        self._trust = ssl.create_default_context()
        self._trust.set_alpn_protocols(["http/1.1"])
        if settings.ca_file is not None:
            try:
                self._trust.load_verify_locations(settings.ca_file)
            except OSError as error:
                message = f"{settings.ca_file} cannot be read as certificates"
                raise ConfigError(message, path="ca_file") from error

    def check(self, url: str, *, path: str = "url") -> None:
        """Refuse an address that may not be called, as far as its form tells.

        Parameters
        ----------
        url : str
        path : str
            Of the field that holds it, for the message.

        Raises
        ------
        ConfigError
            It may not be called.
        """
        self._rules.target(url, path=path)

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float = TIMEOUT_S
    ) -> Reply:
        """Send a body, and return what is answered.

        Parameters
        ----------
        url : str
        body : bytes
        headers : mapping
            Names and values, in ASCII.
        timeout_s : float
            Seconds that all of it may take, at most `TIMEOUT_S`.

        Raises
        ------
        OutboundError
            There is no answer.
        """
        deadline = _Deadline(min(timeout_s, TIMEOUT_S))
        try:
            target = self._rules.target(url)
        except ConfigError as error:
            raise OutboundError(str(error), "refused") from None
        # raised outside of the handlers: as its context, the library's error would keep the
        # request, and with it the headers, in a traceback
        try:
            return self._sent(target, body, headers, deadline)
        except OutboundError as error:
            failure = OutboundError(str(error), error.kind)
        except httpcore2.TimeoutException:
            failure = OutboundError(f"no answer within {deadline.timeout_s:g} s", "timeout")
        except httpcore2.ConnectError:
            failure = OutboundError("no connection", "unreachable")
        except (httpcore2.NetworkError, httpcore2.ProtocolError):
            failure = OutboundError("the connection ended without an answer", "broken")
        except (UnicodeError, ValueError):
            failure = OutboundError("this cannot be sent", "refused")
        raise failure

    def _sent(
        self, target: Target, body: bytes, headers: Mapping[str, str], deadline: _Deadline
    ) -> Reply:
        """Send a request over a connection of its own, and read the answer."""
        host = str(target.host)
        shown = f"[{host}]" if ":" in host else host
        is_usual = target.port == {"https": 443, "http": 80}[target.scheme]
        addresses = self._addresses(target, deadline)
        with httpcore2.ConnectionPool(
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # it trusts nobody: see start_tls
            network_backend=_Pinned(self._network, addresses, deadline, self._trust),
        ) as pool:
            fields = {
                "user-agent": "gpucluster",
                **{name.lower(): value for name, value in headers.items()},
                "host": shown if is_usual else f"{shown}:{target.port}",
                "content-length": str(len(body)),
                "connection": "close",
            }
            request = httpcore2.Request(
                "POST",
                httpcore2.URL(
                    scheme=target.scheme, host=shown, port=target.port, target=target.path
                ),
                headers=[(name.encode("ascii"), fields[name].encode("ascii")) for name in fields],
                content=body,
                extensions={"sni_hostname": host},
            )
            response = pool.handle_request(request)
            try:
                content = _read(response)
            finally:
                response.close()
        return Reply(response.status, content, deadline.elapsed_s)

    def _addresses(self, target: Target, deadline: _Deadline) -> list[Address]:
        """Return the addresses of a host, all of which may be called."""
        host = target.host
        if not isinstance(host, str):
            return [host]
        found: list[Address] = []
        try:
            texts = _in_time(lambda: self._resolve(host, target.port), deadline)
            found.extend(map(ip_address, texts))
        except (OSError, UnicodeError, ValueError):
            found = []
        # one message for both: which names a private network knows is nobody's business
        if not found or not self._rules.admits(host, found):
            raise OutboundError("the name leads to no address in the open internet", "refused")
        return [*dict.fromkeys(found)]


def _read(response: httpcore2.Response) -> bytes:
    """Return a body, or as much of it as one may be long."""
    content = bytearray()
    for chunk in response.iter_stream():
        content += chunk
        if len(content) >= MAX_REPLY_BYTES:
            break
    return bytes(content[:MAX_REPLY_BYTES])


def _in_time(call: Callable[[], Sequence[str]], deadline: _Deadline) -> Sequence[str]:
    """Call what cannot be stopped in a thread that may be left behind."""
    answers: SimpleQueue[Sequence[str] | Exception] = SimpleQueue()

    def run() -> None:
        try:
            answers.put(call())
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=run, name="gpucluster-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.left())
    except Empty:
        raise httpcore2.ConnectTimeout from None
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Deadline:
    """When a call must be over."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._started = monotonic()

    @property
    def elapsed_s(self) -> float:
        return monotonic() - self._started

    def left(self) -> float:
        """Return the seconds that are left; a timeout where none are."""
        left = self.timeout_s - self.elapsed_s
        if left <= 0:
            raise httpcore2.ReadTimeout
        return left


class _Pinned(httpcore2.NetworkBackend):
    """Connects to one of the addresses that were looked up, whatever name it is asked for."""

    def __init__(
        self,
        network: httpcore2.NetworkBackend,
        addresses: Sequence[Address],
        deadline: _Deadline,
        trust: ssl.SSLContext,
    ) -> None:
        self._network = network
        self._addresses = addresses
        self._deadline = deadline
        self._trust = trust

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception = httpcore2.ConnectError()
        for others, address in zip(
            reversed(range(len(self._addresses))), self._addresses, strict=True
        ):
            share = self._deadline.left() / (others + 1)
            try:
                stream = self._network.connect_tcp(str(address), port, share)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Timed(stream, self._deadline, self._trust)
        raise failure


class _Timed(httpcore2.NetworkStream):
    """A connection whose every step has what is left of the time, however small the steps."""

    def __init__(
        self, stream: httpcore2.NetworkStream, deadline: _Deadline, trust: ssl.SSLContext
    ) -> None:
        self._stream = stream
        self._deadline = deadline
        self._trust = trust

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[start : start + _PIECE], self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        # not the context that is given: the pool sets up its own anew, while others may use it
        try:
            secured = self._stream.start_tls(self._trust, server_hostname, self._deadline.left())
        except httpcore2.ConnectError as error:
            why = getattr(error.__cause__, "verify_message", None) or "no common protocol"
            raise OutboundError(f"the connection cannot be trusted: {why}", "tls") from None
        return _Timed(secured, self._deadline, self._trust)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
