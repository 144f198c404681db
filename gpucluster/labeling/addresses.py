"""Addresses of media: which may be passed on, and what those in S3 name.

Documents write them, so that none may reach what is private to whoever fetches it.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import urlsplit

from gpucluster.internet import is_public

MAX_URL: Final = 2_000  # characters
MAX_DATA_URL: Final = 1_000_000  # of an image that is written into its address
S3: Final = "s3://"

_IMAGE = re.compile(r"data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]+={0,2}", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_HOST = re.compile(r"[a-z0-9._-]+")
_TOP = re.compile(r"[a-z]{2,}|xn--[a-z0-9-]*[a-z0-9]")  # of a name in the open internet
# ends of names that mean something else in each network: by RFC 6761, 6762 (with what its
# appendix G lists), 7686, 8375 and 9476, and as routers and Kubernetes give them
_PRIVATE = {
    *("alt", "arpa", "consul", "corp", "default", "docker", "home", "internal", "intra"),
    *("intranet", "invalid", "lan", "local", "localdomain", "localhost", "onion", "private"),
    *("svc", "test", "workgroup"),
}
_CLOUD = {"metadata.goog", "mshome.net"}  # names that clouds answer from within


def is_allowed(kind: str, url: str) -> bool:
    """Whether an address may be passed on: none that reads a file here, or runs anything.

    Nor may a document make a model server fetch from its own machine or network: by an address
    in numbers, or by a name that means something there alone. Names are not looked up.

    Parameters
    ----------
    kind : str
        ``image_url``, ``video_url`` or ``audio_url``.
    url : str

    Returns
    -------
    bool
    """
    if url[:5].lower() == "data:":
        return kind == "image_url" and len(url) <= MAX_DATA_URL and bool(_IMAGE.fullmatch(url))
    if len(url) > MAX_URL or not url.isprintable():
        return False
    if url.startswith(S3):
        return place(url) is not None
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    # neither what servers read in several ways, nor a password that would reach the provider
    is_odd = " " in url or "\\" in url or "@" in parts.netloc
    if parts.scheme not in {"http", "https"} or not host or is_odd:
        return False
    return _is_public_v6(host) if ":" in host else _is_public(host)


def _is_public(host: str) -> bool:
    """Whether a host is a name or an address of the open internet, in its usual form."""
    try:  # as those who fetch read it: digits of any width are digits
        name = unicodedata.normalize("NFKC", host).encode("idna").decode().lower()
    except UnicodeError:
        return False
    name = name.removesuffix(".")
    if not _HOST.fullmatch(name):
        return False
    lead, _, top = name.rpartition(".")
    if _TOP.fullmatch(top):
        is_of_cloud = any(name == each or name.endswith(f".{each}") for each in _CLOUD)
        return bool(lead) and top not in _PRIVATE and not is_of_cloud
    try:  # neither octal nor hexadecimal, nor fewer than four numbers
        return is_public(IPv4Address(name))
    except ValueError:
        return False


def _is_public_v6(host: str) -> bool:
    try:
        address = IPv6Address(host)
    except ValueError:
        return False
    return int(address) >> 125 == 1 and is_public(address)  # nor one that holds another


def prefix_place(prefix: str) -> tuple[str, str] | None:
    """Return bucket and lead of the keys, which is empty where any will do; None for no prefix.

    Parameters
    ----------
    prefix : str
        ``s3://bucket``, or ``s3://bucket/folder``.
    """
    bucket, _, lead = prefix.removeprefix(S3).partition("/")
    lead = lead.rstrip("/")
    is_one = prefix.startswith(S3) and _BUCKET.fullmatch(bucket) and (not lead or _is_key(lead))
    return (bucket, lead) if is_one else None


def place(url: str) -> tuple[str, str] | None:
    """Return bucket and key of an address in S3; None where it has none, or leads upwards.

    A key is what it says: nothing in it is decoded, and ``?`` and ``#`` are parts of it.

    Parameters
    ----------
    url : str
        Begins with ``s3://``.
    """
    bucket, _, key = url.removeprefix(S3).partition("/")
    return (bucket, key) if _BUCKET.fullmatch(bucket) and _is_key(key) else None


def _is_key(key: str) -> bool:
    return key.isprintable() and not {"", ".", ".."} & {*key.split("/")}
