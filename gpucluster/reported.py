"""Reports and maps of finished runs: pages in one file, for whoever opens them."""

from __future__ import annotations

import html
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken, Observer, Reporter, ignore
from gpucluster.notation import describe, is_number, yes_or_no
from gpucluster.types import MAX_MAP_POINTS

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.places import Place
    from gpucluster.report.gathering import Manner

SUFFIXES = (".html", ".htm")
MAP_POINTS = 200_000  # in a notebook, which is a file that keeps them
MAP_BYTES = 2_500_000
MAP_HEIGHT = 640  # pixels


def report(
    run: Run | str | Place,
    path: str | Path | None = None,
    *,
    data: Any = None,
    text_column: str | None = None,
    texts: bool = True,
    max_points: int | None = None,
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Write the report of a run: one HTML file that needs no network and no other file.

    Parameters
    ----------
    run : Run or path
        An output folder stands for its latest run.
    path : path, optional
        A name that ends in ``.html``; a file that is there is replaced. Omitted:
        ``report-RUN.html`` in the working folder.
    data : path, list of paths, table or frame, optional
        The rows of the run, where they are not to be found any more.
    text_column : str, optional
        Column of texts. Omitted: that by which clusters were named, or that of the run, or one
        found by its name.
    texts : bool, default True
        Whether texts of documents are in the report. Names, keywords and ids are, in any case.
    max_points : int, optional
        On the map; of more documents it shows a sample. Default: 1,000,000.
    observer, cancel
        As for `gpucluster.cluster`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no such run, or it is damaged, or of a newer version.
    ConfigError
        A setting is wrong, or the file is called otherwise.
    InputError, SourceError, SchemaMismatchError
        `data` or `text_column` were given, and cannot be read. Where the run's own source cannot
        be, the report says so and has no texts.
    StoreError
        The file could not be written.
    """
    from gpucluster.bases import check_is_run, latest_run
    from gpucluster.report.gathering import REPORT, Manner
    from gpucluster.report.whole_file import write_whole

    opened = latest_run(run)
    check_is_run(opened)
    file = report_file(path, opened.run_id)
    most = _checked(max_points, MAX_MAP_POINTS)
    manner = Manner(REPORT, most, yes_or_no("texts", texts), text_column)
    page = _page(opened, manner, data, observer, cancel)
    write_whole(file, page)
    return file


def report_file(path: str | Path | None, run_id: str) -> Path:
    """Return the file of a report.

    Raises
    ------
    ConfigError
        Its name does not end in ``.html``, or it lies on no disk.
    StoreError
        Its folder is not there.
    """
    if path is None:
        return Path(f"report-{run_id}.html").absolute()
    from gpucluster.report.whole_file import on_disk

    file = on_disk(path)
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"got {str(path)!r}, expected a name that ends in .html", path="report")
    return file


class MapView:
    """The map of a run, in a notebook.

    Parameters
    ----------
    page : bytes
        HTML that needs nothing else.
    title : str
        What it is a map of.
    """

    def __init__(self, page: bytes, title: str) -> None:
        self.page = page
        self.title = title

    def _repr_html_(self) -> str:
        """Return a frame of its own, whose scripts reach nothing of the notebook but can save."""
        page = html.escape(self.page.decode())
        return (
            f'<iframe sandbox="allow-scripts allow-downloads" title="{html.escape(self.title)}" '
            f'style="width:100%;height:{MAP_HEIGHT}px;border:0" srcdoc="{page}"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<{self.title}; a notebook shows it>"


def map_of(
    run: Run,
    *,
    data: Any = None,
    text_column: str | None = None,
    texts: bool = True,
    max_points: int | None = None,
) -> MapView:
    """Return the map of a run, for a notebook; see `gpucluster.Run.map`."""
    from gpucluster.report.gathering import MAP, Manner

    most = _checked(max_points, MAP_POINTS)
    manner = Manner(MAP, most, yes_or_no("texts", texts), text_column, MAP_BYTES)
    page = _page(run, manner, data, None, None)
    return MapView(page, f"Map of {run.run_id}")


def _page(
    run: Run,
    manner: Manner,
    data: Any,
    observer: Observer | None,
    cancel: CancelToken | None,
) -> bytes:
    from gpucluster.ledger import Account
    from gpucluster.plots.rows import parts_of
    from gpucluster.report.gathering import make, read_members

    if not isinstance(manner.text_column, str | None):
        raise ConfigError(
            f"got {describe(manner.text_column)}, expected a name", path="text_column"
        )
    account = Account(Reporter("", observer or ignore, cancel or CancelToken()))
    with account.stage("report.map", backend="numpy"):
        members = read_members(run, manner.max_points)
    with account.stage("report.write", backend="pyarrow") as reporter:
        return make(
            run,
            members,
            manner,
            open_parts=partial(parts_of, run, data),
            is_named=data is not None,
            reporter=reporter,
        )


def _checked(max_points: int | None, default: int) -> int:
    if max_points is None:
        return default
    if not is_number(max_points, Integral) or max_points < 1:
        raise ConfigError(
            f"got {max_points!r}, expected 1 or more", path="max_points", got=max_points
        )
    return max_points
