"""``gpucluster classify``: documents join the nodes of a taxonomy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

import click

from gpucluster.cli.assign import AUTO, join_and_show, read_threshold
from gpucluster.cli.changes import read_filters, usage_error
from gpucluster.cli.request import row_options
from gpucluster.cli.voice import SETTINGS, Voice, speaking
from gpucluster.device.select import DeviceRequest

if TYPE_CHECKING:
    from gpucluster.events import CancelToken, Observer
    from gpucluster.finished import Run


@click.command(context_settings=SETTINGS)
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option(
    "--taxonomy",
    required=True,
    metavar="TAXONOMY",
    help="Whose nodes are joined: its folder, or one that holds it alone.",
)
@click.option("--version", type=int, metavar="N", help="Default: the latest.")
@click.option(
    "--threshold",
    default=AUTO,
    show_default=True,
    metavar="T",
    help="Least cosine similarity to a node, in [-1, 1]; auto: that of each node.",
)
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
@click.option(
    "--out", metavar="DIR", help="Folder of the runs. Default: the one that holds the taxonomy."
)
@click.option("--fresh", is_flag=True, help="Compute everything anew, as another run.")
@speaking
def classify(
    voice: Voice,
    *,
    inputs: tuple[str, ...],
    taxonomy: str,
    version: int | None,
    threshold: str,
    device: str,
    out: str | None,
    fresh: bool,
    **options: Any,
) -> None:
    """Say which node of a taxonomy each document belongs to.

    The result is a run: its members have the ids of nodes, and noise is what no node is near
    enough to. Doing it again resumes an interrupted one, and shows a finished one.

    \b
    gpucluster classify new.parquet --taxonomy gpucluster-out
    gpucluster classify new.parquet --taxonomy gpucluster-out --version 1 --json | jq .clusters
    """
    from gpucluster.taxonomies import open_taxonomy

    if not inputs:
        raise usage_error("missing INPUT: name a file, a folder or a glob")
    least = read_threshold(threshold)
    conditions = read_filters(options["filter"])

    def work(observer: Observer, cancel: CancelToken) -> Run:
        return open_taxonomy(taxonomy, version=version).apply(
            inputs[0] if len(inputs) == 1 else list(inputs),
            threshold=least,
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
