"""Names from a model: one cluster a question, several at a time, each reply kept and paid once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpucluster.events import CancelToken
from gpucluster.labeling.cache import ReplyCache, question_key
from gpucluster.labeling.client import Question, Reply
from gpucluster.labeling.patience import GaveUp, Patience, Stopped
from gpucluster.labeling.prompts import PROMPT_VERSION, make_question, signed, size
from gpucluster.labeling.replies import InvalidReply, read_reply
from gpucluster.labeling.spending import Budget, BudgetSpentError, Usage, count_tokens

if TYPE_CHECKING:
    from gpucluster.labeling.audit import Audit
    from gpucluster.labeling.client import Model
    from gpucluster.labeling.inputs import Presigner
    from gpucluster.labeling.prompts import Evidence
    from gpucluster.labeling.replies import Answer
    from gpucluster.labeling.settings import LabelingSettings
    from gpucluster.labeling.shapes import Shape

LONGER = 4  # times the tokens, after a reply that was cut off


class NoNameError(Exception):
    """A cluster that no reply names; the message says why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of the question about a cluster: an answer, or the reason why there is none."""

    node: int
    answer: Answer | None
    problem: str | None


def identity(settings: LabelingSettings) -> dict[str, Any]:
    """Return who is asked, as far as the reply depends on it, as JSON values."""
    return {
        "provider": settings.labels_by,
        "base_url": settings.base_url,
        "model_name": settings.model_name,
        "parameters": settings.parameters,
        "prompt_version": PROMPT_VERSION,
    }


def estimate_question(question: Question) -> int:
    """Return the tokens that a question is expected to have."""
    texts, n_media = size(question)
    return count_tokens(texts, n_media)


class Asker:
    """Asks a model for the names of clusters.

    Parameters
    ----------
    settings : LabelingSettings
    shape : Shape
        What an answer must look like.
    model : Model
    patience : Patience
        How long it is tried.
    cache : ReplyCache
    budget : Budget
    audit : Audit
    presigner : Presigner
    concurrency : int
        Questions on the way at a time.
    cancel : CancelToken

    Attributes
    ----------
    stopped : str or None
        Why nothing is sent any more: the budget is spent, or the server refuses for good.
    num_cached : int
        Replies that were there already.
    """

    def __init__(
        self,
        *,
        settings: LabelingSettings,
        shape: Shape,
        model: Model,
        patience: Patience,
        cache: ReplyCache,
        budget: Budget,
        audit: Audit,
        presigner: Presigner,
        concurrency: int,
        cancel: CancelToken,
    ) -> None:
        self._settings, self._shape, self._model = settings, shape, model
        self._patience, self._cache, self._budget = patience, cache, budget
        self._audit, self._presigner = audit, presigner
        self._concurrency, self._cancel = concurrency, cancel
        self._identity = identity(settings)
        self._lock = threading.Lock()
        self.stopped: str | None = None
        self.num_cached = 0

    def ask_all(self, evidence: Iterable[tuple[int, Evidence]]) -> Iterator[Asked]:
        """Ask about clusters and yield what became of each, in the order of the answers.

        Evidence is taken as questions leave, so that it is never in memory all at once. An
        answer that is on its way when somebody cancels is waited for: it is paid.
        """
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="labelling")
        on_way: set[Future[Asked]] = set()
        try:
            for node, one in evidence:
                self._cancel.raise_if_cancelled()
                on_way.add(pool.submit(self._ask, node, one))
                if len(on_way) >= 2 * self._concurrency:
                    done, on_way = wait(on_way, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while on_way:
                self._cancel.raise_if_cancelled()
                done, on_way = wait(on_way, timeout=0.2, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, node: int, evidence: Evidence) -> Asked:
        try:
            return Asked(node, self._converse(evidence), None)
        except NoNameError as error:
            self._audit.write("unnamed", cluster_id=evidence.cluster_id, problem=str(error))
            return Asked(node, None, str(error))

    def _converse(self, evidence: Evidence) -> Answer:
        """Ask, and where the reply is unusable ask once more in each of the ways that may help."""
        question = make_question(evidence, self._settings, self._shape)
        remedies = {"length", "refusal", "invalid"}
        keys: list[str] = []
        problem = ""
        while True:
            reply = self._reply(evidence.cluster_id, question, keys)
            fault = reply.finish if reply.finish != "stop" else "invalid"
            if reply.finish == "length":
                problem = f"the reply was cut off after {question.max_tokens} tokens"
                following = replace(question, max_tokens=LONGER * question.max_tokens)
            elif reply.finish == "refusal":
                problem = "the model refused"
                following = make_question(evidence, self._settings, self._shape, keywords_only=True)
            else:
                try:
                    return read_reply(reply.text, self._shape, evidence.cluster_id)
                except InvalidReply as error:
                    problem = f"the reply is invalid: {error}"
                    following = make_question(
                        evidence,
                        self._settings,
                        self._shape,
                        problem=str(error),
                        reply=reply.text,
                        max_tokens=question.max_tokens,
                    )
            if fault not in remedies:
                self._cache.drop(keys)
                raise NoNameError(problem)
            remedies.remove(fault)
            question = following

    def _reply(self, cluster_id: str, question: Question, keys: list[str]) -> Reply:
        """Return the reply to a question: the one that was paid before, or a new one."""
        key = question_key(question, self._identity)
        keys.append(key)
        facts: dict[str, Any] = {"cluster_id": cluster_id, "key": key}
        kept = self._cache.get(key)
        if kept is not None:
            with self._lock:
                self.num_cached += 1
            self._audit.write("cached", **facts, reply=kept.text, finish=kept.finish)
            return kept
        if self.stopped is not None:
            raise NoNameError(self.stopped)
        try:
            reserved = self._budget.reserve(estimate_question(question), question.max_tokens)
        except BudgetSpentError as error:
            self._stop(str(error))
            raise NoNameError(self.stopped or "") from error
        self._audit.write(
            "sent",
            **facts,
            **self._identity,
            messages=list(question.messages),
            schema=question.schema,
            max_tokens=question.max_tokens,
        )
        try:
            reply = self._patience.call(lambda: self._model.ask(signed(question, self._presigner)))
        except GaveUp as error:
            self._budget.release(reserved)
            if isinstance(error, Stopped):
                self._stop(str(error))
            self._audit.write("failed", **facts, problem=str(error))
            raise NoNameError(str(error)) from error
        except BaseException:
            self._budget.release(reserved)
            raise
        used = self._budget.settle(reserved, reply.input_tokens, reply.output_tokens)
        self._cache.put(key, reply, used, self._settings.model_name)
        self._audit.write(
            "answered", **facts, reply=reply.text, finish=reply.finish, **_tokens(used)
        )
        return reply

    def _stop(self, why: str) -> None:
        with self._lock:
            self.stopped = self.stopped or why


def _tokens(used: Usage) -> dict[str, Any]:
    return {"input_tokens": used.input_tokens, "output_tokens": used.output_tokens, "usd": used.usd}
