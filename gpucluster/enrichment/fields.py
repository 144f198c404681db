"""The fields that documents can get from a run, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from gpucluster.errors import ConfigError
from gpucluster.notation import describe, nearest

_NAMES_MISSING = "name its clusters with gpucluster label, or ask for other fields"
_NO_COORDINATES = "a definition with dimension_reduction has coordinates; z needs components: 3"
_METADATA = "metadata."  # begins the name of what a response_shape asked for besides


@dataclass(frozen=True, slots=True)
class Field:
    """A value that a run has for its documents.

    Attributes
    ----------
    name : str
        Under which it is asked for, and written where no other name is.
    origin : {"member", "cluster"}
        Whether each document has its own, or all of a cluster the same.
    column : str
        Of the table of members or of clusters.
    alias : str or None
        Another name of it, in mappings.
    hint : str or None
        What to do where a run has no value of it.
    key : str or None
        The entry of an object in JSON, where the column holds such.
    """

    name: str
    origin: Literal["member", "cluster"]
    column: str
    alias: str | None = None
    hint: str | None = None
    key: str | None = None


FIELDS: Final = {
    field.name: field
    for field in (
        Field("cluster_id", "cluster", "cluster_id"),
        Field("label", "cluster", "label", alias="cluster_label", hint=_NAMES_MISSING),
        Field("summary", "cluster", "summary", hint=_NAMES_MISSING),
        Field("keywords", "cluster", "keywords", hint=_NAMES_MISSING),
        Field("distance_to_centroid", "member", "distance_to_centroid"),
        Field("cosine_similarity_to_centroid", "member", "cosine_similarity_to_centroid"),
        Field("cluster_path", "cluster", "cluster_path"),
        Field("stable_id", "cluster", "stable_id"),
        Field("member_count", "cluster", "num_members"),
        Field(
            "membership_probability",
            "member",
            "membership_probability",
            hint="hdbscan and gaussian_mixture give one",
        ),
        *(Field(axis, "member", axis, hint=_NO_COORDINATES) for axis in ("x", "y", "z")),
    )
}
DEFAULT_FIELDS: Final = ("cluster_id", "label")

_ALIASES = {field.alias: field for field in FIELDS.values() if field.alias is not None}


def find_field(name: object, path: str = "fields") -> Field:
    """Return the field of a name, or of another name of it.

    Raises
    ------
    ConfigError
        There is none; with the nearest name.
    """
    if isinstance(name, str):
        if name in FIELDS or name in _ALIASES:
            return FIELDS.get(name) or _ALIASES[name]
        if name.startswith(_METADATA) and (key := name.removeprefix(_METADATA)):
            hint = "label with a response_shape that asks for it"
            return Field(name, "cluster", "label_fields", hint=hint, key=key)
    known = [*FIELDS, *_ALIASES, f"{_METADATA}*"]
    raise ConfigError(
        f"got {describe(name)}, expected a field of a run",
        path=path,
        got=name,
        hint=nearest(str(name), known),
    )
