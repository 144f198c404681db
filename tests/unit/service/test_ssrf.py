"""No address of a webhook reaches this machine or its network, however it is written."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.errors import ConfigError
from gpucluster.internet import is_public
from gpucluster.service.outbound import Outbound, OutboundError, OutboundSettings
from gpucluster.service.outbound.client import resolve

PUBLIC = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")

LOOPBACK = """
127.0.0.1 127.0.0.2 127.1 127.0.1 127.255.255.254 2130706433 0x7f000001 0x7F.0.0.1 0x7f.1
0177.0.0.1 0177.1 017700000001 00000177.0.0.1 127.0.0.01 127.0.0.0x1 127.0x0.0.1 0x7f.0x0.0x0.0x1
127.0.0.1. 2130706433. 0 0. 0.0.0.0 0x0 00 0.0.0 0.1 localhost LOCALHOST LocalHost. localhost..
localhost.localdomain ip6-localhost 127.0.0.1.nip.io 127.0.0.1.example 127..1 .127.0.0.1 127.0.0.1..
127.0.0.256 127.0.0.1.1 4294967295 4294967296 0x17f000001 340282366920938463463374607431768211455
[::1] [::] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001] [::1%lo] [::1%25lo] [::1.]
[::ffff:127.0.0.1] [::FFFF:7F00:1] [0:0:0:0:0:ffff:7f00:1] [::127.0.0.1] [::7f00:1]
[::ffff:0:127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1]
[2002:7f00:1::] [2002:7f00:0001::1]
[2001:0:7f00:1::] [2001:0:0:0:0:0:80ff:fffe] [fe80::1] [fe80::5efe:7f00:1] [2606:2800::5efe:7f00:1]
[2606:2800::200:5efe:7f00:1] [::1 ::1] [[::1]] [::1 ::ffff:127.1 [127.0.0.1] 127.0.0.1] [localhost]
"""
NETWORKS = """
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.254 192.168.0.1 192.168.255.255 100.64.0.1
100.100.100.200 100.127.255.255 169.254.169.254 169.254.170.2 169.254.0.1 192.0.0.1 192.0.0.192
192.0.0.170 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 192.88.99.1 168.63.129.16
224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 0xa9fea9fe 2852039166 0251.0376.0251.0376
169.254.43518 0xA9.0xFE.0xA9.0xFE 3232235521 167772161 metadata.google.internal instance-data
[fc00::1] [fd00::1] [fd00:ec2::254] [fe80::a9fe:a9fe] [fec0::1] [ff02::1] [ff0e::1] [100::1]
[2001:db8::1] [3fff::1] [3fff:fff:ffff::1] [5f00::1] [2001:2::1] [2001:10::1] [2001:20::1]
[::ffff:169.254.169.254] [::ffff:10.0.0.1] [64:ff9b::a9fe:a9fe] [2002:a9fe:a9fe::] [2002:0a00:1::]
[::ffff:168.63.129.16] [64:ff9b::168.63.129.16] [::ffff:192.0.0.192] [2001:0:a9fe:a9fe::1]
"""
HOSTS = [*dict.fromkeys(f"{LOOPBACK} {NETWORKS}".split())]

# {p} is the port of a socket that listens on 127.0.0.1 and ::1
WRITTEN = [
    "https://user@127.0.0.1:{p}/",
    "https://user:password@127.0.0.1:{p}/",
    "https://example.com@127.0.0.1:{p}/",
    "https://example.com:443@127.0.0.1:{p}/",
    "https://@127.0.0.1:{p}/",
    "https://example.com%40127.0.0.1:{p}/",
    "https://127.0.0.1:{p}#@example.com/",
    "https://example.com#@127.0.0.1:{p}/",
    "https://127.0.0.1:{p}\\@example.com/",
    "https://example.com\\@127.0.0.1:{p}/",
    "https://127.0.0.1:{p}?@example.com/",
    "https://127.0.0.1:{p}/@example.com",
    "https://127.0.0.1:{p}:443/",
    "https://127.0.0.1: {p}/",
    "https://127.0.0.1 :{p}/",
    "https:// 127.0.0.1:{p}/",
    " https://127.0.0.1:{p}/",
    "https://127.0.0.1\t:{p}/",
    "https://127.0.0.1:{p}\r\n/",
    "https://127.0.0.1\r\nHost: example.com\r\n:{p}/",
    "https://example.com/\r\nHost: 127.0.0.1",
    "https://example.com\r\n@127.0.0.1:{p}/",
    "https://example.com\x00.127.0.0.1:{p}/",
    "https://127.0.0.1\x00.example.com:{p}/",
    "https://127.0.0.1%00.example.com:{p}/",
    "https://%31%32%37.0.0.1:{p}/",
    "https://127%2e0%2e0%2e1:{p}/",
    "https://①②⑦.⓪.⓪.①:{p}/",
    "https://\uff11\uff12\uff17.0.0.1:{p}/",
    "https://127。0。0。1:{p}/",
    "https://127\uff0e0\uff0e0\uff0e1:{p}/",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{p}/",
    "https://localho\u017ft.:{p}/",
    "https://localho\u017ft:{p}/",
    "https://local\u00adhost:{p}/",
    "https://local\u200bhost:{p}/",
    "https://xn--localhost:{p}/",
    "https://\u0661\u0662\u0667.\u0660.\u0660.\u0661:{p}/",
    "https:127.0.0.1:{p}/",
    "https:/127.0.0.1:{p}/",
    "https:///127.0.0.1:{p}/",
    "https:\\\\127.0.0.1:{p}\\",
    "//127.0.0.1:{p}/",
    "127.0.0.1:{p}",
    "http://127.0.0.1:{p}/",
    "HTTP://127.0.0.1:{p}/",
    "HTTPS://127.0.0.1:{p}/",
    "http://example.com:{p}/",
    "gopher://127.0.0.1:{p}/_POST",
    "ftp://127.0.0.1:{p}/",
    "dict://127.0.0.1:{p}/",
    "ldap://127.0.0.1:{p}/",
    "file:///etc/passwd",
    "file://127.0.0.1:{p}/",
    "unix:///var/run/docker.sock",
    "http+unix://%2fvar%2frun%2fdocker.sock/",
    "jar:https://127.0.0.1:{p}!/",
    "data:,127.0.0.1",
    "javascript:127.0.0.1:{p}",
    "wss://127.0.0.1:{p}/",
    "https://[::1]:{p}@example.com/",
    "https://[::1]example.com:{p}/",
    "https://example.com[::1]:{p}/",
    "https://[v1.127.0.0.1]:{p}/",
    "https://-127.0.0.1:{p}/",
    "https://127.0.0.1-:{p}/",
    "https://127.0.0.1,example.com:{p}/",
    "https://127.0.0.1;example.com:{p}/",
    "https://127.0.0.1&example.com:{p}/",
    "https://{{127.0.0.1}}:{p}/",
    "https://127.0.0.1:+{p}/",
    "https://127.0.0.1:0x1F90/",
    "https://127.0.0.1:٨٠٨٠/",
    "https://:{p}/",
    "https://",
    "",
]

# what names lead to: each of these is refused, for one address that is not public
ANSWERS = [
    ["127.0.0.1"],
    ["::1"],
    [PUBLIC[0], "127.0.0.1"],
    ["127.0.0.1", PUBLIC[0]],
    [*PUBLIC, "::1"],
    ["::ffff:127.0.0.1"],
    ["64:ff9b::7f00:1"],
    ["2002:7f00:1::"],
    ["0.0.0.0"],
    ["::"],
    ["10.0.0.1"],
    ["169.254.169.254"],
    ["fe80::1%1"],
    ["127.1"],
    ["no address"],
    [],
]


class Network(httpcore2.SyncBackend):
    """Counts who was asked for, and connects."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def connect_tcp(self, host, *args, **settings):
        self.asked.append(host)
        return super().connect_tcp(host, *args, **settings)


