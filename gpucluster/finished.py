"""What can be done with a finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpucluster.artifacts.run import Run as StoredRun
from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken, Observer, ignore
from gpucluster.places import Place, place
from gpucluster.taxonomy import Promotion, StoredTaxonomy
from gpucluster.types import USUAL_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpucluster.compared import Comparison
    from gpucluster.device.select import DeviceRequest
    from gpucluster.enriched import Enrichment
    from gpucluster.labeling.asking.spending import Usage
    from gpucluster.labeling.settings import LabelingSettings
    from gpucluster.naming.request import LabelingRequest
    from gpucluster.reported import MapView
    from gpucluster.sources.filters import Filters
    from gpucluster.succession import By

OF_PROMOTION = {field.name for field in fields_of(Promotion)}


class Run(StoredRun):
    """A finished run: what it left on disk, and what can be done with that."""

    def assign(
        self, data: Any, *, threshold: float | Literal["auto"] = USUAL_THRESHOLD, **options: Any
    ) -> Run:
        """Let new rows join the clusters: `gpucluster.assign` with this run."""
        return assign(data, run=self, threshold=threshold, **options)

    def compare(self, other: StoredRun | str | Place, *, by: By | None = None) -> Comparison:
        """Say what became of these clusters in another run: `gpucluster.compare`."""
        return compare(self, other, by=by)

    def enrich(self, data: str | Path | Sequence[str] | None = None, **options: Any) -> Enrichment:
        """Write what the run knows into documents: `gpucluster.enrich` with this run."""
        from gpucluster.enriched import enrich

        return enrich(self, data, **options)

    def export(self, path: str | Path, **options: Any) -> Path:
        """Write members with coordinates and texts to a file: `exported.export` with this run."""
        from gpucluster.exported import export

        return export(self, path, **options)

    def label(
        self, settings: LabelingSettings | Mapping[str, Any] | None = None, **options: Any
    ) -> Run:
        """Name the clusters: `gpucluster.label` with this run."""
        return label(self, settings, **options)

    def plot(self, kind: str, path: str | Path | None = None, **options: Any) -> Figure | Path:
        """Draw a picture: `plots.plot` with this run."""
        from gpucluster.plots import plot

        return plot(self, kind, path, **options)

    def promote(self, name: str, **options: Any) -> Taxonomy:
        """Make the clusters nodes of a taxonomy: `gpucluster.promote` with this run."""
        request = {key: options.pop(key) for key in OF_PROMOTION & options.keys()}
        return Taxonomy.of(self, Promotion(name=name, **request), **options)

    def report(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write all that is known of the run into one HTML file: `gpucluster.reported.report`."""
        from gpucluster.reported import report

        return report(self, path, **options)

    def map(self, **options: Any) -> MapView:
        """Return the map of the documents, which a notebook shows.

        Parameters
        ----------
        **options
            ``data``, ``text_column``, ``texts`` and ``max_points`` as for `report`; at most
            200,000 points, unless another number is asked for.

        Returns
        -------
        MapView
        """
        from gpucluster.reported import map_of

        return map_of(self, **options)

    def _repr_html_(self) -> str:
        """Return the run as a small table, for a notebook."""
        from gpucluster.report.notebook import summary

        return summary(self)


class Taxonomy(StoredTaxonomy):
    """A version of a taxonomy: nodes, and the documents that join them."""

    def apply(self, data: Any, **options: Any) -> Run:
        """Let documents join the nodes, as a run of its own: see `StoredTaxonomy.apply`."""
        found = super().apply(data, **options)
        return Run(found.path, found.manifest)


