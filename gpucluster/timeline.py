"""Runs over time: those of one definition in a row, with what was measured of each.

Only manifests are read, so that a folder of a thousand runs takes a second or two.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gpucluster.artifacts.manifest import FILE_NAME
from gpucluster.errors import ArtifactError, ConfigError, RunNotFoundError
from gpucluster.finished import Run
from gpucluster.found_runs import Unreadable, read_runs
from gpucluster.metrics.recluster import beyond_chance
from gpucluster.notation import describe, nearest
from gpucluster.places import Place, place
from gpucluster.report.drawing.canvas import Look, put
from gpucluster.report.history_table import finite, history_table
from gpucluster.report.reasons import in_words
from gpucluster.types import DPI

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

    from gpucluster.report.drawing.history_plot import Track

MAX_FLOW: Final = 8  # runs beside each other
SHORT: Final = 12  # characters of a definition's key that are shown

_COUNTS = ("num_rows", "num_points", "num_clusters", "num_noise")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Series:
    """The runs of one definition, and the runs that joined their clusters.

    Attributes
    ----------
    key : str
        The same for all runs of the definition.
    runs : tuple of Run
        In the order in which they were finished, ties by their ids.
    """

    key: str
    runs: tuple[Run, ...]

    @property
    def cluster_name(self) -> str | None:
        """The name that the latest definition with a name has; None where none has."""
        return next(filter(None, map(_name, reversed(self.runs))), None)

    @property
    def title(self) -> str:
        """The name, or the beginning of the key."""
        return self.cluster_name or f"definition {self.key[:SHORT]}"

    def values(self, metric: str) -> tuple[float | None, ...]:
        """Return a metric, count or number of drift of each run; None where it has none."""
        return tuple(measured(run, metric) for run in self.runs)

    def thresholds(self, metric: str) -> tuple[float, ...]:
        """Return the bounds that applied to a metric, the latest first."""
        found: dict[float, None] = {}
        for run in reversed(self.runs):
            settings = run.manifest.definition.get("quality_thresholds")
            bounds = [settings.get(metric)] if isinstance(settings, Mapping) else []
            bounds += [reason.get("threshold") for reason in reasons_of(run, metric)]
            found |= dict.fromkeys(bound for bound in map(finite, bounds) if bound is not None)
        return tuple(found)

    def __repr__(self) -> str:
        return f"Series({self.title!r}: {len(self.runs)} runs)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class History:
    """The runs of a folder in series.

    Attributes
    ----------
    folder : Path or ObjectPath
    series : tuple of Series
        The one that began first comes first.
    unreadable : tuple of Unreadable
        Runs that are damaged, or that a newer version of gpucluster wrote.
    """

    folder: Place
    series: tuple[Series, ...]
    unreadable: tuple[Unreadable, ...] = ()

    @classmethod
    def read(cls, folder: str | Place) -> History:
        """Read the manifests of the finished runs directly below a folder.

        Parameters
        ----------
        folder : str or path
            Where runs lie, on a disk or in a bucket; of a run's own folder, the one around it.

        Returns
        -------
        History

        Raises
        ------
        RunNotFoundError
            No finished run is there.
        ArtifactError
            The folder cannot be read.
        """
        where = place(folder).absolute()
        try:
            where = where.parent if where.name == FILE_NAME else where
            if (where / FILE_NAME).exists():
                where = where.parent
            found = list(read_runs(where))
        except (FileNotFoundError, NotADirectoryError) as error:
            what = "bucket" if "bucket" in str(error.strerror) else "folder"
            raise RunNotFoundError(f"no runs in {where}: there is no such {what}") from error
        except OSError as error:
            raise ArtifactError(f"cannot read {where}: {error.strerror}") from error
        if not found:
            hint = "name the folder that holds runs"
            raise RunNotFoundError(f"no finished runs in {where}", hint=hint)
        runs = [each for each in found if isinstance(each, Run)]
        unreadable = tuple(each for each in found if isinstance(each, Unreadable))
        return cls(where, _grouped(runs), unreadable)

    def select(
        self,
        *,
        cluster_name: str | None = None,
        run: str | Place | None = None,
        last: int | None = None,
    ) -> History:
        """Return a part of the history.

        Parameters
        ----------
        cluster_name : str, optional
            Only the series of the definitions with this name.
        run : str or path, optional
            Only the series of this run: its folder, its id, or the beginning of its id.
        last : int, optional
            Only so many runs of each series, the latest.

        Returns
        -------
        History
            With all of `unreadable`: what is in them is not known.

        Raises
        ------
        RunNotFoundError
            There is no such series.
        ArtifactError
            The run that is named cannot be read.
        ConfigError
            `run` begins ids of several series, or `last` is below 1.
        """
        chosen = self.series
        if cluster_name is not None:
            chosen = tuple(s for s in chosen if cluster_name in {_name(run) for run in s.runs})
            if not chosen:
                names = dict.fromkeys(s.cluster_name for s in self.series if s.cluster_name)
                raise RunNotFoundError(
                    f"no runs of {describe(cluster_name)} in {self.folder}",
                    hint=nearest(cluster_name, names) if names else "no definition has a name",
                )
        if run is not None:
            chosen = self._with_run(chosen, place(run).name)
        if last is not None:
            if last < 1:
                raise ConfigError(f"got {last}, expected 1 or more", path="last", got=last)
            chosen = tuple(replace(s, runs=s.runs[-last:]) for s in chosen)
        return replace(self, series=chosen)

    def _with_run(self, series: tuple[Series, ...], name: str) -> tuple[Series, ...]:
        """Return the one series with a run that is called `name`, or whose id begins so."""
        begin = name.removeprefix("run_")
        named = [s for s in series if any(name in (r.run_id, r.path.name) for r in s.runs)]
        found = named or [
            s
            for s in series
            if any(r.run_id.removeprefix("run_").startswith(begin) for r in s.runs)
        ]
        if len(found) == 1 and begin:
            return tuple(found)
        if found:
            raise ConfigError(
                f"{describe(name)} begins the ids of runs of {len(found)} series",
                path="run",
                hint="write more of the id",
            )
        for broken in self.unreadable:
            if broken.path.name == name:
                raise ArtifactError(f"the run {name} cannot be read: {broken.reason}")
        known = [run.run_id for each in series for run in each.runs]
        raise RunNotFoundError(
            f"no run {describe(name)} in {self.folder}", hint=nearest(name, known)
        )

    def to_arrow(self) -> pa.Table:
        """Return a `pyarrow.Table` with one row a run, series after series.

        Beside what each run has stand all metrics, those against known labels among them, and
        the numbers of the drift, whose names begin with ``drift_``.
        """
        pairs = [(series, run) for series in self.series for run in series.runs]
        return history_table(
            [_row(series, run) for series, run in pairs],
            [{**(run.external_metrics or {}), **run.metrics} for _, run in pairs],
            [run.manifest.drift or {} for _, run in pairs],
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return `to_arrow` as a data frame."""
        return self.to_arrow().to_pandas()

    def plot(self, path: str | Path, *, dpi: int = DPI) -> Path:
        """Draw the metrics over time, and write the picture.

        Of one series there are two rows of panels, of several one row for each. The same
        history gives the same bytes.

        Parameters
        ----------
        path : str or Path
            Ends with ``.png``, ``.svg`` or ``.pdf``; a file that is there is replaced.
        dpi : int
            Dots per inch of a PNG.

        Returns
        -------
        Path
            Where the picture lies.

        Raises
        ------
        ConfigError
            The name ends otherwise, `dpi` is out of bounds, or series are too many for one picture.
        RunNotFoundError
            No run could be read.
        BackendUnavailableError, StoreError
            Matplotlib is missing, or the file could not be written.
        """
        from gpucluster.report.drawing.history_plot import draw

        def picture() -> Figure:
            if not self.series:
                raise RunNotFoundError(f"no run in {self.folder} could be read: nothing to draw")
            names = Counter(series.title for series in self.series)
            look = Look(dpi=dpi).checked()
            return draw([_track(each, named=names[each.title] == 1) for each in self.series], look)

        return put(picture, path, dpi)

    def flow(self, path: str | Path, *, dpi: int = DPI) -> Path:
        """Draw what became of clusters over the latest `MAX_FLOW` full runs of a series.

        Parameters
        ----------
        path : str or Path
            Ends with ``.png``, ``.svg`` or ``.pdf``; a file that is there is replaced.
        dpi : int
            Dots per inch of a PNG.

        Returns
        -------
        Path

        Raises
        ------
        ConfigError
            The name ends otherwise, or there are not two full runs, with clusters, of one series.
        BackendUnavailableError
            Matplotlib is missing.
        StoreError
            The file could not be written.
        """
        from gpucluster.compared import flow_of

        if len(self.series) != 1:
            raise ConfigError(
                f"a flow is of one series, and there are {len(self.series)}",
                path="flow",
                hint="choose one by the name of its definition or by one of its runs",
            )
        runs = [run for run in self.series[0].runs if run.manifest.mode == "full"]
        return put(lambda: flow_of(runs[-MAX_FLOW:], Look(dpi=dpi)), path, dpi)

    def __repr__(self) -> str:
        count = sum(len(series.runs) for series in self.series)
        return (
            f"History({str(self.folder)!r}: {count} runs in {len(self.series)} series, "
            f"{len(self.unreadable)} unreadable)"
        )