class Unplugged(Network):
    """Counts who was asked for."""

    def connect_tcp(self, host, *args, **settings):
        self.asked.append(host)
        raise httpcore2.ConnectError


@pytest.fixture(scope="module")
def listening() -> Iterator[tuple[int, list[socket.socket]]]:
    """Return a port, and what listens on it: it must never be called."""
    sockets = [socket.create_server(("127.0.0.1", 0))]
    port = sockets[0].getsockname()[1]
    if socket.has_dualstack_ipv6():
        sockets.append(socket.create_server(("::1", port), family=socket.AF_INET6))
    yield port, sockets
    for each in sockets:
        each.close()


def looked_up(host: str, port: int) -> list[str]:
    """Return the addresses of a name: this machine's own for real, others as the world has them."""
    if host.startswith(("local", "ip6")):
        return resolve(host, port)
    world = {"127.0.0.1.nip.io": "127.0.0.1", "metadata.google.internal": "169.254.169.254"}
    return [world[host]] if host in world else []


def connections(sockets: list[socket.socket]) -> int:
    """Count who is at the door."""
    count = 0
    for each in sockets:
        each.setblocking(False)
        try:
            while True:
                each.accept()[0].close()
                count += 1
        except BlockingIOError:
            pass
    return count


def test_the_list_is_as_long_as_is_said():
    assert len(HOSTS) + len(WRITTEN) + len(ANSWERS) >= 150


