"""Columns of a run are written into collections: in the process of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gpucluster.artifacts import Store, open_store
from gpucluster.artifacts.run import Run
from gpucluster.enriched import mappings_after
from gpucluster.enrichment.settings import EnrichmentSettings, FieldMapping, read_mappings
from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken, Observer, Reporter
from gpucluster.places import place
from gpucluster.service.collections.publishing import check_targets, publish, schema_of
from gpucluster.service.collections.records import described
from gpucluster.service.collections.versions import (
    DataFile,
    Enrichment,
    Overtaken,
    Version,
    Versions,
    folder_of,
)
from gpucluster.sources.documents import DocumentFile, open_documents
from gpucluster.writeback.files import Manner, enrich_files
from gpucluster.writeback.knowing import Known, what_is_known
from gpucluster.writeback.marks import EnrichedFile

ATTEMPTS = 5  # each time that documents were changed or removed meanwhile
COUNTS = ("rows", "enriched", "batches")


def enrich(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Write columns of a run into collections.

    Parameters
    ----------
    args : mapping
        ``root`` of the service and namespace ``ns``; ``run``, where it lies; ``sources``, ids of
        collections; ``target``, the id of one that gets copies, or None; ``fields`` or
        ``mappings``, or neither; ``replaces``, runs whose columns go; ``overwrite``,
        ``batch_rows``, ``parallelism``.
    observer, cancel
        As for `gpucluster.cluster`.

    Returns
    -------
    dict
        Counts, and under ``collections`` what the catalog keeps of each.
    """
    run = Run.open(args["run"])
    mappings = _mappings(run, args)
    known = what_is_known(run, mappings)
    manner = Manner(
        overwrite=args["overwrite"], batch_rows=args["batch_rows"], parallelism=args["parallelism"]
    )
    work = _Work(
        open_store(place(args["root"])),
        args["ns"],
        known,
        manner,
        Reporter("enrich", observer, cancel),
    )
    if args["target"] is None:
        for name in args["sources"]:
            work.in_place(name, args["replaces"])
    else:
        work.into(args["target"], args["sources"])
    return {
        "run_id": run.run_id,
        "processed": work.counts["rows"],
        "enriched": work.counts["enriched"],
        "batches": work.counts["batches"],
        "failed": 0,
        "columns": known.knowledge.schema.names,
        "collections": [described(args["ns"], version) for version in work.done],
    }


def _mappings(run: Run, args: Mapping[str, Any]) -> tuple[FieldMapping, ...]:
    if args["fields"] is None and args["mappings"] is None:
        return mappings_after(run, None)
    if args["mappings"] is not None:
        return EnrichmentSettings.model_validate(
            {"field_mappings": args["mappings"]}
        ).field_mappings
    return read_mappings(args["fields"], None)


