"""What a finished run knows, written into documents; and that undone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucluster.artifacts.run import Run
from gpucluster.errors import ConfigError, SourceNotFoundError
from gpucluster.events import CancelToken, Observer, Reporter, ignore
from gpucluster.notation import describe
from gpucluster.places import ObjectPath, Place, place

if TYPE_CHECKING:
    from gpucluster.enrichment.settings import EnrichmentSettings, FieldMapping
    from gpucluster.writeback.marks import EnrichedFile

_NO_OUT = "name with out the folder that gets the enriched files"


@dataclass(frozen=True, slots=True)
class Enrichment:
    """What an enrichment has done.

    Attributes
    ----------
    run_id : str
    enriched_at : str
        In ISO 8601; that of the first time, where nothing was left to do.
    path : Place
        The folder that was written, or the manifest that was changed over.
    before : Place or None
        The manifest of before, which `undo_enrichment` puts back; None for a folder.
    columns : tuple of str
        Those that were added.
    processed : int
        Documents that were read and written.
    enriched : int
        Those that the run has; noise among them.
    failed : int
        Always 0: what goes wrong with one document ends all, and nothing is published.
    batches : int
        In which they were written.
    num_noise, num_unknown : int
        Enriched documents in no cluster, and documents that the run does not have: they are new, or
        were rejected, filtered or not sampled. Their new columns are null.
    files : tuple of EnrichedFile
    """

    run_id: str
    enriched_at: str
    path: Place
    before: Place | None
    columns: tuple[str, ...]
    processed: int
    enriched: int
    failed: int
    batches: int
    num_noise: int
    num_unknown: int
    files: tuple[EnrichedFile, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        named = {name: getattr(self, name) for name in self.__slots__}
        return named | {
            "path": str(self.path),
            "before": None if self.before is None else str(self.before),
            "columns": list(self.columns),
            "files": [asdict(file) for file in self.files],
        }


def enrich(
    run: Run | str | Place,
    data: str | Path | Sequence[str] | None = None,
    *,
    fields: Iterable[str] | None = None,
    field_mappings: Iterable[FieldMapping | Mapping[str, str]] | None = None,
    out: str | Place | None = None,
    id_column: str | None = None,
    overwrite: bool = False,
    batch_rows: int | None = None,
    parallelism: int = 1,
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
) -> Enrichment:
    """Write into documents what a finished run knows of them.

    Documents are joined by their ids, or by their rows where the run knows no ids. Those that the
    run does not have keep their place, with nulls. Doing it again goes on where it was
    interrupted, and changes nothing that is done. Enriching with another run replaces all columns
    that an earlier enrichment has written.

    Parameters
    ----------
    run : Run or path
        An output folder stands for its latest run that found or moved clusters.
    data : path, glob, folder or list of these, optional
        Documents in Parquet, Arrow IPC or JSON lines, or the manifest of a collection. Omitted:
        the files that the run was made of.
    fields : iterable of str, optional
        Of ``cluster_id``, ``label``, ``summary``, ``keywords``, ``distance_to_centroid``,
        ``cosine_similarity_to_centroid``, ``cluster_path``, ``stable_id``, ``member_count``,
        ``membership_probability``, ``x``, ``y``, ``z`` and ``metadata.NAME``. Omitted:
        ``cluster_id`` and ``label``.
    field_mappings : iterable of mapping, optional
        Instead of `fields`: a ``source_field`` and the name of its column, ``target_field``.
    out : path, optional
        Folder of their own for the enriched Parquet files. Omitted: in place, which needs the
        manifest of a collection; it is changed over in one step to files that lie beside it.
    id_column : str, optional
        Default: that of the collection or of the run, else found by its name.
    overwrite : bool, default False
        Replace columns of these names that gpucluster has not written.
    batch_rows : int, optional
        Documents that are read and joined at a time, at most. Default: what 32 MB hold.
    parallelism : int, default 1
        Files that are written at a time.
    observer, cancel
        As for `cluster`.

    Returns
    -------
    Enrichment

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no such run, or it is damaged, or of a newer version.
    ConfigError
        A field is unknown, the run has no value of it, a column would be replaced that is not
        ours, or plain files were to be changed in place.
    SourceError, InputError
        Documents cannot be read, or are not those of a run that knows no ids.
    StoreError, Cancelled
        Nothing is published; finished files are kept for the next time.
    """
    from gpucluster.bases import latest_run
    from gpucluster.enrichment.settings import read_mappings
    from gpucluster.ledger import Account
    from gpucluster.sources.documents import document_paths
    from gpucluster.writeback.files import Manner
    from gpucluster.writeback.knowing import what_is_known
    from gpucluster.writeback.publishing import enrich_collection, enrich_folder

    mappings = read_mappings(fields, field_mappings)
    manner = Manner(id_column, overwrite, batch_rows, parallelism)
    manifest = _manifest(data)
    if out is None and manifest is None:
        raise ConfigError("plain files cannot be changed in one step", path="out", hint=_NO_OUT)
    opened = latest_run(run)
    account = Account(Reporter("", observer or ignore, cancel or CancelToken()))
    with account.stage("enrich", backend="pyarrow") as reporter:
        known = what_is_known(opened, mappings)
        if out is None:
            assert manifest is not None  # noqa: S101 - refused above
            done = enrich_collection(known, manifest, manner, reporter)
        else:
            paths = _own_paths(opened) if data is None else document_paths(_paths(data))
            folder = place(out).absolute()
            done = enrich_folder(known, paths, folder, manner, manifest, reporter)
    processed, enriched, num_noise, batches = (
        sum(getattr(file, name) for file in done.files)
        for name in ("rows", "enriched", "num_noise", "batches")
    )
    return Enrichment(
        run_id=known.run_id,
        enriched_at=done.enriched_at,
        path=done.path,
        before=done.before,
        columns=tuple(known.knowledge.schema.names),
        processed=processed,
        enriched=enriched,
        failed=0,
        batches=batches,
        num_noise=num_noise,
        num_unknown=processed - enriched,
        files=tuple(done.files),
    )


def mappings_after(run: Run, settings: EnrichmentSettings | None) -> tuple[FieldMapping, ...]:
    """Return what documents get after a run, where its definition says that they do.

    Omitted settings mean ``cluster_id``, and ``label`` where the run has any.
    """
    from gpucluster.enrichment.settings import read_mappings

    if settings is not None:
        return settings.field_mappings
    labels = run.centroids["label"]
    has_names = labels.null_count < len(labels)
    return read_mappings(("cluster_id", "label") if has_names else ("cluster_id",), None)


def undo_enrichment(collection: str | Place) -> str:
    """Put back the manifest that a collection had before it was enriched last.

    The enriched files stay, and are used again where the same run enriches it again.

    Parameters
    ----------
    collection : path
        Its manifest.

    Returns
    -------
    str
        The run whose fields are gone.

    Raises
    ------
    ConfigError
        It is no manifest, or no run has enriched it.
    SourceError
        The manifest of before is missing or damaged.
    """
    from gpucluster.writeback.publishing import undo_collection

    manifest = _manifest(collection)
    if manifest is None:
        raise ConfigError(
            f"got {describe(str(collection))}, expected the manifest of a collection",
            path="collection",
            hint="its name ends in .collection.json; the files of a folder are deleted instead",
        )
    return undo_collection(manifest)[0]


def _manifest(data: Any) -> Place | None:
    """Return the manifest that documents are given by, if it is one."""
    from gpucluster.sources import is_manifest

    items = data if isinstance(data, list | tuple) else [data]
    if len(items) != 1 or not isinstance(items[0], str | os.PathLike | ObjectPath):
        return None
    path = place(items[0])
    return path.absolute() if is_manifest(path.name) else None


def _paths(data: Any) -> list[str]:
    items = data if isinstance(data, list | tuple) else [data]
    if not items or not all(isinstance(item, str | os.PathLike | ObjectPath) for item in items):
        raise ConfigError(f"got {describe(data)}, expected files of documents", path="data")
    return [str(item) for item in items]


def _own_paths(run: Run) -> list[tuple[str, str | None]]:
    """Return the files that a run was made of, and where each has its ids."""
    described: Any = run.manifest.source
    found = [
        (path, part["columns"]["id"])
        for part in described.get("collections") or [described]
        for path in part["paths"]
    ]
    if not found:
        raise SourceNotFoundError(
            f"the data of {run.run_id} were in memory", hint="give the documents, with data"
        )
    return found
