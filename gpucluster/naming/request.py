"""What naming a run is asked to do, and what is refused before any work."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gpucluster.artifacts import Run
from gpucluster.artifacts.files import digest
from gpucluster.errors import ConfigError, SchemaMismatchError, SourceError
from gpucluster.labeling.answer.schemas import import_jsonschema
from gpucluster.labeling.asking.asker import identity
from gpucluster.labeling.asking.cache import ReplyCache
from gpucluster.labeling.asking.pruning import most_bytes
from gpucluster.labeling.asking.spending import known_prices
from gpucluster.labeling.embedding import Embed, Embedder, guarded
from gpucluster.labeling.model.client import check_ready
from gpucluster.labeling.question.presigner import Presigner
from gpucluster.labeling.question.prompts import check_media, media_kinds
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.naming.documents import text_paths
from gpucluster.naming.evidence import NAME_TEXTS
from gpucluster.naming.replies import reply_file
from gpucluster.sources import file_state

if TYPE_CHECKING:
    from gpucluster.definition import ClusterDefinition
    from gpucluster.sources import Source

MAX_CONCURRENCY = 256
# settings that decide no label
BESIDE = {
    "enabled",
    "api_key_env",
    "cache_ttl_seconds",
    "prices",
    "timeout_s",
}


@dataclass(frozen=True, slots=True)
class LabelingRequest:
    """What naming a run is asked to do, beside what decides the names.

    Attributes
    ----------
    settings : LabelingSettings
    source : Source or None
        The rows of the run; None: where its manifest says they are.
    text_column : str or None
        Where keywords are taken from.
    budget_usd : float or None
        What it may cost.
    concurrency : int
        Questions on their way at a time.
    fresh : bool
        Ask everything anew, whatever was asked before.
    embed : callable or None
        Turns texts into vectors, instead of a model of the provider.
    """

    settings: LabelingSettings
    source: Source | None = None
    text_column: str | None = None
    budget_usd: float | None = None
    concurrency: int = 16
    fresh: bool = False
    embed: Embed | None = None

    @property
    def is_offline(self) -> bool:
        """Whether no model is asked."""
        return self.settings.labels_by == "keywords"

    @property
    def key(self) -> str:
        """Digest of all that decides the names."""
        decisive = self.settings.model_dump(mode="json", exclude=BESIDE)
        asked = {} if self.is_offline else identity(self.settings)
        return digest(
            {**decisive, **asked, "provider": self.settings.labels_by, "text": self.text_column}
        )

    def source_key(self, run: Run) -> str | None:
        """Return what the files of the rows look like from outside; None: they cannot be seen."""
        described: Any = run.manifest.source
        paths = described["paths"] if self.source is None else self.source.info.paths
        try:
            return digest([file_state(path) for path in paths]) if paths else None
        except SourceError:
            return None

    @property
    def embedded_by(self) -> Literal["model", "function"] | None:
        """What turns texts into vectors."""
        if self.embed is not None:
            return "function"
        return "model" if self.settings.embedding_model is not None else None

    def labeling_id(self, run: Run) -> str:
        """Return what the labelling of a run is known by, however often it is begun anew."""
        return "lab_" + digest([run.run_id, self.key])[:16]

    def attempt_id(self, run: Run) -> str:
        """Return whose replies are taken, and whose budget it is.

        A fresh attempt has its own, which one that was interrupted goes on with, until its
        names are published and both are handed over.
        """
        own = self.labeling_id(run)
        if not self.fresh or self.is_offline:
            return own
        new = "lab_" + digest([own, time.time_ns()])[:16]
        return ReplyCache.unfinished(reply_file(run.path.parent), own, new)

    def begun(self, run: Run) -> str | None:
        """Return the attempt that this one goes on with; None: a fresh one begins."""
        own = self.labeling_id(run)
        return ReplyCache.begun(reply_file(run.path.parent), own) if self.fresh else own

    @classmethod
    def of(cls, definition: ClusterDefinition) -> LabelingRequest | None:
        """Return what a definition asks for, once it is known that it can be done."""
        settings = definition.llm_labeling
        if settings is None or not settings.enabled:
            return None
        request = cls(settings)
        request.check()
        return request

    def for_rows(self, source: Source, text_column: str | None) -> LabelingRequest:
        """Return the same for rows that may not be there to be read once more."""
        if source.info.paths:
            return self
        return replace(self, source=source, text_column=text_column)

    def check_rows(
        self, source: Source, data: Any, definition: ClusterDefinition, text_column: str | None
    ) -> None:
        """Refuse, before they are clustered, rows of which nothing could be read to name them by.

        Parameters
        ----------
        source : Source
        data : object
            What was opened as `source`.
        definition : ClusterDefinition
        text_column : str or None

        Raises
        ------
        SchemaMismatchError
            They have no columns, or none of texts where names are made of nothing else.
        ConfigError
            They can be read once only.
        """
        info, inputs = source.info, self.settings.labeling_inputs
        if not info.fields:
            raise SchemaMismatchError(
                f"{info.where}: there is nothing beside the vectors to name clusters by",
                hint="switch llm_labeling off, or give Parquet, Arrow, JSON lines or a table",
            )
        check_rereadable(data)
        if not self.is_offline or definition.cluster_type == "attribute":
            return
        known = [asdict(info.columns), *(each["columns"] for _, _, each in info.collections)]
        if not any(text_paths(inputs, text_column, each, source) for each in known):
            raise SchemaMismatchError(
                f"{info.where}: there is no column of texts to name clusters by", hint=NAME_TEXTS
            )

    def check(self) -> None:
        """Refuse, before any work, what cannot be done.

        Raises
        ------
        ConfigError
            A setting is wrong, or a key or credentials are missing.
        BackendUnavailableError
            A library is.
        """
        self.check_settings()
        if not self.is_offline:
            check_ready(self.settings)
            most_bytes()
            import_jsonschema()
            if media_kinds(self.settings):
                Presigner(self.settings.presign_prefixes).check()

    def check_settings(self) -> None:
        """Refuse what is wrong whether or not anybody is asked."""
        if not _is_number(self.concurrency, int) or not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ConfigError(
                f"got {self.concurrency!r}, expected 1 to {MAX_CONCURRENCY}", path="concurrency"
            )
        budget = self.budget_usd
        if budget is not None and not (_is_number(budget, int, float) and budget > 0):
            raise ConfigError(f"got {budget!r}, expected more than 0", path="budget_usd")
        if self.embed is not None and not callable(self.embed):
            raise ConfigError(f"got {self.embed!r}, expected a function of texts", path="embedder")
        if self.settings.use_embedding_dedup and (self.is_offline or self.embedded_by is None):
            raise ConfigError(
                "labels of a model are merged, by an embedding_model or an embedder",
                path="llm_labeling.use_embedding_dedup",
            )
        if self.is_offline:
            return
        if self.budget_usd is not None and known_prices(self.settings) is None:
            raise ConfigError(
                f"what {self.settings.model_name} costs is not known",
                path="budget_usd",
                hint="set prices: input and output, in USD for a million tokens",
            )
        check_media(self.settings)

    def embedder(self, own: Embed | None) -> Embedder | None:
        """Return what embeds: the function that was given, or else `own` where a model is named."""
        if self.embed is not None:
            return Embedder(guarded(self.embed))
        if own is None or self.embedded_by != "model":
            return None
        return Embedder(own, self.concurrency)


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def check_rereadable(data: Any, path: str = "llm_labeling") -> None:
    """Refuse rows that are there once."""
    if hasattr(data, "read_next_batch"):
        raise ConfigError(
            "a stream is read once, and clusters are named by what is read after the vectors",
            path=path,
            hint="give a table, a data set or files",
        )
