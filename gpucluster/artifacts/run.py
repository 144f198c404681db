"""A finished run, read from its folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from gpucluster.artifacts.files import read_npy
from gpucluster.artifacts.manifest import FILE_NAME, Manifest
from gpucluster.errors import (
    ArtifactError,
    ConfigError,
    CorruptArtifactError,
    GpuclusterError,
    RunNotFoundError,
)
from gpucluster.places import ObjectPath, Place, for_arrow, place
from gpucluster.places.trouble import Unsure

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from gpucluster.artifacts.labels import Labeling
    from gpucluster.types import Labels, Matrix

Model: TypeAlias = Mapping[str, Mapping[str, Any]]  # step -> "settings" and "arrays"

MODEL = "model"
RERUN = "run the definition again, into another folder"


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What a finished run left on disk; its tables are read when they are first asked for.

    Attributes
    ----------
    path : Path or ObjectPath
        The folder, on a disk or in a bucket.
    manifest : Manifest
        How it came to be, and what its files contain.
    """

    path: Place
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Place, *, verify: bool = False) -> Self:
        """Open a run.

        Parameters
        ----------
        path : str or path
            Its folder, or its manifest; on a disk, or as an address such as ``s3://bucket/run``.
        verify : bool
            Read every file and compare it with its digest. Otherwise only the sizes are
            compared; what is damaged inside a page of a table shows when it is read.

        Returns
        -------
        Run

        Raises
        ------
        RunNotFoundError
            No finished run is there.
        CorruptArtifactError
            A file is not what the manifest says.
        SchemaTooNewError
            A newer version of gpucluster wrote it.
        """
        folder = place(path).absolute()
        if folder.name == FILE_NAME:
            folder = folder.parent
        file = folder / FILE_NAME
        with _readable(file):
            try:
                text = file.read_bytes()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _not_found(folder, error) from error
        run = cls(folder, Manifest.from_json(text, str(file)))
        run._check_sizes()
        if verify:
            run.verify()
        return run

    def verify(self) -> None:
        """Compare every file with its digest; a `CorruptArtifactError` where one differs."""
        from gpucluster.artifacts.labels import read_named

        for name in self.manifest.files:
            self._check_content(name)
        read_named(self.path)

    @classmethod
    def if_finished(cls, path: Place) -> Self | None:
        """Open the run at `path`, if there is a finished one."""
        with _readable(path):  # one request says no
            if isinstance(path, ObjectPath) and not (path / FILE_NAME).is_file():
                return None
        try:
            return cls.open(path)
        except RunNotFoundError:
            return None

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.manifest.run_id

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Quality of the clusters, by name; None where a metric could not be computed."""
        return self.manifest.metrics

    @property
    def external_metrics(self) -> Mapping[str, Any] | None:
        """Agreement with the truth that was given, by name; None without one."""
        return self.manifest.external_metrics

    @property
    def num_clusters(self) -> int:
        """Clusters, noise excluded."""
        return self.manifest.counts.num_clusters

    @cached_property
    def labels_(self) -> Labels:
        """Cluster of each clustered row, in input order, int32; noise is -1. Not to be written.

        Of a hierarchy, the deepest node that holds the row: an index into `centroids`.
        """
        import numpy as np

        table = self._table("members", ["row", "cluster_index"])
        order = np.argsort(table["row"].to_numpy())
        labels: Labels = table["cluster_index"].to_numpy()[order]
        labels.flags.writeable = False
        return labels

    def labels_at(self, level: int) -> Labels:
        """Return the cluster of each clustered row at a level of the hierarchy.

        Parameters
        ----------
        level : int
            0 is the level of the roots, where the labels are ``0..num_clusters-1``.

        Returns
        -------
        ndarray of shape (n_samples,), int32
            Indices into `centroids`, in input order; a row whose deepest node lies above
            `level` keeps that node. Noise is -1.

        Raises
        ------
        ConfigError
            `level` is negative.
        """
        from gpucluster.ops.nesting import labels_at

        if level < 0:
            raise ConfigError(f"got {level}, expected 0 or more", path="level", got=level)
        return labels_at(self.labels_, self.parents, level)

    @cached_property
    def members(self) -> pa.Table:
        """One row for each clustered row (`schema.MEMBERS`)."""
        return self._table("members")

    @property
    def document_ids(self) -> pa.ChunkedArray:
        """Ids of the clustered rows, in the order of `members`; no other column is read."""
        return self._table("members", ["document_id"])["document_id"]

    @property
    def has_ids(self) -> bool:
        """Whether documents came with ids; otherwise these are the numbers of their rows."""
        return bool(self.manifest.source.get("has_ids", True))

    def assigned_documents(self) -> tuple[pa.ChunkedArray, Labels]:
        """Return ids and ``cluster_index`` of the clustered rows; no other column is read."""
        table = self.member_columns(["document_id", "cluster_index"])
        return table["document_id"], table["cluster_index"].to_numpy()

    def member_columns(self, names: list[str]) -> pa.Table:
        """Return some columns of `members`; the others are not read."""
        return self._table("members", names)

    @property
    def parents(self) -> Labels:
        """The parent of each cluster in `centroids`, by index, int32; -1 for roots."""
        import numpy as np

        nodes = self.fitted_centroids.select(["cluster_id", "parent_cluster_id"]).to_pydict()
        index = {name: i for i, name in enumerate(nodes["cluster_id"])}
        return np.array([index.get(name, -1) for name in nodes["parent_cluster_id"]], np.int32)

    @property
    def centroid_matrix(self) -> Matrix:
        """The centroids, (n_clusters, n_features) float32, not of unit length."""
        vectors = self.fitted_centroids["centroid_vector"].combine_chunks()
        matrix: Matrix = vectors.flatten().to_numpy()
        return matrix.reshape(len(vectors), vectors.type.list_size)

    @cached_property
    def fitted_centroids(self) -> pa.Table:
        """One row for each cluster (`schema.centroids_schema`), as the run left them."""
        return self._table("centroids")

    @cached_property
    def centroids(self) -> pa.Table:
        """One row for each cluster, under its name (`schema.centroids_schema`).

        Where the clusters were labelled, with the columns of `labels.LABELS` besides.
        """
        from gpucluster.artifacts.labels import with_labels

        if self._named is None:
            return self.fitted_centroids
        return with_labels(self.fitted_centroids, self._named[1])

    @property
    def labeling(self) -> Labeling | None:
        """How the clusters were named: model, cost, errors; None where they were not."""
        return None if self._named is None else self._named[0]

    @property
    def cluster_labels(self) -> dict[str, str | None]:
        """The name of each cluster by its id; that of noise, ``-1``, is ``Unclustered``."""
        from gpucluster.artifacts.labels import NOISE_LABEL
        from gpucluster.artifacts.schema import NOISE_ID

        named = self.centroids.select(["cluster_id", "label"]).to_pydict()
        known = dict(zip(named["cluster_id"], named["label"], strict=True))
        return {**known, NOISE_ID: NOISE_LABEL}

    @cached_property
    def rejected(self) -> pa.Table:
        """One row for each input row that could not be clustered (`schema.REJECTED`)."""
        return self._table("rejected")

    @cached_property
    def layers(self) -> pa.Table | None:
        """One row for each fitted row, in input order: its cluster at other granularities.

        ``layer_0``, the finest, and coarser ones (`schema.layers_schema`), as
        ``manifest.algorithm_info["granularity"]["layers"]`` describes them. None where the
        algorithm has one granularity.
        """
        return self._table("layers") if self.files_of("layers") else None

    @cached_property
    def tree(self) -> pa.Table | None:
        """The condensed tree (`condensed_tree.TREE`); None but of HDBSCAN on the CPU."""
        return self._table("tree") if self.files_of("tree") else None

    @cached_property
    def lineage(self) -> pa.Table | None:
        """What became of the clusters of the run before, `schema.LINEAGE`; None: there is none."""
        return self._table("lineage") if self.files_of("lineage") else None

    @cached_property
    def model(self) -> Model:
        """The fitted preparation, step by step, and ``assignment``: how later rows are placed."""
        entries = (re.fullmatch(rf"{MODEL}/(.+)/.+", name) for name in self.manifest.files)
        names = dict.fromkeys(match[1] for match in entries if match)
        return {name: entry for name in names if (entry := self.model_entry(name)) is not None}

    def model_entry(self, name: str) -> dict[str, Any] | None:
        """Return one entry of the model, ``settings`` and ``arrays``; None: there is none."""
        found: dict[str, Any] = {}
        for file_name, file_entry in self.manifest.files.items():
            if match := re.fullmatch(rf"{MODEL}/{re.escape(name)}/(.+)\.(json|npy)", file_name):
                found = found or {"settings": {}, "arrays": {}}
                path = self.path / file_name
                with _readable(path), path.open("rb") as file:
                    if match[2] == "json":
                        self._check_content(file_name)
                        found["settings"] = json.loads(file.read())
                    else:
                        found["arrays"][match[1]] = read_npy(file, file_entry.sha256, str(path))
        return found or None

    def to_pandas(self) -> pd.DataFrame:
        """Return the members as a data frame."""
        return self.members.to_pandas()

    def __repr__(self) -> str:
        counts = self.manifest.counts
        return (
            f"Run({self.run_id!r}: {counts.num_clusters} clusters of {counts.num_points} points, "
            f"{counts.num_noise} noise, in {str(self.path)!r})"
        )

    @cached_property
    def _named(self) -> tuple[Labeling, pa.Table] | None:
        """The record and the table of one naming: a later one removes both."""
        from gpucluster.artifacts.labels import read_named

        return read_named(self.path)

    def _table(self, stem: str, columns: list[str] | None = None) -> pa.Table:
        import pyarrow as pa

        return pa.concat_tables([self._read(name, columns) for name in self.files_of(stem)])

    def files_of(self, stem: str) -> list[str]:
        """Return the names of the files that a table of the run consists of, in order."""
        pattern = re.compile(rf"{stem}(-\d+)?\.parquet")
        return sorted(name for name in self.manifest.files if pattern.fullmatch(name))

    def _read(self, name: str, columns: list[str] | None) -> pa.Table:
        """Read a table and compare its checksums, columns and rows."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        from gpucluster.artifacts.schema import expected_schema

        path = self.path / name
        cause = None
        try:
            with ParquetFile(for_arrow(path), page_checksum_verification=True) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
                table = file.read(columns)
            if schema.equals(expected_schema(schema)) and rows == self.manifest.files[name].rows:
                return table
            problem = "its columns or rows are not those of its manifest"
        except (pa.ArrowException, OSError, ValueError) as error:
            cause, problem = error, str(error)
        self._check_content(name)  # the usual cause; what comes after it is rare
        raise ArtifactError(f"cannot read {path}: {problem}") from cause

    def _check_sizes(self) -> None:
        """Compare the sizes of all files; those in a bucket come with one list."""
        with _readable(self.path):
            known = self.path.sizes() if isinstance(self.path, ObjectPath) else None
        for name, entry in self.manifest.files.items():
            path = self.path / name
            with _readable(path):
                try:
                    found = path.stat().st_size if known is None else known[name]
                except (FileNotFoundError, KeyError) as error:
                    raise CorruptArtifactError(f"{path} is missing", hint=RERUN) from error
            if found != entry.bytes:
                raise CorruptArtifactError(
                    f"{path} has {found} bytes, its manifest says {entry.bytes}", hint=RERUN
                )

    def _check_content(self, name: str) -> None:
        path, entry = self.path / name, self.manifest.files[name]
        with _readable(path), path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry.sha256:
            raise CorruptArtifactError(
                f"{path} is damaged: its sha256 is {found[:12]}..., its manifest says "
                f"{entry.sha256[:12]}...",
                hint=RERUN,
            )