def _name(run: Run) -> str | None:
    """Return the name of the definition of a run."""
    name = run.manifest.definition.get("cluster_name")
    return name if isinstance(name, str) else None


def should_recluster(run: Run) -> bool:
    """Whether a rule about the quality of a run fired."""
    return bool(run.manifest.recluster_reasons or run.metrics.get("should_recluster"))


def measured(run: Run, name: str) -> float | None:
    """Return a count, a metric or a number of the drift of a run, where it has one.

    A divergence is what is beyond chance: rules look at that.
    """
    drift = run.manifest.drift or {}
    if name in _COUNTS:
        return float(getattr(run.manifest.counts, name))
    if name == "share_divergence":
        return finite(beyond_chance(drift))
    return finite(run.metrics.get(name, drift.get(name)))


def reasons_of(run: Run, metric: str) -> list[Mapping[str, Any]]:
    """Return the rules about a metric that fired."""
    return [reason for reason in run.manifest.recluster_reasons if reason.get("metric") == metric]


def _grouped(runs: Sequence[Run]) -> tuple[Series, ...]:
    """Put runs into series: by the definition of the run whose clusters they have."""
    by_id = {run.run_id: run for run in runs}
    keys: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if run.manifest.definition_key is not None:
            keys[run.manifest.definition_sha256].add(run.manifest.definition_key)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        origin = _origin(run, by_id).manifest
        # one without a key has that of the runs with the same definition, if they have one
        known = keys[origin.definition_sha256]
        only = next(iter(known)) if len(known) == 1 else origin.definition_sha256
        groups[origin.definition_key or only].append(run)
    series = [
        Series(key, tuple(sorted(group, key=lambda run: (run.manifest.completed_at, run.run_id))))
        for key, group in groups.items()
    ]
    return tuple(sorted(series, key=lambda s: (s.runs[0].manifest.completed_at, s.key)))


