"""The kinds of pictures, and what each of them may be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from gpucluster.bases import check_is_run, latest_run
from gpucluster.errors import ConfigError
from gpucluster.notation import nearest
from gpucluster.plots import clusters, density, trees
from gpucluster.report.drawing.canvas import Look, drawing, finish, known
from gpucluster.types import DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpucluster.artifacts import Run
    from gpucluster.places import Place


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of picture.

    Attributes
    ----------
    draw : callable
        Takes the run, the look, and the options by name.
    options : tuple of str
        What it may be told beside the look.
    about : str
        What it shows, in a line.
    """

    draw: Callable[..., Figure]
    options: tuple[str, ...]
    about: str


KINDS: Final[Mapping[str, Kind]] = {
    "map": Kind(
        clusters.draw_map,
        ("colour_by", "level", "legend", "data"),
        "documents as dots in the colours of their clusters, with names",
    ),
    "silhouette": Kind(
        density.draw_silhouettes, ("data",), "silhouettes by cluster, with their mean"
    ),
    "sizes": Kind(clusters.draw_sizes, ("level",), "how large the clusters are, by rank"),
    "similarity": Kind(
        clusters.draw_similarities, ("level",), "histograms of the cosine to the centroid"
    ),
    "tree": Kind(
        trees.draw_tree, (), "the condensed tree of HDBSCAN, or the levels of a hierarchy"
    ),
    "k-distance": Kind(
        density.draw_distances, ("data",), "distances to the k-th neighbour, with a suggested eps"
    ),
}


def plot(
    run: Run | str | Place,
    kind: str,
    path: str | Path | None = None,
    *,
    theme: Literal["light", "dark"] = "light",
    width: float | None = None,
    height: float | None = None,
    dpi: int = DPI,
    **options: Any,
) -> Figure | Path:
    """Draw a picture of a finished run.

    Parameters
    ----------
    run : Run or path
        An output folder stands for its latest run.
    kind : {"map", "silhouette", "sizes", "similarity", "tree", "k-distance"}
        See docs/plots.md.
    path : str or Path, optional
        Ends with ``.png``, ``.svg`` or ``.pdf``; a file that is there is replaced. Omitted: nothing
        is written.
    theme : {"light", "dark"}, default "light"
    width, height : float, optional
        Inches. Omitted: what suits the picture.
    dpi : int, default 150
        Dots per inch of a PNG, and of the dots of a map in other files.
    **options
        ``colour_by`` (``cluster``, ``similarity``, ``truth``) and ``legend`` of a map; ``level`` of
        map, sizes and similarity; ``data``, where vectors or documents are now, of map,
        silhouette and k-distance.

    Returns
    -------
    matplotlib.figure.Figure or Path
        The picture, or where it lies. The same run gives the same bytes.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no such run, or it is damaged, or of a newer version.
    ConfigError
        The kind or an option is unknown or does not fit the run, or the name of the file ends
        otherwise.
    SourceError
        What the picture needs beside the run cannot be read any more.
    BackendUnavailableError
        Matplotlib is missing.
    StoreError
        The file could not be written.
    """
    look = Look(theme, width, height, dpi)
    return finish(lambda: _draw(latest_run(run), kind, look, options), path, dpi)


def _draw(run: Run, kind: str, look: Look, options: Mapping[str, Any]) -> Figure:
    """Draw a picture; an option that is None is as if it was not given."""
    check_is_run(run)
    known("kind", kind, tuple(KINDS))
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in KINDS[kind].options:
            others = [other for other, each in KINDS.items() if name in each.options]
            hint = f"it is one of {', '.join(others)}" if others else nearest(name, _names())
            raise ConfigError(f"{kind} has no such option", path=name, hint=hint)
    with drawing():
        return KINDS[kind].draw(run, look.checked(), **given)


def _names() -> list[str]:
    """Return the names of all options."""
    return sorted({name for kind in KINDS.values() for name in kind.options})
