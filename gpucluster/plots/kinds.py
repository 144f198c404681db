"""The kinds of pictures, and what each of them may be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gpucluster.errors import ConfigError
from gpucluster.notation import nearest
from gpucluster.plots import clusters, density, trees
from gpucluster.report.drawing.canvas import Look, drawing, known

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpucluster.artifacts import Run


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


def draw(run: Run, kind: str, look: Look, options: Mapping[str, Any]) -> Figure:
    """Draw a picture of a run.

    Parameters
    ----------
    run : Run
    kind : str
        One of `KINDS`.
    look : Look
    options : mapping of str to Any
        What the kind is told; None is as if it was not.

    Returns
    -------
    Figure

    Raises
    ------
    ConfigError
        There is no such kind, it has no such option, or it does not fit the run.
    BackendUnavailableError
        Matplotlib is missing.
    SourceError
        The vectors or documents that it needs cannot be read any more.
    """
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
