"""Models over HTTP, against a real server that fails on demand, and programs as models."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

from gpucluster.errors import BackendUnavailableError, ConfigError
from gpucluster.labeling.asking.patience import GaveUp, Patience
from gpucluster.labeling.fake_server import FakeServer
from gpucluster.labeling.model import client
from gpucluster.labeling.model.client import check_ready, open_model
from gpucluster.labeling.model.failures import CallError, failure_of, redacted, retry_after
from gpucluster.labeling.model.protocol import Question, Reply
from gpucluster.labeling.settings import LabelingSettings

CANARY = "sk-canary-1234567890abcdef"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "mood": {"enum": ["dull", "bright"]}},
}


def question(number=0, max_tokens=100):
    facts = {"cluster_id": str(number), "documents": [f"piano sonata {number}", "sonata, piano"]}
    return Question(({"role": "user", "content": json.dumps(facts)},), SCHEMA, max_tokens)


@contextmanager
def model_of(server, **settings):
    settings = {"model_name": "fake", "base_url": server.base_url, "timeout_s": 5} | settings
    with closing(open_model(LabelingSettings(**settings))) as model:
        yield model


@contextmanager
def answering(*chunks):
    """Answer each connection with raw bytes, and close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

        def serve():
            while True:
                connection, _ = listener.accept()
                with connection:
                    if not connection.recv(65536):
                        return
                    for chunk in chunks:
                        try:
                            connection.sendall(chunk() if callable(chunk) else chunk)
                        except OSError:
                            break

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield address
        finally:
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def http(body, status="200 OK", headers=()):
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def failure(address, **settings):
    settings = {"model_name": "fake", "base_url": address, "timeout_s": 5} | settings
    with closing(open_model(LabelingSettings(**settings))) as model:
        with pytest.raises(CallError) as caught:
            model.ask(question())
        return caught.value


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GPUCLUSTER_LLM_API_KEY", raising=False)
    monkeypatch.delenv("GPUCLUSTER_LLM_KEY_ENVS", raising=False)
    monkeypatch.delenv("GPUCLUSTER_LABEL_COMMAND", raising=False)


