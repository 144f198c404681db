"""What can be done with a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpucluster.artifacts.manifest import FILE_NAME, Manifest
from gpucluster.artifacts.run import Run as StoredRun
from gpucluster.errors import ArtifactError, ConfigError, RunNotFoundError, SchemaMismatchError
from gpucluster.events import CancelToken, Observer, ignore
from gpucluster.types import USUAL_THRESHOLD

if TYPE_CHECKING:
    import pyarrow as pa

    from gpucluster.compared import Comparison
    from gpucluster.device.select import DeviceRequest
    from gpucluster.sources import Source
    from gpucluster.sources.filters import Filters
    from gpucluster.succession import By


class Run(StoredRun):
    """A finished run: what it left on disk, and what can be done with that."""

    def assign(
        self, data: Any, *, threshold: float | Literal["auto"] = USUAL_THRESHOLD, **options: Any
    ) -> Run:
        """Let new rows join the clusters: `gpucluster.assign` with this run."""
        return assign(data, run=self, threshold=threshold, **options)

    def compare(self, other: StoredRun | str | Path, *, by: By | None = None) -> Comparison:
        """Say what became of these clusters in another run: `gpucluster.compare`."""
        return compare(self, other, by=by)


def assign(
    data: Any,
    *,
    run: StoredRun | str | Path,
    threshold: float | Literal["auto"] = USUAL_THRESHOLD,
    scope: Literal["new", "all"] | None = None,
    update: bool = False,
    filters: Filters | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    device: DeviceRequest = "auto",
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
    fresh: bool = False,
) -> Run:
    """Let rows join the clusters of a finished run, without a new fit.

    Every row is compared with every cluster of the first level and belongs to the nearest if
    its cosine similarity to the centroid reaches the threshold, else it is noise; then, in a
    hierarchy, with the children of that cluster, and so on. Nearest is what the run's
    ``assign_by`` says.

    Rows stream: any number is assigned in the same memory. Doing it again resumes an
    interrupted run, and returns a finished one.

    Parameters
    ----------
    data
        As for `cluster`.
    run : Run or path
        The run whose clusters are joined. An output folder stands for its latest run that found
        or moved clusters; a run that assigned rows for the one that it is based on.
    threshold : float or "auto", default 0.5
        Least cosine similarity, in [-1, 1], inclusive. What a number means depends on the
        model that made the vectors: the run's manifest says what random pairs have. ``auto``:
        for each cluster the one that all but 1 % of its own rows reach.
    scope : {"new", "all"}, optional
        ``new`` leaves out the documents of the base run. Omitted: that, where documents have
        ids.
    update : bool, default False
        Move the centroids with their new members; the result can be the base of later ones.
    filters : Filters or mapping, optional
        Which rows are meant, instead of the definition's.
    out : path, optional
        Folder that gets the run's own folder. Default: the one that holds the base run.
    device, observer, cancel
        As for `cluster`.
    id_column, vector_column : str, optional
        Default: those of the base run where `data` has them, else found as `cluster` does.
    text_column : str, optional
        Noted in the run, for whoever shows documents; default as above.
    fresh : bool, default False
        Compute everything anew, as another run.

    Returns
    -------
    Run
        With ``manifest.mode`` ``assign`` or ``update``, metrics, drift against the base run, and
        whether and why to cluster anew.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no run to join, or it is damaged, or of a newer version.
    ConfigError, ShapeError, SchemaMismatchError, DuplicateIdsError
        A setting is wrong, or the vectors are not of the base run's kind.
    """
    from gpucluster.definition import ClusterDefinition
    from gpucluster.device.select import decide
    from gpucluster.incremental import AssignmentRequest, assign_source

    asked = ClusterDefinition.parse({"filters": filters} if filters else {}).filters
    request = AssignmentRequest(threshold=threshold, scope=scope, filters=asked, update=update)
    request = request.checked()
    base = base_run(run)
    source = _open_like(data, base, id_column=id_column, vector_column=vector_column)
    found = assign_source(
        source,
        base,
        request,
        out=Path(out).expanduser() if out is not None else base.path.parent,
        decision=decide(device),
        observer=observer or ignore,
        cancel=cancel or CancelToken(),
        text_column=_text_column(source, base, text_column),
        fresh=fresh,
    )
    return Run(found.path, found.manifest)


def compare(
    previous: StoredRun | str | Path, current: StoredRun | str | Path, *, by: By | None = None
) -> Comparison:
    """Say which clusters of two runs are the same, and what became of the others.

    Parameters
    ----------
    previous, current : Run or path
        Runs that found clusters, of any definitions.
    by : {"documents", "centroids"}, optional
        How clusters are matched. Omitted: by documents where the runs share a tenth of the
        smaller one's, else by the cosine of centroids.

    Returns
    -------
    Comparison
        With ``table``, one row for each link of two clusters, ``counts``, ``metrics`` of both and
        ``stable_ids``.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no such run, or it is damaged, or of a newer version.
    ConfigError, ShapeError
        The runs cannot be compared.

    Notes
    -----
    Clusters are matched one to one so that the sum of their Jaccard indices is largest; the
    kinds are those of MONIC (Spiliopoulou et al. 2006, doi:10.1145/1150402.1150491).
    """
    from gpucluster.compared import Comparison

    runs = [
        run if isinstance(run, StoredRun) else StoredRun.open(run) for run in (previous, current)
    ]
    return Comparison.of(*runs, by=by)


def write_table(table: pa.Table, path: str | Path) -> None:
    """Write a table as Parquet, whole or not at all.

    Raises
    ------
    ConfigError
        The file would be part of a run, or is called otherwise than ``.parquet``.
    StoreError
        The system refused.
    """
    import io

    import pyarrow.parquet as pq

    from gpucluster.report.whole_file import write_whole

    file = Path(path).expanduser()
    if file.suffix != ".parquet" or (file.parent / FILE_NAME).exists():
        raise ConfigError(
            f"got {str(path)!r}, expected a name that ends in .parquet, outside a run's folder",
            path="table",
        )
    content = io.BytesIO()
    pq.write_table(table, content)
    write_whole(file, content.getvalue())


def base_run(run: StoredRun | str | Path) -> StoredRun:
    """Return the run whose clusters are joined.

    Parameters
    ----------
    run : Run or path
        As for `assign`.

    Raises
    ------
    RunNotFoundError
        There is none.
    CorruptArtifactError, SchemaTooNewError
        The run, or any in the folder, cannot be read: which one is the latest is not known then.
    """
    if not isinstance(run, StoredRun):
        if not isinstance(run, str | Path) or not str(run):
            raise ConfigError(f"got {run!r}, expected a run or its folder", path="run")
        run = _latest(Path(run).expanduser()) or StoredRun.open(run)
    return _before(run) if run.manifest.mode == "assign" else run


def full_run(run: StoredRun | str | Path) -> StoredRun:
    """Return the run that found the clusters of a run: itself, or the one that it goes back to.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is none, or it is damaged, or of a newer version.
    """
    found = run if isinstance(run, StoredRun) else StoredRun.open(run)
    while found.manifest.mode != "full":
        found = _before(found)
    return found


def _before(run: StoredRun) -> StoredRun:
    """Return the run whose clusters a run has joined, which lies beside it."""
    name = str(run.manifest.base_run_id)
    found = StoredRun.if_finished(run.path.parent / name)
    if found is None:
        raise RunNotFoundError(
            f"{run.run_id} has joined the clusters of {name}, which is not beside it",
            hint=f"name the folder of {name} instead",
        )
    return found


def _latest(folder: Path) -> StoredRun | None:
    """Return the run in a folder of runs that found or moved clusters last; None: it is no such."""
    try:
        files = [] if (folder / FILE_NAME).exists() else sorted(folder.glob(f"*/{FILE_NAME}"))
        found = [(file.parent, Manifest.from_json(file.read_bytes(), str(file))) for file in files]
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    if not found:
        return None
    found = [(path, manifest) for path, manifest in found if manifest.mode != "assign"]
    if not found:
        raise RunNotFoundError(f"no completed full run in {folder}")
    path, _ = max(found, key=lambda pair: (pair[1].completed_at, pair[1].run_id))
    return StoredRun.open(path)


def _open_like(
    data: Any, base: StoredRun, *, id_column: str | None, vector_column: str | None
) -> Source:
    """Open rows that are to be what the base run was made of."""
    from gpucluster.definition import ClusterDefinition
    from gpucluster.given import open_rows

    definition = ClusterDefinition.parse(base.manifest.definition)
    theirs: Any = base.manifest.source.get("columns") or {}

    def opened(id_column: str | None, vector_column: str | None) -> Source:
        return open_rows(data, definition, id_column=id_column, vector_column=vector_column)

    one = len(definition.vector_config.feature_uris) < 2
    given = {"id_column": id_column, "vector_column": vector_column}
    same = {
        "id_column": id_column or theirs.get("id"),
        "vector_column": vector_column or (theirs.get("vector") if one else None),
    }
    wanted = {name for name in same.values() if name is not None}
    if hasattr(data, "read_next_batch"):  # can be opened once
        return opened(**(same if wanted <= set(data.schema.names) else given))
    try:
        source = opened(**given)
    except (ConfigError, SchemaMismatchError):  # ambiguous by itself; the base run had these
        if same == given:
            raise
        return opened(**same)
    columns = source.info.columns
    differs = (columns.id, columns.vector) != (same["id_column"], same["vector_column"])
    if differs and wanted and wanted <= set(source.info.fields):
        return opened(**same)
    return source


def _text_column(source: Source, base: StoredRun, given: str | None) -> str | None:
    """Return the column of texts, and raise where one that was named is not there."""
    from gpucluster.sources import check_names

    if given is not None:
        check_names({"text": given}, source.info.fields, source.info.where)
        return given
    theirs: Any = base.manifest.source.get("columns") or {}
    name: str | None = theirs.get("text")
    return name if name in source.info.fields else None
