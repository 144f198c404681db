"""What an LLM sees of a document."""

from __future__ import annotations

import builtins
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.errors import BackendUnavailableError, ConfigError
from gpucluster.labeling.question.inputs import (
    Medium,
    Presigner,
    Sample,
    columns_needed,
    is_allowed,
    read_sample,
)
from gpucluster.labeling.settings import LabelingInputs, LabelingSettings
from tests.helpers.injections import INJECTIONS

PIXEL = "data:image/png;base64,iVBORw0KGgo="
WITHOUT_A_MEDIUM = (
    "/etc/passwd",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "../../secret.png",
    "javascript:alert(1)",
    "ftp://host/a.png",
    "gs://bucket/a.png",
    "http://",
    "https:///a.png",
    "http:/host/a.png",
    "//host/a.png",
    "https://user:secret@host/a.png",
    "https://host\\@evil/a.png",
    "https://host/a b.png",
    "https://host/a\n.png",
    "https://host/\u202egnp.exe",
    "http://[::1/a.png",
    "https://host/" + "a" * 2_000,
    "s3://",
    "s3://bucket",
    "s3://bucket/",
    "s3://bucket//a.png",
    "s3://bucket/a/../b.png",
    "s3://bucket/./b.png",
    "s3://bu cket/a.png",
    "s3://bucket@evil/a.png",
    "s3://bucket/a\x00.png",
    "S3://bucket/a.png",
    "data:text/html;base64,PHNjcmlwdD4=",
    "data:image/png,raw",
    "data:image/png;base64,",
    "data:image/png;base64,<svg>",
    "data:image/png;base64," + "A" * 1_000_000,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


def inputs(*mappings: tuple[str, str, Any]) -> LabelingInputs:
    return LabelingInputs.model_validate(
        {
            "input_mappings": [
                {
                    "input_key": key,
                    "source_type": kind,
                    ("override" if kind == "literal" else "path"): at,
                }
                for key, kind, at in mappings
            ]
        }
    )


def text_at(payload: dict[str, Any], path: str, kind: str = "payload") -> Any:
    sample, omitted = read_sample(payload, inputs(("value", kind, path)), max_length=None)
    assert (sample is None) == (omitted == ["value"])
    return None if sample is None else sample.fields["value"]


@pytest.mark.parametrize(
    ("payload", "path", "expected"),
    [
        ({"headline": "a"}, "headline", "a"),
        ({"metadata": {"description": "a"}}, "metadata.description", "a"),
        ({"metadata.a": "b", "metadata": {"a": "c"}}, "metadata.a", "b"),
        ({"metadata": {"a.b": "c"}}, "metadata.a.b", "c"),
        ({"metadata": '{"description": "a"}'}, "metadata.description", "a"),
        ({"metadata": '[{"a": 1}]'}, "metadata.0.a", 1),
        ({"tags": ["x", "y"]}, "tags.1", "y"),
        ({"tags": {"1": "y"}}, "tags.1", "y"),
        ({"properties": [("colour", "red"), ("size", "L")]}, "properties.size", "L"),
        ({"a": 0}, "a", 0),
        ({"a": False}, "a", False),
        ({"a": None}, "a", None),
        ({"a": " \n"}, "a", None),
        ({"a": []}, "a", None),
        ({"a": math.nan}, "a", None),
        ({"a": b"\x00"}, "a", None),
        ({"tags": ["x"]}, "tags.1", None),
        ({"tags": ["x"]}, "tags.-1", None),
        ({"tags": ["x"]}, "tags.\u0661", None),
        ({"tags": ["x"]}, "tags." + "9" * 5000, None),
        ({"a": "text"}, "a.b", None),
        ({"a": '{"b": '}, "a.b", None),
        ({"a": "[" * 100_000}, "a.0", None),
        ({"a": 3}, "a.b", None),
    ],
)  # fmt: skip
def test_paths_lead_through_structs_lists_and_json_text(
    payload: dict[str, Any], path: str, expected: Any
) -> None:
    assert text_at(payload, path) == expected


def test_blobs_are_looked_for_among_the_derived_ones_first() -> None:
    both = {"document_blobs": [{"url": "d"}], "source_blobs": [{"url": "s"}, {"url": "t"}]}
    assert text_at(both, "0.url", "blob") == "d"
    assert text_at(both, "1.url", "blob") == "t"
    assert text_at(both, "source_blobs.0.url", "blob") == "s"
    assert text_at({**both, "document_blobs": None}, "0.url", "blob") == "s"
    assert text_at({**both, "document_blobs": [{"url": ""}]}, "0.url", "blob") == "s"
    assert text_at({}, "0.url", "blob") is None


def test_columns_are_every_lead_of_a_path() -> None:
    assert columns_needed(None) is None
    assert columns_needed(
        inputs(("text", "payload", "a.b.c"), ("text", "payload", "a"), ("text", "literal", "x"))
    ) == ["a", "a.b", "a.b.c"]
    assert columns_needed(inputs(("image_url", "blob", "0.url"))) == [
        "document_blobs",
        "document_blobs.0",
        "document_blobs.0.url",
        "source_blobs",
        "source_blobs.0",
        "source_blobs.0.url",
    ]


def test_texts_are_joined_and_other_keys_listed() -> None:
    sample, omitted = read_sample(
        {"headline": "Shoes", "n": {"b": 1}, "tags": ["x", "y"], "none": None},
        inputs(
            ("text", "literal", "Category: ads"),
            ("text", "payload", "headline"),
            ("text", "payload", "none"),
            ("text", "payload", "n"),
            ("tag", "payload", "tags.0"),
            ("tag", "payload", "tags.1"),
            ("count", "payload", "n.b"),
        ),
        max_length=None,
    )
    assert sample == Sample(
        {"text": 'Category: ads\nShoes\n{"b": 1}', "tag": ["x", "y"], "count": 1}
    )
    assert omitted == ["text"]


def test_literals_alone_say_nothing_about_a_document() -> None:
    mapped = inputs(("text", "literal", "Category: ads"), ("text", "payload", "headline"))
    assert read_sample({}, mapped, max_length=None) == (None, ["text"])


def test_texts_are_cut_and_literals_are_not() -> None:
    mapped = inputs(
        ("text", "payload", "a"), ("text", "literal", "0123456789"), ("tags", "payload", "tags")
    )
    sample, _ = read_sample({"a": "abcdefgh", "tags": ["abcdefgh"]}, mapped, max_length=5)
    assert sample == Sample({"text": "abcde\n0123456789", "tags": ["abcde"]})


def test_without_mappings_the_whole_row_is_shown() -> None:
    payload = {
        "document_id": "d1",
        "vector": [0.1, 0.2],
        "topic": "truth",
        "day": date(2026, 8, 3),
        "when": datetime(2026, 8, 3, 4, 12, tzinfo=UTC),
        "took": timedelta(seconds=90),
        "price": Decimal("1.10"),
        "uuid": UUID(int=1),
        "raw": b"\x00",
        "nan": math.inf,
        "nothing": None,
        "nested": {"a": [1, None, "long text"]},
        "half": "a\ud800",
    }
    sample, omitted = read_sample(payload, None, max_length=10, leave_out={"vector", "topic"})
    assert omitted == []
    assert sample is not None
    assert sample.fields == {
        "document_id": "d1",
        "day": "2026-08-03",
        "when": "2026-08-03",
        "took": "0:01:30",
        "price": "1.10",
        "uuid": "00000000-0",
        "nested": {"a": [1, None, "long text"]},
        "half": "a?",
    }
    nothing = {"vector": [1.0], "a": None}
    assert read_sample(nothing, None, max_length=None, leave_out={"vector"}) == (None, [])


def test_rows_of_arrow_are_read() -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "headline": pa.array(["Shoes"]),
            "metadata": pa.array([{"description": "red"}]),
            "document_blobs": pa.array([[{"url": "https://host/a.png"}]]),
            "more": pa.array([[("size", "L")]], pa.map_(pa.string(), pa.string())),
        }
    )
    sample, omitted = read_sample(
        batch.to_pylist()[0],
        inputs(
            ("text", "payload", "headline"),
            ("text", "payload", "metadata.description"),
            ("size", "payload", "more.size"),
            ("image_url", "blob", "0.url"),
        ),
        max_length=None,
    )
    assert omitted == []
    assert sample == Sample(
        {"text": "Shoes\nred", "size": "L"}, (Medium("image_url", "https://host/a.png"),)
    )


