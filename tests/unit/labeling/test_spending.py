"""What labelling costs is known before, and never passes its limit."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.errors import Cancelled
from gpucluster.events import CancelToken
from gpucluster.labeling.asking.spending import (
    Budget,
    BudgetSpentError,
    Usage,
    count_tokens,
    known_prices,
)
from gpucluster.labeling.settings import LabelingSettings, Prices

DOLLAR = Prices(input=1e6, output=1e6)  # a dollar a token


def test_the_price_is_the_settings_then_the_longest_name_that_is_known() -> None:
    def price(**fields: object) -> Prices | None:
        return known_prices(LabelingSettings(**fields))

    mini = price(model_name="gpt-4o-mini-2024-07-18")
    assert mini is not None
    assert mini.input < price(model_name="gpt-4o").input
    assert price(model_name="google/gemini-2.5-flash-preview-04-17") == price(
        model_name="gemini-2.5-flash"
    )
    assert price(model_name="gpt-4o", prices={"input": 7, "output": 8}).input == 7
    assert price(model_name="gpt-4o", base_url="http://localhost:1/v1") is None
    assert price() is None


def test_other_scripts_take_more_tokens_than_ascii() -> None:
    assert count_tokens(["word " * 100]) < count_tokens(["слово " * 100])
    assert count_tokens(["x"], n_media=2) > 2_000


def test_an_image_takes_the_same_tokens_whatever_stands_before_the_name_of_the_model() -> None:
    assert count_tokens([], 1, "gpt-4o-mini") > 2 * count_tokens([], 1, "gpt-4o")
    for name in ("openai/gpt-4o-mini", "OpenAI/gpt-4o-mini-2024-07-18"):
        assert count_tokens([], 1, name) == count_tokens([], 1, "gpt-4o-mini")


NOTHING = Usage()


def of(sent: int, answered: int) -> Usage:
    return Usage.of(sent, answered, DOLLAR)


def test_a_call_that_might_pass_the_limit_is_not_made() -> None:
    budget = Budget(10, NOTHING)
    budget.reserve(of(4, 4))
    budget.settle(of(4, 4), of(3, 2))
    budget.reserve(of(2, 3))
    budget.settle(of(2, 3), None)
    assert budget.spent == Usage(1, 3, 2, usd=5.0)
    with pytest.raises(BudgetSpentError, match="budget of 10 USD does not cover"):
        budget.reserve(of(3, 3))


def test_what_an_interrupted_attempt_spent_counts() -> None:
    budget = Budget(10, Usage(2, 4, 4, usd=8.0))
    with pytest.raises(BudgetSpentError):
        budget.reserve(of(2, 1))


def test_without_a_limit_or_a_price_nothing_is_limited() -> None:
    budget = Budget(None, Usage.none(None))
    unknown = Usage.of(4, 2, None)
    budget.reserve(unknown)
    budget.settle(unknown, unknown)
    assert budget.spent == Usage(1, 4, 2, usd=None)


def test_a_reservation_waits_for_what_others_really_cost() -> None:
    budget = Budget(10, NOTHING)
    budget.reserve(of(1, 8))
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(budget.reserve(of(1, 4)) is None))
    thread.start()
    thread.join(0.05)
    assert not got
    budget.settle(of(1, 8), of(1, 1))
    thread.join(5)
    assert got == [True]


def test_waiting_ends_when_somebody_cancels() -> None:
    cancel = CancelToken()
    budget = Budget(10, NOTHING, cancel)
    budget.reserve(of(1, 8))
    threading.Timer(0.05, cancel.cancel).start()
    with pytest.raises(Cancelled):
        budget.reserve(of(1, 4))


def test_embeddings_cost_what_they_cost_or_else_as_questions() -> None:
    assert Usage.of_embedding(3, DOLLAR).usd == 3
    cheap = Prices(input=1e6, output=1e6, embedding=1e5)
    assert Usage.of_embedding(10, cheap) == Usage(embedding_tokens=10, usd=1.0)
    assert Usage.of_embedding(10, None).usd is None


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30), st.integers(1, 300)
)
def test_what_is_spent_stays_below_the_limit(calls: list[tuple[int, int]], limit: int) -> None:
    budget = Budget(limit, NOTHING)
    for sent, most in calls:
        try:
            budget.reserve(of(sent, most))
        except BudgetSpentError:
            assert budget.spent.usd + sent + most > limit
            break
        budget.settle(of(sent, most), of(sent, most // 2))
        assert budget.spent.usd <= limit


def test_usage_of_unknown_price_stays_unknown() -> None:
    assert (Usage(1, 1, 1, usd=None) + Usage(1, 1, 1, usd=2.0)).usd is None
