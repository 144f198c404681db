"""Enriched files become what is read: a folder gets a record, a collection a new manifest.

Both are written last and in one step, so that whoever reads by record or manifest sees all
fields of a run or none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from gpucluster.artifacts import Store, open_store
from gpucluster.artifacts.files import digest, seal, unseal
from gpucluster.errors import ConfigError, CorruptInputError, SourceNotFoundError, StoreError
from gpucluster.events import Reporter
from gpucluster.notation import parse_body
from gpucluster.places import Place
from gpucluster.sources.collection import Collection, collection_files, read_manifest
from gpucluster.sources.documents import DocumentFile, open_documents
from gpucluster.sources.opening import ENRICHED
from gpucluster.writeback.files import (
    Manner,
    check_columns,
    enrich_files,
    keys_of,
    plain_names,
)
from gpucluster.writeback.knowing import Known
from gpucluster.writeback.marks import EnrichedFile, as_it_is, is_enriched, stored_record

RECORD = "enrichment.json"


@dataclass(frozen=True, slots=True)
class Published:
    """What is there now.

    Attributes
    ----------
    path : Place
        The folder, or the manifest.
    files : list of EnrichedFile
    enriched_at : str
    before : Place or None
        The manifest of before, where a collection was enriched in place.
    """

    path: Place
    files: list[EnrichedFile]
    enriched_at: str
    before: Place | None = None


def enrich_folder(
    known: Known,
    paths: Sequence[tuple[str, str | None]],
    out: Place,
    manner: Manner,
    manifest: Place | None,
    reporter: Reporter,
) -> Published:
    """Write enriched files to a folder of their own, and at last the record of them.

    Parameters
    ----------
    known : Known
    paths : sequence of (str, str or None)
        Documents, and where each file has its ids.
    out : Place
        A folder that holds nothing else.
    manner : Manner
    manifest : Place or None
        Of the collection that the documents are; the folder gets one of the enriched files.
    reporter : Reporter

    Raises
    ------
    ConfigError
        The folder has other files, or a column would be replaced that is not ours.
    """
    files = _opened(known, paths, manner)
    check_columns(known, files, manner, needed=_read_by(manifest))
    store, folder, names = open_store(out.parent), out.name, plain_names(files)
    key = digest(keys_of(known, files))
    with store.lease(folder):
        before = _record(store, folder)
        _check_folder(store, out, {*names, *([manifest.name] if manifest else [])}, manner)
        if before.get("key") != key:  # from here on the folder is none, until it is one again
            for name in (RECORD, *([manifest.name] if manifest else [])):
                store.delete(f"{folder}/{name}")
        written = enrich_files(known, files, store, folder, manner, names=names, reporter=reporter)
        now = str(before.get("enriched_at") if before.get("key") == key else _now())
        if manifest is not None:
            body = _body(manifest.read_bytes(), manifest) | {"files": names}
            body.pop("enrichment", None)
            text = _written(body, manifest.suffix)
            store.put(f"{folder}/{manifest.name}", lambda file: file.write(text))
        fields = {
            "run_id": known.run_id,
            "enriched_at": now,
            "key": key,
            "columns": known.knowledge.schema.names,
            "files": [asdict(each) for each in written],
        }
        store.put(f"{folder}/{RECORD}", lambda file: file.write(seal(fields)))
    return Published(out, written, now)


def enrich_collection(known: Known, path: Place, manner: Manner, reporter: Reporter) -> Published:
    """Write enriched files beside a collection, and change its manifest over to them.

    The files and the manifest of before stay, for `undo_collection`.

    Parameters
    ----------
    known : Known
    path : Place
        The manifest.
    manner : Manner
    reporter : Reporter

    Raises
    ------
    ConfigError
        A column would be replaced that is not ours, or the manifest is wrong.
    StoreError
        The manifest was changed meanwhile.
    """
    store, folder = open_store(path.parent), _folder_of(path)
    with store.lease(folder):
        collection = read_manifest(path)
        before = path.read_bytes()
        paths = [(file, collection.id_column) for file in collection_files(path, collection)]
        files = _opened(known, paths, manner)
        done = collection.enrichment
        if done is not None and all(is_enriched(file, known.key) for file in files):
            found = [as_it_is(file) for file in files]
            return Published(path, found, done.enriched_at, path.parent / done.before)
        own = () if done is None else done.columns
        check_columns(known, files, manner, own=own, needed=_read_by(path))
        written = enrich_files(known, files, store, folder, manner, own=own, reporter=reporter)
        sha256 = hashlib.sha256(before).hexdigest()
        kept = f"{folder}/before-{sha256[:12]}.collection{path.suffix}"
        store.put(kept, lambda file: file.write(before))
        now = _now()
        body = _body(before, path) | {
            "files": [f"{folder}/{each.name}" for each in written],
            "enrichment": {
                "run_id": known.run_id,
                "enriched_at": now,
                "columns": known.knowledge.schema.names,
                "before": kept,
            },
        }
        reporter.cancel.raise_if_cancelled()
        _change_over(store, path, before, _written(body, path.suffix))
    return Published(path, written, now, path.parent / kept)


def undo_collection(path: Place) -> tuple[str, Collection]:
    """Change the manifest of a collection back to what it was before its last enrichment.

    Returns
    -------
    str
        The run whose fields are gone.
    Collection
        What holds now.

    Raises
    ------
    ConfigError
        No run has enriched it.
    SourceError
        The manifest of before is missing or damaged.
    """
    store = open_store(path.parent)
    with store.lease(_folder_of(path)):
        done = read_manifest(path).enrichment
        now = path.read_bytes()
        if done is None:
            raise ConfigError(f"{path}: no run has enriched it")
        kept = path.parent / done.before
        try:
            before = kept.read_bytes()
        except FileNotFoundError as error:
            raise SourceNotFoundError(f"{kept}: the manifest of before is missing") from error
        if hashlib.sha256(before).hexdigest()[:12] not in kept.name:
            raise CorruptInputError(f"{kept}: it is not what was written")
        _change_over(store, path, now, before)
    return done.run_id, read_manifest(path)


def _opened(
    known: Known, paths: Sequence[tuple[str, str | None]], manner: Manner
) -> list[DocumentFile]:
    return [
        open_documents(
            path,
            needs_ids=known.has_ids,
            id_column=manner.id_column or id_column,
            usual=known.id_column,
        )
        for path, id_column in paths
    ]


def _read_by(manifest: Place | None) -> set[str]:
    """Return the columns that a collection names."""
    if manifest is None:
        return set()
    collection = read_manifest(manifest)
    named = {collection.id_column, collection.text_column, collection.truth_column}
    named |= {feature.column for feature in collection.features.values()}
    return {name for name in named if name is not None}


def _folder_of(manifest: Place) -> str:
    """Return the name of the folder with the enriched files of a collection."""
    stem = manifest.name.rpartition(".collection.")[0]
    return (re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-")[:80] or "documents") + ENRICHED


def _check_folder(store: Store, out: Place, names: set[str], manner: Manner) -> None:
    """Raise where a folder holds what is not written by us, or would not be written again."""
    for name in store.list(out.name):
        if name == RECORD or (name in names and not name.endswith(".parquet")):
            continue
        if name not in names:
            raise ConfigError(
                f"{out} holds {name}, which is none of these documents",
                path="out",
                hint="name a folder of its own",
            )
        if not manner.overwrite and not stored_record(store, f"{out.name}/{name}"):
            raise ConfigError(
                f"{out} holds {name}, which gpucluster has not written",
                path="out",
                hint="name a folder of its own, or say overwrite",
            )


def _record(store: Store, folder: str) -> dict[str, Any]:
    """Return the record of an enriched folder; nothing where it is none."""
    try:
        return unseal(json.loads(store.read_bytes(f"{folder}/{RECORD}")))
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def _change_over(store: Store, path: Place, before: bytes, after: bytes) -> None:
    """Put a manifest in the place of another one, unless that is another by now."""
    if path.read_bytes() != before:
        raise StoreError(f"{path} was changed meanwhile", hint="run again")
    store.put(path.name, lambda file: file.write(after))


def _body(text: bytes, path: Place) -> dict[str, Any]:
    return dict(parse_body(text.decode("utf-8-sig"), str(path)))


def _written(body: dict[str, Any], suffix: str) -> bytes:
    if suffix == ".json":
        return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"
    import yaml

    return str(yaml.safe_dump(body, sort_keys=False, allow_unicode=True)).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
