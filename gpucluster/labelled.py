"""A finished run gets names: evidence, questions or keywords, distinct labels, and the table.

gather -> [reuse] -> name level by level (ask, ask again where names clash) -> [confidence]
       -> write
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpucluster import __version__
from gpucluster.artifacts import LocalStore, Run
from gpucluster.artifacts.files import digest
from gpucluster.artifacts.labels import FOLDER, read_labeling, write_labels
from gpucluster.device.memory import PeakMemory
from gpucluster.errors import ConfigError, SchemaMismatchError
from gpucluster.events import (
    CancelToken,
    Observer,
    Reporter,
    StageFinished,
    StageRecord,
    StageStarted,
    Waiting,
)
from gpucluster.evidence import ClusterEvidence, gather, need_texts
from gpucluster.labeling.asking import Asker
from gpucluster.labeling.audit import Audit
from gpucluster.labeling.cache import FILE_NAME, ReplyCache
from gpucluster.labeling.client import check_ready, open_model
from gpucluster.labeling.confidence import Embed
from gpucluster.labeling.inputs import Presigner
from gpucluster.labeling.patience import Patience
from gpucluster.labeling.prompts import check_media
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.labeling.shapes import Shape
from gpucluster.labeling.spending import Budget, Usage, known_prices
from gpucluster.naming import (
    Naming,
    attribute_names,
    counts,
    errors,
    expected_usage,
    measure_confidence,
    name_by_keywords,
    name_by_model,
    reuse,
    table,
)

if TYPE_CHECKING:
    from gpucluster.artifacts.labels import Labeling
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
    "presign_prefixes",
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
        return digest({**decisive, "text_column": self.text_column})

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

    def check_rows(self, source: Source) -> None:
        """Refuse rows of which nothing but vectors is known.

        Raises
        ------
        SchemaMismatchError
            They have no columns.
        """
        if not source.info.fields:
            raise SchemaMismatchError(
                f"{source.info.where}: there is nothing beside the vectors to name clusters by",
                hint="switch llm_labeling off, or give Parquet, Arrow, JSON lines or a table",
            )

    def check(self) -> None:
        """Refuse, before any work, what cannot be done.

        Raises
        ------
        ConfigError
            A setting is wrong, or a key is missing.
        BackendUnavailableError
            A library is.
        """
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ConfigError(
                f"got {self.concurrency}, expected 1 to {MAX_CONCURRENCY}", path="concurrency"
            )
        if self.budget_usd is not None and not self.budget_usd > 0:
            raise ConfigError(f"got {self.budget_usd}, expected more than 0", path="budget_usd")
        if self.is_offline:
            return
        if self.budget_usd is not None and known_prices(self.settings) is None:
            raise ConfigError(
                f"what {self.settings.model_name} costs is not known",
                path="budget_usd",
                hint="set prices: input and output, in USD for a million tokens",
            )
        check_media(self.settings)
        check_ready(self.settings)


def label_run(
    run: Run, request: LabelingRequest, *, observer: Observer, cancel: CancelToken
) -> Labeling:
    """Name the clusters of a run and publish the names beside it.

    Parameters
    ----------
    run : Run
    request : LabelingRequest
    observer : Observer
    cancel : CancelToken

    Returns
    -------
    Labeling
        Names that were finished before under the same settings, without an error, are returned
        as they are.

    Raises
    ------
    ConfigError, BackendUnavailableError, SourceError, StoreError, Cancelled
        See `LabelingRequest.check` and `gpucluster.evidence.gather`. What a model or its server
        does wrong is no error: it is in `Labeling.llm_labeling_errors`.
    """
    _check_run(run)
    request.check()
    salt = [time.time_ns()] if request.fresh else []
    labeling_id = "lab_" + digest([run.run_id, request.key, *salt])[:16]
    before = read_labeling(run.path)  # what `run` knows may be older
    if before is not None and before.labeling_id == labeling_id and not before.llm_labeling_errors:
        return before
    started = datetime.now(UTC)
    store = LocalStore(run.path.parent)
    stages = _Stages(observer, cancel)
    with store.lease(run.run_id):
        with stages("gather") as reporter:
            evidence = _gathered(run, request, reporter)
        naming = _naming(run, request, evidence)
        costs: dict[str, Any] = {}
        with ExitStack() as opened:
            opened.callback(evidence.documents.close)
            if request.is_offline:
                with stages("name") as reporter:
                    name_by_keywords(naming)
                    measure_confidence(naming, request.embed, 1, reporter)
            else:
                costs = _ask(naming, request, labeling_id, stages, opened)
        with stages("write"):
            settings = request.settings.model_dump(mode="json")
            return write_labels(
                store,
                {
                    "labeling_id": labeling_id,
                    "run_id": run.run_id,
                    "created_at": started,
                    "completed_at": datetime.now(UTC),
                    "gpucluster_version": __version__,
                    "settings": settings,
                    "settings_sha256": request.key,
                    "provider": request.settings.labels_by,
                    "model_name": request.settings.model_name,
                    "counts": counts(naming),
                    "missing_inputs": dict(evidence.missing),
                    "llm_labeling_errors": tuple(errors(naming)),
                    "warnings": tuple(warned.message for warned in stages.reporter.warnings),
                    **costs,
                },
                table(naming),
            )


def estimate_labels(
    run: Run, request: LabelingRequest, *, observer: Observer, cancel: CancelToken
) -> Usage:
    """Say what naming the clusters of a run would cost, without asking anybody.

    Returns
    -------
    Usage
        Of one question for each cluster whose reply is not there yet. Names that clash and
        replies that are unusable are asked for once more, which comes on top.
    """
    _check_run(run)
    stages = _Stages(observer, cancel)
    with stages("gather") as reporter:
        evidence = _gathered(run, request, reporter)
    try:
        naming = _naming(run, request, evidence)
        if request.is_offline:
            return Usage()
        if request.fresh or not (run.path.parent / FILE_NAME).exists():
            return expected_usage(naming, lambda _: False)
        with closing(_cache(run, request, "estimate")) as cache:
            return expected_usage(naming, lambda key: cache.get(key) is not None)
    finally:
        evidence.documents.close()


def _check_run(run: Run) -> None:
    """Refuse a run whose clusters are another one's."""
    if run.manifest.mode != "full":
        raise ConfigError(
            f"{run.run_id} has joined the clusters of {run.manifest.base_run_id}",
            path="run",
            hint="label that one: rows that join it later come under its names",
        )


