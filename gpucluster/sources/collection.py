"""Collections: what feature URIs mean in files, and several collections read as one source.

A manifest beside the files says which column holds which feature::

    {
      "collection_id": "products",
      "files": ["products/*.parquet"],
      "id_column": "sku",
      "text_column": "title",
      "features": {
        "mixpeek://text_extractor@v1/text_embedding": {"column": "emb", "dim": 384}
      }
    }
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from gpucluster.device.child import Child
from gpucluster.errors import ConfigError, SchemaMismatchError, ShapeError
from gpucluster.notation import check_values, nearest, read_object, setting_error, shown
from gpucluster.places import ObjectPath, Place, is_address, place
from gpucluster.sources.base import Columns, Source
from gpucluster.sources.detect import check_names
from gpucluster.sources.joined import JoinedSource, Member
from gpucluster.sources.opening import common_format, expand, open_source

MANIFEST_SUFFIXES = (".collection.json", ".collection.yaml", ".collection.yml")

URI_PATTERN = r"^(mixpeek|gpucluster)://[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$"


def _is_uri(value: Any) -> Any:
    if isinstance(value, str) and not re.match(URI_PATTERN, value):
        raise ValueError("a feature URI: mixpeek://extractor@version/output")
    return value


FeatureUri = Annotated[str, BeforeValidator(_is_uri), Field(pattern=URI_PATTERN)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Feature(_Settings):
    """One kind of vectors that a collection holds."""

    column: str | None = Field(
        default=None, description="Where they are. Omitted: the only column that may be it."
    )
    kind: Literal["dense", "sparse", "multi_vector"] = Field(
        default="dense", description="One vector a row, its entries that are not 0, or several."
    )
    dim: Annotated[int, Field(ge=1)] = Field(description="Values of one vector.")
    dtype: Literal["float16", "float32", "float64", "int8", "uint8"] | None = Field(
        default=None, description="What they are stored as; says what the bytes of a column are."
    )
    normalized: bool | None = Field(default=None, description="Whether their length is 1; noted.")
    model: str | None = Field(
        default=None, description="What computed them; collections that differ are not mixed."
    )


class Enriched(_Settings):
    """What a run has added to the files of a collection, and how that is undone."""

    run_id: str = Field(description="The run.")
    enriched_at: str = Field(description="When, in ISO 8601.")
    columns: tuple[str, ...] = Field(description="Those that were added.")
    before: str = Field(
        pattern=r"^[A-Za-z0-9._-]+/before-[0-9a-f]{12}\.collection\.(json|yaml|yml)$",
        description="The manifest as it was, relative to the folder of this one.",
    )


class Collection(_Settings):
    """A manifest: files of one format, and what their columns mean."""

    collection_id: str = Field(min_length=1, max_length=200, description="Its name.")
    files: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Paths, folders or globs, relative to the folder of the manifest."
    )
    id_column: str | None = Field(default=None, description="Omitted: found by its name.")
    text_column: str | None = Field(default=None, description="Texts of the documents.")
    truth_column: str | None = Field(default=None, description="True classes, to compare with.")
    features: Annotated[dict[FeatureUri, Feature], Field(min_length=1)] = Field(
        description="By their URIs."
    )
    meta: dict[str, JsonValue] | None = Field(
        default=None, description="What its writer notes; nothing is read here."
    )
    enrichment: Enriched | None = Field(
        default=None, description="Written by gpucluster, when a run has enriched the files."
    )


def is_manifest(path: str | os.PathLike[str]) -> bool:
    """Whether a file is the manifest of a collection, by its name."""
    return os.fspath(path).lower().endswith(MANIFEST_SUFFIXES)


def read_manifest(path: str | Place) -> Collection:
    """Read the manifest of a collection.

    Parameters
    ----------
    path : str or path
        JSON or YAML by its suffix.

    Returns
    -------
    Collection

    Raises
    ------
    ConfigError
        The file is missing or damaged, or a setting is wrong.
    """
    path = place(path)
    where = shown(str(path), 120)
    body = read_object(path)
    try:
        check_values(body)
        return Collection.model_validate(body)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error
    except ValidationError as error:
        wrong = setting_error(error, Collection)
        raise ConfigError(f"{where}: {wrong.message}", got=wrong.got, hint=wrong.hint) from error


def collection_files(path: str | Place, collection: Collection) -> list[str]:
    """Return the files of a collection, in the order of their rows.

    Parameters
    ----------
    path : str or path
        The manifest.
    collection : Collection
        What it says.
    """
    return [file for item in collection.files for file in expand(_beside(place(path), item))]


def open_feature(
    data: Any,
    uri: str | None = None,
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
    truth_column: str | None = None,
    vector_dtype: str | None = None,
    child: Child | None = None,
) -> Source:
    """Open the vectors of a feature, in one collection or several.

    Parameters
    ----------
    data : path, glob, folder, list of these, or data in memory
        Paths may be manifests of collections, and lists may mix formats: the rows of all follow
        each other. Otherwise as for `open_source`.
    uri : str, optional
        The feature. A manifest says which column it is. Without a manifest it is the column
        named like its last part, or, where there is none, the one that is found without a URI.
    id_column, vector_column, text_column, truth_column : str, optional
        As for `open_source`; they go before what a manifest says.
    vector_dtype : str, optional
        As for `open_source`.
    child : Child, optional
        As for `open_source`.

    Returns
    -------
    Source

    Raises
    ------
    ConfigError
        A manifest is wrong, or several features may be meant.
    SchemaMismatchError
        A collection does not have the feature, or collections differ in kind, model or ids.
    ShapeError
        Vectors are not as long as a manifest says, or as those of another collection.
    SourceError
        See `open_source`.
    """
    asked = Columns(id_column, vector_column, text_column, truth_column)

    def open_(data: Any, asked: Columns, dtype: str | None) -> Source:
        return open_source(
            data,
            id_column=asked.id,
            vector_column=asked.vector,
            text_column=asked.text,
            truth_column=asked.truth,
            vector_dtype=dtype,
            child=child,
        )

    members = []
    for group in _groups(data):
        if isinstance(group, Path | ObjectPath):
            members.append(_open_manifest(group, uri, asked, vector_dtype, open_))
        else:
            members.append(_open_plain(group, uri, asked, vector_dtype, open_))
    if len(members) == 1 and members[0].model is None and members[0].resolved is None:
        return members[0].source
    return JoinedSource(members, uri)


_Open = Callable[[Any, Columns, str | None], Source]


def _groups(data: Any) -> list[Any]:
    """Return what is opened as one: manifests, neighbouring files of one format, or the data."""
    items = data if isinstance(data, list | tuple) else [data]
    if not items or not all(isinstance(item, str | os.PathLike) for item in items):
        return [data]
    groups: list[Any] = []
    last: str | None = None
    for item in map(os.fspath, items):
        if is_manifest(item):
            groups.append(place(item))
            last = None
            continue
        format_ = common_format(expand(item))
        if format_ == last:
            groups[-1].append(item)
        else:
            groups.append([item])
        last = format_
    return groups


def _open_plain(
    data: Any, uri: str | None, asked: Columns, dtype: str | None, open_: _Open
) -> Member:
    """Open data that no manifest describes."""
    output = None if uri is None else uri.rsplit("/", maxsplit=1)[-1]
    if output is None or asked.vector is not None:
        source = open_(data, asked, dtype)
        return Member(source.info.where, source)
    try:
        source = open_(data, replace(asked, vector=output), dtype)
    except (ConfigError, SchemaMismatchError) as missing:
        try:  # no column of that name: found as without a URI, and the run says so
            source = open_(data, asked, dtype)
        except ConfigError:  # several may be meant
            raise missing from None
    return Member(source.info.where, source)


def _open_manifest(
    path: Place, uri: str | None, asked: Columns, dtype: str | None, open_: _Open
) -> Member:
    """Open the files of a collection."""
    collection = read_manifest(path)
    name = collection.collection_id
    feature_uri, feature = _feature(collection, uri)
    columns = Columns(
        id=asked.id or collection.id_column,
        vector=asked.vector or feature.column,
        text=asked.text,
        truth=asked.truth or collection.truth_column,
    )
    files = [_beside(path, file) for file in collection.files]
    source = open_(files, columns, dtype or feature.dtype)
    info = source.info
    if info.fields:
        check_names({"text": collection.text_column}, info.fields, f"{name} ({info.where})")
    if asked.vector is None:
        if info.kind != feature.kind:
            raise SchemaMismatchError(
                f"{name}: {feature_uri} is {info.kind} in {info.where}, "
                f"{feature.kind} in {path.name}"
            )
        if info.n_stored > feature.dim:
            raise ShapeError(
                f"{name}: {feature_uri} has {info.n_stored:,} values in {info.where}, "
                f"{feature.dim:,} in {path.name}"
            )
        if info.kind != "sparse" and info.n_features not in {0, feature.dim}:
            raise ShapeError(
                f"{name}: {feature_uri} has {info.n_features:,} values in {info.where}, "
                f"{feature.dim:,} in {path.name}"
            )
        if feature.dtype not in {None, info.dtype}:
            raise SchemaMismatchError(
                f"{name}: {feature_uri} is {info.dtype} in {info.where}, "
                f"{feature.dtype} in {path.name}"
            )
    return Member(
        name,
        source,
        resolved=feature_uri if asked.vector is None else None,
        model=feature.model,
        text=collection.text_column,
        described=feature.model_dump(mode="json", exclude_none=True),
    )


def _beside(path: Place, file: str) -> str:
    """Return what a manifest names, relative to its folder."""
    if is_address(file):
        return file
    if isinstance(path, ObjectPath):  # where a key knows no ``..``
        inside = posixpath.normpath(f"/{path.parent.key}/{file}")
        return str(ObjectPath(path.scheme, path.container) / inside)
    return str(Path(glob.escape(str(path.parent)), file))


def _feature(collection: Collection, uri: str | None) -> tuple[str, Feature]:
    """Return the feature that is meant, and its URI."""
    features: Mapping[str, Feature] = collection.features
    if uri is None:
        if len(features) == 1:
            return next(iter(features.items()))
        raise ConfigError(
            f"{collection.collection_id} has several features: {', '.join(features)}",
            path="feature_uris",
            hint="name one of them",
        )
    if uri not in features:
        raise SchemaMismatchError(
            f"{collection.collection_id}: there is no feature {uri}", hint=nearest(uri, features)
        )
    return uri, features[uri]
