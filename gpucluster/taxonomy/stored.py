"""A taxonomy on a disk or in a bucket, in one of its versions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import JsonValue, TypeAdapter, ValidationError

from gpucluster.artifacts import Run
from gpucluster.bases import base_run
from gpucluster.errors import ConfigError, TaxonomyNotFoundError
from gpucluster.events import CancelToken, Observer, Reporter, ignore
from gpucluster.places import Place, place
from gpucluster.taxonomy.promotion import Promotion, check_name
from gpucluster.taxonomy.shelf import VERSIONS, Record, Shelf

if TYPE_CHECKING:
    import pyarrow as pa

    from gpucluster.device.select import DeviceRequest
    from gpucluster.sources.filters import Filters

# how the columns of the clusters are called where they are nodes
AS_NODES = {
    "node_id": "cluster_id",
    "label": "label",
    "summary": "summary",
    "keywords": "keywords",
    "centroid_vector": "centroid_vector",
    "threshold": "threshold",
    "parent_node_id": "parent_cluster_id",
    "hierarchy_level": "hierarchy_level",
    "stability": "stability",
    "stability_runs": "stability_runs",
    "num_members": "num_members",
    "source_run_id": "run_id",
    "source_cluster_id": "source_cluster_id",
}
KEEP: Any = object()  # what a patch leaves as it is
_METADATA: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, JsonValue])


@dataclass(frozen=True, eq=False, repr=False)
class StoredTaxonomy:
    """A version of a taxonomy: nodes that documents join.

    Attributes
    ----------
    folder : Path or ObjectPath
        The taxonomy's own.
    record : Record
        What it is called.
    version : int
        From 1 on.
    run : Run
        The version, laid out as a run that rows can join; it has no members.
    """

    folder: Place
    record: Record
    version: int
    run: Run

    @classmethod
    def of(
        cls,
        run: Run | str | Place,
        request: Promotion,
        *,
        out: str | Place | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        observer: Observer | None = None,
        cancel: CancelToken | None = None,
    ) -> Self:
        """Promote clusters of a run: see `gpucluster.promote`."""
        from gpucluster.taxonomy.freezing import freeze

        request = request.checked()
        facts = _checked_facts(description, metadata)
        base = base_run(run)
        reporter = Reporter("promote", observer or ignore, cancel)
        frozen = freeze(base, request, reporter)
        shelf = Shelf(place(out) if out is not None else base.path.parent)
        with shelf.named(request.name, reporter) as taxonomy_id:
            reporter.progress(0, None, "clusters")
            number = shelf.add(Record.new(taxonomy_id, request.name, **facts), frozen)
            reporter.progress(len(frozen.table), len(frozen.table), "clusters")
        return cls._at(shelf, taxonomy_id, number)

    @classmethod
    def open(cls, path: str | Place, version: int | None = None) -> Self:
        """Open a taxonomy: see `gpucluster.open_taxonomy`."""
        folder = place(path).absolute()
        if folder.parent.name == VERSIONS and folder.name.isdigit():
            version = int(folder.name) if version is None else version
            folder = folder.parent.parent
        shelf = Shelf(folder.parent)
        if not shelf.is_there(folder.name):
            shelf = Shelf(folder)
            folder = folder / _only(shelf)
        known = shelf.versions(folder.name)
        if not known:
            raise TaxonomyNotFoundError(
                f"the taxonomy at {folder} is unfinished: it has no version",
                hint="promote its run again",
            )
        if version is None:
            version = known[-1]
        elif isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ConfigError(f"got {version!r}, expected a number from 1 on", path="version")
        return cls._at(shelf, folder.name, version)

    @classmethod
    def _at(cls, shelf: Shelf, taxonomy_id: str, version: int) -> Self:
        run = shelf.version(taxonomy_id, version)
        return cls(shelf.root / taxonomy_id, shelf.record(taxonomy_id), version, run)

    @property
    def taxonomy_id(self) -> str:
        """Its name among taxonomies, which stays."""
        return self.record.taxonomy_id

    @property
    def name(self) -> str:
        """What it is called."""
        return self.record.taxonomy_name

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that there are by now."""
        return tuple(self._shelf.versions(self.taxonomy_id))

    @cached_property
    def nodes(self) -> pa.Table:
        """One row for each node (`AS_NODES`), roots first."""
        table = self.run.fitted_centroids.select(list(AS_NODES.values()))
        return table.rename_columns(list(AS_NODES))

    @property
    def is_hierarchical(self) -> bool:
        """Whether nodes lie below others."""
        return bool((self.run.parents >= 0).any())

    def at(self, version: int) -> Self:
        """Return the same taxonomy in another version."""
        return type(self).open(self.folder, version)

    def apply(
        self,
        data: Any,
        *,
        threshold: float | Literal["auto"] = "auto",
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
        """Let documents join the nodes, as a run of its own.

        Every row is compared with the nodes as `gpucluster.assign` compares it with the clusters
        of a run. Rows stream; doing it again resumes an interrupted run, and returns a finished
        one. Its clusters are the nodes: members have ``node_id`` for a ``cluster_id``, and
        ``run.cluster_labels`` says what each is called.

        Parameters
        ----------
        data
            As for `gpucluster.cluster`.
        threshold : float or "auto", default "auto"
            Least cosine similarity; ``auto``: that of each node.
        filters : Filters or mapping, optional
            Which rows are meant, instead of the definition's.
        out : path, optional
            Folder that gets the run's own. Default: the one that holds the taxonomy.
        device, observer, cancel
            As for `gpucluster.cluster`.
        id_column, vector_column, text_column : str, optional
            Default: those of the run that was promoted where `data` has them.
        fresh : bool, default False
            Compute everything anew, as another run.

        Returns
        -------
        Run
            With ``manifest.mode`` ``assign``, and the version under ``manifest.taxonomy``.

        Raises
        ------
        ConfigError, ShapeError, SchemaMismatchError, DuplicateIdsError
            A setting is wrong, or the vectors are not of the kind that was promoted.
        CorruptArtifactError
            The version is damaged.
        """
        from gpucluster.definition import ClusterDefinition
        from gpucluster.device.select import decide
        from gpucluster.given import open_like, read_run_id, text_column_of
        from gpucluster.incremental import AssignmentRequest, assign_source

        named = read_run_id(run_id)
        asked = ClusterDefinition.parse({"filters": filters} if filters else {}).filters
        request = AssignmentRequest(threshold=threshold, scope="all", filters=asked).checked()
        source = open_like(data, self.run, id_column=id_column, vector_column=vector_column)
        return assign_source(
            source,
            self.run,
            request,
            out=place(out) if out is not None else self.folder.parent,
            decision=decide(device),
            observer=observer or ignore,
            cancel=cancel or CancelToken(),
            text_column=text_column_of(source, self.run, text_column),
            fresh=fresh,
            run_id=named,
        )

    def clone(
        self,
        name: str,
        *,
        out: str | Place | None = None,
        description: str | None = KEEP,
        metadata: Mapping[str, Any] | None = KEEP,
    ) -> Self:
        """Copy this version into a taxonomy of another name, as its first.

        Parameters
        ----------
        name : str
            One that no taxonomy there has.
        out : path, optional
            Default: the folder that holds this one.
        description, metadata : optional
            Default: those of this one.

        Raises
        ------
        ConfigError
            There is one of this name.
        """
        check_name(name)
        facts = _checked_facts(
            self.record.description if description is KEEP else description,
            self.record.metadata if metadata is KEEP else metadata,
        )
        self.run.verify()
        shelf = Shelf(place(out)) if out is not None else self._shelf
        with shelf.named(name, Reporter("clone")) as taxonomy_id:
            if shelf.is_there(taxonomy_id) and shelf.versions(taxonomy_id):
                raise _taken(name, taxonomy_id)
            record = Record.new(taxonomy_id, name, source_taxonomy_id=self.taxonomy_id, **facts)
            shelf.copy(self.run, record)
        return type(self)._at(shelf, taxonomy_id, 1)

    def patch(
        self,
        *,
        name: str = KEEP,
        description: str | None = KEEP,
        metadata: Mapping[str, Any] | None = KEEP,
    ) -> Self:
        """Call the taxonomy otherwise; its versions stay as they are.

        Parameters
        ----------
        name : str, optional
            One that no other taxonomy there has.
        description : str or None, optional
        metadata : mapping or None, optional
            In place of what there was.
        """
        shelf, reporter = self._shelf, Reporter("patch")
        with ExitStack() as stack:
            stack.enter_context(shelf.held(self.taxonomy_id, reporter))
            record = shelf.record(self.taxonomy_id)
            facts = _checked_facts(
                record.description if description is KEEP else description,
                record.metadata if metadata is KEEP else metadata,
            )
            if name is not KEEP:
                check_name(name)
                facts["taxonomy_name"] = name
            if name not in (KEEP, record.taxonomy_name):
                _check_free(shelf, name)  # before the wait: its holder may wait for this one
                _check_free(shelf, name, stack.enter_context(shelf.named(name, reporter)))
            shelf.write_record(record.model_copy(update=facts | {"updated_at": datetime.now(UTC)}))
        return type(self)._at(shelf, self.taxonomy_id, self.version)

    def delete(self) -> None:
        """Delete the taxonomy with all its versions. Runs of documents that joined them stay."""
        shelf = self._shelf
        with shelf.held(self.taxonomy_id, Reporter("delete")):
            shelf.delete(self.taxonomy_id)

    def to_json(self) -> dict[str, Any]:
        """Return what it is, as JSON values; without the nodes."""
        facts: Any = self.run.manifest.taxonomy
        return {
            **self.record.model_dump(mode="json", exclude={"schema_version"}),
            "version": self.version,
            "versions": list(self.versions),
            "taxonomy_type": "hierarchical" if self.is_hierarchical else "flat",
            "num_nodes": len(self.nodes),
            "promoted_at": self.run.manifest.completed_at.isoformat(),
            **{name: facts[name] for name in ("source_run_id", "threshold", "min_stability")},
            "skipped": facts["skipped"],
            "path": str(self.folder),
        }

    def __repr__(self) -> str:
        return (
            f"Taxonomy({self.name!r}, version {self.version}: {len(self.nodes)} nodes, "
            f"in {str(self.folder)!r})"
        )

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self.folder.parent)


