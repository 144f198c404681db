"""``gpucluster report``: a finished run as a page for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpucluster.cli.rows import rows_option
from gpucluster.cli.voice import SETTINGS, Voice, speaking
from gpucluster.types import MAX_MAP_POINTS

if TYPE_CHECKING:
    from gpucluster.finished import Run


@click.command(context_settings=SETTINGS)
@click.argument("path", metavar="RUN")
@click.option(
    "-o",
    "--out",
    allow_from_autoenv=False,  # GPUCLUSTER_OUT is the folder of the runs
    metavar="FILE",
    help="Default: report-RUN.html in the working folder. A file that is there is replaced.",
)
@click.option(
    "--max-points",
    type=click.IntRange(1),
    metavar="N",
    help=f"On the map; of more documents it shows a sample. Default: {MAX_MAP_POINTS:,}.",
)
@click.option(
    "--no-texts",
    is_flag=True,
    help="Leave out all texts of documents; names, keywords and ids stay.",
)
@click.option(
    "--text-column",
    metavar="NAME",
    help="Column of texts. Default: that by which clusters were named, or that of the run.",
)
@rows_option
@speaking
def report(
    voice: Voice,
    *,
    path: str,
    out: str | None,
    data: str | list[str] | None,
    no_texts: bool,
    **options: Any,
) -> None:
    """Write all that is known of a run into one HTML file.

    RUN is its folder; of a folder of runs the latest one. The file needs no network and no other
    file: the map, the clusters with examples, the quality, and how the run was made.

    \b
    gpucluster report gpucluster-out
    gpucluster report gpucluster-out/run_0123456789abcdef -o report.html
    gpucluster report gpucluster-out -o report.html --no-texts --max-points 100000
    """
    file = report_in_sight(voice, path, out, data=data, texts=not no_texts, **options)
    record = {"report": str(file), "bytes": file.stat().st_size}
    voice.answer(record, lambda: str(file))


def report_in_sight(voice: Voice, run: Run | str, out: str | None, **options: Any) -> Path:
    """Write a report, interruptible, with progress."""
    from contextlib import closing

    from gpucluster import reported
    from gpucluster.cli.interrupt import interruptible, typed_command
    from gpucluster.cli.progress import watcher

    with closing(watcher(voice)) as observer:
        return interruptible(
            lambda cancel: reported.report(run, out, observer=observer, cancel=cancel, **options),
            hint=f"start it again with: {typed_command()}",
            say=voice.say,
            tick=observer.tick,
        )
