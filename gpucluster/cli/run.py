"""``gpucluster run``: the whole way, from files to a run on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gpucluster.cli.request import Request, read_request, request_options
from gpucluster.cli.voice import SETTINGS, Voice, speaking

if TYPE_CHECKING:
    from gpucluster.finished import Run

N_CLUSTERS = 10  # in the table, unless another number is asked for


def _named(_: click.Context, __: click.Parameter, file: str | None) -> str | None:
    """Say what is wrong with the name of a report, before an input is missed too."""
    from gpucluster.errors import ConfigError
    from gpucluster.reported import report_file

    if file:
        try:
            report_file(file, "")
        except ConfigError as error:
            raise click.BadParameter(str(error)) from error
    return file


@click.command(context_settings=SETTINGS)
@request_options
@click.option(
    "--report",
    metavar="[FILE]",
    is_flag=False,
    flag_value="",
    callback=_named,
    help="Write the report of the run as well, into FILE (.html). Default: report-RUN.html in the "
    "working folder.",
)
@speaking
def run(voice: Voice, *, report: str | None, **options: Any) -> None:
    """Cluster embeddings and leave a run on disk.

    INPUT is a file, a folder or a glob: Parquet, Arrow, npy, npz, fvecs, fbin, JSONL. Or it is
    one definition (.json, .yaml, .toml) that names the inputs in collection_ids, relative to
    its own folder.

    Doing it again resumes an interrupted run, and shows a finished one. Where the definition says
    enrich_source_collection, the collections that INPUT names get what the run knows.

    \b
    gpucluster run docs.parquet
    gpucluster run docs.parquet --algorithm hdbscan --param min_cluster_size=20
    gpucluster run docs.parquet --steps whitening,umap --step-param umap.n_components=15
    gpucluster run topics.yaml --json | jq .metrics
    gpucluster run docs.parquet --map umap --report topics.html
    """
    from contextlib import closing
    from datetime import UTC, datetime

    from gpucluster import api
    from gpucluster.cli.interrupt import interruptible, typed_command
    from gpucluster.cli.progress import watcher
    from gpucluster.cli.report import report_in_sight
    from gpucluster.cli.result import leave_partial, show_run

    request = read_request(options)
    data = request.data
    _check_enrichable(request)
    kept = "a fresh run keeps nothing; start it again" if request.fresh else "resume"
    begun = datetime.now(UTC)
    with closing(watcher(voice)) as observer:
        found = interruptible(
            lambda cancel: api.cluster(
                data,
                request.definition,
                out=request.out,
                device=request.device,
                storage=request.storage,
                memory_limit=request.memory_limit,
                executor=request.executor,
                scheduler=request.scheduler,
                n_workers=request.n_workers,
                observer=observer,
                cancel=cancel,
                fresh=request.fresh,
                previous=request.previous,
                **request.columns,
            ),
            hint=f"{kept} with: {typed_command()}",
            say=voice.say,
            tick=observer.tick,
        )
    if found.manifest.completed_at < begun:
        voice.say("nothing was left to do: the run was finished before; --fresh computes it anew")
    show_run(voice, found, N_CLUSTERS)
    if report is not None:
        voice.say(f"the report lies in {report_in_sight(voice, found, report or None)}")
    if request.definition.enrich_source_collection:
        _enrich(voice, request, found)
    if request.definition.llm_labeling and request.definition.llm_labeling.enabled:
        leave_partial(voice, found)


def _check_enrichable(request: Request) -> None:
    """Raise where documents are to be enriched in place and cannot be, before any work."""
    from gpucluster.errors import ConfigError
    from gpucluster.sources import is_manifest

    plain = [path for path in request.inputs if not is_manifest(path)]
    if request.definition.enrich_source_collection and plain:
        raise ConfigError(
            f"{plain[0]} is no manifest of a collection, and plain files cannot be changed in one "
            "step",
            path="enrich_source_collection",
            hint="leave it out, and enrich afterwards: gpucluster enrich RUN --out DIR",
        )


def _enrich(voice: Voice, request: Request, found: Run) -> None:
    """Enrich the collections that were clustered, each in place."""
    from gpucluster.cli.enrich import enrich_in_sight
    from gpucluster.enriched import mappings_after

    mappings = mappings_after(found, request.definition.source_enrichment_config)
    for manifest in request.inputs:
        done = enrich_in_sight(voice, found, manifest, {"field_mappings": mappings})
        voice.say(f"{done.path}: {done.enriched} of {done.processed} documents are enriched")
