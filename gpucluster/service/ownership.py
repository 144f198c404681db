"""Which catalog a root belongs to: records of the one name files below the other."""

from __future__ import annotations

import json
import secrets

from gpucluster.artifacts import open_store
from gpucluster.errors import ConfigError
from gpucluster.places import Place
from gpucluster.service.catalog.port import Catalog, Record

KIND = "catalog"
MARK = "catalog.json"  # below the root


def claim_root(root: Place, catalog: Catalog) -> None:
    """Let a root belong to a catalog, unless it belongs to another one.

    The id of a catalog is in itself before it is below the root, so whichever server dies in
    between, the next one goes on; of several that start at once, one writes each.

    Parameters
    ----------
    root : Path or ObjectPath
    catalog : Catalog

    Raises
    ------
    ConfigError
        It belongs to another one.
    """
    own = {"catalog_id": _id_of(catalog)}
    store = open_store(root)
    try:
        store.put(MARK, lambda file: file.write(json.dumps(own).encode()), absent=True)
    except FileExistsError:
        if _read(store.read_bytes(MARK)) != own:
            raise ConfigError(
                f"{root} belongs to another catalog than the one of this server",
                path="root",
                hint="name that one with --catalog, or choose another root; where it is lost,"
                f" remove {MARK} there, and this one takes its place",
            ) from None


def _id_of(catalog: Catalog) -> str:
    """Return the id of a catalog, which gets one where it has none."""
    with catalog.writing() as tx:
        record = tx.get("", KIND, KIND)
        if record is None:
            body = {"catalog_id": secrets.token_hex(16)}
            record = tx.create(Record(ns="", kind=KIND, id=KIND, body=body))
    return str(record.body["catalog_id"])


def _read(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:  # nobody can say whose it is
        return None