class _Stages:
    """Tells the observer of stages."""

    def __init__(self, observer: Observer, cancel: CancelToken) -> None:
        self.reporter = Reporter("", observer, cancel)
        self._peak = PeakMemory()

    @contextmanager
    def __call__(self, name: str) -> Iterator[Reporter]:
        name = f"label.{name}"
        reporter = self.reporter
        reporter.cancel.raise_if_cancelled()
        reporter.observer(StageStarted(name))
        self._peak.reset()
        begun = time.monotonic()
        yield reporter.for_stage(name)
        record = StageRecord(
            name=name,
            device="cpu",
            backend="numpy",
            executor="local",
            reason="always on the host",
            seconds=round(time.monotonic() - begun, 4),
            peak_bytes=self._peak.read(),
        )
        reporter.observer(StageFinished(record))


def _gathered(run: Run, request: LabelingRequest, reporter: Reporter) -> ClusterEvidence:
    evidence = gather(
        run,
        request.settings,
        source=request.source,
        text_column=request.text_column,
        is_tested=request.embed is not None or request.settings.embedding_model is not None,
        reporter=reporter,
    )
    if request.is_offline and not attribute_names(run):
        need_texts(evidence, run.run_id)
    return evidence


def _ask(
    naming: Naming, request: LabelingRequest, labeling_id: str, stages: _Stages, opened: ExitStack
) -> dict[str, Any]:
    """Ask a model for names, and return what that cost."""
    run, settings = naming.run, request.settings
    reporter = stages.reporter
    prices = known_prices(settings)
    cache = _cache(run, request, labeling_id)
    opened.callback(cache.close)
    estimate = expected_usage(naming, lambda key: cache.get(key) is not None)
    budget = Budget(request.budget_usd, prices, cache.spent(prices is not None))
    audit_name = f"audit-{labeling_id}.jsonl"
    audit = opened.enter_context(Audit(run.path / FOLDER / audit_name))
    model = open_model(settings)
    opened.callback(model.close)
    patience = Patience(
        cancel=reporter.cancel,
        on_wait=lambda seconds, why: reporter.observer(Waiting("label.ask", seconds, why)),
    )
    asker = Asker(
        settings=settings,
        shape=Shape.of(settings),
        model=model,
        patience=patience,
        cache=cache,
        budget=budget,
        audit=audit,
        presigner=Presigner(settings.presign_prefixes),
        concurrency=request.concurrency,
        cancel=reporter.cancel,
    )

    def embed(texts: Sequence[str]) -> Any:
        return patience.call(lambda: model.embed(texts))

    has_embedder = request.embed is not None or settings.embedding_model is not None
    embedder = (request.embed or embed) if has_embedder else None
    with stages("ask") as asking:
        name_by_model(naming, asker, embedder, asking)
    with stages("confidence") as testing:
        measure_confidence(naming, embedder, 1 if request.embed else request.concurrency, testing)
    cache.finish()
    used = {
        **budget.spent.to_json(),
        "cached": asker.num_cached,
        "attempts": patience.calls,
        "retries": patience.retries,
        "waited_s": round(patience.waited_s, 1),
    }
    return {"estimate": estimate.to_json(), "usage": used, "audit": audit_name}


def _naming(run: Run, request: LabelingRequest, evidence: ClusterEvidence) -> Naming:
    naming = Naming(run, request.settings, evidence)
    if not request.fresh:
        reuse(naming, request.key)
    return naming


def _cache(run: Run, request: LabelingRequest, labeling_id: str) -> ReplyCache:
    """Open the replies that are kept beside the runs; a fresh labelling sees only its own."""
    ttl_s = 0 if request.fresh else request.settings.cache_ttl_seconds
    return ReplyCache(run.path.parent / FILE_NAME, labeling_id, ttl_s)
