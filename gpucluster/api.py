"""The verbs: what the command line calls, and other pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from gpucluster.errors import ConfigError, InputError, SourceError
from gpucluster.events import CancelToken, Observer, Reporter, ignore
from gpucluster.given import Definition, open_rows, read_definition, read_run_id
from gpucluster.places import Place, disk_of, place

if TYPE_CHECKING:
    from gpucluster.artifacts.run import Run as StoredRun
    from gpucluster.definition import ClusterDefinition
    from gpucluster.device.select import DeviceRequest
    from gpucluster.finished import Run
    from gpucluster.ops.sweep import Sweep
    from gpucluster.planner import Plan
    from gpucluster.sources import Inspection
    from gpucluster.timeline import History
    from gpucluster.types import ExecutorName, StorageRequest

DEFAULT_OUT = "gpucluster-out"


def cluster(
    data: Any,
    definition: ClusterDefinition | Definition | None = None,
    *,
    out: str | Place | None = None,
    device: DeviceRequest = "auto",
    storage: StorageRequest = "auto",
    memory_limit: int | str | None = None,
    executor: ExecutorName = "local",
    scheduler: str | None = None,
    n_workers: int | None = None,
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
    truth_column: str | None = None,
    fresh: bool = False,
    previous: StoredRun | str | Place | None = "auto",
    run_id: str | None = None,
    **fields: Any,
) -> Run:
    """Cluster embeddings and leave the result on disk.

    Doing it again with the same data and definition resumes an interrupted run, and
    returns a finished one.

    Parameters
    ----------
    data : path, glob, folder, list of paths, or array-like
        Parquet, Arrow IPC, npy, npz, fvecs, bvecs, fbin, u8bin, i8bin or JSONL files; a
        numpy, CuPy or torch matrix, or ``(ids, matrix)``; a pandas or polars frame, a
        `pyarrow` table, dataset or reader, or anything with ``__arrow_c_stream__``.
    definition : ClusterDefinition, mapping or path, optional
        What to do. Omitted: UMAP and HDBSCAN, or k-means above 200,000 rows.
    out : path, optional
        Folder that gets the run's own, or ``s3://bucket/runs``. Default: ``gpucluster-out``.
    device : {"auto", "cpu", "gpu"}, default "auto"
        ``gpu`` never falls back; ``auto`` may, and says so.
    storage : {"auto", "memory", "disk"}, default "auto"
        Where matrices of all rows lie; ``auto``: in memory, or in files below `out` where that
        is too little. The result is the same.
    memory_limit : int or str, optional
        Memory that the run may take, where that is less than is free: bytes, or such as ``6GB``.
        It is planned with, not enforced.
    executor : {"local", "dask"}, default "local"
        ``dask``: the workers of a Dask cluster work on the rows too, which then lie below `out`.
        The result is the same.
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://127.0.0.1:8786``, whose workers see `out`.
        Omitted: a cluster on this machine, for as long as this takes.
    n_workers : int, optional
        Of the cluster on this machine. Default: one for each 8 cores.
    observer : callable, optional
        Called with every event.
    cancel : CancelToken, optional
        Stops the run between blocks of work.
    id_column, vector_column, text_column, truth_column : str, optional
        Columns of `data`; id and vector are found by themselves where that is unambiguous.
        The text column is noted in the run and not read.
    fresh : bool, default False
        Compute everything anew, as another run.
    previous : Run, path, "auto" or None, default "auto"
        The run whose clusters are followed: stable ids and labels are carried on, and
        ``run.lineage`` says what became of each cluster. ``auto``: the latest run of the same
        definition in `out` that has documents of this one; where the definition has a
        ``cluster_name``, whatever documents it has. It decides no label.
    run_id : str, optional
        Name of the run, and of its folder. Omitted: a digest of data and definition, so that the
        same is never computed twice. With ``output_strategy: per_feature`` the first one's; the
        others follow it with ``-2``, ``-3``.
    **fields
        Settings of the definition, such as ``algorithm="kmeans"``,
        ``algorithm_params={"n_clusters": 50}`` or ``preprocessing_steps=[...]``.

    Returns
    -------
    Run
        Read from disk: labels, members, centroids, metrics, manifest. Where the definition has
        a block ``llm_labeling``, its clusters are named (see `label`). With
        ``output_strategy: per_feature``, that of the first feature, whose manifest names the
        runs of the others under ``related``.

    Raises
    ------
    ConfigError, SourceError, InputError, DeviceError, ExecutorError, StoreError, Cancelled
        See `gpucluster.errors`; all are `GpuclusterError`.

    Examples
    --------
    >>> import numpy as np, tempfile, gpucluster
    >>> X = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = gpucluster.cluster(
    ...         X, algorithm="kmeans", algorithm_params={"n_clusters": 3}, out=out, device="cpu"
    ...     )
    ...     run.num_clusters, run.labels_.shape
    (3, (60,))
    """
    from gpucluster.device.executor import Executor
    from gpucluster.device.select import decide
    from gpucluster.device.storage import Room
    from gpucluster.finished import Run
    from gpucluster.naming.label_run import label_run
    from gpucluster.naming.request import LabelingRequest
    from gpucluster.pipeline import run_pipeline
    from gpucluster.sources import check_names

    parsed, named = read_definition(definition, fields), read_run_id(run_id)
    naming = LabelingRequest.of(parsed)
    decision = decide(device)
    workers = Executor.of(executor, scheduler, n_workers)
    folder = place(out or DEFAULT_OUT)
    room = Room.of(workers.storage(storage), memory_limit, disk_of(folder))
    each = parsed.each_feature()
    before = _followed(previous, len(each))
    if len(each) > 1:  # what is wrong with any of them is said before the first one runs
        open_rows(data, parsed, id_column=id_column, vector_column=vector_column)
    runs: list[StoredRun] = []
    for number, one in reversed(list(enumerate(each, 1))):  # the first one knows all others
        source = open_rows(
            data,
            one,
            id_column=id_column,
            vector_column=vector_column,
            truth_column=truth_column,
        )
        if text_column is not None:
            check_names({"text": text_column}, source.info.fields, source.info.where)
        if naming is not None:
            naming.check_rows(source, data, one, text_column)
        run = run_pipeline(
            source,
            one,
            text_column=text_column,
            out=folder,
            decision=decision,
            room=room,
            executor=workers,
            observer=observer or ignore,
            cancel=cancel or CancelToken(),
            fresh=fresh,
            related=runs,
            previous=before,
            run_id=named and (named if number == 1 else f"{named}-{number}"),
        )
        runs.append(run)
        if naming is not None:
            try:
                label_run(
                    run,
                    naming.for_rows(source, text_column),
                    observer=observer or ignore,
                    cancel=cancel or CancelToken(),
                )
            except (
                InputError,
                SourceError,
            ) as error:  # the run is whole, and is what was asked for
                reporter = Reporter("label", observer or ignore)
                reporter.warn("not_labelled", f"{run.run_id} has no names: {error}")
    return Run(runs[-1].path, runs[-1].manifest)


def _followed(
    previous: StoredRun | str | Place | None, n_runs: int
) -> StoredRun | Literal["auto"] | None:
    """Return the run that is named, once it is known to be there and to have found clusters."""
    from gpucluster.bases import full_run

    if previous is None:
        return None
    if previous == "auto":
        return "auto"
    if n_runs > 1:
        raise ConfigError(
            "got one run for several features", path="previous", hint="each follows its own"
        )
    return full_run(previous)


def plan(
    data: Any,
    definition: ClusterDefinition | Definition | None = None,
    *,
    out: str | Place | None = None,
    device: DeviceRequest = "auto",
    storage: StorageRequest = "auto",
    memory_limit: int | str | None = None,
    executor: ExecutorName = "local",
    scheduler: str | None = None,
    n_workers: int | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    **fields: Any,
) -> Plan:
    """Say what `cluster` would do and what it would cost, without doing it.

    Parameters
    ----------
    data, definition, out, device, storage, memory_limit
        As for `cluster`.
    executor, scheduler, n_workers
        As for `cluster`; nobody is connected to.
    id_column, vector_column, **fields
        As for `cluster`.

    Returns
    -------
    Plan
        Bytes and seconds of each stage. ``plan.require_room()`` raises
        `WillNotFitError` where it exceeds memory or disk. With ``output_strategy: per_feature``, of
        the run that needs most memory.
    """
    from gpucluster.device.executor import Executor
    from gpucluster.device.select import decide
    from gpucluster.device.storage import Room
    from gpucluster.planner import make_plan

    parsed = read_definition(definition, fields)
    decision = decide(device)
    kept = Executor.of(executor, scheduler, n_workers).storage(storage)
    room = Room.of(kept, memory_limit, disk_of(place(out or DEFAULT_OUT)))
    each = parsed.each_feature()
    if len(each) > 1:
        open_rows(data, parsed, id_column=id_column, vector_column=vector_column)
    made = []
    for one in each:
        info = open_rows(data, one, id_column=id_column, vector_column=vector_column).info
        shape = info.n_rows, info.n_features
        made.append(make_plan(one, *shape, decision, info.blocks, room=room))
    return max(made, key=lambda plan: plan.peak_bytes)


def sweep(
    data: Any,
    definition: ClusterDefinition | Definition | None = None,
    *,
    sizes: Iterable[int] | None = None,
    device: DeviceRequest = "auto",
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    **fields: Any,
) -> Sweep:
    """Say what each ``min_cluster_size`` of HDBSCAN would give, from one spanning tree.

    The rows are loaded and prepared as `cluster` does; no run is written.

    Parameters
    ----------
    data, definition
        As for `cluster`.
    sizes : iterable of int, optional
        Values of ``min_cluster_size``. Omitted: 5 to a twentieth of the rows, in steps of 10 %.
    device, observer, cancel, id_column, vector_column, **fields
        As for `cluster`.

    Returns
    -------
    Sweep
        Number of clusters, share of noise and persistence for each size, with plateaus and
        cliffs, and the size that is recommended.

    Raises
    ------
    ConfigError
        The algorithm is another one, or a size is below 2.
    """
    from gpucluster.swept import sweep_sizes

    parsed = read_definition(definition, fields)
    return sweep_sizes(
        lambda: open_rows(data, parsed, id_column=id_column, vector_column=vector_column),
        parsed,
        sizes,
        device=device,
        observer=observer or ignore,
        cancel=cancel,
    )


def inspect(
    data: Any,
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
    truth_column: str | None = None,
) -> Inspection:
    """Look at a source: columns, types, dimension, and what is wrong with a sample of its rows."""
    from gpucluster.sources import inspect as inspect_source

    return inspect_source(
        data,
        id_column=id_column,
        vector_column=vector_column,
        text_column=text_column,
        truth_column=truth_column,
    )


def open_run(path: str | Place, *, verify: bool = False) -> Run:
    """Open a finished run.

    Parameters
    ----------
    path : str or path
        The run's folder, or its address, such as ``s3://bucket/runs/run_x``.
    verify : bool, default False
        Compare every file with its sha256 in the manifest.

    Returns
    -------
    Run

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no finished run, or it is damaged, or of a newer version.
    ConfigError
        It is no run, but a version of a taxonomy.
    """
    from gpucluster.bases import check_is_run
    from gpucluster.finished import Run

    run = Run.open(path, verify=verify)
    check_is_run(run)
    return run


def history(folder: str | Place) -> History:
    """Say how the metrics of the runs in a folder went over time.

    Parameters
    ----------
    folder : str or path
        Where runs lie; of a run's own folder, the one around it. Only manifests are read.

    Returns
    -------
    History
        Runs of one definition in series, as a table (`History.to_arrow`) or a plot.

    Raises
    ------
    RunNotFoundError
        No finished run is there.
    """
    from gpucluster.timeline import History

    return History.read(folder)
