"""The client of webhooks: whom it calls, for how long, and what it makes of the answers."""

from __future__ import annotations

import logging
import os
import time

import pytest
from pydantic import ValidationError

from gpucluster.errors import ConfigError
from gpucluster.service.outbound import Outbound, OutboundError, OutboundSettings
from gpucluster.service.settings import ServiceSettings
from tests.helpers.receivers import NAME, Authority, receiving


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def outbound(authority: Authority, **settings) -> Outbound:
    given = {"allow_hosts": (NAME,), "ca_file": authority.file} | settings
    return Outbound(OutboundSettings(**given), resolve=lambda host, port: ["127.0.0.1"])


def failure(call) -> OutboundError:
    with pytest.raises(OutboundError) as caught:
        call()
    return caught.value


def test_a_body_arrives_with_its_headers_and_is_answered(authority):
    with receiving(lambda call: 202, authority.context(NAME)) as receiver:
        reply = outbound(authority).post(receiver.url("/a?b=c"), b'{"a":1}', {"X-Own": "yes"})
    assert (reply.status, reply.body) == (202, b"ok")
    call = receiver.calls[0]
    assert (call.path, call.body, call.headers["x-own"]) == ("/a?b=c", b'{"a":1}', "yes")
    assert call.headers["host"] == f"{NAME}:{receiver.port}"
    assert set(call.headers) == {"connection", "content-length", "host", "user-agent", "x-own"}


def test_a_name_may_end_with_a_dot_and_be_written_in_capitals(authority):
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        reply = outbound(authority).post(receiver.url(name="Hooks.EXAMPLE."), b"", {})
    assert reply.status == 200


def test_the_certificate_is_checked_for_the_name(authority):
    with receiving(lambda call: 200, authority.context("other.example")) as receiver:
        error = failure(lambda: outbound(authority).post(receiver.url(), b"", {}))
    assert error.kind == "tls"
    assert "Hostname mismatch" in str(error)
    assert receiver.calls == []


def test_each_name_has_its_own_certificate(authority):
    client = outbound(authority, allow_hosts=(NAME, "other.example"))
    for name in (NAME, "other.example"):
        with receiving(lambda call: 200, authority.context(name)) as receiver:
            assert client.post(receiver.url(name=name), b"", {}).status == 200


def test_an_unknown_authority_is_not_trusted(authority):
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        client = outbound(authority, ca_file=None)
        assert failure(lambda: client.post(receiver.url(), b"", {})).kind == "tls"
    assert receiver.calls == []


def test_tls_is_not_spoken_with_those_who_do_not(authority):
    with receiving(lambda call: 200, None) as receiver:
        assert failure(lambda: outbound(authority).post(receiver.url(), b"", {})).kind == "tls"
    assert receiver.calls == []


def test_http_is_for_listed_hosts(authority):
    with receiving(lambda call: 200, None) as receiver:
        url = receiver.url().replace("https", "http")
        error = failure(lambda: outbound(authority).post(url, b"", {}))
        assert (error.kind, receiver.calls) == ("refused", [])
        assert outbound(authority, http_hosts=(NAME,)).post(url, b"", {}).status == 200


def test_redirects_are_not_followed(authority):
    with receiving(lambda call: "redirect", authority.context(NAME)) as receiver:
        reply = outbound(authority).post(receiver.url(), b"", {})
    assert (reply.status, len(receiver.calls)) == (302, 1)


@pytest.mark.parametrize("behaviour", ["hang", "drip", "drip header"])
def test_a_call_ends_in_time_however_the_answer_trickles_in(authority, behaviour):
    with receiving(lambda call: behaviour, authority.context(NAME)) as receiver:
        started = time.monotonic()
        error = failure(lambda: outbound(authority).post(receiver.url(), b"", {}, 1.0))
        assert error.kind == "timeout"
        assert time.monotonic() - started < 20  # the receiver would go on for longer
        assert len(receiver.calls) <= 1  # none, where the handshake alone took so long


def test_names_that_are_not_answered_for_end_in_time(authority):
    client = Outbound(OutboundSettings(), resolve=lambda host, port: time.sleep(2) or [])
    assert failure(lambda: client.post(f"https://{NAME}", b"", {}, 0.05)).kind == "timeout"


