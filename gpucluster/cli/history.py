"""``gpucluster history``: how the metrics of runs went over time."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from datetime import UTC
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpucluster.cli.changes import usage_error
from gpucluster.cli.render import NONE, amount, number, share, shortened, table
from gpucluster.cli.voice import SETTINGS, Voice, speaking
from gpucluster.report.numbers import one_line

if TYPE_CHECKING:
    from gpucluster.finished import Run
    from gpucluster.timeline import History, Series

WIDTH = 100
INDENT = "  "
REASON_WIDTH = 85
SHORTEST = 8  # characters of an id, and more where so few do not tell runs apart

_HEAD = ("when (UTC)", "run", "mode", "rows", "clusters", "noise", "silhouette", "cosine")
_AS_WRITTEN = (
    "run_id",
    "mode",
    "base_run_id",
    "created_at",
    "completed_at",
    "metrics",
    "external_metrics",
    "recluster_reasons",
    "not_evaluated",
    "drift",
    "assignment",
    "lineage",
)


@click.command(context_settings=SETTINGS)
@click.argument("folder", metavar="DIR")
@click.option("--plot", metavar="FILE", help="Draw it as well; FILE ends in .png, .svg or .pdf.")
@click.option("--flow", metavar="FILE", help="Draw what became of the clusters of one series.")
@click.option("--cluster-name", metavar="NAME", help="Only runs of definitions with this name.")
@click.option("--run", metavar="RUN", help="Only the series of a run: its folder or its id.")
@click.option(
    "--last", type=click.IntRange(1), metavar="N", help="Only the last N runs of each series."
)
@speaking
def history(
    voice: Voice,
    folder: str,
    *,
    plot: str | None,
    flow: str | None,
    cluster_name: str | None,
    run: str | None,
    last: int | None,
) -> None:
    """Show how the metrics of runs went over time.

    DIR is the folder that holds runs, or one of them. Those of one definition are a series, with
    the runs that joined their clusters. The beginning of an id stands for it.

    \b
    gpucluster history gpucluster-out/run_0123456789abcdef
    gpucluster history gpucluster-out --last 20
    gpucluster history gpucluster-out --run gpucluster-out/run_0123456789abcdef --json
    gpucluster history gpucluster-out --plot history.svg
    gpucluster history gpucluster-out --last 5 --flow flow.svg
    """
    from gpucluster import api

    if cluster_name is not None and run is not None:
        raise usage_error("both --cluster-name and --run: one of them says which series")
    found = api.history(folder).select(cluster_name=cluster_name, run=run, last=last)
    drawn = None if plot is None else found.plot(plot)
    flowing = None if flow is None else found.flow(flow)
    voice.answer(_record(found, drawn, flowing), lambda: _text(found))
    for lies in filter(None, (drawn, flowing)):
        voice.say(f"the plot lies in {lies}")


def _record(found: History, drawn: Path | None, flowing: Path | None) -> dict[str, Any]:
    return {
        "folder": str(found.folder),
        "series": [
            {
                "series": series.key,
                "cluster_name": series.cluster_name,
                "runs": [_run_record(run) for run in series.runs],
            }
            for series in found.series
        ],
        "unreadable": [{"path": str(u.path), "reason": u.reason} for u in found.unreadable],
        "plot": None if drawn is None else str(drawn),
        "flow": None if flowing is None else str(flowing),
    }


def _run_record(run: Run) -> dict[str, Any]:
    from gpucluster.timeline import should_recluster

    written = run.manifest.model_dump(mode="json", include={*_AS_WRITTEN, "counts"})
    return {
        **{name: written[name] for name in _AS_WRITTEN},
        **written["counts"],
        "should_recluster": should_recluster(run),
        "path": str(run.path),
    }


def _text(found: History) -> str:
    short = _short_ids(found)
    parts = [_series_text(series, short) for series in found.series]
    if found.unreadable:
        lines = [f"{unreadable.path.name}: {unreadable.reason}" for unreadable in found.unreadable]
        parts.append("\n".join(["not readable", *map(_wrapped, lines)]))
    return "\n\n".join(parts)


def _series_text(series: Series, short: Mapping[str, str]) -> str:
    """Return a row for each run, and below them what fired."""
    from gpucluster.timeline import SHORT

    rows = [(*_HEAD, "drift", "redo"), *(_row(run, short) for run in series.runs)]
    fired = [line for run in series.runs for line in _fired(run, short)]
    below = ["", textwrap.indent(table(fired), INDENT)] if fired else []
    runs = f"{amount(len(series.runs))} run{'s' if len(series.runs) > 1 else ''}"
    title = f"{runs} of definition {series.key[:SHORT]}"
    if series.cluster_name is not None:
        title = f"{shortened(series.cluster_name)}: {title}"
    parts = [title, table(rows, right=range(3, len(rows[0]) - 1))]
    return "\n".join([*parts, *below])


def _row(run: Run, short: Mapping[str, str]) -> tuple[str, ...]:
    from gpucluster.timeline import measured, should_recluster

    manifest, noise = run.manifest, measured(run, "noise_ratio")
    return (
        f"{manifest.completed_at.astimezone(UTC):%Y-%m-%d %H:%M}",
        short[run.run_id],
        manifest.mode,
        amount(manifest.counts.num_rows),
        amount(manifest.counts.num_clusters),
        NONE if noise is None else share(noise, 1),
        number(measured(run, "silhouette_score")),
        number(measured(run, "mean_cosine_to_centroid")),
        number(measured(run, "share_divergence")),
        "yes" if should_recluster(run) else "no",
    )


def _fired(run: Run, short: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the rules that fired, in words; the first one after the id of the run."""
    from gpucluster.report.reasons import in_words

    for position, reason in enumerate(run.manifest.recluster_reasons):
        base = short.get(str(reason.get("baseline_run_id")))
        said = in_words({**reason, "baseline_run_id": base})
        yield "" if position else short[run.run_id], shortened(said, REASON_WIDTH)


def _short_ids(found: History) -> dict[str, str]:
    """Return beginnings of the ids of all runs, and of those named by them, that differ."""
    runs = [run for series in found.series for run in series.runs]
    reasons = (reason for run in runs for reason in run.manifest.recluster_reasons)
    bases = {str(reason["baseline_run_id"]) for reason in reasons if reason.get("baseline_run_id")}
    names = {run.run_id for run in runs} | bases
    ids = {name: name.removeprefix("run_") for name in names}
    if len(set(ids.values())) < len(ids):  # one that begins so, beside one that does not
        ids = dict(zip(names, names, strict=True))
    length = next(n for n in count(SHORTEST) if len({i[:n] for i in ids.values()}) == len(ids))
    return {name: rest[:length] for name, rest in ids.items()}


def _wrapped(line: str) -> str:
    return textwrap.fill(
        one_line(line),
        WIDTH,
        initial_indent=INDENT,
        subsequent_indent=INDENT * 2,
        break_long_words=False,
        break_on_hyphens=False,
    )
