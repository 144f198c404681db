"""Nothing is done twice and nothing is lost, whatever happens on the way."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucluster.client import Client, Retries
from gpucluster.client.errors import (
    ConflictError,
    ConnectionFailedError,
    NotFoundError,
    ServiceError,
    TooManyRequestsError,
)
from tests.helpers.faulty import HALF_REPLY, LOST_REPLY, LOST_REQUEST, PASS, Answer
from tests.helpers.serving import TOKEN

DEFINITION = {"algorithm": "kmeans"}
QUICK = Retries(first_s=0.01, longest_s=5)
BUSY = Answer(503, {"Retry-After": "0"})
FAULTS = [LOST_REQUEST, LOST_REPLY, HALF_REPLY, BUSY, Answer(429, {"Retry-After": "0"}),
          Answer(502, body=b"<html>bad gateway</html>"), Answer(504)]  # fmt: skip


def names(client):
    return Counter(each.template_name for each in client.templates.list())


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_what_is_made_is_made_once(client, broken, unlucky, fault):
    name = f"once {fault}"[:60]
    broken.script.extend([fault, fault])
    made = unlucky.templates.create(template_name=name, definition=DEFINITION)
    assert len(broken.seen) == 3
    (key,) = set(broken.keys())
    assert key is not None
    assert names(client)[name] == 1
    assert client.templates.get(made.template_id) == made


@pytest.mark.parametrize("fault", [LOST_REPLY, HALF_REPLY], ids=str)
def test_what_is_removed_is_removed_without_a_complaint(client, broken, unlucky, fault):
    made = client.templates.create(template_name=f"gone {fault}", definition=DEFINITION)
    broken.script.extend([fault, fault, fault])
    assert unlucky.templates.delete(made.template_id).success
    with pytest.raises(NotFoundError):
        client.templates.get(made.template_id)


def test_two_calls_have_two_keys(broken, unlucky):
    for number in range(2):
        unlucky.templates.create(template_name=f"two keys {number}", definition=DEFINITION)
    assert len(set(broken.keys())) == 2


def test_a_secret_whose_answer_is_lost_is_not_answered_again(client, broken, unlucky):
    broken.script.append(LOST_REPLY)
    with pytest.raises(ConflictError, match="its answer held a secret"):
        unlucky.tokens.issue(token_name="told to nobody")
    assert [each.token_name for each in client.tokens.list()].count("told to nobody") == 1


def test_what_only_reads_has_no_key(broken, unlucky):
    broken.script.append(Answer(500))
    list(unlucky.templates.list())
    assert set(broken.keys()) == {None}
    assert len(broken.seen) == 2


def test_an_error_of_the_service_is_not_repeated_where_something_is_made(broken, unlucky):
    broken.script.append(Answer(500))
    with pytest.raises(ServiceError) as caught:
        unlucky.templates.create(template_name="never", definition=DEFINITION)
    assert len(broken.seen) == 1
    assert caught.value.status == 500


def test_it_gives_up(broken, unlucky):
    broken.script.extend([LOST_REQUEST] * 10)
    with pytest.raises(ConnectionFailedError, match="not reached") as caught:
        unlucky.templates.get("x")
    assert len(broken.seen) == 4
    assert caught.value.request_id in {h["x-request-id"] for _, _, h in broken.seen}


def test_nobody_there():
    nobody = Client("http://127.0.0.1:9", retries=Retries(first_s=0.001))
    with nobody as client, pytest.raises(ConnectionFailedError, match="no connection"):
        client.tasks.get("task_a")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_it_comes_again_when_it_was_told_to(broken, unlucky, form):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    told = "1" if form == "seconds" else later
    broken.script.append(Answer(429, {"Retry-After": told}))
    begun = time.monotonic()
    list(unlucky.namespaces.list())
    assert time.monotonic() - begun >= 0.9


def test_who_asks_for_an_hour_is_not_asked_again(broken, unlucky):
    broken.script.append(Answer(429, {"Retry-After": "3600"}))
    with pytest.raises(TooManyRequestsError) as caught:
        list(unlucky.namespaces.list())
    assert caught.value.retry_after_s == 3600
    assert len(broken.seen) == 1


@given(script=st.lists(st.sampled_from([PASS, *FAULTS]), min_size=1, max_size=40))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_it_goes_wrong_each_thing_is_there_once(client, broken, script):
    """Many threads make things while faults rain; a call that gives up has done it once, or not."""
    for each in list(client.templates.list()):
        client.templates.delete(each.template_id)
    broken.script.clear()
    broken.script.extend(script)

    def make(number):
        try:
            made = hasty.templates.create(template_name=f"thing {number}", definition=DEFINITION)
        except (ConnectionFailedError, ServiceError, TooManyRequestsError):
            return None
        return made.template_id

    retries = Retries(tries=5, first_s=0.001)
    with Client(broken.url, TOKEN, retries=retries) as hasty, ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(12)))
    there = {each.template_name: each.template_id for each in client.templates.list()}
    assert set(names(client).values()) <= {1}
    for number, template_id in enumerate(made):
        if template_id is not None:
            assert there[f"thing {number}"] == template_id