class TestReplies:
    def test_a_question_is_answered(self):
        with FakeServer() as server, model_of(server) as model:
            reply = model.ask(question())
            assert json.loads(reply.text) == {"label": "Piano Sonata", "mood": "dull"}
            assert reply.finish == "stop"
            assert (reply.input_tokens, reply.output_tokens) == server.billed[0][1:]

    def test_what_is_sent(self):
        parameters = {"temperature": 0.5, "top_k": 3, "seed": 7}
        with FakeServer() as server, model_of(server, parameters=parameters) as model:
            model.ask(question(max_tokens=77))
            sent = dict(server.last)
        assert sent.pop("messages")[0]["role"] == "user"
        form = {"name": "answer", "schema": SCHEMA, "strict": False}
        assert sent == {
            "model": "fake",
            "max_tokens": 77,
            "response_format": {"type": "json_schema", "json_schema": form},
            **parameters,
        }

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_the_question_says_how_long_a_reply_may_be(self, name):
        with FakeServer() as server, model_of(server, parameters={name: 9}) as model:
            model.ask(question(max_tokens=77))
            assert [v for k, v in server.last.items() if k.startswith("max_")] == [77]

    def test_no_usage(self):
        with FakeServer(quirks=["no_usage"]) as server, model_of(server) as model:
            reply = model.ask(question())
            assert (reply.input_tokens, reply.output_tokens) == (None, None)

    def test_what_is_no_answer_but_billed(self):
        for fault, finish in (
            ("malformed", "stop"),
            ("truncated", "length"),
            ("refused", "refusal"),
        ):
            with FakeServer(faults={fault: 1.0}) as server, model_of(server) as model:
                reply = model.ask(question())
                assert reply.finish == finish
                assert reply.input_tokens > 0
                with pytest.raises(ValueError, match=r"."):
                    json.loads(reply.text)

    @pytest.mark.parametrize(
        ("choice", "reply"),
        [
            ({"message": {"content": None}, "finish_reason": "length"}, ("", "length")),
            ({"message": {"content": "no"}, "finish_reason": "content_filter"}, ("no", "refusal")),
            ({"message": {"content": None, "refusal": "no"}}, ("no", "refusal")),
            ({"message": {"content": None}, "finish_reason": "tool_calls"}, ("", "stop")),
            (
                {"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}},
                ("ab", "stop"),
            ),
            ({"message": {"content": "\ud800x"}, "finish_reason": "STOP"}, ("?x", "stop")),
        ],
    )
    def test_shapes_of_replies(self, choice, reply):
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": -1}}).encode()
        with answering(http(body)) as address, closing(opened(address)) as model:
            assert model.ask(question()) == Reply(*reply, None, None)

    def test_vectors(self):
        with FakeServer() as server, model_of(server, embedding_model="fake") as model:
            vectors = model.embed(["piano sonata", "a piano sonata", "engine oil"])
            assert vectors.shape == (3, 256)
            assert vectors.dtype == np.float32
            assert vectors[0] @ vectors[1] > 0.8 > vectors[0] @ vectors[2]
        with (
            FakeServer(faults={"malformed": 1}) as server,
            model_of(server, embedding_model="fake") as model,
            pytest.raises(CallError, match="no vector for each text") as caught,
        ):
            model.embed(["a", "b"])
        assert caught.value.kind == "malformed"
        assert caught.value.is_billed


def opened(address, **settings):
    return open_model(LabelingSettings(model_name="fake", base_url=address, **settings))


class TestNegotiation:
    @pytest.mark.parametrize(
        ("quirk", "n_refused", "form"),
        [
            ("no_json_schema", 1, {"type": "json_object"}),
            ("no_response_format", 2, None),
            ("only_max_completion_tokens", 1, ...),
        ],
    )
    def test_a_field_that_is_refused_is_left_out_from_then_on(self, quirk, n_refused, form):
        with FakeServer(quirks=[quirk]) as server, model_of(server) as model:
            for number in range(3):
                model.ask(question(number))
            assert server.calls == 3 + n_refused
            assert len(server.billed) == 3
            if form is ...:
                assert server.last["max_completion_tokens"] == 100
            else:
                assert server.last.get("response_format") == form

    def test_openai_begins_with_the_new_name(self, monkeypatch):
        monkeypatch.setenv("GPUCLUSTER_LLM_API_KEY", CANARY)
        with FakeServer(key=CANARY) as server, model_of(server, provider="openai") as model:
            model.ask(question())
            assert server.last["max_completion_tokens"] == 100
        with (
            FakeServer(quirks=["only_max_tokens", "no_json_schema"]) as server,
            model_of(server, provider="openai") as model,
        ):
            model.ask(question())
            assert server.last["max_tokens"] == 100
            assert server.calls == 3

    def test_from_many_threads(self):
        with FakeServer(quirks=["no_response_format"]) as server, model_of(server) as model:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda n: model.ask(question(n)), range(40)))
            assert len(server.billed) == 40
            assert server.calls <= 40 + 2 * 8

    def test_it_ends_where_nothing_helps(self):
        said = json.dumps({"error": {"message": "response_format and max_tokens, no"}}).encode()
        with answering(http(said, "400 Bad Request")) as address:
            assert failure(address).kind == "rejected"


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            ("rate_limited", "rate_limited"),
            ("rate_limited_bare", "rate_limited"),
            ("server_error", "unavailable"),
            ("timeout", "timeout"),
            ("reset", "connection"),
            ("garbled", "malformed"),
            ("quota", "quota"),
            ("unauthorized", "unauthorized"),
            ("rejected", "rejected"),
        ],
    )
    def test_each_is_told_apart(self, fault, kind):
        with FakeServer(faults={fault: 1.0}, hang_s=5, retry_after_s=2) as server:
            error = failure(server.base_url, timeout_s=0.3 if fault == "timeout" else 10)
            assert error.kind == kind
            assert error.retry_after_s == (2.0 if fault == "rate_limited" else None)
            assert server.calls == 1
            assert server.faults == Counter({fault: 1})

    def test_a_slow_answer_is_one(self):
        with FakeServer(faults={"slow": 1.0}, latency_s=0.02) as server, model_of(server) as model:
            assert model.ask(question()).finish == "stop"

    def test_nobody_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        error = failure(f"http://127.0.0.1:{port}/v1")
        assert error.kind == "connection"
        assert (
            str(error)
            == f"no connection to http://127.0.0.1:{port}/v1/: [Errno 111] Connection refused"
        )
        assert failure("http://127.0.0.1:99999/v1").kind == "connection"

    def test_a_wrong_path(self):
        with FakeServer() as server:
            error = failure(server.base_url + "/v2")
            assert (error.kind, error.fatal, error.retryable) == ("not_found", True, False)
            assert "most servers" not in str(error)
            error = failure(server.base_url.removesuffix("/v1"))
            assert error.kind == "not_found"
            assert "most servers have /v1 at the end of base_url" in str(error)

    def test_no_redirect_is_followed(self):
        with FakeServer(quirks=["redirect"]) as server:
            error = failure(server.base_url)
            assert error.kind == "not_found"
            assert "redirects" in str(error)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b'{"choices": []}',
            b'{"choices": [{}]}',
            b"\xff",
            b"[" * 99_999,
            b'{"choices": [{"message": "hello"}]}',
            b'{"choices": {"0": 1}}',
        ],
    )
    def test_what_is_no_completion(self, body):
        with answering(http(body)) as address:
            assert failure(address).kind == "malformed"

    @pytest.mark.parametrize("header", [(), ("Content-Encoding: gzip",)])
    def test_what_is_too_long(self, header):
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        head = "\r\n".join(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *header, "", ""])
        with answering(head.encode(), *[chunk] * 400) as address:
            error = failure(address)
            # how much is there at first decides which of the two shows
            assert error.kind == "malformed"
            assert "longer than" in str(error) or (header and "decompressed" in str(error))

    def test_what_cannot_be_decompressed(self):
        head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nno gzip !"
        with answering(head.encode()) as address:
            error = failure(address)
            assert (error.kind, "decompressed" in str(error)) == ("malformed", True)

    def test_what_trickles_in(self):
        gap = threading.Event()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"

        def trickle():
            gap.wait(0.1)
            return b" "

        with answering(head, *[trickle] * 50) as address:
            assert failure(address, timeout_s=0.4).kind == "timeout"

    def test_an_answer_that_is_cut(self):
        with answering(http(b"{" * 100)[:-50]) as address:
            assert failure(address).kind == "connection"

    def test_a_question_that_cannot_be_sent(self):
        asked = Question(({"role": "user", "content": "\ud800"},), SCHEMA, 5)
        with FakeServer() as server, model_of(server) as model:
            with pytest.raises(CallError) as caught:
                model.ask(asked)
            assert caught.value.kind == "rejected"