def assign(
    data: Any,
    *,
    run: StoredRun | str | Place,
    threshold: float | Literal["auto"] = USUAL_THRESHOLD,
    scope: Literal["new", "all"] | None = None,
    update: bool = False,
    filters: Filters | Mapping[str, Any] | None = None,
    out: str | Place | None = None,
    device: DeviceRequest = "auto",
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
    fresh: bool = False,
    run_id: str | None = None,
) -> Run:
    """Let rows join the clusters of a finished run, without a new fit.

    Every row is compared with every cluster of the first level and belongs to the nearest if
    its cosine similarity to the centroid reaches the threshold, else it is noise; then, in a
    hierarchy, with the children of that cluster, and so on. Nearest is what the run's
    ``assign_by`` says.

    Rows stream: any number is assigned in the same memory. Doing it again resumes an
    interrupted run, and returns a finished one.

    Parameters
    ----------
    data
        As for `cluster`.
    run : Run or path
        The run whose clusters are joined. An output folder stands for its latest run that found
        or moved clusters; a run that assigned rows for the one that it is based on.
    threshold : float or "auto", default 0.5
        Least cosine similarity, in [-1, 1], inclusive. What a number means depends on the
        model that made the vectors: the run's manifest says what random pairs have. ``auto``:
        for each cluster the one that all but 1 % of its own rows reach.
    scope : {"new", "all"}, optional
        ``new`` leaves out the documents of the base run. Omitted: that, where documents have
        ids.
    update : bool, default False
        Move the centroids with their new members; the result can be the base of later ones.
    filters : Filters or mapping, optional
        Which rows are meant, instead of the definition's.
    out : path, optional
        Folder that gets the run's own folder. Default: the one that holds the base run.
    device, observer, cancel
        As for `cluster`.
    id_column, vector_column : str, optional
        Default: those of the base run where `data` has them, else found as `cluster` does.
    text_column : str, optional
        Noted in the run, for whoever shows documents; default as above.
    fresh : bool, default False
        Compute everything anew, as another run.
    run_id : str, optional
        As for `cluster`.

    Returns
    -------
    Run
        With ``manifest.mode`` ``assign`` or ``update``, metrics, drift against the base run, and
        whether and why to cluster anew.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no run to join, or it is damaged, or of a newer version.
    ConfigError, ShapeError, SchemaMismatchError, DuplicateIdsError
        A setting is wrong, or the vectors are not of the base run's kind.
    """
    from gpucluster.bases import base_run
    from gpucluster.definition import ClusterDefinition
    from gpucluster.device.select import decide
    from gpucluster.given import open_like, read_run_id, text_column_of
    from gpucluster.incremental import AssignmentRequest, assign_source

    named = read_run_id(run_id)
    asked = ClusterDefinition.parse({"filters": filters} if filters else {}).filters
    request = AssignmentRequest(threshold=threshold, scope=scope, filters=asked, update=update)
    request = request.checked()
    base = base_run(run)
    source = open_like(data, base, id_column=id_column, vector_column=vector_column)
    found = assign_source(
        source,
        base,
        request,
        out=place(out) if out is not None else base.path.parent,
        decision=decide(device),
        observer=observer or ignore,
        cancel=cancel or CancelToken(),
        text_column=text_column_of(source, base, text_column),
        fresh=fresh,
        run_id=named,
    )
    return Run(found.path, found.manifest)


def compare(
    previous: StoredRun | str | Place, current: StoredRun | str | Place, *, by: By | None = None
) -> Comparison:
    """Say which clusters of two runs are the same, and what became of the others.

    Parameters
    ----------
    previous, current : Run or path
        Runs that found clusters, of any definitions.
    by : {"documents", "centroids"}, optional
        How clusters are matched. Omitted: by documents where the runs share a tenth of the
        smaller one's, else by the cosine of centroids.

    Returns
    -------
    Comparison
        With ``table``, one row for each link of two clusters, ``counts``, ``metrics`` of both and
        ``stable_ids``.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no such run, or it is damaged, or of a newer version.
    ConfigError, ShapeError
        The runs cannot be compared.

    Notes
    -----
    Clusters are matched one to one so that the sum of their Jaccard indices is largest; the
    kinds are those of MONIC (Spiliopoulou et al. 2006, doi:10.1145/1150402.1150491).
    """
    from gpucluster.bases import check_is_run
    from gpucluster.compared import Comparison

    runs = [
        run if isinstance(run, StoredRun) else StoredRun.open(run) for run in (previous, current)
    ]
    for each in runs:
        check_is_run(each)
    return Comparison.of(*runs, by=by)


