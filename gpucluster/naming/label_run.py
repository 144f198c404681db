"""A finished run gets names: evidence, questions or keywords, distinct labels, and the table.

gather -> [reuse] -> name level by level (ask, ask again where names clash) -> [confidence]
       -> write
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucluster import __version__
from gpucluster.artifacts import Run, Store, open_store
from gpucluster.artifacts.labels import FOLDER, sound_names, write_labels
from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken, Observer, Reporter, Waiting
from gpucluster.labeling.asking.asker import Asker
from gpucluster.labeling.asking.audit import Audit
from gpucluster.labeling.asking.cache import ReplyCache
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
    reuse,
)
from gpucluster.naming.replies import reply_file
from gpucluster.naming.request import LabelingRequest
from gpucluster.naming.table import counts, errors, table
from gpucluster.places import working_folder

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
    before, names = sound_names(run.path) or (None, None)  # what `run` knows may be older
    if before is not None and _is_done(before, run, request):
        return before
    # as the files are before they are read: one that changes meanwhile is named anew
    source_key, started = request.source_key(run), datetime.now(UTC)
    store = open_store(run.path.parent)
    account = Account(Reporter("", observer, cancel))
    with store.lease(run.run_id), ExitStack() as opened:
        with account.stage("label.gather", backend="numpy") as reporter:
            evidence = _gathered(run, request, reporter)
        opened.callback(evidence.documents.close)
        naming = _naming(run, request, evidence)
        costs: dict[str, Any] = {}
        cache = None
        if request.is_offline:
            with account.stage("label.name", backend="numpy") as reporter:
                name_by_keywords(naming)
                measure_confidence(naming, request.embedder(None), reporter)
        else:
            is_measured = (
                before is not None
                and before.labeling_id == request.labeling_id(run)
                and before.embedded_by == request.embedded_by == "model"
            )
            remember(naming, {} if names is None else names_in(names), is_measured=is_measured)
            cache = _cache(run, request, request.attempt_id(run))
            opened.callback(cache.close)
            cache.begin()
            costs = _ask(naming, request, cache, account, opened)
        with account.stage("label.write", backend="numpy"):
            _publish_audit(store, run, costs.get("audit"))
            labeling = write_labels(
                store,
                {
                    "labeling_id": request.labeling_id(run),
                    "run_id": run.run_id,
                    "created_at": started,
                    "completed_at": datetime.now(UTC),
                    "gpucluster_version": __version__,
                    "settings": request.settings.model_dump(mode="json"),
                    "settings_sha256": request.key,
                    "source_key": source_key,
                    "text_column": request.text_column,
                    "embedded_by": request.embedded_by,
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
        if cache is not None:  # only now: what is not published is not lost
            is_finished = not labeling.llm_labeling_errors and not labeling.is_open
            cache.end(labeling.labeling_id, is_finished=is_finished)
        return labeling


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
    if before is not None and _is_done(before, run, request):
        return Usage.none(known_prices(request.settings))
    account = Account(Reporter("", observer, cancel))
    with account.stage("label.gather", backend="numpy") as reporter:
        evidence = _gathered(run, request, reporter)
    try:
        naming = _naming(run, request, evidence)
        if request.is_offline:
            return Usage()
        begun = request.begun(run)
        if begun is None or not reply_file(run.path.parent).exists():
            return expected_usage(
                naming, lambda _: False, is_embedding_paid=request.embedded_by == "model"
            )
        with closing(_cache(run, request, begun)) as cache:
            return expected_usage(
                naming,
                lambda key: cache.get(key) is not None,
                is_embedding_paid=request.embedded_by == "model",
            )
    finally:
        evidence.documents.close()


def _is_done(before: Labeling, run: Run, request: LabelingRequest) -> bool:
    """Whether names were finished under the same settings, with nothing left to be done.

    Two functions cannot be told apart, so what one of them has measured is measured again.
    """
    source_key = request.source_key(run)
    return (
        not request.fresh
        and before.labeling_id == request.labeling_id(run)
        and before.source_key == source_key
        and source_key is not None
        and before.embedded_by == request.embedded_by != "function"
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
        is_tested=request.embedded_by is not None,
        reporter=reporter,
    )
    if request.is_offline and not attribute_names(run):
        need_texts(evidence, run.run_id)
    return evidence


def _ask(
    naming: Naming,
    request: LabelingRequest,
    cache: ReplyCache,
    account: Account,
    opened: ExitStack,
) -> dict[str, Any]:
    """Ask a model for names, and return what that cost."""
    run, settings = naming.run, request.settings
    reporter = account.reporter
    prices = known_prices(settings)
    estimate = cache.estimate(
        lambda: expected_usage(
            naming,
            lambda key: cache.get(key) is not None,
            is_embedding_paid=request.embedded_by == "model",
        )
    )
    budget = Budget(request.budget_usd, cache.spent(prices), reporter.cancel)
    audit_name = f"audit-{cache.labeling_id}.jsonl"
    model = open_model(settings)
    opened.callback(model.close)
    asker = Asker(
        settings=settings,
        shape=asked_shape(settings),
        model=model,
        cache=cache,
        budget=budget,
        audit=opened.enter_context(Audit(_audit_file(run, audit_name))),
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
    used = budget.spent.to_json() | asker.account
    return {"estimate": estimate.to_json(), "usage": used, "audit": audit_name}


def _naming(run: Run, request: LabelingRequest, evidence: ClusterEvidence) -> Naming:
    naming = Naming(run, request.settings, evidence)
    if not request.fresh:
        reuse(naming, request.key, request.embedded_by)
    return naming


def _audit_file(run: Run, name: str) -> Path:
    """Return where lines are added: beside the names, or on this disk for a run in a bucket."""
    return working_folder(run.path) / FOLDER / name


def _publish_audit(store: Store, run: Run, name: str | None) -> None:
    """Bring the audit file beside the names, where it is not there already."""
    if name is None or isinstance(run.path, Path):
        return
    with _audit_file(run, name).open("rb") as file:
        store.put(f"{run.run_id}/{FOLDER}/{name}", partial(shutil.copyfileobj, file))


def _cache(run: Run, request: LabelingRequest, labeling_id: str) -> ReplyCache:
    """Open the replies that are kept beside the runs."""
    return ReplyCache(
        reply_file(run.path.parent),
        labeling_id,
        request.settings.cache_ttl_seconds,
        is_fresh=request.fresh,
    )