class TestFailureOf:
    @pytest.mark.parametrize(
        ("status", "said", "kind"),
        [
            (402, {}, "quota"),
            (403, {"error": {"message": "no"}}, "unauthorized"),
            (408, {}, "unavailable"),
            (409, {}, "unavailable"),
            (422, {"detail": [{"loc": ["body", "x"]}]}, "rejected"),
            (529, {"type": "error", "error": {"message": "Overloaded"}}, "unavailable"),
            (429, {"error": {"message": "slow", "code": "insufficient_quota"}}, "quota"),
            (400, {"error": {"message": "Your credit balance is too low"}}, "quota"),
            (400, [{"error": {"message": "API key not valid. Pass a valid key."}}], "unauthorized"),
            (413, "too large", "rejected"),
        ],
    )
    def test_kinds(self, status, said, kind):
        assert failure_of(status, json.dumps(said), {}).kind == kind

    def test_an_error_within_a_success(self):
        for code, kind in ((429, "rate_limited"), ("odd", "unavailable")):
            body = json.dumps({"error": {"message": "upstream", "code": code}}).encode()
            with answering(http(body)) as address:
                assert failure(address).kind == kind

    def test_messages_are_one_short_line(self):
        error = failure_of(500, json.dumps({"error": {"message": "a\n\x1b[31m b " * 900}}), {})
        assert len(str(error)) <= 500
        assert str(error).isprintable()
        assert str(failure_of(500, "", {})) == "HTTP 500"

    def test_when_to_come_back(self):
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
        assert retry_after({"retry-after": soon}) == pytest.approx(59, abs=2)
        assert retry_after({"retry-after": past}) == 0
        assert retry_after({"retry-after": "1.5"}) == 1.5
        assert retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
        for odd in ("nan", "inf", "-3", "soon", "", "99999999999999999999 Jan"):
            assert retry_after({"retry-after": odd}) is None
        google = '{"error": {"details": [{"retryDelay": "34.5s"}]}}'
        assert failure_of(429, google, {}).retry_after_s == 34.5

    def test_secrets_are_struck_out(self):
        text = (
            f"key {CANARY}, Bearer abc.def-ghi, https://u:pw@host/x?X-Amz-Signature=f00&a=1 "
            "AIzaSyA1234567890 ?key=zzz9 sk-ab***yz my-own-secret risk-free-cash ?sig=zzz8"
        )
        assert redacted(text, "my-own-secret", "") == (
            "key [redacted], Bearer [redacted], "
            "https://[redacted]@host/x?X-Amz-Signature=[redacted]&a=1 "
            "[redacted] ?key=[redacted] [redacted] [redacted] risk-free-cash ?sig=[redacted]"
        )


