"""``gpucluster plot`` and ``export``: pictures of a run, and its map for other programs."""

from __future__ import annotations

import click

from gpucluster.cli.rows import rows_option
from gpucluster.cli.voice import SETTINGS, Voice, speaking
from gpucluster.types import DPI


@click.command(context_settings=SETTINGS)
@click.argument("run", metavar="RUN")
@click.argument(
    "kind",
    type=click.Choice(["map", "silhouette", "sizes", "similarity", "tree", "k-distance"]),
)
@click.option(
    "--out",
    "-o",
    required=True,
    allow_from_autoenv=False,  # GPUCLUSTER_OUT is the folder of the runs
    metavar="FILE",
    help="It ends in .png, .svg or .pdf.",
)
@click.option(
    "--colour-by",
    type=click.Choice(["cluster", "similarity", "truth"]),
    help="Of a map. Default: cluster.",
)
@click.option(
    "--level",
    type=click.IntRange(0),
    metavar="N",
    help="Of a hierarchy, for map, sizes and similarity. Default: 0, the top.",
)
@click.option("--legend", is_flag=True, default=None, help="List the largest beside the map.")
@rows_option
@click.option(
    "--theme",
    type=click.Choice(["light", "dark"]),
    default="light",
    show_default=True,
    help="Of the background.",
)
@click.option("--width", type=float, metavar="INCHES", help="Default: what suits the picture.")
@click.option("--height", type=float, metavar="INCHES", help="Default: what suits the picture.")
@click.option("--dpi", type=int, default=DPI, show_default=True, metavar="N", help="Dots per inch.")
@speaking
def plot(
    voice: Voice,
    *,
    run: str,
    kind: str,
    out: str,
    colour_by: str | None,
    level: int | None,
    legend: bool | None,
    data: str | list[str] | None,
    theme: str,
    width: float | None,
    height: float | None,
    dpi: int,
) -> None:
    """Draw a picture of a finished run.

    RUN is its folder; of a folder of runs the latest one.

    \b
    map         documents as dots in the colours of their clusters, with names
    silhouette  silhouettes by cluster, with their mean
    sizes       how large the clusters are, by rank
    similarity  histograms of the cosine to the centroid
    tree        the condensed tree of HDBSCAN, or the levels of a hierarchy
    k-distance  distances to the k-th neighbour, with a suggested eps

    \b
    gpucluster plot gpucluster-out map -o map.svg
    gpucluster plot gpucluster-out map -o map.png --colour-by truth --theme dark --dpi 300
    gpucluster plot gpucluster-out/run_0123456789abcdef silhouette -o silhouette.pdf
    """
    from gpucluster.plots import plot as draw

    options = {"colour_by": colour_by, "level": level, "legend": legend, "data": data}
    look = {"theme": theme, "width": width, "height": height, "dpi": dpi}
    drawn = draw(run, kind, out, **look, **options)  # type: ignore[arg-type]  # by name
    voice.answer({"kind": kind, "path": str(drawn)}, lambda: str(drawn))


@click.command(context_settings=SETTINGS)
@click.argument("run", metavar="RUN")
@click.option(
    "--out",
    "-o",
    required=True,
    allow_from_autoenv=False,
    metavar="FILE",
    help="It ends in .parquet.",
)
@click.option(
    "--neighbors",
    type=click.IntRange(1),
    metavar="K",
    help="So many nearest rows of each, exact, by cosine. Default: none.",
)
@rows_option
@speaking
def export(
    voice: Voice, *, run: str, out: str, neighbors: int | None, data: str | list[str] | None
) -> None:
    """Write documents with coordinates, texts and clusters to one Parquet file.

    RUN is its folder; of a folder of runs the latest one. embedding-atlas opens the file.

    \b
    gpucluster export gpucluster-out -o map.parquet
    gpucluster export gpucluster-out -o map.parquet --neighbors 10
    embedding-atlas map.parquet --x x --y y --text text --neighbors neighbors
    """
    from gpucluster.exported import export as write

    lies = write(run, out, neighbors=neighbors, data=data)
    voice.answer({"path": str(lies)}, lambda: str(lies))
