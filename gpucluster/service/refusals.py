"""What the service answers instead of what was asked for; each class is a status of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class Refusal(Exception):  # noqa: N818 - the base; each of its classes is an Error
    """An answer of 400 and above.

    Parameters
    ----------
    message : str
        What happened, got and expected.
    hint : str, optional
        What to do.
    **details
        What a program may want to know, as JSON values.
    """

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_request"
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UnauthorizedError(Refusal):
    """No token, or none that is valid."""

    status = 401
    code = "unauthorized"
    headers: ClassVar = {"WWW-Authenticate": "Bearer"}


class ForbiddenError(Refusal):
    """The token is valid, and does not allow it."""

    status = 403
    code = "forbidden"


class NotFoundError(Refusal):
    """There is no such thing in this namespace."""

    status = 404
    code = "not_found"


class ConflictError(Refusal):
    """It contradicts what is there, or is going on."""

    status = 409
    code = "conflict"


class UnderWayError(ConflictError):
    """The same request is being worked on; its answer comes when it is sent again."""

    code = "under_way"
    headers: ClassVar = {"Retry-After": "1"}


class NoModelError(ConflictError):
    """Nothing was clustered yet that rows could join."""

    code = "no_model"


class SpentError(ConflictError):
    """It was done under this key, and the answer cannot be given again."""

    code = "spent"


class TooLargeError(Refusal):
    """The body exceeds what is read."""

    status = 413
    code = "too_large"


class InvalidError(Refusal):
    """A field of the request is wrong.

    Parameters
    ----------
    message : str
        Got and expected.
    loc : sequence of str or int
        Where it is: names from the body on, or ``query``, ``header`` or ``path`` before them.
    hint : str, optional
        What to do.
    """

    status = 422
    code = "invalid"

    def __init__(self, message: str, *, loc: Sequence[str | int], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.loc = loc


class TooManyError(Refusal):
    """More is asked for at a time than is done; the answer says when to come again."""

    status = 429
    code = "too_many"

    def __init__(self, message: str, *, after_s: float = 1.0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.after_s = after_s


class UnavailableError(TooManyError):
    """Something that the service needs does not answer."""

    status = 503
    code = "unavailable"
