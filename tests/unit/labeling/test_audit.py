"""The audit holds what was sent, without what lets anybody in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpucluster.errors import StoreError
from gpucluster.labeling.asking.audit import Audit
from gpucluster.labeling.model.failures import unsigned

SECRET = "f00dcafe"


def written(path: Path, **facts: Any) -> dict[str, Any]:
    with Audit(path) as audit:
        audit.write("sent", **facts)
    line: dict[str, Any] = json.loads(path.read_text().split("\n")[-2])
    return line


@pytest.mark.parametrize(
    "query",
    [
        "?X-Amz-Signature={}",
        "?X-Amz-Expires=900&X-Amz-Signature={}&x=1",
        "?x-amz-security-token={}",
        "?X-Amz-Credential={}%2F20260803%2Feu",
        "?X-Goog-Signature={}",
        "?X-Goog-Credential={}",
        "?AWSAccessKeyId={}&Expires=1&Signature={}",
        "?Policy=x&Signature={}&Key-Pair-Id=y",
        "?se=2026&sp=r&sig={}",
        "?a=1&amp;sig={}",
        "?token={}",
        "?access_token={}#a",
        "?auth-token={}",
        "?accessToken={}",
        "?api_key={}",
        "?apikey={}",
        "?key={}",
        "?hdnts=exp=1~acl=/*~hmac={}",
        "?url=https%3A%2F%2Fhost%2Fa%3Fsig%3D{}",
        "?url=https%3A%2F%2Fhost%2Fa%3Fa%3D1%26X-Amz-Signature%3D{}%26b%3D1",
    ],
)
def test_signatures_in_any_string_are_struck_out(tmp_path: Path, query: str) -> None:
    url = "https://bucket.s3.amazonaws.com/a.png" + query.replace("{}", SECRET)
    nested = json.dumps({"documents": [f'see "{url}" or ({url})', {"at": url}]})
    parts = [{"type": "text", "text": nested}, {"type": "image_url", "image_url": {"url": url}}]
    messages = ({"role": "system", "content": "x"}, {"role": "user", "content": parts})
    found = written(tmp_path / "a.jsonl", messages=messages, reply=url, lists=[[url]])
    assert SECRET not in json.dumps(found)
    assert "[redacted]" in found["reply"]
    assert found["reply"].startswith("https://bucket.s3.amazonaws.com/a.png?")
    inner = json.loads(found["messages"][1]["content"][0]["text"])
    assert inner["documents"][1] == {"at": found["reply"]}


@pytest.mark.parametrize(
    "text",
    [
        "https://host/a.png?b=c&size=20#sig",
        "Signature = none; the token is 5, key: 7",
        "https://host/signature/token?page=2&monkey=1&design=2",
        'half "a\\ quote" and \n a line, ünïcode \u2028',
    ],
)
def test_all_else_stays_as_it_was_sent(tmp_path: Path, text: str) -> None:
    facts = {"messages": [{"role": "user", "content": json.dumps([text])}], "reply": text}
    found = written(tmp_path / "a.jsonl", **facts)
    assert {name: found[name] for name in facts} == facts
    assert found["event"] == "sent"


def test_long_texts_take_no_longer_than_their_length() -> None:
    for text in ("?" + "a-" * 500_000, "&a_" * 300_000, "?token" * 200_000):
        assert unsigned(text) == text


def test_it_grows_and_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "a.jsonl"
    written(path, number=1)
    assert written(path, number=2)["number"] == 2
    assert len(path.read_text().splitlines()) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        Audit(tmp_path / "file" / "a.jsonl")