class TestSecrets:
    @pytest.mark.parametrize("key", [CANARY, "a-plain-word-key"])
    def test_a_key_is_in_no_message_traceback_repr_or_log(self, monkeypatch, caplog, key):
        monkeypatch.setenv("GPUCLUSTER_LLM_MY_KEY", key)
        caplog.set_level(logging.DEBUG)
        said = []
        kinds = ("unauthorized", "server_error", "timeout", "reset", "garbled", "rejected")
        for fault in kinds:
            with FakeServer(faults={fault: 1.0}, hang_s=1) as server:
                said += told(
                    failure(server.base_url, api_key_env="GPUCLUSTER_LLM_MY_KEY", timeout_s=0.2)
                )
        with FakeServer(key="another") as server:  # its message repeats the key that it got
            error = failure(server.base_url, api_key_env="GPUCLUSTER_LLM_MY_KEY")
            assert error.kind == "unauthorized"
            said += told(error)
        with closing(opened("http://127.0.0.1:9/v1", api_key_env="GPUCLUSTER_LLM_MY_KEY")) as model:
            said += [repr(model), str(model)]
        assert key not in "".join([*said, caplog.text])

    def test_a_key_that_breaks_a_header(self, monkeypatch):
        for odd in ("sk-secret\nX: y", "sk-secrét", "sk secret"):
            monkeypatch.setenv("GPUCLUSTER_LLM_MY_KEY", odd)
            with pytest.raises(ConfigError, match="GPUCLUSTER_LLM_MY_KEY") as caught:
                opened("http://127.0.0.1:9/v1", api_key_env="GPUCLUSTER_LLM_MY_KEY")
            assert "secr" not in str(caught.value)

    def test_the_environment_redirects_nothing_and_adds_no_header(self, monkeypatch):
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        monkeypatch.setenv(
            "OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {CANARY}\nX-Mine: {CANARY}"
        )
        got = []
        body = json.dumps({"choices": [{"message": {"content": "x"}}]}).encode()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve():
                connection, _ = listener.accept()
                with connection:
                    got.append(connection.recv(65536))
                    connection.sendall(http(body))

            thread = threading.Thread(target=serve)
            thread.start()
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            with closing(opened(address)) as model:
                assert model.ask(question()).text == "x"
            thread.join()
        head = got[0].partition(b"\r\n\r\n")[0].decode().lower()
        assert "authorization: bearer none" in head
        assert "canary" not in head
        assert not [line for line in head.splitlines() if line.startswith(("x-", "openai-"))]

    def test_addresses(self, monkeypatch):
        for name in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "ANTHROPIC_API_KEY"):
            monkeypatch.setenv(name, CANARY)
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        hosts = {
            "gpt-4o-mini": "https://api.openai.com/v1/",
            "gemini-2.5-flash": "https://generativelanguage.googleapis.com/v1beta/openai/",
            "claude-haiku-4-5": "https://api.anthropic.com/v1/",
        }
        for name, address in hosts.items():
            with closing(open_model(LabelingSettings(model_name=name))) as model:
                assert str(model._client.base_url) == address


