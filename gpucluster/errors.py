"""Every error that gpucluster raises on purpose.

A caller who wants one ``except`` catches `GpuclusterError`. The tree::

    GpuclusterError
    ├── ConfigError (ValueError)         a setting is wrong: path, got, expected
    ├── InputError (ValueError)          the data are wrong
    │   ├── ShapeError                   ragged or unexpected dimensions
    │   ├── DtypeError                   values that are no vectors
    │   ├── BadRowsError                 too many rows that cannot be clustered
    │   ├── TooFewSamplesError           fewer rows than the algorithm needs
    │   ├── DuplicateIdsError            a document id appears twice
    │   └── UnstableClustersError        clusters below the floor of a promotion
    ├── SourceError (OSError)            an input could not be read
    │   ├── SourceNotFoundError          nothing lies at the path
    │   ├── SchemaMismatchError          a column is missing or has another type
    │   └── CorruptInputError            damaged, truncated or hostile file
    ├── DeviceError (RuntimeError)       the machine cannot do it
    │   ├── DeviceUnavailableError       no such device here
    │   ├── BackendUnavailableError      a library is missing; names the extra
    │   ├── OutOfMemoryError             the device ran out while working
    │   └── WillNotFitError              the plan exceeds the memory, before any work
    ├── ExecutorError (RuntimeError)     the Dask cluster cannot be reached, or failed
    ├── StageCrashedError (RuntimeError) a supervised stage died in native code
    ├── ArtifactError (OSError)          a Run on disk is unusable
    │   ├── RunNotFoundError             no finished run at the path
    │   ├── TaxonomyNotFoundError        no taxonomy at the path, or no such version
    │   ├── CorruptArtifactError         a file does not match its manifest
    │   └── SchemaTooNewError            written by a newer version
    ├── StoreError (OSError)             writing was refused
    │   ├── DiskFullError                no space left
    │   ├── PermissionRefusedError       not allowed to write there
    │   └── RunLockedError               another process holds the run
    ├── ClientError (RuntimeError)       a service refused, failed, or was not reached;
    │                                    its classes are in gpucluster.client.errors
    ├── InternalError (AssertionError)   a broken invariant: our bug
    └── Cancelled                        the caller asked to stop

A message says what happened and where, what was got and expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class GpuclusterError(Exception):
    """Base of the tree.

    Parameters
    ----------
    message : str
        One line: what happened, where, got, expected.
    hint : str, optional
        One line: what to do about it.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class ConfigError(GpuclusterError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""

    code = "config_invalid"

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        got: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(f"{path}: {message}" if path else message, hint=hint)
        self.path = path
        self.got = got
        self.expected = expected


class InputError(GpuclusterError, ValueError):
    """The data are wrong."""

    code = "input_invalid"


class ShapeError(InputError):
    """Vectors have ragged or unexpected dimensions."""

    code = "input_shape"


class DtypeError(InputError):
    """Values cannot be read as vectors of numbers."""

    code = "input_dtype"


class BadRowsError(InputError):
    """More rows cannot be clustered than the definition allows."""

    code = "input_bad_rows"


class TooFewSamplesError(InputError):
    """Fewer rows than the algorithm needs."""

    code = "insufficient_documents"


class DuplicateIdsError(InputError):
    """A document id appears more than once."""

    code = "duplicate_ids"


class UnstableClustersError(InputError):
    """Clusters are less stable than a promotion asks; by id, None where there is no history."""

    code = "clusters_unstable"

    def __init__(
        self, message: str, *, clusters: Mapping[str, float | None], hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.clusters = dict(clusters)


class SourceError(GpuclusterError, OSError):
    """An input could not be read."""

    code = "source_unreadable"


class SourceNotFoundError(SourceError):
    """Nothing lies at the given path."""

    code = "source_not_found"


class SchemaMismatchError(SourceError):
    """A column is missing, ambiguous, or differs between files."""

    code = "source_schema"


class CorruptInputError(SourceError):
    """An input file is damaged, truncated or hostile."""

    code = "source_corrupt"


class DeviceError(GpuclusterError, RuntimeError):
    """The machine cannot do what was asked."""

    code = "device_error"


class DeviceUnavailableError(DeviceError):
    """The requested device does not exist here."""

    code = "device_unavailable"


class BackendUnavailableError(DeviceError):
    """A library is missing; the hint names the extra that brings it."""

    code = "backend_unavailable"


class OutOfMemoryError(DeviceError):
    """The device ran out of memory while working; in bytes, where they are known."""

    code = "out_of_memory"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        needed_bytes: int | None = None,
        free_bytes: int | None = None,
        total_bytes: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.total_bytes = total_bytes


class WillNotFitError(DeviceError):
    """The plan needs more memory than there is; nothing was started."""

    code = "will_not_fit"

    def __init__(
        self, message: str, *, needed_bytes: int, available_bytes: int, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class ExecutorError(GpuclusterError, RuntimeError):
    """The cluster of the executor is not there, not usable, or could not do the work."""

    code = "executor_failed"
    retryable = True


class StageCrashedError(GpuclusterError, RuntimeError):
    """A supervised stage died in native code, or did not answer in time."""

    code = "stage_crashed"
    retryable = True

    def __init__(self, message: str, *, stage: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stage = stage


class ArtifactError(GpuclusterError, OSError):
    """A Run on disk is unusable."""

    code = "artifact_error"


class RunNotFoundError(ArtifactError):
    """No finished run lies at the path."""

    code = "run_not_found"


class TaxonomyNotFoundError(ArtifactError):
    """No taxonomy lies at the path, or not in that version."""

    code = "taxonomy_not_found"


class CorruptArtifactError(ArtifactError):
    """A file of a run does not match its manifest."""

    code = "artifact_corrupt"


class SchemaTooNewError(ArtifactError):
    """The run was written by a newer version of gpucluster."""

    code = "artifact_too_new"


class StoreError(GpuclusterError, OSError):
    """Writing was refused."""

    code = "store_error"
    retryable = True


class DiskFullError(StoreError):
    """No space is left where the run is written."""

    code = "disk_full"


class PermissionRefusedError(StoreError):
    """The process may not write there."""

    code = "permission_refused"


class RunLockedError(StoreError):
    """Another process is working on the same run."""

    code = "run_locked"


class ClientError(GpuclusterError, RuntimeError):
    """A service refused, failed, or was not reached.

    Parameters
    ----------
    message : str
        What the service said, or what happened on the way to it.
    hint : str, optional
        What to do.
    status : int, optional
        Of HTTP; None where there was no answer.
    request_id : str, optional
        Under which the log of the service has the request.
    details : mapping, optional
        What the service says for programs.
    retry_after_s : float, optional
        When the service asks to be asked again.
    """

    code = "client_error"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.request_id = request_id
        self.details = dict(details or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        request = f" [request {self.request_id}]" if self.request_id else ""
        return super().__str__() + request


class InternalError(GpuclusterError, AssertionError):
    """A broken invariant: a bug in gpucluster, please report it."""

    code = "internal"


class Cancelled(GpuclusterError):  # noqa: N818 - the field's word for it
    """The caller asked to stop; finished stages are kept."""

    code = "cancelled"
    retryable = True


class GpuclusterWarning(UserWarning):
    """Base of the warnings."""


class FallbackWarning(GpuclusterWarning):
    """Something other than what was asked for is being used."""


class NotConvergedWarning(GpuclusterWarning):
    """The algorithm stopped before it was done, or found less than was asked for."""


class QualityWarning(GpuclusterWarning):
    """The settings are known to give poor results on data like these."""
