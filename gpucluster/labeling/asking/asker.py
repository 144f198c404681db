"""Names from a model: one cluster a question, several at a time, each reply kept and paid once."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from gpucluster.events import CancelToken
from gpucluster.labeling.answer.replies import read_reply
from gpucluster.labeling.answer.shapes import InvalidReply
from gpucluster.labeling.asking.cache import ReplyCache, question_key
from gpucluster.labeling.asking.patience import GaveUp, Patience, Stopped
from gpucluster.labeling.asking.spending import (
    Budget,
    BudgetSpentError,
    Reservation,
    Usage,
    count_tokens,
    known_prices,
)
from gpucluster.labeling.model.client import COMMAND, Question, Reply
from gpucluster.labeling.model.failures import CallError
from gpucluster.labeling.question.prompts import (
    PROMPT_VERSION,
    make_question,
    signed,
    size,
)

if TYPE_CHECKING:
    from gpucluster.labeling.answer.replies import Answer
    from gpucluster.labeling.answer.shapes import Shape
    from gpucluster.labeling.asking.audit import Audit
    from gpucluster.labeling.model.client import Model
    from gpucluster.labeling.question.inputs import Presigner
    from gpucluster.labeling.question.prompts import Evidence
    from gpucluster.labeling.settings import LabelingSettings, Prices
    from gpucluster.types import Matrix

T = TypeVar("T")

REMEDIES = 2  # of each kind; with one, a server that often fails left 1 % of clusters unnamed
LONGER = 4  # times the tokens, after a reply that was cut off


class NoNameError(Exception):
    """A cluster that no reply names; the message says why."""


class NotEmbeddedError(Exception):
    """Texts that have no embeddings; the message says why."""


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
        "command": os.environ.get(COMMAND) if settings.labels_by == "command" else None,
        "prompt_version": PROMPT_VERSION,
    }


def estimate_question(question: Question, settings: LabelingSettings) -> int:
    """Return the tokens that a question is expected to have."""
    texts, n_media = size(question)
    return count_tokens(texts, n_media, settings.model_name)


class Asker:
    """Asks a model for the names of clusters.

    Parameters
    ----------
    settings : LabelingSettings
    shape : Shape
        What an answer must look like.
    model : Model
    cache : ReplyCache
    budget : Budget
    audit : Audit
    presigner : Presigner
    concurrency : int
        Questions on the way at a time.
    cancel : CancelToken
    on_wait : callable
        Told of pauses: seconds, and why.

    Attributes
    ----------
    stopped : str or None
        Why nothing is sent any more: the budget is spent, or the server refuses for good.
    num_cached : int
        Replies that were there already.
    num_late : int
        Calls that were given up, and count as the most that they can have cost.
    """

    def __init__(
        self,
        *,
        settings: LabelingSettings,
        shape: Shape,
        model: Model,
        cache: ReplyCache,
        budget: Budget,
        audit: Audit,
        presigner: Presigner,
        concurrency: int,
        cancel: CancelToken,
        on_wait: Callable[[float, str], None],
    ) -> None:
        self._settings, self._shape, self._model = settings, shape, model
        self._cache, self._budget = cache, budget
        # an address without embeddings must not keep clusters from their names
        self._patience = Patience(cancel=cancel, on_wait=on_wait)
        self._embedding_patience = Patience(cancel=cancel, on_wait=on_wait)
        self._audit, self._presigner = audit, presigner
        self._concurrency, self._cancel = concurrency, cancel
        self._identity = identity(settings)
        self._prices = known_prices(settings)
        self._lock = threading.Lock()
        self.stopped: str | None = None
        self.num_cached = 0
        self.num_late = 0

    @property
    def account(self) -> dict[str, Any]:
        """What was sent, beside what it cost."""
        both = (self._patience, self._embedding_patience)
        return {
            "cached": self.num_cached,
            "late": self.num_late,
            "attempts": sum(patience.calls for patience in both),
            "retries": sum(patience.retries for patience in both),
            "waited_s": round(sum(patience.waited_s for patience in both), 1),
        }

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
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self._patience.stop("another question failed")  # the others must not go on trying
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return embeddings by the provider's model; they count for the budget and the audit.

        Raises
        ------
        NotEmbeddedError
            The server did not answer, they might cost more than what is left, or nothing is sent
            any more.
        """
        if self.stopped is not None:
            raise NotEmbeddedError(self.stopped)
        most = Usage.of_embedding(count_tokens(texts), self._prices)
        model_name = self._settings.embedding_model
        once = _Once(self._audit, "embedded", model_name=model_name, texts=list(texts))
        try:
            found, used = self._send(
                self._embedding_patience, once, lambda: self._model.embed(texts), most
            )
        except (GaveUp, BudgetSpentError) as error:
            raise NotEmbeddedError(str(error)) from error
        self._cache.note(used, model_name)
        return found

    def _ask(self, node: int, evidence: Evidence) -> Asked:
        try:
            return Asked(node, self._converse(evidence), None)
        except NoNameError as error:
            self._audit.write("unnamed", cluster_id=evidence.cluster_id, problem=str(error))
            return Asked(node, None, str(error))

    def _converse(self, evidence: Evidence) -> Answer:
        """Ask, and where the reply is unusable ask again in the way that may help."""
        question = make_question(evidence, self._settings, self._shape)
        remedies = Counter(dict.fromkeys(("length", "refusal", "invalid"), REMEDIES))
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
                    return read_reply(reply.text, self._shape)
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
            if not remedies[fault]:
                self._cache.drop(keys)
                raise NoNameError(problem)
            remedies[fault] -= 1
            question = following
            if (key := question_key(question, self._identity)) in keys:
                self._cache.drop([key])  # the very same again: its reply was of no use

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
        most = Usage.of(
            estimate_question(question, self._settings), question.max_tokens, self._prices
        )
        once = _Once(
            self._audit,
            "sent",
            **facts,
            **self._identity,
            messages=list(question.messages),
            schema=question.schema,
            max_tokens=question.max_tokens,
        )

        try:
            reply, used = self._send(
                self._patience,
                once,
                lambda: self._model.ask(signed(question, self._presigner)),
                most,
                lambda reply: _used(reply, most, self._prices),
            )
        except (GaveUp, BudgetSpentError) as error:
            if not isinstance(error, GaveUp) or isinstance(error, Stopped):
                self._stop(str(error))
            self._audit.write("failed", **facts, problem=str(error))
            raise NoNameError(str(error)) from error
        self._cache.put(key, reply, used, self._settings.model_name)
        tokens = {"input_tokens": used.input_tokens, "output_tokens": used.output_tokens}
        self._audit.write(
            "answered", **facts, reply=reply.text, finish=reply.finish, **tokens, usd=used.usd
        )
        return reply

    def _send(
        self,
        patience: Patience,
        once: _Once,
        call: Callable[[], T],
        most: Usage,
        cost: Callable[[T], Usage] | None = None,
    ) -> tuple[T, Usage]:
        """Make a call within the budget; returns what it gave, and what it cost: else the most."""
        with Reservation(self._budget, most) as reserved:

            def attempt() -> T:
                once.write()
                try:
                    return call()
                except CallError as error:
                    if error.kind == "timeout":  # who answers too late may bill all the same
                        self._cache.note(most, self._settings.model_name)
                        with self._lock:
                            self.num_late += 1
                        reserved.lose()
                    raise

            found = patience.call(attempt)
            used = most if cost is None else cost(found)
            reserved.settle(used)
            return found, used

    def _stop(self, why: str) -> None:
        with self._lock:
            self.stopped = self.stopped or why


class _Once:
    """A line of the audit that is written when a question leaves, not when it is retried."""

    def __init__(self, audit: Audit, event: str, **facts: Any) -> None:
        self._audit, self._event, self._facts = audit, event, facts
        self._is_written = False

    def write(self) -> None:
        """Write the line, the first time."""
        if not self._is_written:
            self._audit.write(self._event, **self._facts)
            self._is_written = True


def _used(reply: Reply, most: Usage, prices: Prices | None) -> Usage:
    """Return what a reply cost; by the estimate where the server does not say."""
    sent = most.input_tokens if reply.input_tokens is None else reply.input_tokens
    answered = most.output_tokens if reply.output_tokens is None else reply.output_tokens
    return Usage.of(sent, answered, prices)