@contextmanager
def _readable(path: Place) -> Iterator[None]:
    """Translate what the system, or the service of a bucket, refuses."""
    try:
        yield
    except OSError as error:
        if isinstance(error, GpuclusterError):
            raise
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error


def is_passing(error: BaseException | None) -> bool:
    """Whether a service did not answer, so that nothing is known of what is there."""
    return error is not None and (isinstance(error, Unsure) or is_passing(error.__cause__))


def _not_found(folder: Place, why: OSError) -> RunNotFoundError:
    """Say what is at a place that is no finished run."""
    if not folder.is_dir():
        what = "there is no such folder" if isinstance(folder, Path) else why.strerror
        return RunNotFoundError(f"no run at {folder}: {what}")
    if any((folder / name).exists() for name in ("checkpoints", "centroids.parquet", ".lock")):
        return RunNotFoundError(
            f"the run at {folder} is unfinished: it has no {FILE_NAME}",
            hint="run its definition again: it resumes after the last finished stage",
        )
    runs = sorted(path.parent.name for path in folder.glob(f"*/{FILE_NAME}"))
    return RunNotFoundError(
        f"no run at {folder}: it has no {FILE_NAME}",
        hint=f"it holds {len(runs)} runs, the last is {runs[-1]}" if runs else None,
    )
