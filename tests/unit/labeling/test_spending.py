"""What labelling costs is known before, and never passes its limit."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.labeling.settings import LabelingSettings, Prices
from gpucluster.labeling.spending import (
    Budget,
    BudgetSpentError,
    Usage,
    count_tokens,
    known_prices,
)

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


def test_a_call_that_might_pass_the_limit_is_not_made() -> None:
    budget = Budget(10, DOLLAR)
    first = budget.reserve(4, 4)
    assert budget.settle(first, 3, 2).usd == 5
    second = budget.reserve(2, 3)
    budget.release(second)
    assert budget.spent == Usage(1, 3, 2, 5.0)
    with pytest.raises(BudgetSpentError, match=r"budget of 10 USD .* 5.0000 USD so far"):
        budget.reserve(3, 3)


def test_what_an_interrupted_attempt_spent_counts() -> None:
    budget = Budget(10, DOLLAR, Usage(2, 4, 4, 8.0))
    with pytest.raises(BudgetSpentError):
        budget.reserve(2, 1)


def test_a_server_that_says_nothing_is_billed_by_the_estimate() -> None:
    budget = Budget(None, DOLLAR)
    assert budget.settle(budget.reserve(4, 2), None, None).usd == 6


def test_without_a_price_nothing_is_limited_and_nothing_known() -> None:
    budget = Budget(None, None)
    budget.settle(budget.reserve(4, 2), 4, 2)
    assert budget.spent == Usage(1, 4, 2, None)


def test_a_reservation_waits_for_what_others_really_cost() -> None:
    budget = Budget(10, DOLLAR)
    first = budget.reserve(1, 8)
    got: list[Usage] = []
    thread = threading.Thread(target=lambda: got.append(budget.reserve(1, 4)))
    thread.start()
    thread.join(0.05)
    assert not got
    budget.settle(first, 1, 1)
    thread.join(5)
    assert got[0].usd == 5


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30), st.integers(1, 300)
)
def test_what_is_spent_stays_below_the_limit(calls: list[tuple[int, int]], limit: int) -> None:
    budget = Budget(limit, DOLLAR)
    for sent, most in calls:
        try:
            reserved = budget.reserve(sent, most)
        except BudgetSpentError:
            assert budget.spent.usd + sent + most > limit
            break
        budget.settle(reserved, sent, most // 2)
        assert budget.spent.usd <= limit


def test_usage_of_unknown_price_stays_unknown() -> None:
    assert (Usage(1, 1, 1, None) + Usage(1, 1, 1, 2.0)).usd is None
