"""Which run is meant."""

from __future__ import annotations

from gpucluster.artifacts.manifest import FILE_NAME, Manifest
from gpucluster.artifacts.run import Run
from gpucluster.errors import ArtifactError, ConfigError, RunNotFoundError
from gpucluster.places import Place, place, readers


def latest_run(run: Run | str | Place) -> Run:
    """Return the run that is meant: itself, at a path, or the latest in a folder of runs.

    Raises
    ------
    RunNotFoundError
        There is none.
    CorruptArtifactError, SchemaTooNewError
        The run, or any in the folder, cannot be read: which one is the latest is not known then.
    """
    if isinstance(run, Run):
        return run
    if not isinstance(run, str | Place) or not str(run):
        raise ConfigError(f"got {run!r}, expected a run or its folder", path="run")
    return _latest(place(run)) or Run.open(run)


def run_to_label(run: Run | str | Place) -> Run:
    """Return the run whose clusters get names.

    Parameters
    ----------
    run : Run or path
        Itself; a folder of runs stands for the one that found the clusters of its latest run.

    Raises
    ------
    RunNotFoundError
        There is none.
    CorruptArtifactError, SchemaTooNewError
        The run, or any in the folder, cannot be read: which one is the latest is not known then.
    """
    found = latest_run(run)
    if isinstance(run, Run):
        return found
    path = place(run).absolute()
    return found if path in {found.path, found.path / FILE_NAME} else full_run(found)


def base_run(run: Run | str | Place) -> Run:
    """Return the run whose clusters are joined.

    Parameters
    ----------
    run : Run or path
        As for `assign`.

    Raises
    ------
    RunNotFoundError
        There is none.
    ConfigError
        It is no run, but a version of a taxonomy.
    CorruptArtifactError, SchemaTooNewError
        The run, or any in the folder, cannot be read: which one is the latest is not known then.
    """
    run = latest_run(run)
    check_is_run(run)
    return _before(run) if run.manifest.mode == "assign" else run


def check_is_run(run: Run) -> None:
    """Raise `ConfigError` where something that is laid out as a run is a version of a taxonomy."""
    if run.manifest.mode == "taxonomy":
        raise ConfigError(
            f"{run.run_id} is a version of a taxonomy, no run",
            path="run",
            hint="documents join it by gpucluster classify, or open_taxonomy(...).apply",
        )


def full_run(run: Run | str | Place) -> Run:
    """Return the run that found the clusters of a run: itself, or the one that it goes back to.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is none, or it is damaged, or of a newer version.
    """
    found = run if isinstance(run, Run) else Run.open(run)
    while found.manifest.mode != "full":
        found = _before(found)
    return found


def _before(run: Run) -> Run:
    """Return the run whose clusters a run has joined, which lies beside it."""
    name = str(run.manifest.base_run_id)
    found = Run.if_finished(run.path.parent / name)
    if found is None:
        raise RunNotFoundError(
            f"{run.run_id} has joined the clusters of {name}, which is not beside it",
            hint=f"name the folder of {name} instead",
        )
    return found


def _latest(folder: Place) -> Run | None:
    """Return the run in a folder of runs that found or moved clusters last; None: it is no such."""
    files: list[Place] = []
    try:
        if not (folder / FILE_NAME).exists():
            files += folder.glob(f"*/{FILE_NAME}")
        files.sort(key=str)
        found = [(f.parent, Manifest.from_json(read(), str(f))) for f, read in readers(files)]
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
    return Run.open(path)
