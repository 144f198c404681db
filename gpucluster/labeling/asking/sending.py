"""Calls that cost money: set aside before each, and noted after it, whatever becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from gpucluster.labeling.asking.spending import Budget, Reservation, Usage
from gpucluster.labeling.model.failures import CallError

if TYPE_CHECKING:
    from gpucluster.labeling.asking.cache import ReplyCache
    from gpucluster.labeling.asking.patience import Patience

T = TypeVar("T")


class Sender:
    """Makes calls within a budget; from any thread.

    Parameters
    ----------
    budget : Budget
    cache : ReplyCache
        Keeps what was spent, so that it counts when an interrupted labelling goes on.

    Attributes
    ----------
    num_late : int
        Calls that count as the most that they can have cost: answers that came too late, or that
        could not be used.
    """

    def __init__(self, budget: Budget, cache: ReplyCache) -> None:
        self._budget, self._cache = budget, cache
        self._lock = threading.Lock()
        self.num_late = 0

    def send(
        self,
        patience: Patience,
        call: Callable[[], T],
        most: Usage,
        *,
        keep: Callable[[T], Usage],
    ) -> T:
        """Make a call, and again while that may help.

        Parameters
        ----------
        patience : Patience
        call : callable
            One attempt; raises `CallError`.
        most : Usage
            What an attempt costs at most.
        keep : callable
            Writes down what came back, and returns what that cost.

        Returns
        -------
        object
            What `call` returned.

        Raises
        ------
        BudgetSpentError
            An attempt might cost more than what is left.
        GaveUp, Stopped, Cancelled
            See `Patience.call`.
        """
        # for each attempt anew, and before its turn: one that holds a turn never waits for money
        reservation = Reservation(self._budget, most)

        def attempt() -> T:
            try:
                found = call()
            except CallError as error:
                if error.is_billed:
                    self._lose(reservation, most)
                raise
            reservation.used = keep(found)
            return found

        return patience.call(attempt, within=reservation)

    def _lose(self, reservation: Reservation, most: Usage) -> None:
        """Count an answer that may be billed, and of which nothing is left."""
        reservation.used = most
        self._cache.note(most)
        with self._lock:
            self.num_late += 1