class _Work:
    """What is done for each collection."""

    def __init__(
        self, store: Store, ns: str, known: Known, manner: Manner, reporter: Reporter
    ) -> None:
        self._store = store
        self._ns = ns
        self._known = known
        self._manner = manner
        self._reporter = reporter
        self._columns = known.knowledge.schema.names
        self.counts = dict.fromkeys(COUNTS, 0)
        self.done: list[Version] = []

    def in_place(self, collection_id: str, replaces: Sequence[str]) -> None:
        """Let a collection have the columns; other runs' stay, but those that are replaced."""
        versions = self._versions(collection_id)
        for _ in range(ATTEMPTS):
            latest = _latest(versions, collection_id)
            check_targets(latest, self._columns, overwrite=self._manner.overwrite)
            old = [each for each in latest.enrichments if each.run_id in replaces]
            gone = {name for each in old for name in each.columns}
            files = [file for file in latest.files if file.rows]
            ours = {name for each in latest.enrichments for name in each.columns}
            written = self._write(versions, latest, files, versions.folder, gone, ours - gone)
            replaced = {file.name: _data(new) for file, new in zip(files, written, strict=True)}
            now, run_id = datetime.now(UTC), self._known.run_id
            try:
                version = publish(
                    versions,
                    replaced,
                    columns=self._columns,
                    run_id=run_id,
                    expected=latest,
                    now=now,
                )
            except Overtaken:
                continue
            self._note(version, written)
            return
        raise ConfigError(
            f"documents of {collection_id} were changed again and again meanwhile",
            hint="enrich it when that is over",
        )

    def into(self, target: str, sources: Sequence[str]) -> None:
        """Let a collection be copies of the documents with the columns."""
        if target in sources:
            raise ConfigError(f"{target} is what is read", path="target_collection_id")
        versions = self._versions(target)
        before = versions.latest()
        if before is not None and not _is_copy(versions, before, sources):
            raise ConfigError(
                f"{target} has documents or columns other than those of {', '.join(sources)}",
                path="target_collection_id",
                hint="name another one",
            )
        parts = [self._versions(name) for name in sources]
        read = [_latest(part, name) for part, name in zip(parts, sources, strict=True)]
        _check_alike(read)
        for version in read:
            check_targets(version, self._columns, overwrite=self._manner.overwrite)
        files, written = [], []
        for part, version in zip(parts, read, strict=True):
            ours = {name for each in version.enrichments for name in each.columns}
            found = self._write(
                *(part, version, [f for f in version.files if f.rows], versions.folder),
                *(set(), ours),
            )
            written += found
            files += [_data(each) for each in found]
        run_id, now = self._known.run_id, datetime.now(UTC)
        number = 1 if before is None else before.number + 1
        noted = Enrichment(
            run_id=run_id, columns=tuple(self._columns), version=number, created_at=now
        )
        next_ = replace(
            read[0],
            collection_id=target,
            number=number,
            parent=None if before is None else before.number,
            created_at=now,
            made_by="enrich",
            files=tuple(files),
            details={"copies_of": list(sources), "run_id": run_id, "columns": list(self._columns)},
            enrichments=(noted,),
            keys={},
        )
        try:
            version = versions.commit(replace(next_, schema=schema_of(versions, next_, files)))
        except Overtaken:
            raise ConfigError(
                f"{target} was changed meanwhile",
                path="target_collection_id",
                hint="enrich it when that is over, or name another one",
            ) from None
        self._note(version, written)

    def _versions(self, collection_id: str) -> Versions:
        return Versions(self._store, folder_of(self._ns, collection_id))

    def _write(
        self,
        versions: Versions,
        version: Version,
        files: Sequence[DataFile],
        folder: str,
        own: set[str],
        kept: set[str],
    ) -> list[EnrichedFile]:
        documents = [_documents(versions, version, file) for file in files]
        return enrich_files(
            *(self._known, documents, self._store, f"{folder}/data", self._manner),
            own=own,
            kept=kept,
            reporter=self._reporter,
        )

    def _note(self, version: Version, written: Sequence[EnrichedFile]) -> None:
        self.done.append(version)
        for name in COUNTS:
            self.counts[name] += sum(getattr(each, name) for each in written)


def _latest(versions: Versions, collection_id: str) -> Version:
    latest = versions.latest()
    if latest is None:
        raise ConfigError(f"the files of {collection_id} are gone", path="collection_ids")
    return latest


def _is_copy(versions: Versions, version: Version, sources: Sequence[str]) -> bool:
    """Whether a collection has nothing but what an enrichment copied, so that nothing is lost."""
    while version.made_by in {"compact", "undo"} and version.parent is not None:
        version = versions.read(version.parent)
    return version.details.get("copies_of") == list(sources)


def _documents(versions: Versions, version: Version, file: DataFile) -> DocumentFile:
    return open_documents(versions.open_place(file), needs_ids=True, id_column=version.id_column)


def _data(file: EnrichedFile) -> DataFile:
    return DataFile(
        name=f"../data/{file.name}", rows=file.rows, bytes=file.bytes, sha256=file.sha256
    )


def _check_alike(versions: Sequence[Version]) -> None:
    first = versions[0]
    for other in versions[1:]:
        if (other.id_column, dict(other.features)) != (first.id_column, dict(first.features)):
            raise ConfigError(
                f"{first.collection_id} and {other.collection_id} have different ids or features",
                path="target_collection_id",
                hint="enrich them one by one, by a definition of each",
            )
