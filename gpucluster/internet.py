"""Which addresses lie in the open internet, where whoever names one gains nothing by our asking.

`ipaddress` alone does not tell: Python 3.11 takes addresses for global that clouds answer from
within, and an address may hold another one that is not.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

_LOCAL: Final = tuple(
    map(
        ip_network,
        (
            "168.63.129.16/32",  # what Azure answers from within
            "192.0.0.0/24",  # of protocols; one of it is Oracle's
            "192.88.99.0/24",  # relays of 6to4
            "2001::/23",  # of protocols, Teredo's among them
            "3fff::/20",  # of documentation
        ),
    )
)
_UNICAST: Final = ip_network("2000::/3")  # others are local, or hold an address of IPv4
_NAT64: Final = ip_network("64:ff9b::/96")
_ISATAP: Final = 0x5EFE  # upper half of an interface that stands for an address of IPv4


def is_public(address: Address) -> bool:
    """Whether an address lies in the open internet; of one that holds another, the inner one.

    Parameters
    ----------
    address : IPv4Address or IPv6Address
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:  # all that networks without IPv4 can reach of it
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        is_tunnel = address.sixtofour is not None or int(address) >> 32 & 0xFDFFFFFF == _ISATAP
        if address not in _UNICAST or is_tunnel:
            return False
    is_global = address.is_global and not address.is_multicast
    return is_global and not any(address in network for network in _LOCAL)
