"""The small formats of a Run: JSON that knows when it was altered, and arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from gpucluster.errors import CorruptArtifactError, SchemaTooNewError

if TYPE_CHECKING:
    from io import BufferedReader

    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]
else:
    Array = Any

_SEAL = "seal_sha256"


def digest(value: object) -> str:
    """Return the sha256 of the canonical JSON of `value`, as hex."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def seal(fields: Mapping[str, Any]) -> bytes:
    """Return the JSON text of `fields`, ending with a digest of them."""
    content = json.loads(json.dumps(fields))  # as a reader will see it: keys are strings
    return json.dumps({**content, _SEAL: digest(content)}, indent=2).encode() + b"\n"


def unseal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was sealed.

    Raises
    ------
    ValueError
        It was altered since.
    """
    content = {key: value for key, value in fields.items() if key != _SEAL}
    if fields.get(_SEAL) != digest(content):
        raise ValueError(f"its {_SEAL} is not that of its content")
    return content


def read_sealed(text: str | bytes, where: object, newest: int) -> dict[str, Any]:
    """Return what was sealed in a file.

    Parameters
    ----------
    text : str or bytes
    where : object
        The file, for messages.
    newest : int
        The latest ``schema_version`` that is known.

    Raises
    ------
    SchemaTooNewError
        A newer version of gpucluster wrote it.
    ValueError, TypeError, RecursionError
        It is damaged, or was altered.
    """
    fields = dict(json.loads(text))
    version = fields.get("schema_version")
    if isinstance(version, int) and version > newest:
        later = fields.get("gpucluster_version")
        raise SchemaTooNewError(
            f"{where} has schema version {version}, this gpucluster reads up to {newest}",
            hint=f"install gpucluster {later} or later" if later else "install a later gpucluster",
        )
    return unseal(fields)


def write_npy(array: Array, file: BinaryIO) -> None:
    """Write an array in numpy's format; one of objects is refused with ValueError."""
    from numpy.lib import format as npy

    npy.write_array(file, array, allow_pickle=False)


def read_npy(file: BufferedReader, sha256: str, where: str) -> Array:
    """Read an array, after a look at whether the file is the one that was written.

    Raises
    ------
    CorruptArtifactError
        It is not.
    """
    import numpy as np

    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
        raise CorruptArtifactError(f"{where} is damaged: its content is not what was written")
    file.seek(0)
    array: Array = np.load(file, allow_pickle=False)
    return array
