"""Namespaces: what lies in one is not seen from another."""

from __future__ import annotations

import contextlib

from gpucluster.service.catalog.port import Catalog, Query, Record, Taken

KIND = "namespace"
DEFAULT = "default"


def exists(catalog: Catalog, name: str) -> bool:
    """Whether there is a namespace of that name."""
    with catalog.reading() as tx:
        return tx.get("", KIND, name) is not None


def create(catalog: Catalog, name: str, description: str | None = None) -> Record:
    """Make a namespace; `Taken` where there is one of that name."""
    body = {"namespace_id": name, "description": description}
    with catalog.writing() as tx:
        return tx.create(Record(ns="", kind=KIND, id=name, body=body))


def ensure_default(catalog: Catalog) -> None:
    """Make the one namespace that every service has."""
    with contextlib.suppress(Taken):
        create(catalog, DEFAULT)


def listed(catalog: Catalog, query: Query) -> list[Record]:
    """Return the namespaces of a page."""
    with catalog.reading() as tx:
        return list(tx.page("", KIND, query).records)
