"""The manifest: what a Run is, how it came to be, and what its files must contain.

It is the file that makes a Run exist: written last, and only if there is none.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    StringConstraints,
    computed_field,
)

from gpucluster.artifacts.files import digest, read_sealed, seal
from gpucluster.artifacts.store import KEY, NAME
from gpucluster.device.select import Decision
from gpucluster.errors import CorruptArtifactError
from gpucluster.events import StageRecord, Warned

SCHEMA_VERSION: Final = 1
FILE_NAME = "manifest.json"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
FileName = Annotated[str, StringConstraints(pattern=rf"^{KEY}$")]

# What may differ between two runs with the same results: when, where and how fast they ran.
_CIRCUMSTANCES: dict[str, Any] = {
    "created_at": True,
    "completed_at": True,
    "versions": True,
    "source": True,
    "device": True,
    "stages": {
        "__all__": {
            "reason": True,
            "seconds": True,
            "peak_bytes": True,
            "planned_bytes": True,
            "planned_seconds": True,
            "reused": True,
            "storage": True,
            "executor": True,
        }
    },
    "content_sha256": True,
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """One file of a Run; `rows` is None for what is no table."""

    sha256: Sha256
    bytes: NonNegativeInt
    rows: NonNegativeInt | None = None


class Counts(_Frozen):
    """How many: rows of the input, points that were clustered, and what became of them."""

    num_rows: NonNegativeInt
    num_points: NonNegativeInt
    num_rejected: NonNegativeInt
    num_clusters: NonNegativeInt
    num_noise: NonNegativeInt
    num_noise_assigned: NonNegativeInt = 0  # noise of the fit that the noise policy placed
    num_sample_assigned: NonNegativeInt = 0  # rows beside the sample that joined its clusters
    num_filtered: NonNegativeInt = 0  # rows that the filters leave out
    num_known: NonNegativeInt = 0  # rows left out because the base run has them


class Manifest(_Frozen):
    """The content of ``manifest.json``.

    `content_sha256` identifies the results: it covers all but the circumstances (times,
    library versions, paths of the input, device, executor, measurements of the stages). A run
    that was interrupted and resumed has the same as one that was not.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: RunId
    mode: Literal["full", "assign", "update", "taxonomy"] = Field(
        default="full",
        description="Whether clusters were found, joined, joined and moved, or promoted.",
    )
    base_run_id: RunId | None = Field(
        default=None, description="The run whose clusters were joined; None: found here."
    )
    definition_key: str | None = Field(
        default=None, description="The same for all runs of a definition, whatever the data."
    )
    created_at: AwareDatetime
    completed_at: AwareDatetime
    gpucluster_version: str
    versions: dict[str, str] = Field(description="Versions of the libraries that computed.")
    definition: dict[str, JsonValue] = Field(description="As used, defaults filled in.")
    definition_sha256: Sha256
    data_sha256: Sha256
    random_state: int
    source: dict[str, JsonValue] = Field(description="What was read: paths, format, columns.")
    sampled: bool = Field(default=False, description="Whether only a sample was clustered.")
    counts: Counts
    metrics: dict[str, JsonValue]
    external_metrics: dict[str, JsonValue] | None = None
    preparation: tuple[dict[str, JsonValue], ...] = Field(
        default=(), description="What each preprocessing step learned, such as its spectrum."
    )
    algorithm_info: dict[str, JsonValue] = Field(
        default={}, description="What the algorithm learned beside labels, such as inertia."
    )
    features: dict[str, JsonValue] | None = Field(
        default=None, description="Weights of several features, and overlaps of their clusters."
    )
    related: tuple[dict[str, JsonValue], ...] = Field(
        default=(), description="Runs of other features of these documents, and overlaps with them."
    )
    hierarchy: dict[str, JsonValue] | None = Field(
        default=None, description="Levels, nodes, leaves and why they are; None: nothing divided."
    )
    recluster_reasons: tuple[dict[str, JsonValue], ...] = ()
    not_evaluated: tuple[str, ...] = ()
    assignment: dict[str, JsonValue] | None = Field(
        default=None, description="How rows join the clusters, and how far that agrees with a fit."
    )
    drift: dict[str, JsonValue] | None = Field(
        default=None, description="How far the rows that joined are from those of the base run."
    )
    lineage: dict[str, JsonValue] | None = Field(
        default=None, description="The run before, and how many of its clusters became what."
    )
    taxonomy: dict[str, JsonValue] | None = Field(
        default=None, description="The version of a taxonomy that this is, or that rows joined."
    )
    stages: tuple[StageRecord, ...]
    warnings: tuple[Warned, ...] = ()
    device: Decision
    reproducible: Literal["exact", "statistical"]
    not_run: tuple[str, ...] = Field(default=(), description="What was asked for and not done.")
    files: dict[FileName, FileEntry] = Field(default={}, description="All but the manifest.")

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator of a property
    @property
    def content_sha256(self) -> str:
        """Digest of all that is reproducible."""
        return digest(json.loads(self.model_dump_json(exclude=_CIRCUMSTANCES)))

    @property
    def parts(self) -> list[Any]:
        """What is known of each collection that was read, or of the one source."""
        collections: Any = self.source.get("collections")
        return collections or [self.source]

    @property
    def paths(self) -> list[str]:
        """The files that were read; none for data in memory."""
        return [path for part in self.parts for path in part.get("paths") or ()]

    def to_json(self) -> bytes:
        """Return the text of the file."""
        return seal(json.loads(self.model_dump_json()))

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Manifest:
        """Read the text of a file that lies at `where`.

        Raises
        ------
        SchemaTooNewError
            A newer version of gpucluster wrote it.
        CorruptArtifactError
            It is no manifest, or it was altered.
        """
        try:
            fields = read_sealed(text, where, SCHEMA_VERSION)
            fields.pop("content_sha256", None)
            return cls.model_validate_json(json.dumps(fields))
        except (ValueError, TypeError, RecursionError) as error:
            what = str(error).splitlines()
            raise CorruptArtifactError(
                f"{where} is no manifest, or a damaged one: {'; '.join(what[:3])}",
                hint="run the definition again, into another folder",
            ) from error