def list_taxonomies(folder: str | Place) -> list[StoredTaxonomy]:
    """Return the taxonomies in a folder, each in its latest version, by id."""
    shelf = Shelf(place(folder))
    return [StoredTaxonomy.open(shelf.root / name) for name in shelf.ids()]


def _only(shelf: Shelf) -> str:
    """Return the one taxonomy of a folder."""
    found = shelf.ids()
    if len(found) == 1:
        return found[0]
    if not found:
        raise TaxonomyNotFoundError(f"no taxonomy at {shelf.root}")
    names = ", ".join(f"{name} ({shelf.record(name).taxonomy_name})" for name in found[:5])
    raise TaxonomyNotFoundError(
        f"{shelf.root} holds {len(found)} taxonomies", hint=f"name the folder of one: {names}"
    )


def _check_free(shelf: Shelf, name: str, taxonomy_id: str | None = None) -> None:
    """Raise `ConfigError` where a taxonomy has a name, by the id that goes with it."""
    found = taxonomy_id or shelf.id_of(name)
    if shelf.is_there(found):
        raise _taken(name, found)


def _taken(name: str, taxonomy_id: str) -> ConfigError:
    return ConfigError(f"there is a taxonomy {name!r} already: {taxonomy_id}", path="taxonomy_name")


def _checked_facts(description: Any, metadata: Any) -> dict[str, Any]:
    """Return what may be said of a taxonomy; `ConfigError` where it is no good."""
    if description is not None and not isinstance(description, str):
        raise ConfigError(f"got {description!r}, expected text", path="description")
    try:
        return {"description": description, "metadata": _METADATA.validate_python(metadata or {})}
    except ValidationError as error:
        raise ConfigError(
            f"got {metadata!r}, expected JSON values by name", path="metadata"
        ) from error
