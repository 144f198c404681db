"""What is said to a service, as values, and what a flow of it asks a driver to do."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
Method: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Query: TypeAlias = Mapping[str, str | int | float | bool | None]


class Upload(Protocol):
    """A body that is sent piece by piece."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What it is: ``Content-Type``, and how it is packed."""

    @property
    def is_repeatable(self) -> bool:
        """Whether `pieces` may be asked for again."""

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes from the beginning."""


Body: TypeAlias = BaseModel | Mapping[str, Any] | Upload


@dataclass(frozen=True, slots=True)
class Call(Generic[A_co]):
    """A request, and the class of its answer.

    Attributes
    ----------
    method, path : str
    answer : type
        A model of `gpucluster.wire`.
    body : model, mapping or Upload, optional
        Models are sent as what was set in them.
    query : mapping
        What is None is left out.
    reads : bool, optional
        Whether the service changes nothing, so that it may be asked again without a key. Omitted:
        for GET.
    patience_s : float, optional
        How long an answer may take, where that is longer than the client's.
    """

    method: Method
    path: str
    answer: type[A_co]
    body: Body | None = None
    query: Query = field(default_factory=dict)
    reads: bool | None = None
    patience_s: float | None = None

    @property
    def is_read(self) -> bool:
        """Whether the service changes nothing."""
        return self.method == "GET" if self.reads is None else self.reads


@dataclass(slots=True)
class Reply:
    """What was answered; `content` is empty where the rest is still to be read.

    Attributes
    ----------
    status : int
    headers : mapping
        By lower-case names.
    content : bytes
    stream : object
        The driver's own, for `Read`.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes = b""
    stream: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """To be sent; the driver answers with a `Reply`, or throws `ConnectionFailedError`."""

    method: Method
    path: str
    query: Query
    headers: Mapping[str, str]
    content: bytes | Upload | None = None
    is_streamed: bool = False
    patience_s: float | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """The next bytes of a streamed reply; none are left where there are none."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing is to be done for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give(Generic[A_co]):
    """Whoever iterates gets this."""

    item: A_co


Effect: TypeAlias = Send | Read | Sleep
Flow: TypeAlias = Generator[Effect, Any, A]
Items: TypeAlias = Generator[Effect | Give[A], Any, None]
