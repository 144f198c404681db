"""What may be called: the form of an address, and what operators allow beyond the internet.

An address is taken apart once, by a pattern that knows no form that others read differently; what
it is made of goes to the connection as it is, so no second reader can see another host in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gpucluster.errors import ConfigError
from gpucluster.internet import Address, is_public

MAX_URL: Final = 2_000  # characters
_PORTS: Final = {"https": 443, "http": 80}

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<rest>[/?][!-~]*)?",
    re.IGNORECASE | re.ASCII,
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # the end of what some read as an address of IPv4
_Network: TypeAlias = IPv4Network | IPv6Network


class OutboundSettings(BaseModel):
    """Whom the service may call besides the open internet, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_hosts: tuple[str, ...] = Field(
        default=(), description="Names, addresses or networks of your own that may be called."
    )
    http_hosts: tuple[str, ...] = Field(
        default=(), description="Those that may be called without TLS, too."
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) that are trusted besides the usual ones."
    )

    @field_validator("allow_hosts", "http_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        Hosts(hosts)
        return hosts


@dataclass(frozen=True, slots=True)
class Target:
    """An address, taken apart: its host is a name in lower case, or an address."""

    scheme: str
    host: str | Address
    port: int
    path: str


class Hosts:
    """Names and networks that a setting lists.

    Parameters
    ----------
    listed : iterable of str
        Names, addresses or networks such as ``10.1.0.0/16``.
    """

    def __init__(self, listed: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._networks: list[_Network] = []
        for entry in listed:
            host = _host(entry.lower().strip("[]"))
            if isinstance(host, str):
                self._names.add(host)
            else:
                self._networks.append(ip_network(host) if host else ip_network(entry))

    def __contains__(self, host: str | Address) -> bool:
        if isinstance(host, str):
            return host in self._names
        return any(host in network for network in self._networks)


class Rules:
    """What may be called.

    Parameters
    ----------
    settings : OutboundSettings
    """

    def __init__(self, settings: OutboundSettings) -> None:
        self._own = Hosts(settings.allow_hosts)
        self._plain = Hosts(settings.http_hosts)

    def target(self, url: str, *, path: str = "url") -> Target:
        """Take an address apart.

        Parameters
        ----------
        url : str
        path : str
            Of the field that holds it, for the message, which does not repeat the address: it
            may hold a secret.

        Raises
        ------
        ConfigError
            It may not be called, whatever its name leads to.
        """
        found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
        host = _host(found["host"].lower().strip("[]")) if found else None
        if found is None or host is None or {"#", "\\"} & {*url}:
            raise ConfigError(
                "no address that can be called",
                path=path,
                expected="https://name/path of at most 2,000 ASCII characters",
                hint="Expected https://name/path, without user, password, fragment or characters"
                " beyond ASCII; names of other scripts in their xn-- form",
            )
        scheme = found["scheme"].lower()
        port = int(found["port"] or _PORTS[scheme])
        if scheme == "http" and host not in self._plain:
            hint = "Use https; operators may allow others by --outbound-http-hosts"
            raise ConfigError("http is not allowed here", path=path, hint=hint)
        if not isinstance(host, str) and not self.admits(host, [host]):
            hint = "Operators may allow addresses of their network by --outbound-hosts"
            raise ConfigError("this address is not in the open internet", path=path, hint=hint)
        is_usual = port in _PORTS.values() or 1023 < port < 65536
        if not is_usual and (host not in self._own or not 0 < port < 1024):
            expected = "80, 443, or from 1024 to 65535"
            raise ConfigError(f"got port {port}, expected {expected}", path=path)
        rest = found["rest"] or "/"
        return Target(scheme, host, port, rest if rest.startswith("/") else f"/{rest}")

    def admits(self, host: str | Address, addresses: Iterable[Address]) -> bool:
        """Whether each address that a host has may be called."""
        return host in self._own or all(
            is_public(address) or address in self._own for address in addresses
        )


def _host(text: str) -> str | Address | None:
    """Return a name without the dot at its end, or an address in its usual form."""
    if ":" in text or "/" in text:
        return IPv6Address(text) if _is_v6(text) else None
    name = text.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # neither octal nor hexadecimal, nor fewer than four
        return IPv4Address(name) if _is_v4(name) else None
    is_name = len(name) <= 253 and all(map(_LABEL.fullmatch, labels))
    return name if is_name else None


def _is_v4(text: str) -> bool:
    try:
        return ip_address(text).version == 4
    except ValueError:
        return False


def _is_v6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False
