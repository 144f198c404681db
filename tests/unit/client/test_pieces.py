"""What a client makes of bytes, whatever they are and however they are cut."""

from __future__ import annotations

import contextlib
import itertools
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.client.answers import failure_of, read_answer
from gpucluster.client.arrow import Batches
from gpucluster.client.calls import Reply, Send, Sleep
from gpucluster.client.errors import (
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    UnreadableAnswerError,
)
from gpucluster.client.events import Events
from gpucluster.client.retries import Retries, reply_to
from gpucluster.errors import ClientError
from gpucluster.wire.tasks import TaskResponse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "detail", "message", "details", "hint", "loc", "msg", "code"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
TASK = {
    "task_id": "task_a",
    "task_type": "engine_cluster_build",
    "status": "PENDING",
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:00:00Z",
}


def cut(data, places):
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    body=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100),
    status=st.integers(300, 599),
    retry=st.none() | st.text(st.characters(max_codepoint=255), max_size=30) | st.just("9" * 400),
)
def test_no_answer_of_an_error_is_a_crash(body, status, retry):
    headers = {} if retry is None else {"retry-after": retry}
    error = failure_of(Reply(status, headers, body))
    assert isinstance(error, ClientError)
    assert error.status == status
    assert str(error)
    assert (status == 404) == isinstance(error, NotFoundError)
    assert (status >= 500) == isinstance(error, ServiceError)


@given(body=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100))
def test_an_answer_is_a_model_or_cannot_be_read(body):
    with pytest.raises(UnreadableAnswerError, match="no TaskResponse"):
        read_answer(TaskResponse, Reply(200, {"x-request-id": "a"}, body))


def test_what_a_newer_service_adds_is_ignored():
    body = json.dumps({**TASK, "new": {"a": 1}}).encode()
    assert read_answer(TaskResponse, Reply(200, {}, body)).task_id == "task_a"
    body = json.dumps({**TASK, "status": "SNOOZED"}).encode()
    with pytest.raises(UnreadableAnswerError, match="status") as caught:
        read_answer(TaskResponse, Reply(200, {}, body))
    assert "newer" in str(caught.value)


def test_what_the_service_says_is_passed_on():
    body = {"detail": [{"loc": ["body", "a", 0], "msg": "expected b", "type": "c"}]}
    error = failure_of(Reply(422, {"x-request-id": "id"}, json.dumps(body).encode()))
    assert isinstance(error, InvalidRequestError)
    assert str(error) == "a.0: expected b [request id]"
    body = {"error": {"message": "busy", "details": {"code": "c", "hint": "wait", "run_id": "r"}}}
    error = failure_of(Reply(409, {}, json.dumps(body).encode()))
    assert (error.message, error.hint) == ("busy", "wait")
    assert error.details == {"code": "c", "run_id": "r"}


@given(places=st.lists(st.integers(0, 2**16), max_size=10), ends=st.sampled_from(["\n", "\r\n"]))
def test_events_are_the_same_however_they_are_cut(places, ends):
    sent = ["event: task", 'data: {"a": 1}', "", ": alive", "", "data: b", "data:c", "", ""]
    events, found = Events(), []
    for piece in cut(ends.join(sent).encode(), places):
        found += events.feed(piece)
    assert found == [b'{"a": 1}', b"b\nc"]


@given(
    n_rows=st.lists(st.integers(0, 50), max_size=4),
    places=st.lists(st.integers(0, 2**16), max_size=20),
)
def test_batches_are_the_same_however_they_are_cut(n_rows, places):
    schema = pa.schema({"a": pa.string(), "b": pa.list_(pa.float32(), 3)})
    sink = pa.BufferOutputStream()
    batches = [
        pa.record_batch(
            [[f"row {row}" for row in range(n)], pa.array([[1.0, 2.0, 3.0]] * n, schema[1].type)],
            schema=schema,
        )
        for n in n_rows
    ]
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    stream, found = Batches(), []
    for piece in cut(sink.getvalue().to_pybytes(), places):
        assert not stream.is_over or not piece
        found += stream.feed(piece)
    assert stream.is_over
    assert len(found) == len(batches)
    assert all(one.equals(other) for one, other in zip(found, batches, strict=True))


@given(data=st.binary(min_size=8, max_size=200))
def test_what_is_no_stream_gives_no_batch(data):
    stream = Batches()
    with contextlib.suppress(UnreadableAnswerError):
        assert list(stream.feed(data)) == []


def outcomes(*replies, is_read=False, is_repeatable=True, retries=None):
    """Return what comes of a request that is answered so, and the pauses on the way."""
    send = Send(method="POST", path="/", query={}, headers={})
    flow = reply_to(
        send, retries or Retries(first_s=0.1), is_read=is_read, is_repeatable=is_repeatable
    )
    left, pauses = list(replies), []
    step = next(flow)
    while True:
        try:
            if isinstance(step, Sleep):
                pauses.append(step.seconds)
                step = flow.send(None)
            elif isinstance(left[0], ConnectionFailedError):
                step = flow.throw(left.pop(0))
            else:
                step = flow.send(left.pop(0))
        except StopIteration as over:
            return over.value, pauses
        except ClientError as error:
            return error, pauses


LOST = ConnectionFailedError("lost")
DONE = Reply(200, {})


@pytest.mark.parametrize(
    ("status", "is_read", "again"),
    [(500, False, False), (500, True, True), (502, False, True), (503, False, True),
     (504, False, True), (429, False, True), (400, True, False), (401, True, False),
     (404, True, False), (409, True, False), (413, False, False), (307, True, False)],
)  # fmt: skip
def test_what_is_tried_again(status, is_read, again):
    found, pauses = outcomes(Reply(status, {}), DONE, is_read=is_read)
    assert (found is DONE) == again
    assert len(pauses) == again


def test_a_request_that_is_under_way_is_sent_again_and_no_other_conflict():
    def conflict(code):
        body = {"error": {"message": "a", "details": {"code": code}}}
        return Reply(409, {"retry-after": "1"}, json.dumps(body).encode())

    found, pauses = outcomes(conflict("under_way"), DONE)
    assert found is DONE
    assert pauses[0] >= 1
    found, pauses = outcomes(conflict("already_running"), DONE)
    assert isinstance(found, ConflictError)
    assert pauses == []


def test_tries_have_an_end_and_pauses_a_length():
    found, pauses = outcomes(*[LOST] * 9, retries=Retries(tries=9, first_s=1, longest_s=4))
    assert found is LOST
    assert len(pauses) == 8
    assert all(0 <= pause <= most for pause, most in zip(pauses, [1, 2, *[4] * 6], strict=True))
    assert len(set(pauses)) == 8  # drawn


def test_what_cannot_be_sent_again_is_not():
    assert outcomes(LOST, DONE, is_repeatable=False) == (LOST, [])
