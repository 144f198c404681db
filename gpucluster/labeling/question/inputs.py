"""What an LLM sees of a document: texts, other values, and addresses of media."""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gpucluster.errors import BackendUnavailableError, ConfigError
from gpucluster.labeling.question.values import as_json, as_text, follow
from gpucluster.labeling.settings import MEDIA, InputMapping, LabelingInputs
from gpucluster.notation import describe

if TYPE_CHECKING:
    from obstore.store import S3Store
    from pydantic import JsonValue

MAX_URL: Final = 2_000  # characters
MAX_DATA_URL: Final = 1_000_000  # of an image that is written into its address
BLOBS: Final = ("document_blobs", "source_blobs")  # in the order in which they are looked into
EXPIRY: Final = timedelta(minutes=15)

_IMAGE = re.compile(r"data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]+={0,2}", re.IGNORECASE)
_S3 = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_HOST = re.compile(r"[a-z0-9._-]+")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_UNICAST = IPv6Network("2000::/3")  # others are local, or hold an address of IPv4


@dataclass(frozen=True, slots=True)
class Medium:
    """An image, video or sound by its address.

    Attributes
    ----------
    kind : str
        ``image_url``, ``video_url`` or ``audio_url``.
    url : str
        Begins with http, https, s3 or, of an image, ``data:image/``.
    """

    kind: str
    url: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A document as an LLM sees it.

    Attributes
    ----------
    fields : dict of str to JSON value
        ``text``, joined by newlines in the order of the mappings; other input keys as they are.
    media : tuple of Medium
        In the order of the mappings.
    """

    fields: Mapping[str, JsonValue]
    media: tuple[Medium, ...] = ()


def columns_needed(inputs: LabelingInputs | None) -> list[str] | None:
    """Return the columns that the mappings may read: of ``a.b`` both ``a`` and ``a.b``.

    Parameters
    ----------
    inputs : LabelingInputs or None

    Returns
    -------
    list of str, or None
        Not all of them need to be there. None where every column is read.
    """
    if inputs is None:
        return None
    names: dict[str, None] = {}
    for mapping in inputs.input_mappings:
        for steps in _ways(mapping):
            names |= dict.fromkeys(".".join(steps[:cut]) for cut in range(1, len(steps) + 1))
    return list(names)


def read_sample(
    payload: Mapping[str, Any],
    inputs: LabelingInputs | None,
    *,
    max_length: int | None,
    leave_out: Container[str] = (),
) -> tuple[Sample | None, list[str]]:
    """Take from a document what an LLM is shown.

    Parameters
    ----------
    payload : dict
        A row: structs are dicts, lists are lists.
    inputs : LabelingInputs or None
        None shows the whole row.
    max_length : int or None
        Texts of the document are cut to so many characters; literals are not.
    leave_out : container of str
        Columns that are not shown with the whole row, such as vectors.

    Returns
    -------
    sample : Sample or None
        None where nothing of the document is left: literals alone say nothing about it.
    omitted : list of str
        The input keys of the mappings that led to nothing, or to an address that is refused.
    """
    if inputs is None:
        row = {
            as_text(name): as_json(value, max_length)
            for name, value in payload.items()
            if name not in leave_out
        }
        fields = {name: value for name, value in row.items() if _says(value)}
        return (Sample(fields) if fields else None), []
    found: dict[str, list[JsonValue]] = {}
    media: list[Medium] = []
    omitted: list[str] = []
    says_something = False
    for mapping in inputs.input_mappings:
        key = mapping.input_key
        value = _value(mapping, payload, max_length)
        if not _says(value):
            omitted.append(key)
            continue
        says_something |= mapping.source_type != "literal"
        if key in MEDIA:
            media.append(Medium(key, str(value)))
        else:
            found.setdefault(key, []).append(value)
    if not says_something:
        return None, omitted
    fields = {key: _together(key, values) for key, values in found.items()}
    return Sample(fields, tuple(media)), omitted


def is_allowed(kind: str, url: str) -> bool:
    """Whether an address may be passed on: none that reads a file here, or runs anything.

    Nor may a document make a model server here fetch from this machine or its network, by an
    address in numbers. Names of hosts are not looked up.

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
    if url.startswith(_S3):
        return _place(url) is not None
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
    """Whether a host is a name, or an address of the open internet in its usual form."""
    try:  # as those who fetch read it: digits of any width are digits
        name = unicodedata.normalize("NFKC", host).encode("idna").decode().lower()
    except UnicodeError:
        return False
    name = name.removesuffix(".")
    if not _HOST.fullmatch(name) or name.rpartition(".")[2] == "localhost":
        return False
    if not _NUMBER.fullmatch(name.rpartition(".")[2]):
        return True
    try:
        address = IPv4Address(name)  # neither octal nor hexadecimal, nor fewer than four numbers
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _is_public_v6(host: str) -> bool:
    try:
        address = IPv6Address(host)
    except ValueError:
        return False
    return address in _UNICAST and address.is_global and address.sixtofour is None


