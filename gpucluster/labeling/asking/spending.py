"""What labelling costs: estimated before, reserved before each call, settled after it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from gpucluster.events import CancelToken
from gpucluster.labeling.settings import LabelingSettings, Prices

# US dollars for a million tokens, by the model's name without its date: what providers listed when
# this was written. Whoever is billed otherwise sets `prices`.
LIST_PRICES = {
    "gpt-4o-mini": Prices(input=0.15, output=0.60),
    "gpt-4o": Prices(input=2.50, output=10.00),
    "gpt-4o-2024-05-13": Prices(input=5.00, output=15.00),
    "gpt-4.1-nano": Prices(input=0.10, output=0.40),
    "gpt-4.1-mini": Prices(input=0.40, output=1.60),
    "gpt-4.1": Prices(input=2.00, output=8.00),
    "gemini-2.5-flash-lite": Prices(input=0.10, output=0.40),
    "gemini-2.5-flash": Prices(input=0.30, output=2.50),
    "gemini-2.5-pro": Prices(input=1.25, output=10.00),
    "claude-haiku-4-5": Prices(input=1.00, output=5.00),
    "claude-sonnet-4-5": Prices(input=3.00, output=15.00),
}

CHARACTERS_A_TOKEN = 4.0  # of ASCII; other scripts take about a token for each 1.5 characters
OTHER_CHARACTERS_A_TOKEN = 1.5
MEDIUM_TOKENS = 1_300  # of an image; a video or a recording may be far more
IMAGE_TOKENS = {"gpt-4o-mini": 25_500}  # which bills four tiles of an image as so many
_DAY = r"\d{4}-\d{2}-\d{2}|\d{8}|preview-\d{2}-\d{2}|preview-\d{2}-\d{4}|latest|\d{3}"
DATED = re.compile(rf"-({_DAY})$")
LOOK_S = 0.2  # after which a wait looks whether it was cancelled
OVERHEAD_TOKENS = 12  # of the frame around messages


def known_prices(settings: LabelingSettings) -> Prices | None:
    """Return what the model costs: as the settings say, else by its list price, if it is known."""
    if settings.prices is not None:
        return settings.prices
    if settings.base_url is not None or settings.model_name is None:
        return None
    name = _own_name(settings.model_name)
    return LIST_PRICES.get(name) or LIST_PRICES.get(_family(name))


def _own_name(model_name: str) -> str:
    """Return a model's name without that of its vendor."""
    return model_name.lower().split("/")[-1]


def _family(name: str) -> str:
    """Return a model's name without its date; any other ending is a model of its own."""
    return DATED.sub("", name)


def count_tokens(texts: Iterable[str], n_media: int = 0, model_name: str | None = None) -> int:
    """Estimate the tokens of a message without its model's tokenizer."""
    medium = IMAGE_TOKENS.get(_family(_own_name(model_name or "")), MEDIUM_TOKENS)
    tokens = OVERHEAD_TOKENS + medium * n_media
    for text in texts:
        n_ascii = len(text.encode("ascii", "ignore"))
        tokens += round(n_ascii / CHARACTERS_A_TOKEN)
        tokens += round((len(text) - n_ascii) / OTHER_CHARACTERS_A_TOKEN)
    return tokens


@dataclass(frozen=True, slots=True)
class Usage:
    """Calls and tokens, expected or used.

    Attributes
    ----------
    calls, input_tokens, output_tokens : int
        Questions, and what was sent and answered.
    embedding_tokens : int
        Texts that were embedded; always by the estimate, as not all servers count them.
    usd : float or None
        None where the price is not known.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    embedding_tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Return the sum; its price is known where both are."""
        known = self.usd is not None and other.usd is not None
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.embedding_tokens + other.embedding_tokens,
            (self.usd or 0.0) + (other.usd or 0.0) if known else None,
        )

    @classmethod
    def none(cls, prices: Prices | None) -> Usage:
        """Return nothing, at a price that is known or not."""
        return cls(usd=None if prices is None else 0.0)

    @classmethod
    def of(cls, input_tokens: int, output_tokens: int, prices: Prices | None) -> Usage:
        """Return one call."""
        return cls(1, input_tokens, output_tokens).at(prices)

    @classmethod
    def of_embedding(cls, tokens: int, prices: Prices | None) -> Usage:
        """Return texts that are embedded."""
        return cls(embedding_tokens=tokens).at(prices)

    def at(self, prices: Prices | None) -> Usage:
        """Return it at a price; texts that are embedded cost as questions, if not otherwise."""
        if prices is None:
            return replace(self, usd=None)
        embedding = prices.input if prices.embedding is None else prices.embedding
        asked = self.input_tokens * prices.input + self.output_tokens * prices.output
        return replace(self, usd=(asked + self.embedding_tokens * embedding) / 1e6)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"usd": None if self.usd is None else round(self.usd, 6)}


class BudgetSpentError(Exception):
    """The next call might cost more than what is left."""


class Budget:
    """Money that calls may cost; from any thread.

    A call reserves the most that it is expected to cost before it is sent, so that what is spent
    stays below the limit whatever is on its way.

    Parameters
    ----------
    limit_usd : float or None
        None: there is no limit.
    spent : Usage
        Of attempts before, which were interrupted.
    cancel : CancelToken, optional
        Ends the waiting for what others have reserved.
    """

    def __init__(
        self, limit_usd: float | None, spent: Usage, cancel: CancelToken | None = None
    ) -> None:
        self._limit = limit_usd
        self._cancel = cancel or CancelToken()
        self._changed = threading.Condition()
        self._spent = spent
        self._reserved, self._num_reserved = 0.0, 0

    @property
    def spent(self) -> Usage:
        """What settled calls have cost."""
        with self._changed:
            return self._spent

    def reserve(self, most: Usage) -> None:
        """Set aside what a call costs at most.

        Where other calls on their way have set too much aside, wait for what they really cost.

        Raises
        ------
        BudgetSpentError
            It is more than what is left.
        Cancelled
            Somebody asked to stop.
        """
        if self._limit is None:
            return
        usd = most.usd or 0.0
        with self._changed:
            while (self._spent.usd or 0.0) + self._reserved + usd > self._limit:
                if not self._num_reserved:
                    raise BudgetSpentError(
                        f"the budget of {self._limit:g} USD does not cover what it may cost to ask"
                    )
                self._changed.wait(LOOK_S)
                self._cancel.raise_if_cancelled()
            self._reserved += usd
            self._num_reserved += 1

    def settle(self, most: Usage, used: Usage | None) -> None:
        """Take note of what a call has cost in place of what it reserved; None: nothing."""
        with self._changed:
            if self._limit is not None:
                self._reserved -= most.usd or 0.0
                self._num_reserved -= 1
            if used is not None:
                self._spent = self._spent + used
            self._changed.notify_all()


class Reservation:
    """Money that is set aside within a ``with`` block; one block after the other may have it.

    Parameters
    ----------
    budget : Budget
    most : Usage

    Attributes
    ----------
    used : Usage or None
        What was spent of it, which the block says; the rest is given back.
    """

    def __init__(self, budget: Budget, most: Usage) -> None:
        self._budget, self._most = budget, most
        self.used: Usage | None = None

    def __enter__(self) -> Self:
        """Set it aside, or raise `BudgetSpentError`: see `Budget.reserve`."""
        self._budget.reserve(self._most)
        self.used = None
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what was not spent."""
        self._budget.settle(self._most, self.used)
