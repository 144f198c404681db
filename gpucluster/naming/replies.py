"""The replies of models that are kept beside runs: looked at, and forgotten."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gpucluster.artifacts.manifest import FILE_NAME as MANIFEST
from gpucluster.errors import RunNotFoundError
from gpucluster.labeling.asking.cache import FILE_NAME, ReplyCache
from gpucluster.labeling.asking.pruning import Kept, most_bytes
from gpucluster.places import Place, place, working_folder


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies beside the runs of a folder.

    Attributes
    ----------
    path : Path
        The file, which need not be there.
    kept : Kept
    most_bytes : int
        What may stay of those that are not needed any more.
    """

    path: Path
    kept: Kept
    most_bytes: int


def reply_file(runs: Place) -> Path:
    """Return where replies are kept: beside the runs, or on this disk for those in a bucket."""
    return working_folder(runs) / FILE_NAME


def replies(folder: str | Place, *, empty: bool = False) -> Replies:
    """Count the replies that are kept beside runs.

    Parameters
    ----------
    folder : str or path
        That of the runs, or of one of them.
    empty : bool, default False
        Forget them first, but for those that an unfinished labelling needs.

    Returns
    -------
    Replies

    Raises
    ------
    RunNotFoundError
        There is no such folder.
    StoreError
        The file cannot be read or written.
    """
    where = place(folder)
    if isinstance(where, Path) and not where.is_dir():
        raise RunNotFoundError(f"no runs in {where}: there is no such folder")
    path = reply_file(where.parent if (where / MANIFEST).exists() else where)
    most = most_bytes()
    if not path.exists():
        return Replies(path, Kept(0, 0, 0), most)
    with closing(ReplyCache(path, "", 0)) as cache:
        if empty:
            cache.empty()
        return Replies(path, cache.kept(), most)