def _together(key: str, values: list[JsonValue]) -> JsonValue:
    if key == "text":
        return "\n".join(map(str, values))
    return values[0] if len(values) == 1 else values


def _value(mapping: InputMapping, payload: Mapping[str, Any], max_length: int | None) -> JsonValue:
    """Return what a mapping leads to; None for what cannot be shown."""
    is_literal = mapping.source_type == "literal"
    limit = None if is_literal or mapping.input_key in MEDIA else max_length
    if is_literal:
        value = as_json(mapping.override, limit)
    else:
        followed = (as_json(follow(payload, way), limit) for way in _ways(mapping))
        value = next(filter(_says, followed), None)
    if mapping.input_key in MEDIA:
        url = value.strip() if isinstance(value, str) else ""
        return url if is_allowed(mapping.input_key, url) else None
    if mapping.input_key == "text" and _says(value) and not isinstance(value, str):
        return as_text(json.dumps(value, ensure_ascii=False), limit)
    return value


def _ways(mapping: InputMapping) -> list[list[str]]:
    """Return the paths that a mapping may mean, the one that is tried first at the beginning."""
    if mapping.path is None:
        return []
    steps = mapping.path.strip().split(".")
    if mapping.source_type == "blob" and steps[0] not in BLOBS:
        return [[blobs, *steps] for blobs in BLOBS]
    return [steps]


def _says(value: JsonValue) -> bool:
    """Whether a value is more than null, an empty text or an empty container."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value not in ([], {})


class Presigner:
    """Makes addresses in S3 readable for a while, for whoever they are sent to.

    Credentials, region and endpoint are those of the AWS variables of the environment. What it
    returns is a secret for as long as it is valid: send it, and neither store nor log it.

    Parameters
    ----------
    prefixes : iterable of str
        What it may sign lies below one of these: ``s3://bucket``, or ``s3://bucket/folder``,
        which is not above ``s3://bucket/folder2``. Documents write the addresses, so that the
        buckets must be named.

    Raises
    ------
    ConfigError
        A prefix is none.

    Notes
    -----
    Threads may share one.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = [_prefix(prefix) for prefix in prefixes]
        self._stores: dict[str, S3Store] = {}
        self._lock = threading.Lock()

    def allows(self, url: str) -> bool:
        """Whether `sign` would return an address, for `url` as `read_sample` lets it pass."""
        return not url.startswith(_S3) or self._signable(url) is not None

    def sign(self, url: str) -> str | None:
        """Return an address that can be read without credentials for 15 minutes.

        Parameters
        ----------
        url : str

        Returns
        -------
        str or None
            Other addresses than those of S3 as they are. None for one that may not be signed.

        Raises
        ------
        BackendUnavailableError
            obstore is missing.
        ConfigError
            There are no credentials.
        """
        if not url.startswith(_S3):
            return url
        where = self._signable(url)
        if where is None:
            return None
        try:
            import obstore
            from obstore.exceptions import BaseError
        except ImportError as error:
            raise BackendUnavailableError(
                "signing addresses in S3 needs obstore, which is missing",
                hint="pip install 'gpucluster[s3]'",
            ) from error
        bucket, key = where
        try:
            return obstore.sign(self._store(bucket), "GET", key, EXPIRY)
        except (BaseError, TypeError, ValueError) as error:
            raise ConfigError(
                f"addresses in the bucket {bucket} cannot be signed ({type(error).__name__})",
                path="llm_labeling.presign_prefixes",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or no presign_prefixes",
            ) from error

    def _signable(self, url: str) -> tuple[str, str] | None:
        """Return bucket and key of an address below a prefix."""
        where = _place(url)
        if where is None:
            return None
        bucket, key = where
        below = any(
            of == bucket and (not lead or f"{key}/".startswith(f"{lead}/"))
            for of, lead in self._prefixes
        )
        return where if below else None

    def _store(self, bucket: str) -> S3Store:
        from obstore.store import S3Store

        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = S3Store(bucket)
            return self._stores[bucket]


def _prefix(prefix: str) -> tuple[str, str]:
    """Return bucket and lead of the keys, which is empty where any will do."""
    bucket, _, lead = prefix.removeprefix(_S3).partition("/")
    lead = lead.rstrip("/")
    named = prefix.startswith(_S3) and _BUCKET.fullmatch(bucket)
    if not named or (lead and not _is_key(lead)):
        raise ConfigError(
            f"got {describe(prefix)}, expected s3://bucket or s3://bucket/folder",
            path="llm_labeling.presign_prefixes",
            got=prefix,
        )
    return bucket, lead


def _place(url: str) -> tuple[str, str] | None:
    """Return bucket and key of an address in S3; None where it has none, or leads upwards.

    A key is what it says: nothing in it is decoded, and ``?`` and ``#`` are parts of it.
    """
    bucket, _, key = url.removeprefix(_S3).partition("/")
    return (bucket, key) if _BUCKET.fullmatch(bucket) and _is_key(key) else None


def _is_key(key: str) -> bool:
    return key.isprintable() and not {"", ".", ".."} & {*key.split("/")}