def test_no_form_of_an_address_is_called(listening):
    port, sockets = listening
    network = Network()
    client = Outbound(OutboundSettings(), looked_up, network)
    forms = [f"https://{host}:{port}/" for host in HOSTS]
    forms += [form.replace("{p}", str(port)) for form in WRITTEN]
    for url in [*forms, *(url.replace("https", "http", 1) for url in forms)]:
        with pytest.raises(OutboundError) as caught:
            client.post(url, b"", {}, 5)
        assert caught.value.kind == "refused", url
    assert network.asked == []
    assert connections(sockets) == 0


def test_the_socket_sees_who_calls(listening):
    """Without the rules, the test above would fail."""
    port, sockets = listening
    client = Outbound(OutboundSettings(allow_hosts=("127.0.0.0/8",)))
    with pytest.raises(OutboundError):
        client.post(f"https://127.0.0.1:{port}/", b"", {}, 0.2)
    assert connections(sockets) == 1


@pytest.mark.parametrize("addresses", ANSWERS, ids=str)
def test_each_address_of_a_name_must_be_public(listening, addresses):
    port, sockets = listening
    network = Network()
    client = Outbound(OutboundSettings(), lambda host, port: addresses, network)
    with pytest.raises(OutboundError, match="no address in the open internet"):
        client.post(f"https://example.com:{port}/", b"", {})
    assert (network.asked, connections(sockets)) == ([], 0)


def test_a_name_that_changes_its_mind_is_looked_up_once(listening):
    port, sockets = listening
    answers = iter([[PUBLIC[0]], ["127.0.0.1"], ["127.0.0.1"]])
    network = Unplugged()
    client = Outbound(OutboundSettings(), lambda host, port: next(answers), network)
    with pytest.raises(OutboundError, match="no connection"):
        client.post(f"https://example.com:{port}/", b"", {})
    assert network.asked == [PUBLIC[0]]
    with pytest.raises(OutboundError, match="no address"):
        client.post(f"https://example.com:{port}/", b"", {})
    assert (network.asked, connections(sockets)) == ([PUBLIC[0]], 0)
    assert next(answers)


def test_public_addresses_are_called_and_none_besides():
    network = Unplugged()
    client = Outbound(OutboundSettings(), lambda host, port: PUBLIC, network)
    for host in (
        "example.com",
        "EXAMPLE.com.",
        "xn--bcher-kva.example",
        "a_b.example.com",
        "93.184.215.14",
    ):
        with pytest.raises(OutboundError, match="no connection"):
            client.post(f"https://{host}/x?y=a@b", b"", {})
    assert network.asked == [*PUBLIC * 4, PUBLIC[0]]


@pytest.mark.parametrize("url", ["https://a:b@c.example/54321", "https://10.0.0.54321", "x54321"])
def test_refusals_do_not_repeat_the_address(url):
    with pytest.raises(ConfigError, match="^here: ") as caught:
        Outbound(OutboundSettings()).check(url, path="here")
    assert "54321" not in str(caught.value)


def test_own_networks_are_allowed_by_address_and_by_name():
    network = Unplugged()
    settings = OutboundSettings(allow_hosts=("10.1.0.0/16", "hooks.corp", "fd00::/8", "::1"))
    answers = {"hooks.corp": ["192.168.0.1"], "a.corp": ["10.1.2.3"], "b.corp": ["10.2.0.1"]}
    client = Outbound(settings, lambda host, port: answers[host], network)
    for host in ("hooks.corp", "a.corp", "b.corp", "10.1.0.1", "10.2.0.1", "[fd00::1]", "[::1]"):
        with pytest.raises(OutboundError):
            client.post(f"https://{host}/", b"", {})
    assert network.asked == ["192.168.0.1", "10.1.2.3", "10.1.0.1", "fd00::1", "::1"]


@given(st.ip_addresses(v=4))
def test_an_address_within_another_is_judged_as_itself(inner: IPv4Address):
    number = int(inner)
    mapped, nat64 = IPv6Address(0xFFFF << 32 | number), IPv6Address((0x64FF9B << 96) | number)
    assert is_public(mapped) == is_public(nat64) == is_public(inner)
    tunnels = [
        0x2002 << 112 | number << 80,
        0x20010000 << 96 | number,
        0x26062800 << 96 | 0x5EFE << 32 | number,
    ]
    assert not any(is_public(IPv6Address(address)) for address in tunnels)


@pytest.mark.parametrize("text", [*PUBLIC, "8.8.8.8", "1.1.1.1", "2a00::1", "64:ff9b::808:808"])
def test_the_open_internet_is_public(text):
    assert is_public(ip_address(text))
