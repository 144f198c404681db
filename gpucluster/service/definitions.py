"""Cluster definitions, as the service keeps them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gpucluster.definition import ClusterDefinition
from gpucluster.dialects import canonical
from gpucluster.errors import ConfigError
from gpucluster.service.catalog.port import (
    Catalog,
    Page,
    Query,
    Record,
    Summary,
    Taken,
    Transaction,
)
from gpucluster.service.patching import patched
from gpucluster.service.refusals import ConflictError, InvalidError, NotFoundError
from gpucluster.wire.base import TITLE_PATTERN
from gpucluster.wire.clusters import ClusterMetadata, ClusterModel, PatchClusterRequest

KIND = "cluster"
TEMPLATE = "template"
MAX_NAME = 200
Emit = Callable[[Transaction, str, str, str, str, Mapping[str, Any]], object]


class Libraries(Protocol):
    """What definitions need to know of collections."""

    def features(self, tx: Transaction, ns: str, collection_id: str) -> Mapping[str, Any]:
        """Return the features of a collection by URI; `NotFoundError` where it is not there."""


class Definitions:
    """The definitions of a service.

    Parameters
    ----------
    catalog : Catalog
    libraries : Libraries
        The collections that definitions name.
    emit : callable
        Tells whoever listens; in the transaction of the change.
    """

    def __init__(self, catalog: Catalog, libraries: Libraries, emit: Emit) -> None:
        self._catalog = catalog
        self._libraries = libraries
        self._emit = emit

    def create(
        self,
        ns: str,
        cluster_id: str,
        given: Mapping[str, Any],
        *,
        template_id: str | None = None,
    ) -> Record:
        """Keep a definition.

        Parameters
        ----------
        ns, cluster_id : str
        given : mapping
            A request body in either dialect.
        template_id : str, optional
            What it adds to.

        Raises
        ------
        ConfigError
            Something of it is wrong.
        InvalidError
            A collection or feature is not there, or dimensions differ.
        ConflictError
            The name is taken.
        """
        body = canonical(dict(given))
        with self._catalog.writing() as tx:
            if template_id is not None:
                body = _over(self.template(tx, ns, template_id).body["definition"], body)
            definition = ClusterDefinition.parse(body)
            _check_name(definition.cluster_name)
            record = Record(
                ns=ns,
                kind=KIND,
                id=cluster_id,
                name=definition.cluster_name or cluster_id,
                status="PENDING",
                text=definition.description or "",
                body=described(ns, cluster_id, definition, body),
            )
            self._check_features(tx, ns, definition)
            try:
                created = tx.create(record)
            except Taken:
                there = tx.get(ns, KIND, cluster_id)
                if there is not None and there.body["definition"] == record.body["definition"]:
                    return there  # the same request, sent again
                raise ConflictError(f"there is a cluster named {record.name} already") from None
            told = {"cluster_name": record.name}
            self._emit(tx, ns, "cluster.created", "cluster", cluster_id, told)
            return created

    def get(self, tx: Transaction, ns: str, identifier: str) -> Record:
        """Return a definition by its id or name; `NotFoundError` where there is none."""
        record = tx.get(ns, KIND, identifier) or tx.find(ns, KIND, identifier)
        if record is None:
            raise NotFoundError(f"there is no cluster {identifier}")
        return record

    def patch(self, ns: str, identifier: str, changes: PatchClusterRequest) -> Record:
        """Change name, description or metadata."""
        with self._catalog.writing() as tx:
            record = self.get(tx, ns, identifier)
            try:
                changed = tx.replace(patched(record, changes, "cluster_name"))
            except Taken:
                raise ConflictError(
                    f"there is a cluster named {changes.cluster_name} already"
                ) from None
            told = {"changed": sorted(changes.model_fields_set)}
            self._emit(tx, ns, "cluster.updated", "cluster", record.id, told)
            return changed

    def page(self, ns: str, query: Query, sums: Sequence[str] = ()) -> tuple[Page, Summary]:
        """Return a page of definitions, and what all that are meant come to.

        They are counted by an index; for `sums` the body of each of them is read.
        """
        with self._catalog.reading() as tx:
            return tx.page(ns, KIND, query), tx.summary(ns, KIND, query, sums)

    def delete(self, tx: Transaction, ns: str, cluster_id: str) -> None:
        """Remove a definition; what it made stays."""
        if not tx.delete(ns, KIND, cluster_id):
            raise NotFoundError(f"there is no cluster {cluster_id}")
        self._emit(tx, ns, "cluster.deleted", "cluster", cluster_id, {})

    def template(self, tx: Transaction, ns: str, identifier: str) -> Record:
        """Return a template by its id or name."""
        record = tx.get(ns, TEMPLATE, identifier) or tx.find(ns, TEMPLATE, identifier)
        if record is None:
            raise NotFoundError(f"there is no template {identifier}")
        return record

    def create_template(
        self,
        ns: str,
        template_id: str,
        name: str,
        description: str | None,
        given: Mapping[str, Any],
    ) -> Record:
        """Keep part of a definition, to make others of."""
        definition = canonical(dict(given))
        ClusterDefinition.parse(definition)
        body = {
            "template_id": template_id,
            "template_name": name,
            "description": description,
            "definition": definition,
        }
        record = Record(ns=ns, kind=TEMPLATE, id=template_id, name=name, body=body)
        with self._catalog.writing() as tx:
            try:
                return tx.create(record)
            except Taken:
                there = tx.get(ns, TEMPLATE, template_id)
                if there is not None:
                    return there
                raise ConflictError(f"there is a template named {name} already") from None

    def _check_features(self, tx: Transaction, ns: str, definition: ClusterDefinition) -> None:
        """Raise where collections do not have the features, or not of one dimension."""
        if not definition.collection_ids:
            raise InvalidError("expected at least one collection", loc=["collection_ids"])
        known: dict[str, Mapping[str, Any]] = {}
        for name in definition.collection_ids:
            try:
                known[name] = self._libraries.features(tx, ns, name)
            except NotFoundError as error:
                raise InvalidError(str(error), loc=["collection_ids"]) from error
        for uri in definition.vector_config.feature_uris or [None]:
            _check_feature(uri, known)


def _check_name(name: str | None) -> None:
    if name is not None and not (len(name) <= MAX_NAME and re.fullmatch(TITLE_PATTERN, name)):
        raise InvalidError(
            f"expected 1 to {MAX_NAME} characters, none of them a / or a control character",
            loc=["cluster_name"],
        )


def _check_feature(uri: str | None, known: Mapping[str, Mapping[str, Any]]) -> None:
    dims: dict[str, int] = {}
    for collection, features in known.items():
        path = "vector_config.feature_uris"
        if uri is None and len(features) != 1:
            raise ConfigError(
                f"{collection} has {len(features)} features: {', '.join(features) or 'none'}",
                path=path,
                hint="name one of them",
            )
        feature = next(iter(features.values())) if uri is None else features.get(uri)
        if feature is None:
            raise ConfigError(
                f"{collection} has no feature {uri}, it has {', '.join(features) or 'none'}",
                path=path,
            )
        dims[collection] = feature["dim"]
    if len(set(dims.values())) > 1:
        told = ", ".join(f"{dim} in {name}" for name, dim in dims.items())
        raise ConfigError(
            f"{uri or 'the feature'} has different dimensions: {told}",
            path="vector_config.feature_uris",
        )


def _over(template: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a template with what was given on top."""
    config = {**(template.get("vector_config") or {}), **(given.get("vector_config") or {})}
    return {**template, **given, **({"vector_config": config} if config else {})}


