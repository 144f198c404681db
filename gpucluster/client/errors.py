"""What a client raises.

Who wants one ``except`` catches `ClientError`, which is a `GpuclusterError`. The tree::

    ClientError
    ├── ConnectionFailedError            nothing answers there, or not in time
    ├── UnauthorizedError                no token, or none that is valid
    ├── ForbiddenError                   the token does not allow it
    ├── NotFoundError                    there is no such thing in the namespace
    ├── ConflictError                    it contradicts what is there, or is going on
    ├── InvalidRequestError              fields of the request are wrong: problems
    ├── TooManyRequestsError             more than the service does at a time
    ├── ServiceError                     the service failed, or is not ready
    ├── UnreadableAnswerError            an answer that this version cannot read
    ├── TaskFailedError                  a task ended without its result
    │   └── TaskCanceledError            because somebody stopped it
    └── TaskPendingError (TimeoutError)  a task was not over in the time given
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpucluster.errors import ClientError


class ConnectionFailedError(ClientError):
    """Nothing answers at the address, or not in time."""

    code = "connection_failed"
    retryable = True


class UnauthorizedError(ClientError):
    """There was no token, or none that is valid."""

    code = "unauthorized"


class ForbiddenError(ClientError):
    """The token does not allow it."""

    code = "forbidden"


class NotFoundError(ClientError):
    """There is no such thing in the namespace."""

    code = "not_found"


class ConflictError(ClientError):
    """It contradicts what is there, or is going on."""

    code = "conflict"


class InvalidRequestError(ClientError):
    """Fields of a request are wrong; `problems` has ``loc``, ``msg`` and ``type`` of each."""

    code = "invalid_request"

    def __init__(
        self, message: str, *, problems: Sequence[Mapping[str, Any]] = (), **more: Any
    ) -> None:
        super().__init__(message, **more)
        self.problems = tuple(problems)


class TooManyRequestsError(ClientError):
    """More was asked for than the service does at a time."""

    code = "too_many_requests"
    retryable = True


class ServiceError(ClientError):
    """The service failed, or is not ready."""

    code = "service_failed"
    retryable = True


class UnreadableAnswerError(ClientError):
    """The service answered what this version of the client cannot read."""

    code = "answer_unreadable"


class TaskFailedError(ClientError):
    """A task ended without its result; `task` is how it was seen last."""

    code = "task_failed"

    def __init__(self, message: str, *, task: Any = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.task = task


class TaskCanceledError(TaskFailedError):
    """A task was stopped."""

    code = "task_canceled"


class TaskPendingError(ClientError, TimeoutError):
    """A task was not over in the time that was given."""

    code = "task_pending"
    retryable = True