def told(error):
    """Return all that Python says of an error, with the values of variables in its frames."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    chained = [error.__cause__, error.__context__]
    assert chained == [None, None]
    return [str(error), repr(error), *frames.format()]


AT_HOME = "http://127.0.0.1:9/v1"
STRANGE = (
    "AWS_SECRET_ACCESS_KEY",
    "gpucluster_mine",
    "GPUCLUSTER_SERVE_ADMIN_TOKEN",
    "GPUCLUSTER_TOKEN",
)
OWN = {
    "openai": ("OPENAI_API_KEY",),
    "google": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "anthropic": ("ANTHROPIC_API_KEY",),
}


class TestWhereKeysGo:
    """A definition can come from anybody: no key of the environment goes where it likes."""

    @pytest.fixture(autouse=True)
    def secrets(self, monkeypatch):
        for name in ("AWS_SECRET_ACCESS_KEY", "GPUCLUSTER_LLM_MINE", *sum(OWN.values(), ())):
            monkeypatch.setenv(name, f"of-{name}")

    def key(self, **settings):
        return client.find_key(LabelingSettings(model_name="m", **settings))

    @pytest.mark.parametrize("provider", OWN)
    def test_a_providers_key_goes_to_its_own_address_alone(self, monkeypatch, provider):
        own, *_ = OWN[provider]
        assert self.key(provider=provider) == f"of-{own}"
        with pytest.raises(ConfigError, match=f"set GPUCLUSTER_LLM_API_KEY; .*{own}"):
            self.key(provider=provider, base_url=AT_HOME)
        assert self.key(base_url=AT_HOME) == "none"
        monkeypatch.setenv("GPUCLUSTER_LLM_API_KEY", "for-any")
        assert self.key(provider=provider, base_url=AT_HOME) == "for-any"
        assert self.key(provider=provider) == f"of-{own}"

    @pytest.mark.parametrize("provider", [*OWN, "openai_compatible"])
    @pytest.mark.parametrize("name", [*STRANGE, *sum(OWN.values(), ())])
    def test_no_other_variable_is_sent(self, provider, name):
        for base_url in (AT_HOME, None):
            if base_url is None and provider == "openai_compatible":
                continue
            settings = {"provider": provider, "base_url": base_url, "api_key_env": name}
            if base_url is None and name in OWN[provider]:
                assert self.key(**settings) == f"of-{name}"
                continue
            with pytest.raises(
                ConfigError, match=f"list {name} in .* GPUCLUSTER_LLM_KEY_ENVS"
            ) as e:
                self.key(**settings)
            assert e.value.path == "llm_labeling.api_key_env"

    def test_but_those_that_the_user_allows(self, monkeypatch):
        monkeypatch.setenv("GPUCLUSTER_LLM_KEY_ENVS", "ANOTHER, OPENAI_API_KEY ,")
        for provider in ("openai", "google", "openai_compatible"):
            for name in ("OPENAI_API_KEY", "GPUCLUSTER_LLM_MINE"):
                key = self.key(provider=provider, base_url=AT_HOME, api_key_env=name)
                assert key == f"of-{name}"
        with pytest.raises(ConfigError, match="may not be sent to http"):
            self.key(base_url=AT_HOME, api_key_env="ANTHROPIC_API_KEY")

    def test_nothing_reaches_the_server(self):
        with FakeServer(key="nobody-has-this") as server, pytest.raises(ConfigError):
            opened(server.base_url, api_key_env="AWS_SECRET_ACCESS_KEY")
        assert server.calls == 0


class TestReady:
    def test_keys(self, monkeypatch):
        wanted = {"gpt-4o": "OPENAI_API_KEY", "gemini-2": "GEMINI_API_KEY or GOOGLE_API_KEY"}
        for name, variable in wanted.items():
            with pytest.raises(ConfigError, match=f"set {variable}$") as caught:
                check_ready(LabelingSettings(model_name=name))
            assert caught.value.path == "llm_labeling.provider"
        with pytest.raises(ConfigError, match="set GPUCLUSTER_LLM_MY_KEY") as caught:
            check_ready(LabelingSettings(model_name="gpt-4o", api_key_env="GPUCLUSTER_LLM_MY_KEY"))
        assert caught.value.path == "llm_labeling.api_key_env"
        monkeypatch.setenv("GPUCLUSTER_LLM_MY_KEY", "x")
        check_ready(LabelingSettings(model_name="gpt-4o", api_key_env="GPUCLUSTER_LLM_MY_KEY"))
        check_ready(LabelingSettings(model_name="m", base_url="http://localhost:1/v1"))

    def test_nothing_is_needed_for_keywords_or_nothing(self, monkeypatch):
        monkeypatch.setattr(client, "find_spec", lambda name: None)
        check_ready(LabelingSettings())
        check_ready(LabelingSettings(enabled=False, model_name="gpt-4o"))
        with pytest.raises(ConfigError, match="asks no model"):
            open_model(LabelingSettings())

    def test_a_missing_library(self, monkeypatch):
        monkeypatch.setattr(client, "find_spec", lambda name: None)
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        with pytest.raises(BackendUnavailableError, match=r"gpucluster\[llm\]"):
            check_ready(LabelingSettings(model_name="gpt-4o"))

    @pytest.mark.parametrize("name", ["messages", "model", "n", "stream", "tools"])
    def test_fields_that_are_ours(self, name):
        with pytest.raises(ConfigError, match=rf"parameters\.{name}"):
            opened("http://127.0.0.1:9/v1", parameters={name: 1})

    def test_an_address_that_is_none(self):
        with pytest.raises(ConfigError, match=r"llm_labeling\.base_url"):
            opened("http://127.0.0.1:port/v1")


class TestProgram:
    def model(self, monkeypatch, source, timeout_s=10):
        monkeypatch.setenv("GPUCLUSTER_LABEL_COMMAND", f"{sys.executable} -c '{source}'")
        return open_model(LabelingSettings(provider="command", timeout_s=timeout_s))

    def test_it_reads_a_question_and_writes_a_reply(self, monkeypatch):
        source = "import json, sys; print(json.dumps(sorted(json.load(sys.stdin).items())))"
        model = self.model(monkeypatch, source)
        asked = question()
        reply = model.ask(asked)
        assert (reply.finish, reply.input_tokens, reply.output_tokens) == ("stop", None, None)
        assert dict(json.loads(reply.text)) == {
            "messages": list(asked.messages),
            "schema": SCHEMA,
            "max_tokens": 100,
        }
        with pytest.raises(CallError):
            model.embed(["a"])
        model.close()

    @pytest.mark.parametrize(
        ("source", "kind", "said"),
        [
            (f'import sys; sys.exit("no {CANARY}")', "unavailable", "code 1: no .redacted."),
            ("import time; time.sleep(60)", "timeout", "did not end within"),
            ('print("x" * 1000001)', "malformed", "more than 1,000,000 bytes"),
            ("import os; os.write(1, bytes([255]))", "malformed", "UTF-8"),
        ],
    )
    def test_faults(self, monkeypatch, source, kind, said):
        model = self.model(monkeypatch, source, timeout_s=0.4 if kind == "timeout" else 10)
        with pytest.raises(CallError, match=said) as caught:
            model.ask(question())
        assert caught.value.kind == kind

    def test_it_ends_with_its_children(self, monkeypatch):
        source = 'import subprocess; subprocess.Popen(["sleep", "60"]).wait()'
        with pytest.raises(CallError, match="did not end"):
            self.model(monkeypatch, source, timeout_s=0.5).ask(question())

    @pytest.mark.parametrize(
        ("value", "said"),
        [("", "none is named"), ("no-such-program-here --x", "no program"), ("'x", "cannot read")],
    )
    def test_it_is_checked_before(self, monkeypatch, value, said):
        monkeypatch.setenv("GPUCLUSTER_LABEL_COMMAND", value)
        with pytest.raises(ConfigError, match=said):
            check_ready(LabelingSettings(provider="command"))


class TestTogether:
    def test_a_server_that_fails_often_answers_all_and_is_paid_once(self):
        """30 % of calls fail; what content is broken is for whoever reads it."""
        with FakeServer(faults=0.3, seed=1, hang_s=9) as server:
            with model_of(server, timeout_s=1.5) as model:
                patience = Patience()

                def ask(number):
                    return patience.call(lambda: model.ask(question(number)))

                with ThreadPoolExecutor(16) as pool:
                    replies = list(pool.map(ask, range(200)))
            unusable = sum(server.faults[kind] for kind in ("malformed", "truncated", "refused"))
            assert len(replies) == len(server.billed) == 200
            assert server.paid_repeats == 0
            assert server.calls == patience.calls == 200 + patience.retries
            usable = 0
            for reply in replies:
                try:
                    usable += json.loads(reply.text)["label"].startswith("Piano")
                except ValueError:
                    continue
            assert usable == 200 - unusable
            assert len(server.faults) == 8

    def test_one_answer_that_asks_for_a_pause_stops_all(self):
        waits = []
        with FakeServer(faults={"rate_limited": 0.02}, seed=2, retry_after_s=0.3) as server:
            with model_of(server) as model:
                patience = Patience(on_wait=lambda seconds, why: waits.append((seconds, why)))
                with ThreadPoolExecutor(8) as pool:
                    list(
                        pool.map(lambda n: patience.call(lambda: model.ask(question(n))), range(60))
                    )
            assert 1 <= len(waits) <= server.faults["rate_limited"]
            assert waits[0] == (0.3, "HTTP 429: Rate limit reached")

    def test_no_quota_ends_all_after_the_calls_on_their_way(self):
        with FakeServer(faults={"quota": 1.0}) as server, model_of(server) as model:
            patience = Patience()

            def ask(number):
                with pytest.raises(GaveUp, match="exceeded your current quota"):
                    patience.call(lambda: model.ask(question(number)))

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(ask, range(300)))
            assert server.calls <= 8
