"""Addresses in S3 are signed below what is named, and what forbids it is said before."""

from __future__ import annotations

import builtins
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gpucluster.errors import BackendUnavailableError, ConfigError
from gpucluster.labeling.question.presigner import Presigner
from gpucluster.labeling.settings import LabelingSettings

PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("credentials")
def test_addresses_are_signed_for_a_quarter_of_an_hour() -> None:
    signed = urlsplit(Presigner(["s3://bucket"]).sign("s3://bucket/a b/100%25?#.png") or "")
    asked = parse_qs(signed.query)
    assert (signed.scheme, signed.netloc) == ("http", "127.0.0.1:9000")
    assert signed.path == "/bucket/a%20b/100%2525%3F%23.png"
    assert asked["X-Amz-Expires"] == ["900"]
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert "eu-central-1" in asked["X-Amz-Credential"][0]
    assert "not-a-secret" not in signed.geturl()


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("prefix", "url", "is_signed"),
    [
        ("s3://bucket", "s3://bucket/a", True),
        ("s3://bucket/", "s3://bucket/a", True),
        ("s3://bucket", "s3://bucket2/a", False),
        ("s3://bucket", "s3://bucket.evil/a", False),
        ("s3://bucket/in", "s3://bucket/in/a", True),
        ("s3://bucket/in/", "s3://bucket/in/a", True),
        ("s3://bucket/in", "s3://bucket/in", True),
        ("s3://bucket/in", "s3://bucket/in2/a", False),
        ("s3://bucket/in", "s3://bucket/IN/a", False),
        ("s3://bucket/in", "s3://bucket/in/../out/a", False),
        ("s3://bucket/in", "s3://bucket/in/./a", False),
        ("s3://bucket/in", "s3://bucket//in/a", False),
        ("s3://bucket/in", "s3://bucket/%69n/a", False),
        ("s3://bucket", "s3://bucket/", False),
        ("s3://bucket", "s3://bucket", False),
        ("s3://bucket", "s3:///a", False),
        ("s3://bucket", "s3://any/a", False),
    ],
)
def test_only_what_lies_below_a_prefix_is_signed(prefix: str, url: str, is_signed: bool) -> None:
    presigner = Presigner(["s3://elsewhere/x", prefix])
    assert (presigner.sign(url) is not None) == is_signed
    assert presigner.allows(url) == is_signed


def test_other_addresses_pass_and_nothing_is_signed_without_prefixes() -> None:
    presigner = Presigner(LabelingSettings().presign_prefixes)
    for url in ("https://host/a.png", PIXEL):
        assert presigner.sign(url) == url
        assert presigner.allows(url)
    assert presigner.sign("s3://bucket/a") is None
    assert not presigner.allows("s3://bucket/a")


@pytest.mark.usefixtures("credentials")
def test_threads_share_a_presigner() -> None:
    presigner = Presigner(f"s3://bucket-{i}" for i in range(5))
    urls = [f"s3://bucket-{i % 5}/a" for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(presigner.sign, urls))
    assert [urlsplit(url or "").path for url in signed] == [
        f"/bucket-{i % 5}/a" for i in range(200)
    ]


def test_the_extra_is_named_where_obstore_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("obstore"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("obstore")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendUnavailableError, match=r"gpucluster\[s3\]"):
        Presigner(["s3://bucket"]).sign("s3://bucket/a")
    with pytest.raises(BackendUnavailableError, match=r"gpucluster\[s3\]"):
        Presigner(["s3://bucket"]).check()
    Presigner([]).check()


def test_a_failure_to_sign_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    obstore = pytest.importorskip("obstore")

    def fail(*_: Any) -> str:
        raise obstore.exceptions.GenericError("no credentials")

    monkeypatch.setattr(obstore, "sign", fail)
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        Presigner(["s3://bucket"]).sign("s3://bucket/a")


def test_whether_anything_could_be_signed_is_known_before_it_is(
    monkeypatch: pytest.MonkeyPatch, credentials: None
) -> None:
    presigner = Presigner(["s3://bucket", "s3://other/in"])
    presigner.check()
    Presigner([]).check()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="presign_prefixes: addresses in the bucket bucket"):
        Presigner(["s3://bucket"]).check()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # no machine of a cloud
    with pytest.raises(ConfigError, match="cannot be signed"):
        Presigner(["s3://bucket"]).check()


@pytest.mark.usefixtures("credentials")
def test_an_endpoint_that_is_none_is_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(ConfigError, match="cannot be signed"):
        Presigner(["s3://bucket"]).check()
