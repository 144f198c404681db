"""Settings of enrichment, as part of a cluster definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gpucluster.enrichment.fields import DEFAULT_FIELDS, find_field
from gpucluster.errors import ConfigError
from gpucluster.notation import describe, setting_error

# the settings of a definition that say whether and how; they change no cluster
ENRICHING: Final = ("enrich_source_collection", "source_enrichment_config")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _known(name: str) -> str:
    find_field(name, "source_field")
    return name


class FieldMapping(_Settings):
    """Which field of a run becomes which column of the documents."""

    source_field: Annotated[str, AfterValidator(_known)] = Field(
        description="cluster_id, cluster_label, summary, keywords, distance_to_centroid, x ... or "
        "metadata.NAME of the labelling."
    )
    target_field: str = Field(min_length=1, max_length=200, description="Name of the column.")


def _distinct(mappings: tuple[FieldMapping, ...]) -> tuple[FieldMapping, ...]:
    names = [mapping.target_field for mapping in mappings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"{describe(twice[0])} is the target of several fields", path="field_mappings"
        )
    return mappings


class EnrichmentSettings(_Settings):
    """What the documents of the collections get from a run."""

    field_mappings: Annotated[
        tuple[FieldMapping, ...], Field(min_length=1), AfterValidator(_distinct)
    ] = Field(
        default=tuple(FieldMapping(source_field=n, target_field=n) for n in DEFAULT_FIELDS),
        description="Omitted: cluster_id and label.",
    )


def read_mappings(
    fields: Iterable[str] | None, field_mappings: Iterable[Any] | None
) -> tuple[FieldMapping, ...]:
    """Return what is asked for: fields under their names, or under others.

    Parameters
    ----------
    fields : iterable of str, optional
        Names of fields, which become names of columns. Omitted: `DEFAULT_FIELDS`.
    field_mappings : iterable of FieldMapping or mapping, optional
        Instead of `fields`.

    Raises
    ------
    ConfigError
        A field is unknown, a column would be written twice, or both are given.
    """
    if field_mappings is not None and fields is not None:
        raise ConfigError("fields and field_mappings say the same", path="fields", hint="give one")
    if isinstance(fields, str):
        fields = (fields,)
    if field_mappings is None:
        names = DEFAULT_FIELDS if fields is None else tuple(fields)
        if not names:
            raise ConfigError("got none, expected at least one", path="fields")
        for name in names:
            find_field(name)
        field_mappings = [{"source_field": name, "target_field": name} for name in names]
    if isinstance(field_mappings, str | Mapping):
        raise ConfigError(
            f"got {describe(field_mappings)}, expected a list of source_field and target_field",
            path="field_mappings",
        )
    try:
        return EnrichmentSettings(field_mappings=tuple(field_mappings)).field_mappings
    except ValidationError as error:
        raise setting_error(error, EnrichmentSettings) from error
