"""``gpucluster assign``: rows of a later day join the clusters of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import click

from gpucluster.cli.changes import read_filters, usage_error
from gpucluster.cli.request import row_options
from gpucluster.cli.run import N_CLUSTERS
from gpucluster.cli.voice import SETTINGS, Voice, speaking
from gpucluster.device.select import DeviceRequest
from gpucluster.types import USUAL_THRESHOLD

if TYPE_CHECKING:
    from gpucluster.events import CancelToken, Observer
    from gpucluster.finished import Run

AUTO: Final = "auto"


@click.command(context_settings=SETTINGS)
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option(
    "--run",
    metavar="RUN",
    required=True,
    help="Whose clusters are joined: a run's folder; of a folder of runs the latest that found or "
    "moved clusters.",
)
@click.option(
    "--threshold",
    default=str(USUAL_THRESHOLD),
    show_default=True,
    metavar="T",
    help="Least cosine similarity to the centroid, in [-1, 1]; or auto, one for each cluster.",
)
@click.option(
    "--scope",
    type=click.Choice(["new", "all"]),
    help="new leaves out the documents of RUN. Default: that, where documents have ids.",
)
@click.option("--update", is_flag=True, help="Move the centroids with their new members.")
@click.option(
    "--filter",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Only rows that match, instead of the definition's; or a JSON object of conditions.",
)
@click.option(
    "--device",
    type=click.Choice(get_args(DeviceRequest)),
    default="auto",
    show_default=True,
    help="gpu never falls back; auto may, and says so.",
)
@row_options
@click.option("--out", metavar="DIR", help="Folder of the runs. Default: the one that holds RUN.")
@click.option("--fresh", is_flag=True, help="Compute everything anew, as another run.")
@speaking
def assign(
    voice: Voice,
    *,
    inputs: tuple[str, ...],
    run: str,
    threshold: str,
    scope: Literal["new", "all"] | None,
    update: bool,
    device: str,
    out: str | None,
    fresh: bool,
    **options: Any,
) -> None:
    """Let new rows join the clusters of a finished run, without a new fit.

    The result is a run of its own: members, metrics beside those of RUN, and whether it is time
    to cluster anew. Doing it again resumes an interrupted one, and shows a finished one.

    \b
    gpucluster assign new.parquet --run gpucluster-out
    gpucluster assign new.parquet --run gpucluster-out/run_0123456789abcdef --threshold auto
    gpucluster assign all.parquet --run gpucluster-out --scope all --json | jq .drift
    """
    from gpucluster.finished import assign as assign_rows

    if not inputs:
        raise usage_error("missing INPUT: name a file, a folder or a glob")
    least = read_threshold(threshold)
    conditions = read_filters(options["filter"])

    def work(observer: Observer, cancel: CancelToken) -> Run:
        return assign_rows(
            inputs[0] if len(inputs) == 1 else list(inputs),
            run=run,
            threshold=least,
            scope=scope,
            update=update,
            filters=conditions,
            out=out,
            device=cast("DeviceRequest", device),
            observer=observer,
            cancel=cancel,
            id_column=options["id_column"],
            vector_column=options["vector_column"],
            text_column=options["text_column"],
            fresh=fresh,
        )

    join_and_show(voice, work, fresh=fresh)


def join_and_show(
    voice: Voice, work: Callable[[Observer, CancelToken], Run], *, fresh: bool
) -> None:
    """Let rows join what `work` names, under a progress bar, and show the run that this leaves."""
    from contextlib import closing
    from datetime import UTC, datetime

    from gpucluster.cli.interrupt import interruptible, typed_command
    from gpucluster.cli.progress import watcher
    from gpucluster.cli.result import show_run

    begun = datetime.now(UTC)
    kept = "a fresh run keeps nothing; start it again" if fresh else "resume"
    with closing(watcher(voice)) as observer:
        found = interruptible(
            lambda cancel: work(observer, cancel),
            hint=f"{kept} with: {typed_command()}",
            say=voice.say,
            tick=observer.tick,
        )
    if found.manifest.completed_at < begun:
        voice.say("nothing was left to do: the run was finished before; --fresh computes it anew")
    show_run(voice, found, N_CLUSTERS)


def read_threshold(text: str) -> float | Literal["auto"]:
    """Read a cosine similarity, or auto."""
    if text == AUTO:
        return AUTO
    try:
        return float(text)
    except ValueError:
        raise usage_error(
            f"--threshold: got {text!r}, expected a number in [-1, 1], or {AUTO}"
        ) from None