def described(
    ns: str, cluster_id: str, definition: ClusterDefinition, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the body of the record of a definition."""
    filled = definition.to_dict()
    config, attributes = filled["vector_config"], filled["attribute_config"]
    is_vector = definition.cluster_type == "vector"
    algorithm = config["clustering_method"] if is_vector else "attribute_based"
    return {
        "cluster_id": cluster_id,
        "cluster_name": definition.cluster_name or cluster_id,
        "namespace_id": ns,
        "description": definition.description,
        "metadata": filled["metadata"],
        "input_collections": list(definition.collection_ids),
        "filters": given.get("filters"),
        "cluster_type": definition.cluster_type,
        "feature_uris": config["feature_uris"] if is_vector else None,
        "multi_feature_strategy": config["multi_feature_strategy"] if is_vector else None,
        "effective_feature_method": config["effective_feature_method"] if is_vector else None,
        "clustered_attributes": attributes and attributes["attributes"],
        "hierarchical_grouping": attributes and attributes["hierarchical_grouping"],
        "aggregation_method": attributes and attributes["aggregation_method"],
        "algorithm": algorithm,
        "algorithm_params": config["algorithm_params"] if is_vector else None,
        "enrich_source": filled.get("enrich_source_collection", False),
        "source_enrichment_config": filled.get("source_enrichment_config"),
        "llm_labeling": given.get("llm_labeling"),
        "definition": _jsonable(given),
        "live_run_id": None,
        "enrichment": None,
        "num_executions": 0,
    }


def _jsonable(given: Mapping[str, Any]) -> dict[str, Any]:
    import json

    plain: dict[str, Any] = json.loads(json.dumps(given))
    return plain


def as_answer(record: Record) -> ClusterMetadata:
    """Return what is shown of a definition."""
    return ClusterMetadata.model_validate(shown(record))


def shown(record: Record) -> dict[str, Any]:
    """Return the fields of a definition that are shown."""
    times = {"created_at": record.created_at, "updated_at": record.updated_at}
    return {**record.body, **times, "status": record.status}


def as_model(record: Record) -> ClusterModel:
    """Return what is shown of a definition that was changed."""
    definition = ClusterDefinition.parse(record.body["definition"])
    given = definition.to_dict()
    if definition.cluster_type == "attribute":
        given["vector_config"] = None
    own = {"task_id": record.body.get("last_execution_task_id")}
    return ClusterModel.model_validate({**given, **shown(record), **own})


def all_of(records: Sequence[Record]) -> list[ClusterMetadata]:
    """Return what is shown of definitions."""
    return [as_answer(record) for record in records]