def _origin(run: Run, by_id: Mapping[str, Run]) -> Run:
    """Return the run in which the clusters of `run` were found, or the first of them there is."""
    seen = {run.run_id}
    while True:
        base = by_id.get(run.manifest.base_run_id or "")
        if base is None or base.run_id in seen:
            return run
        seen.add(base.run_id)
        run = base


def _row(series: Series, run: Run) -> dict[str, Any]:
    """Return what every run has, by column."""
    manifest = run.manifest
    return {
        "run_id": run.run_id,
        "series": series.key,
        "cluster_name": _name(run),
        "mode": manifest.mode,
        "base_run_id": manifest.base_run_id,
        "created_at": manifest.created_at,
        "completed_at": manifest.completed_at,
        **{name: getattr(manifest.counts, name) for name in _COUNTS},
        "should_recluster": should_recluster(run),
        "reasons": "; ".join(map(in_words, manifest.recluster_reasons)),
    }


def _track(series: Series, *, named: bool) -> Track:
    """Return what is drawn of a series, and its key where the name says not which it is."""
    from gpucluster.report.drawing.history_plot import PANELS, Track

    manifests = [run.manifest for run in series.runs]
    return Track(
        title=series.title if named else f"{series.title} ({series.key[:SHORT]})",
        when=tuple(manifest.completed_at for manifest in manifests),
        modes=tuple(manifest.mode for manifest in manifests),
        flagged=tuple(map(should_recluster, series.runs)),
        values={name: series.values(name) for name in PANELS},
        thresholds={name: series.thresholds(name) for name in PANELS},
        fired={name: tuple(bool(reasons_of(r, name)) for r in series.runs) for name in PANELS},
    )