def test_a_long_answer_is_cut(authority):
    with receiving(lambda call: "endless", authority.context(NAME)) as receiver:
        reply = outbound(authority).post(receiver.url(), b"", {})
    assert (reply.status, reply.body) == (200, b"x" * 65_536)


def test_connections_that_are_reset_or_refused_are_failures(authority):
    with receiving(lambda call: "reset", authority.context(NAME)) as receiver:
        assert failure(lambda: outbound(authority).post(receiver.url(), b"", {})).kind == "broken"
    error = failure(lambda: outbound(authority).post(receiver.url(), b"", {}))
    assert (error.kind, str(error)) == ("unreachable", "no connection")


def test_the_next_address_is_tried_where_one_does_not_answer(authority):
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        settings = OutboundSettings(allow_hosts=(NAME,), ca_file=authority.file)
        client = Outbound(settings, resolve=lambda host, port: ["127.0.0.9", "127.0.0.1"])
        assert client.post(receiver.url(), b"", {}).status == 200


def test_proxies_of_the_environment_are_not_asked(authority, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for written in (name, name.upper()):
            monkeypatch.setitem(os.environ, written, "http://127.0.0.1:1")
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        assert outbound(authority).post(receiver.url(), b"", {}).status == 200


@pytest.mark.parametrize("header", [{"a": "b\r\nc: d"}, {"a b": "c"}, {"a": "é"}, {"": "b"}])
def test_headers_that_would_be_more_than_one_are_not_sent(authority, header):
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        failure(lambda: outbound(authority).post(receiver.url(), b"", header))
    assert receiver.calls == []


@pytest.mark.parametrize("behaviour", [200, 500, "reset", "redirect", "drip"])
def test_nothing_of_a_call_is_logged_or_in_its_error(authority, caplog, behaviour):
    caplog.set_level(logging.DEBUG)
    said = ""
    with receiving(lambda call: behaviour, authority.context(NAME)) as receiver:
        headers = {"Authorization": "Bearer canary1"}
        try:
            outbound(authority).post(receiver.url("/canary2?q=canary3"), b"canary4", headers, 0.3)
        except OutboundError as error:
            said = repr(error) + repr(error.__cause__) + repr(error.__context__)
    assert "canary" not in caplog.text + said


@pytest.mark.parametrize("rest", ["/a#b", "/#", "/a\\b", "/a b", "/\u00e9", "/\x7f", "#", "?#"])
def test_paths_are_what_is_sent_and_no_more(rest):
    with pytest.raises(ConfigError, match="no address that can be called"):
        Outbound(OutboundSettings()).check(f"https://example.com{rest}")


@pytest.mark.parametrize(
    "listed", [("10.0.0.0/33",), ("a b",), ("",), ("https://a.example",), ("1.2.3",)]
)
def test_what_is_no_host_cannot_be_allowed(listed):
    with pytest.raises(ValueError, match="allow_hosts"):
        OutboundSettings(allow_hosts=listed)


def test_ports_below_1024_belong_to_other_services():
    client = Outbound(OutboundSettings(allow_hosts=(NAME, "10.0.0.0/8")))
    for host in (NAME, "10.1.2.3"):
        client.check(f"https://{host}:22/")
    for port in (443, 80, 1024, 8443, 65535):
        client.check(f"https://example.com:{port}/")
    for port in (0, 22, 25, 1023, 65536, 99999):
        with pytest.raises(ConfigError, match="port"):
            client.check(f"https://example.com:{port}/")


def test_certificates_that_are_none_are_a_mistake_in_the_settings(tmp_path):
    file = tmp_path / "ca.pem"
    for content in (None, b"", b"no certificate"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read as certificates"):
            Outbound(OutboundSettings(ca_file=file))


def test_hosts_are_listed_in_the_environment_with_commas(monkeypatch):
    monkeypatch.setenv("GPUCLUSTER_SERVE_OUTBOUND_HOSTS", "hooks.corp,10.0.0.0/8")
    assert ServiceSettings().outbound_hosts == ("hooks.corp", "10.0.0.0/8")
    monkeypatch.setenv("GPUCLUSTER_SERVE_OUTBOUND_HOSTS", "hooks.corp,10.0.0.0/33")
    with pytest.raises(ValidationError, match="outbound_hosts"):
        ServiceSettings()