@pytest.mark.parametrize("url", WITHOUT_A_MEDIUM)
def test_addresses_that_reach_elsewhere_are_omitted(url: str) -> None:
    mapped = inputs(("text", "payload", "a"), ("image_url", "payload", "url"))
    sample, omitted = read_sample({"a": "x", "url": url}, mapped, max_length=None)
    assert sample == Sample({"text": "x"})
    assert omitted == ["image_url"]


@pytest.mark.parametrize("url", [["https://host/a.png"], {"url": "https://host/a.png"}, 3, b"x"])
def test_only_text_is_an_address(url: Any) -> None:
    mapped = inputs(("image_url", "payload", "url"))
    assert read_sample({"url": url}, mapped, max_length=None) == (None, ["image_url"])


def test_addresses_are_kept_whole() -> None:
    urls = ["https://host/a.png?b=c#d", "http://minio:9000/a", "s3://bucket/a b?.png", PIXEL]
    mapped = inputs(*(("image_url", "payload", f"urls.{i}") for i in range(4)))
    sample, omitted = read_sample({"urls": [f" {url} " for url in urls]}, mapped, max_length=3)
    assert omitted == []
    assert sample == Sample({}, tuple(Medium("image_url", url) for url in urls))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host",
    [
        # names of this machine
        "localhost", "LOCALHOST", "localhost.", "a.localhost", "loc\u034falhost",
        "\uff4cocalhos\uff54",
        # loopback, private, link-local, metadata of clouds, shared, multicast, none
        "127.0.0.1", "127.255.0.9", "127.0.0.1.", "10.0.0.1", "172.16.0.1", "172.31.255.255",
        "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
        # the same in fewer numbers, in octal, hexadecimal and other digits
        "127.1", "127.0.1", "2130706433", "0", "0x7f000001", "0x7f.0.0.1", "0X7F.1", "0x",
        "017700000001", "0177.0.0.1", "010.0.0.1", "127.0.0.0x1", "127.0.0.1.0",
        "①②⑦.0.0.1", "127。0。0。1", "\uff11\uff12\uff17.0.0.1", "127%2e0.0.1", "999.1.1.1",
        "\U0001fbf1\U0001fbf2\U0001fbf7.0.0.1",
        # of IPv6: loopback, none, private, link-local, site-local, multicast, documentation
        "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]",
        "[fe80::1%25eth0]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]",
        # with an address of IPv4 in them: mapped, compatible, translated, 6to4, Teredo
        "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::ffff:8.8.8.8]", "[::127.0.0.1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]",
        # what is no host
        "a..b", ".", "-.%", "a,b", "$HOST",
    ],
)  # fmt: skip
def test_no_document_reaches_into_this_machine_or_its_network(scheme: str, host: str) -> None:
    for rest in ("/latest/meta-data", ":8080/a.png", "?a", ""):
        assert not is_allowed("image_url", f"{scheme}://{host}{rest}")


