"""What an LLM sees of a document."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.labeling.question.inputs import Medium, Sample, columns_needed, read_sample
from gpucluster.labeling.settings import LabelingInputs

PIXEL = "data:image/png;base64,iVBORw0KGgo="
WITHOUT_A_MEDIUM = (
    "/etc/passwd",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "../../secret.png",
    "javascript:alert(1)",
    "ftp://example.org/a.png",
    "gs://bucket/a.png",
    "http://",
    "https:///a.png",
    "http:/example.org/a.png",
    "//example.org/a.png",
    "https://user:secret@example.org/a.png",
    "https://example.org\\@evil/a.png",
    "https://a.org/a b.png",
    "https://a.org/a\n.png",
    "https://a.org/\u202egnp.exe",
    "http://[::1/a.png",
    "https://a.org/" + "a" * 2_000,
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
            "document_blobs": pa.array([[{"url": "https://a.org/a.png"}]]),
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
        {"text": "Shoes\nred", "size": "L"}, (Medium("image_url", "https://a.org/a.png"),)
    )


@pytest.mark.parametrize("url", WITHOUT_A_MEDIUM)
def test_addresses_that_reach_elsewhere_are_omitted(url: str) -> None:
    mapped = inputs(("text", "payload", "a"), ("image_url", "payload", "url"))
    sample, omitted = read_sample({"a": "x", "url": url}, mapped, max_length=None)
    assert sample == Sample({"text": "x"})
    assert omitted == ["image_url"]


@pytest.mark.parametrize("url", [["https://a.org/a.png"], {"url": "https://a.org/a.png"}, 3, b"x"])
def test_only_text_is_an_address(url: Any) -> None:
    mapped = inputs(("image_url", "payload", "url"))
    assert read_sample({"url": url}, mapped, max_length=None) == (None, ["image_url"])


def test_addresses_are_kept_whole() -> None:
    urls = ["https://a.org/a.png?b=c#d", "http://a.org:9000/a", "s3://bucket/a b?.png", PIXEL]
    mapped = inputs(*(("image_url", "payload", f"urls.{i}") for i in range(4)))
    sample, omitted = read_sample({"urls": [f" {url} " for url in urls]}, mapped, max_length=3)
    assert omitted == []
    assert sample == Sample({}, tuple(Medium("image_url", url) for url in urls))


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
