"""Methods that are written once, and block or are awaited as their client does.

Each is a function that returns what is to be done: a `Call`, a flow, or items. As an attribute of a
group whose driver is `Blocking` it returns the answer; of one whose driver is `Awaiting`, something
to await. Type checkers see that, with the parameters of the function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload
from urllib.parse import parse_qsl, quote

from pydantic import BaseModel, ValidationError

from gpucluster.client.answers import not_sent
from gpucluster.client.calls import Call, Flow, Give, Items, Query
from gpucluster.client.drivers import Awaiting, Blocking
from gpucluster.client.errors import InvalidRequestError
from gpucluster.client.sessions import D, Session
from gpucluster.wire.base import Pagination

P = ParamSpec("P")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
R = TypeVar("R", bound=BaseModel)
PAGE = 200  # things that are fetched at a time


class Group(Generic[D]):
    """Methods of a client about one kind of thing.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session[D]) -> None:
        self._session = session


class PageOf(Protocol[A_co]):
    """An answer with some of many things."""

    @property
    def results(self) -> Sequence[A_co]:
        """What it has."""

    @property
    def pagination(self) -> Pagination:
        """Where the rest is."""


class _Method:
    """What a function of a group becomes."""

    def __init__(self, describe: Callable[..., Any]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__
        signature = inspect.signature(describe)
        parameters = list(signature.parameters.values())[1:]
        self.__signature__ = signature.replace(parameters=parameters)

    def _bound(self, do: Callable[..., Any]) -> Callable[..., Any]:
        """Let what does it look like the function that it is made of, without its group."""
        functools.update_wrapper(do, self._describe)
        cast("Any", do).__signature__ = self.__signature__
        return do


class One(_Method, Generic[P, A]):
    """A method with one answer.

    Parameters
    ----------
    describe : callable
        Returns what is to be done.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[A] | Flow[A]]) -> None:
        super().__init__(describe)

    @overload
    def __get__(self, group: None, owner: object) -> One[P, A]: ...
    @overload
    def __get__(self, group: Group[Blocking], owner: object) -> Callable[P, A]: ...
    @overload
    def __get__(
        self, group: Group[Awaiting], owner: object
    ) -> Callable[P, Coroutine[Any, Any, A]]: ...
    def __get__(self, group: Group[Any] | None, owner: object) -> Any:
        if group is None:
            return self
        session = group._session

        def do(*args: P.args, **kwargs: P.kwargs) -> Any:
            asked = self._describe(group, *args, **kwargs)
            flow = session.ask(asked) if isinstance(asked, Call) else asked
            return session.driver.one(flow)

        return self._bound(do)


class Many(_Method, Generic[P, A]):
    """A method with many answers, one after the other.

    Parameters
    ----------
    describe : callable
        Returns what gives them.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Items[A]]) -> None:
        super().__init__(describe)

    @overload
    def __get__(self, group: None, owner: object) -> Many[P, A]: ...
    @overload
    def __get__(self, group: Group[Blocking], owner: object) -> Callable[P, Iterator[A]]: ...
    @overload
    def __get__(self, group: Group[Awaiting], owner: object) -> Callable[P, AsyncIterator[A]]: ...
    def __get__(self, group: Group[Any] | None, owner: object) -> Any:
        if group is None:
            return self
        driver = group._session.driver

        def do(*args: P.args, **kwargs: P.kwargs) -> Any:
            return driver.many(self._describe(group, *args, **kwargs))

        return self._bound(do)


class OneWith(Generic[P, R]):
    """Makes a method of a function that gets a request, whose fields are the method's keywords.

    Parameters
    ----------
    model : type
        The request.
    """

    def __init__(self, model: Callable[P, R]) -> None:
        self._model = model

    @overload
    def __call__(self, describe: Callable[[Any, R], Call[A] | Flow[A]]) -> One[P, A]: ...
    @overload
    def __call__(
        self, describe: Callable[[Any, R, str], Call[A] | Flow[A]]
    ) -> One[Concatenate[str, P], A]: ...
    def __call__(self, describe: Callable[..., Any]) -> One[..., Any]:
        """Return the method."""
        return One(_filled(self._model, describe))


class ManyWith(Generic[P, R]):
    """As `OneWith`, for methods with many answers.

    Parameters
    ----------
    model : type
        The request.
    """

    def __init__(self, model: Callable[P, R]) -> None:
        self._model = model

    @overload
    def __call__(self, describe: Callable[[Any, R], Items[A]]) -> Many[P, A]: ...
    @overload
    def __call__(
        self, describe: Callable[[Any, R, str], Items[A]]
    ) -> Many[Concatenate[str, P], A]: ...
    def __call__(self, describe: Callable[..., Any]) -> Many[..., Any]:
        """Return the method."""
        return Many(_filled(self._model, describe))


def every(session: Session[Any], call: Call[PageOf[A]]) -> Items[A]:
    """Give what is on all pages of a list."""
    query: Query = {"limit": PAGE, **call.query}
    while True:
        asked = Call(call.method, call.path, call.answer, call.body, query, reads=True)
        page = yield from session.ask(asked)
        for item in page.results:
            yield Give(item)
        where = page.pagination
        if where.next_cursor is not None:
            query = {**query, "cursor": where.next_cursor}
        elif where.next_page is not None:  # some lists have numbered pages alone
            query = {**query, **dict(parse_qsl(where.next_page.removeprefix("?")))}
        else:
            return


def part(identifier: str) -> str:
    """Return an id or name as a part of a path; an empty one would be another path."""
    if not isinstance(identifier, str) or not identifier.strip("."):
        raise not_sent_because(f"expected an id or a name, got {identifier!r}")
    return quote(identifier, safe="")


def not_sent_because(reason: str) -> Exception:
    """Return what is raised for a call that cannot be made."""
    return InvalidRequestError(reason, problems=[{"loc": ["path"], "msg": reason, "type": "path"}])


def _filled(model: Callable[..., BaseModel], describe: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes its request of keywords."""

    @functools.wraps(describe)
    def described(group: Any, /, *path: str, **fields: Any) -> Any:
        try:
            request = model(**fields)
        except ValidationError as error:
            raise not_sent(error) from None
        return describe(group, request, *path)

    described.__signature__ = _signature(model, describe)  # type: ignore[attr-defined]
    return described


def _signature(model: Callable[..., BaseModel], describe: Callable[..., Any]) -> Any:
    """Return the parameters that a method has: those of the path, and fields of the request."""
    own = list(inspect.signature(describe).parameters.values())
    fields = inspect.signature(model).parameters.values()
    path = [each.replace(kind=inspect.Parameter.POSITIONAL_ONLY) for each in (own[0], *own[2:])]
    return inspect.Signature([*path, *fields])