@pytest.mark.parametrize(
    "host",
    [
        "example.org", "example.org.", "EXAMPLE.org", "bücher.example", "例え.テスト", "minio",
        "gpu-7.internal", "my_bucket.s3.amazonaws.com", "1.example", "0x7f.example",
        "localhost.org", "8.8.8.8", "93.184.215.14", "[2606:4700:4700::1111]", "127.0.0.1.example",
    ],
)  # fmt: skip
def test_names_and_public_addresses_are_passed_on(host: str) -> None:
    for rest in ("/a.png", ":8443/a.png", ""):
        assert is_allowed("image_url", f"https://{host}{rest}")


def test_only_images_are_written_into_their_address() -> None:
    assert is_allowed("image_url", PIXEL)
    assert not is_allowed("video_url", PIXEL)
    assert is_allowed("audio_url", "https://host/a.mp3")


@given(json_values, st.lists(st.sampled_from("ab01."), max_size=6).map("".join), st.booleans())
def test_any_value_can_be_sent(value: Any, path: str, is_cut: bool) -> None:
    payload = {"a": value, "b": json.dumps(value), "document_blobs": value}
    mapped = inputs(
        ("text", "payload", f"a.{path}"),
        ("text", "payload", "b"),
        ("other", "payload", f"b.{path}"),
        ("image_url", "blob", f"0.{path}"),
    )
    for how in (mapped, None):
        sample, _ = read_sample(payload, how, max_length=5 if is_cut else None)
        assert sample is not None
        json.dumps(sample.fields, allow_nan=False, ensure_ascii=False).encode()


@given(st.text() | st.sampled_from(INJECTIONS))
def test_no_text_is_an_address_of_a_file(text: str) -> None:
    for kind in ("image_url", "video_url", "audio_url"):
        if is_allowed(kind, text):
            assert text.startswith(("http://", "https://", "s3://", "data:image/", "HTTP", "Http"))


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


@pytest.mark.parametrize(
    "prefix", ["", "s3://", "bucket", "https://bucket", "s3:/bucket", "s3:///a", "s3://b ucket", "s3://bucket/.."]
)  # fmt: skip
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="presign_prefixes"):
        Presigner([prefix])


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


def test_a_failure_to_sign_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    obstore = pytest.importorskip("obstore")

    def fail(*_: Any) -> str:
        raise obstore.exceptions.GenericError("no credentials")

    monkeypatch.setattr(obstore, "sign", fail)
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        Presigner(["s3://bucket"]).sign("s3://bucket/a")
