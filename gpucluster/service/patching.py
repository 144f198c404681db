"""Changes to what people say of a thing: its name, a description, metadata."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpucluster.service.catalog.port import Record
from gpucluster.service.refusals import InvalidError

if TYPE_CHECKING:
    from pydantic import BaseModel


def patched(record: Record, changes: BaseModel, name_field: str) -> Record:
    """Return a record with the fields that a request sets.

    Parameters
    ----------
    record : Record
    changes : BaseModel
        Metadata that are null become empty.
    name_field : str
        The one that names it, which is never null.

    Raises
    ------
    InvalidError
        The name is null.
    """
    given = {name: getattr(changes, name) for name in changes.model_fields_set}
    if name_field in given and given[name_field] is None:
        raise InvalidError("expected a name", loc=[name_field])
    if "metadata" in given:
        given["metadata"] = given["metadata"] or {}
    body = {**record.body, **given}
    return replace(record, body=body, name=body[name_field], text=body["description"] or "")
