"""A version of a collection that was looked up, and where it lies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from gpucluster.service.collections.versions import Version, Versions


@dataclass(frozen=True, slots=True)
class Opened:
    """A version of a collection, and where it lies.

    Attributes
    ----------
    versions : Versions
    version : Version
    """

    versions: Versions
    version: Version

    def ids(self, document_ids: Sequence[str]) -> pa.Array:
        """Return ids in the type that the collection has; those that it cannot have are left."""
        type_ = self.version.schema.field(self.version.id_column).type
        if pa.types.is_string(type_):
            return pa.array(document_ids, type_)
        numbers = [int(text) for text in document_ids if re.fullmatch("-?[0-9]{1,19}", text)]
        return pa.array([n for n in numbers if -(2**63) <= n < 2**63], type_)
