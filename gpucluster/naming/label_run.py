"""A finished run gets names: evidence, questions or keywords, distinct labels, and the table.

gather -> [reuse] -> name level by level (ask, ask again where names clash) -> [confidence]
       -> write
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpucluster import __version__
from gpucluster.artifacts import LocalStore, Run
from gpucluster.artifacts.labels import FOLDER, sound_names, write_labels
from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken, Observer, Reporter, Waiting
from gpucluster.labeling.asking.asker import Asker
from gpucluster.labeling.asking.audit import Audit
from gpucluster.labeling.asking.cache import FILE_NAME, ReplyCache
from gpucluster.labeling.asking.spending import Budget, Usage, known_prices
from gpucluster.labeling.model.client import open_model
from gpucluster.labeling.question.presigner import Presigner
from gpucluster.labeling.question.prompts import asked_shape
from gpucluster.ledger import Account
from gpucluster.naming.evidence import ClusterEvidence, gather, need_texts
from gpucluster.naming.measuring import expected_usage, measure_confidence
from gpucluster.naming.names import (
    Naming,
    attribute_names,
    name_by_keywords,
    name_by_model,
    names_in,
    remember,
    restore,
    reuse,
)
from gpucluster.naming.request import LabelingRequest
from gpucluster.naming.table import counts, errors, table

if TYPE_CHECKING:
    from gpucluster.artifacts.labels import Labeling


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
        See `LabelingRequest.check` and `gather`. What a model or its server does wrong is no
        error: it is in `Labeling.llm_labeling_errors`.
    """
    _check_run(run)
    request.check()
    labeling_id = request.labeling_id(run)
    source_key = request.source_key(run)
    before, names = sound_names(run.path) or (None, None)  # what `run` knows may be older
    is_done = _is_done(before, labeling_id, source_key)
    if before is not None and is_done and request.embed is None:
        return before
    started = datetime.now(UTC)
    store = LocalStore(run.path.parent)
    account = Account(Reporter("", observer, cancel))
    with store.lease(run.run_id):
        with account.stage("label.gather", backend="numpy") as reporter:
            evidence = _gathered(run, request, reporter)
        naming = _naming(run, request, evidence)
        published = {} if names is None else names_in(names)
        costs: dict[str, Any] = {}
        with ExitStack() as opened:
            opened.callback(evidence.documents.close)
            if before is not None and is_done:  # another function may measure otherwise
                restore(naming, published)
                costs = before.model_dump(mode="json", include={"estimate", "usage", "audit"})
                with account.stage("label.confidence", backend="numpy") as reporter:
                    measure_confidence(naming, request.embedder(None), reporter)
            elif request.is_offline:
                with account.stage("label.name", backend="numpy") as reporter:
                    name_by_keywords(naming)
                    measure_confidence(naming, request.embedder(None), reporter)
            else:
                is_same = before is not None and before.labeling_id == labeling_id
                remember(naming, published, is_measured=is_same and request.embed is None)
                costs = _ask(naming, request, labeling_id, account, opened)
        with account.stage("label.write", backend="numpy"):
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
                    "source_key": source_key,
                    "text_column": request.text_column,
                    "is_open": naming.is_open,
                    "provider": request.settings.labels_by,
                    "model_name": request.settings.model_name,
                    "counts": counts(naming),
                    "missing_inputs": dict(evidence.missing),
                    "llm_labeling_errors": tuple(errors(naming)),
                    "warnings": tuple(warned.message for warned in account.reporter.warnings),
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
    request.check_settings()
    before, _ = sound_names(run.path) or (None, None)
    if not request.fresh and _is_done(before, request.labeling_id(run), request.source_key(run)):
        return Usage.none(known_prices(request.settings))
    account = Account(Reporter("", observer, cancel))
    with account.stage("label.gather", backend="numpy") as reporter:
        evidence = _gathered(run, request, reporter)
    try:
        naming = _naming(run, request, evidence)
        if request.is_offline:
            return Usage()
        begun = request.begun(run)
        if begun is None or not (run.path.parent / FILE_NAME).exists():
            return expected_usage(
                naming, lambda _: False, is_embedding_paid=request.is_embedding_paid
            )
        with closing(_cache(run, request, begun)) as cache:
            return expected_usage(
                naming,
                lambda key: cache.get(key) is not None,
                is_embedding_paid=request.is_embedding_paid,
            )
    finally:
        evidence.documents.close()


def _is_done(before: Labeling | None, labeling_id: str, source_key: str | None) -> bool:
    """Whether a labelling was finished under the same settings, and left nothing to be done."""
    return (
        before is not None
        and before.labeling_id == labeling_id
        and before.source_key == source_key is not None
        and not before.llm_labeling_errors
        and not before.is_open
    )


def _check_run(run: Run) -> None:
    """Refuse a run whose clusters are another one's."""
    if run.manifest.mode != "full":
        raise ConfigError(
            f"{run.run_id} has joined the clusters of {run.manifest.base_run_id}",
            path="run",
            hint="label that one: rows that join it later come under its names",
        )


def _gathered(run: Run, request: LabelingRequest, reporter: Reporter) -> ClusterEvidence:
    evidence = gather(
        run,
        request.settings,
        source=request.source,
        text_column=request.text_column,
        is_tested=request.has_embedder,
        reporter=reporter,
    )
    if request.is_offline and not attribute_names(run):
        need_texts(evidence, run.run_id)
    return evidence


def _ask(
    naming: Naming, request: LabelingRequest, labeling_id: str, account: Account, opened: ExitStack
) -> dict[str, Any]:
    """Ask a model for names, and return what that cost."""
    run, settings = naming.run, request.settings
    reporter = account.reporter
    prices = known_prices(settings)
    cache = _cache(run, request, labeling_id)
    opened.callback(cache.close)
    estimate = cache.estimate(
        lambda: expected_usage(
            naming,
            lambda key: cache.get(key) is not None,
            is_embedding_paid=request.is_embedding_paid,
        )
    )
    budget = Budget(request.budget_usd, cache.spent(prices), reporter.cancel)
    audit_name = f"audit-{labeling_id}.jsonl"
    model = open_model(settings)
    opened.callback(model.close)
    asker = Asker(
        settings=settings,
        shape=asked_shape(settings),
        model=model,
        cache=cache,
        budget=budget,
        audit=opened.enter_context(Audit(run.path / FOLDER / audit_name)),
        presigner=Presigner(settings.presign_prefixes),
        concurrency=request.concurrency,
        cancel=reporter.cancel,
        on_wait=lambda seconds, why: reporter.observer(Waiting("label.ask", seconds, why)),
    )
    embedder = request.embedder(asker.embed)
    with account.stage("label.ask", backend="numpy") as asking:
        name_by_model(naming, asker, embedder, asking)
    with account.stage("label.confidence", backend="numpy") as testing:
        measure_confidence(naming, embedder, testing)
    if not naming.is_open:  # else the same command goes on with what is there
        cache.finish()
    used = budget.spent.to_json() | asker.account
    return {"estimate": estimate.to_json(), "usage": used, "audit": audit_name}


def _naming(run: Run, request: LabelingRequest, evidence: ClusterEvidence) -> Naming:
    naming = Naming(run, request.settings, evidence)
    if not request.fresh:
        reuse(naming, request.key)
    return naming


def _cache(run: Run, request: LabelingRequest, labeling_id: str) -> ReplyCache:
    """Open the replies that are kept beside the runs."""
    return ReplyCache(
        run.path.parent / FILE_NAME,
        labeling_id,
        request.settings.cache_ttl_seconds,
        is_fresh=request.fresh,
    )
