"""Names from a model: one cluster a question, several at a time, each reply kept and paid once."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken
from gpucluster.labeling.asking.cache import ReplyCache, question_key
from gpucluster.labeling.asking.conversation import Conversation, UselessError
from gpucluster.labeling.asking.patience import GaveUp, Patience, Stopped
from gpucluster.labeling.asking.sending import Sender
from gpucluster.labeling.asking.spending import (
    Budget,
    BudgetSpentError,
    Usage,
    count_tokens,
    known_prices,
)
from gpucluster.labeling.embedding import NotEmbeddedError
from gpucluster.labeling.model.failures import CallError
from gpucluster.labeling.model.program import COMMAND
from gpucluster.labeling.model.protocol import TEXTS_A_CALL, Question, Reply
from gpucluster.labeling.question.prompts import PROMPT_VERSION, signed, size

if TYPE_CHECKING:
    from gpucluster.labeling.answer.replies import Answer
    from gpucluster.labeling.answer.shapes import Shape
    from gpucluster.labeling.asking.audit import Audit
    from gpucluster.labeling.model.protocol import Model
    from gpucluster.labeling.question.presigner import Presigner
    from gpucluster.labeling.question.prompts import Evidence
    from gpucluster.labeling.settings import LabelingSettings, Prices
    from gpucluster.types import Matrix


class NoReplyError(Exception):
    """A question that got no reply; the message says why, `is_open` whether it may get one."""

    def __init__(self, message: str, *, is_open: bool) -> None:
        super().__init__(message)
        self.is_open = is_open


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of the question about a cluster: an answer, or the reason why there is none.

    `key` is that of the first question about it.
    `is_open` says that there was no reply, and that asking another time may help.
    """

    node: int
    key: str
    answer: Answer | None
    problem: str | None = None
    is_open: bool = False