def label(
    run: StoredRun | str | Place,
    settings: LabelingSettings | Mapping[str, Any] | None = None,
    *,
    data: Any = None,
    text_column: str | None = None,
    budget_usd: float | None = None,
    concurrency: int = 16,
    fresh: bool = False,
    embedder: Callable[[Sequence[str]], Any] | None = None,
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
    **fields: Any,
) -> Run:
    """Name the clusters of a finished run.

    The run itself stays as it is: its names lie beside it, and ``run.centroids`` shows the
    clusters under them. Doing it again resumes an interrupted labelling without paying for a
    reply twice, asks once more about clusters that got no name of a model, and returns what is
    finished.

    Parameters
    ----------
    run : Run or path
        A run that found clusters; an output folder stands for its latest one.
    settings : LabelingSettings or mapping, optional
        The block ``llm_labeling`` of a definition. Omitted: what named the run last, or that of
        its own definition, or else keywords, which need no model and no network. Another
        ``provider``, ``model_name`` or ``base_url`` among `fields` changes who is asked.
    data : path, list of paths, table or frame, optional
        The rows of the run, where they are not to be found any more.
    text_column : str, optional
        Column that is shown, and that keywords are taken from, where the settings map no
        inputs. Omitted: the whole payload is shown, and keywords are taken from the column of
        texts that the run knows of.
    budget_usd : float, optional
        What it may cost at most; what is left unnamed gets a fallback label.
    concurrency : int, default 16
        Questions on their way at a time.
    fresh : bool, default False
        Ask everything anew, whatever was asked before.
    embedder : callable, optional
        Gives an array of shape (n_texts, n_features) for a list of texts; instead of
        ``embedding_model``, for ``label_confidence`` and ``use_embedding_dedup``. If it fails,
        that is a warning of the labelling, and costs no name.
    observer, cancel
        As for `cluster`.
    **fields
        Settings, such as ``provider="openai"``, ``model_name="gpt-4o-mini"``.

    Returns
    -------
    Run
        With ``run.labeling``: what was done, what it cost, and what went wrong.

    Raises
    ------
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no such run, or it is damaged, or of a newer version.
    ConfigError, BackendUnavailableError
        A setting is wrong, or a key or a library is missing.
    SourceError, SchemaMismatchError
        The documents cannot be read any more, or have no text.
    """
    from gpucluster.naming.label_run import label_run

    opened, request = _labelling(run, settings, fields, data, text_column)
    request = replace(
        request, budget_usd=budget_usd, concurrency=concurrency, fresh=fresh, embed=embedder
    )
    label_run(opened, request, observer=observer or ignore, cancel=cancel or CancelToken())
    return Run(opened.path, opened.manifest)


def estimate_labels(
    run: StoredRun | str | Place,
    settings: LabelingSettings | Mapping[str, Any] | None = None,
    *,
    data: Any = None,
    text_column: str | None = None,
    fresh: bool = False,
    embedder: Callable[[Sequence[str]], Any] | None = None,
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
    **fields: Any,
) -> Usage:
    """Say what `label` would cost: calls, tokens and US dollars; nobody is asked.

    Parameters
    ----------
    run, settings, data, text_column, fresh, embedder, observer, cancel, **fields
        As for `label`.

    Returns
    -------
    Usage
        ``usd`` is None where the price of the model is not known.
    """
    from gpucluster.naming.label_run import estimate_labels as estimate

    opened, request = _labelling(run, settings, fields, data, text_column)
    request = replace(request, fresh=fresh, embed=embedder)
    return estimate(opened, request, observer=observer or ignore, cancel=cancel or CancelToken())


def _labelling(
    run: StoredRun | str | Place,
    settings: LabelingSettings | Mapping[str, Any] | None,
    fields: Mapping[str, Any],
    data: Any,
    text_column: str | None,
) -> tuple[StoredRun, LabelingRequest]:
    """Return the run, and what is asked of it."""
    from gpucluster.artifacts.labels import finished_labeling
    from gpucluster.bases import run_to_label
    from gpucluster.definition import ClusterDefinition
    from gpucluster.given import open_like, read_labeling_settings
    from gpucluster.naming.request import LabelingRequest, check_rereadable

    opened = run_to_label(run)
    definition = ClusterDefinition.parse(opened.manifest.definition)
    named = finished_labeling(opened.path)
    before = dict(named.settings) if named else definition.to_dict()["llm_labeling"] or {}
    if text_column is not None:
        if not isinstance(text_column, str) or not text_column:
            raise ConfigError(f"got {text_column!r}, expected a name", path="text_column")
        before.pop("labeling_inputs", None)
    elif settings is None and named:
        text_column = named.text_column
    asked = read_labeling_settings(settings, fields, before)
    request = LabelingRequest(asked.showing(text_column), text_column=text_column)
    if data is None:
        return opened, request
    check_rereadable(data, "data")
    source = open_like(data, opened, id_column=None, vector_column=None)
    return opened, replace(request, source=source)
