"""What labelling costs: estimated before, reserved before each call, settled after it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gpucluster.labeling.settings import LabelingSettings, Prices

# US dollars for a million tokens, by how the model's name begins: what providers listed when this
# was written. Whoever is billed otherwise sets `prices`.
LIST_PRICES = {
    "gpt-4o-mini": Prices(input=0.15, output=0.60),
    "gpt-4o": Prices(input=2.50, output=10.00),
    "gpt-4.1-nano": Prices(input=0.10, output=0.40),
    "gpt-4.1-mini": Prices(input=0.40, output=1.60),
    "gpt-4.1": Prices(input=2.00, output=8.00),
    "gemini-2.5-flash-lite": Prices(input=0.10, output=0.40),
    "gemini-2.5-flash": Prices(input=0.30, output=2.50),
    "gemini-2.5-pro": Prices(input=1.25, output=10.00),
    "claude-haiku-4-5": Prices(input=1.00, output=5.00),
    "claude-sonnet-4": Prices(input=3.00, output=15.00),
}

CHARACTERS_A_TOKEN = 4.0  # of ASCII; other scripts take about a token for each 1.5 characters
OTHER_CHARACTERS_A_TOKEN = 1.5
MEDIUM_TOKENS = 1_000  # of an image; a video or a recording may be far more
OVERHEAD_TOKENS = 12  # of the frame around messages


def known_prices(settings: LabelingSettings) -> Prices | None:
    """Return what the model costs: as the settings say, else by its list price, if it is known."""
    if settings.prices is not None:
        return settings.prices
    if settings.base_url is not None or settings.model_name is None:
        return None
    name = settings.model_name.lower().split("/")[-1]
    for lead in sorted(LIST_PRICES, key=len, reverse=True):
        if name.startswith(lead):
            return LIST_PRICES[lead]
    return None


def count_tokens(texts: Iterable[str], n_media: int = 0) -> int:
    """Estimate the tokens of a message without its model's tokenizer."""
    tokens = OVERHEAD_TOKENS + MEDIUM_TOKENS * n_media
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
    usd : float or None
        None where the price is not known.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Return the sum; its price is known where both are."""
        known = self.usd is not None and other.usd is not None
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            (self.usd or 0.0) + (other.usd or 0.0) if known else None,
        )

    @classmethod
    def of(cls, input_tokens: int, output_tokens: int, prices: Prices | None) -> Usage:
        """Return one call."""
        usd = None
        if prices is not None:
            usd = (input_tokens * prices.input + output_tokens * prices.output) / 1e6
        return cls(1, input_tokens, output_tokens, usd)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "usd": None if self.usd is None else round(self.usd, 6),
        }


class BudgetSpentError(Exception):
    """The next call might cost more than what is left."""


class Budget:
    """Money that calls may cost; from any thread.

    A call reserves the most that it can cost before it is sent, so that what is spent stays
    below the limit whatever is in flight.

    Parameters
    ----------
    limit_usd : float or None
        None: there is no limit.
    prices : Prices or None
    spent : Usage
        Of an attempt before, which was interrupted.
    """

    def __init__(
        self, limit_usd: float | None, prices: Prices | None, spent: Usage | None = None
    ) -> None:
        self._limit = limit_usd
        self._prices = prices
        self._changed = threading.Condition()
        self._spent = spent or Usage(usd=None if prices is None else 0.0)
        self._reserved, self._num_reserved = 0.0, 0

    @property
    def spent(self) -> Usage:
        """What settled calls have cost."""
        with self._changed:
            return self._spent

    def reserve(self, input_tokens: int, max_output_tokens: int) -> Usage:
        """Set aside what a call can cost at most.

        Where other calls on their way have set too much aside, wait for what they really cost.

        Raises
        ------
        BudgetSpentError
            It is more than what is left.
        """
        most = Usage.of(input_tokens, max_output_tokens, self._prices)
        if self._limit is None or most.usd is None:
            return most
        with self._changed:
            while (self._spent.usd or 0.0) + self._reserved + most.usd > self._limit:
                if not self._num_reserved:
                    raise BudgetSpentError(
                        f"the budget of {self._limit:g} USD is spent: {self._spent.usd or 0:.4f} "
                        f"USD so far, and the next call may cost {most.usd:.4f}"
                    )
                self._changed.wait()
            self._reserved += most.usd
            self._num_reserved += 1
        return most

    def release(self, reserved: Usage) -> None:
        """Give back what a call that was not answered would have cost."""
        self._end(reserved, None)

    def settle(self, reserved: Usage, input_tokens: int | None, output_tokens: int | None) -> Usage:
        """Take note of what a call has cost; by the estimate where the server does not say."""
        used = Usage.of(
            reserved.input_tokens if input_tokens is None else input_tokens,
            reserved.output_tokens if output_tokens is None else output_tokens,
            self._prices,
        )
        self._end(reserved, used)
        return used

    def _end(self, reserved: Usage, used: Usage | None) -> None:
        with self._changed:
            if self._limit is not None and reserved.usd is not None:
                self._reserved -= reserved.usd
                self._num_reserved -= 1
            if used is not None:
                self._spent = self._spent + used
            self._changed.notify_all()
