"""What triggers ask of the rest of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from gpucluster.service.catalog.port import Record, Transaction
from gpucluster.wire.triggers import RunMode, TriggerExecutionConfig

DRIFT_CHECK = "drift_check"  # purpose of an execution that only says how far documents drifted


class Clusters(Protocol):
    """Definitions and their executions."""

    def define(self, ns: str, cluster_id: str, config: TriggerExecutionConfig) -> None:
        """Keep a definition under that id; nothing where it is there already."""

    def config_of(
        self, tx: Transaction, ns: str, identifier: str
    ) -> tuple[str, TriggerExecutionConfig]:
        """Return the id of a definition and what it clusters; ``NotFoundError`` without one."""

    def start(
        self,
        tx: Transaction,
        ns: str,
        cluster_id: str,
        *,
        mode: RunMode,
        trigger_id: str,
        purpose: str | None = None,
    ) -> str:
        """Begin an execution, and return its id.

        ``ConflictError`` where one is live, or there is no run to join; ``NotFoundError`` where
        the definition, or a collection of it, is gone; ``TooManyError`` where too many wait.
        Nothing may have been written where one of them is raised.
        """

    def wake(self) -> None:
        """Let what was started be taken up; after the commit."""

    def latest(
        self, tx: Transaction, ns: str, cluster_id: str, *, mode: RunMode | None = None
    ) -> Record | None:
        """Return the execution that was completed last, of a mode or of any."""

    def collection_id(self, tx: Transaction, ns: str, identifier: str) -> str:
        """Return the id of a collection by its id or name; ``NotFoundError`` without one."""

    def num_rows(self, tx: Transaction, ns: str, cluster_id: str) -> int:
        """Return how many rows the collections of a definition have now."""

    def last_look(self, tx: Transaction, ns: str, cluster_id: str) -> Record | None:
        """Return the latest look at the drift, where nothing has changed since; otherwise None."""


@dataclass(frozen=True, slots=True)
class Question:
    """What an address is asked.

    Attributes
    ----------
    url : str
    body : mapping
    id : str
        The same where it is asked again.
    secrets : sequence of mapping
        Those that sign; see `gpucluster.service.outbound.signing`.
    now : datetime
    """

    url: str
    body: Mapping[str, Any]
    id: str
    secrets: Sequence[Mapping[str, Any]]
    now: datetime


class Asks(Protocol):
    """Calls addresses that people gave."""

    def check(self, url: str, *, path: str) -> None:
        """Refuse by ``ConfigError`` an address that may not be called."""

    def ask(self, question: Question) -> Any:
        """Return the JSON that is answered; ``UnavailableError`` where none is."""