def identity(settings: LabelingSettings) -> dict[str, Any]:
    """Return who is asked, as far as the reply depends on it, as JSON values."""
    command = None
    if settings.labels_by == "command":  # a digest of it: its arguments may be secrets
        command = hashlib.sha256(os.environ.get(COMMAND, "").encode()).hexdigest()[:16]
    return {
        "provider": settings.labels_by,
        "base_url": settings.base_url,
        "model_name": settings.model_name,
        "parameters": settings.parameters,
        "command": command,
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
        Why nothing is sent any more: the server refuses for good.
    num_cached : int
        Replies that were there already.
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
        self._cache, self._sender = cache, Sender(budget, cache)
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

    @property
    def account(self) -> dict[str, Any]:
        """What was sent, beside what it cost."""
        both = (self._patience, self._embedding_patience)
        return {
            "cached": self.num_cached,
            "late": self._sender.num_late,
            "attempts": sum(patience.calls for patience in both),
            "retries": sum(patience.retries for patience in both),
            "waited_s": round(sum(patience.waited_s for patience in both), 1),
        }

    def ask_all(self, evidence: Iterable[tuple[int, Evidence]]) -> Iterator[Asked]:
        """Ask about clusters and yield what became of each, in the order of the answers.

        Evidence is taken as questions leave, so that it is never in memory all at once. Clusters
        of which the very same is shown are asked about once. An answer that is on its way when
        somebody cancels is waited for: it is paid.
        """
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="labelling")
        on_way: set[Future[Asked]] = set()
        same: dict[str, list[tuple[int, str]]] = {}  # of questions on their way: who else asks
        useless: dict[str, Asked] = {}
        try:
            for node, one in evidence:
                self._cancel.raise_if_cancelled()
                talk = Conversation(one, self._settings, self._shape)
                key = question_key(talk.question, self._identity)
                if key in useless:
                    yield self._shared(useless[key], node, one.cluster_id)
                elif key in same:
                    same[key].append((node, one.cluster_id))
                else:
                    same[key] = []
                    on_way.add(pool.submit(self._ask, node, one.cluster_id, key, talk))
                if len(on_way) >= 2 * self._concurrency:
                    done, on_way = wait(on_way, return_when=FIRST_COMPLETED)
                    yield from self._arrived(done, same, useless)
            while on_way:
                self._cancel.raise_if_cancelled()
                done, on_way = wait(on_way, timeout=0.2, return_when=FIRST_COMPLETED)
                yield from self._arrived(done, same, useless)
        except BaseException:  # of a question, or of whoever takes the answers
            for patience in (self._patience, self._embedding_patience):
                patience.stop("labelling has ended")  # no question goes on trying
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _arrived(
        self,
        done: Iterable[Future[Asked]],
        same: dict[str, list[tuple[int, str]]],
        useless: dict[str, Asked],
    ) -> Iterator[Asked]:
        """Yield what became of questions, for all who asked the same."""
        for future in done:
            asked = future.result()
            yield asked
            if asked.answer is None:
                useless[asked.key] = asked
            for node, cluster_id in same.pop(asked.key):
                yield self._shared(asked, node, cluster_id)

    def _shared(self, asked: Asked, node: int, cluster_id: str) -> Asked:
        """Return what became of the same question about another cluster."""
        self.num_cached += asked.answer is not None
        self._audit.write("shared", cluster_id=cluster_id, key=asked.key)
        return replace(asked, node=node)

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return embeddings by the provider's model; they count for the budget and the audit.

        Raises
        ------
        NotEmbeddedError
            The server did not answer, they might cost more than what is left, or nothing is sent
            any more.
        """
        cut = range(0, len(texts), TEXTS_A_CALL)
        parts = [self._embed(texts[start : start + TEXTS_A_CALL]) for start in cut]
        if len({part.shape[1] for part in parts}) > 1:
            raise NotEmbeddedError("vectors have different lengths")
        return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    def _embed(self, texts: Sequence[str]) -> Matrix:
        """Embed what fits into one call."""
        if self.stopped is not None:
            raise NotEmbeddedError(self.stopped)
        most = Usage.of_embedding(count_tokens(texts), self._prices)
        model_name = self._settings.embedding_model

        def keep(_: Matrix) -> Usage:
            self._cache.note(most)
            return most

        @cache  # a line of the audit for what is sent, not for each attempt
        def note() -> None:
            self._audit.write("embedded", model_name=model_name, texts=list(texts))

        def call() -> Matrix:
            note()
            return self._model.embed(texts)

        try:
            return self._sender.send(self._embedding_patience, call, most, keep=keep)
        except (GaveUp, BudgetSpentError) as error:
            raise NotEmbeddedError(str(error)) from error

    def _ask(self, node: int, cluster_id: str, key: str, talk: Conversation) -> Asked:
        try:
            return Asked(node, key, self._converse(cluster_id, talk))
        except (NoReplyError, UselessError) as error:
            self._audit.write("unnamed", cluster_id=cluster_id, problem=str(error))
            return Asked(node, key, None, str(error), getattr(error, "is_open", False))

    def _converse(self, cluster_id: str, talk: Conversation) -> Answer:
        """Ask, and where the reply is unusable ask again in the way that may help."""
        keys: list[str] = []
        answer = None
        while answer is None:
            key = question_key(talk.question, self._identity)
            if key in keys:
                self._cache.drop([key])  # the very same again: its reply was of no use
            keys.append(key)
            reply = self._reply(cluster_id, key, talk.question)
            try:
                answer = talk.hear(reply)
            except UselessError:
                self._cache.drop(keys)
                raise
        return answer

    def _reply(self, cluster_id: str, key: str, question: Question) -> Reply:
        """Return the reply to a question: the one that was paid before, or a new one."""
        facts: dict[str, Any] = {"cluster_id": cluster_id, "key": key}
        kept = self._cache.get(key)
        if kept is None:
            return self._send(facts, question)
        with self._lock:
            self.num_cached += 1
        self._audit.write("cached", **facts, reply=kept.text, finish=kept.finish)
        return kept

    def _send(self, facts: dict[str, Any], question: Question) -> Reply:
        if self.stopped is not None:
            raise NoReplyError(self.stopped, is_open=True)
        expected = estimate_question(question, self._settings)
        most = Usage.of(expected, question.max_tokens, self._prices)

        def keep(reply: Reply) -> Usage:
            used = _used(reply, most, self._prices)
            self._cache.put(facts["key"], reply, used)
            tokens = {"input_tokens": used.input_tokens, "output_tokens": used.output_tokens}
            answered = {"reply": reply.text, "finish": reply.finish, **tokens, "usd": used.usd}
            self._audit.write("answered", **facts, **answered)
            return used

        @cache
        def note() -> None:
            self._audit.write(
                "sent",
                **facts,
                **self._identity,
                messages=list(question.messages),
                schema=question.schema,
                max_tokens=question.max_tokens,
            )

        def call() -> Reply:
            asked = signed(question, self._presigner)
            note()
            return self._model.ask(asked)

        try:
            return self._sender.send(self._patience, call, most, keep=keep)
        except (GaveUp, BudgetSpentError, ConfigError) as error:
            # credentials that turn out to be missing when an address is signed
            if isinstance(error, Stopped | ConfigError):
                with self._lock:
                    self.stopped = self.stopped or str(error)
            self._audit.write("failed", **facts, problem=str(error))
            is_rejected = isinstance(error.__cause__, CallError) and not error.__cause__.retryable
            is_open = isinstance(error, Stopped | ConfigError) or not is_rejected
            raise NoReplyError(str(error), is_open=is_open) from error


def _used(reply: Reply, most: Usage, prices: Prices | None) -> Usage:
    """Return what a reply cost; by the estimate where the server does not say."""
    sent = most.input_tokens if reply.input_tokens is None else reply.input_tokens
    answered = most.output_tokens if reply.output_tokens is None else reply.output_tokens
    return Usage.of(sent, answered, prices)
