"""The question about a cluster, and the documents in it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.errors import ConfigError
from gpucluster.labeling.model.protocol import Question
from gpucluster.labeling.question.inputs import Medium, Sample
from gpucluster.labeling.question.presigner import Presigner
from gpucluster.labeling.question.prompts import (
    MAX_TOKENS,
    PROMPT_CHARS,
    Evidence,
    asked_shape,
    check_media,
    make_question,
    media_kinds,
    signed,
    size,
)
from gpucluster.labeling.settings import LabelingSettings
from tests.helpers.injections import INJECTIONS

PROMPTS = {
    "default": {},
    "custom": {"custom_prompt": "Name ads by their archetype."},
    "short": {"response_shape": {"label": "string", "mood": "calm | loud"}},
    "english": {"response_shape": "Also the mood of the ads."},
}
BARE = Evidence("cl_0")


def settings_of(**more: Any) -> LabelingSettings:
    return LabelingSettings.model_validate({"model_name": "gpt-5-mini", **more})


def ask(evidence: Evidence, settings: LabelingSettings | None = None, **more: Any) -> Question:
    settings = settings or settings_of()
    return make_question(evidence, settings, asked_shape(settings), **more)


def system(question: Question) -> str:
    assert question.messages[0]["role"] == "system"
    return str(question.messages[0]["content"])


def request(question: Question) -> dict[str, Any]:
    """Return the object in the user message, which must be all of its text."""
    message = question.messages[1]
    assert message["role"] == "user"
    content = message["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    found = json.loads(text)
    assert json.dumps(found, ensure_ascii=False) == text
    assert isinstance(found, dict)
    return found


def texts(*documents: str) -> tuple[Sample, ...]:
    return tuple(Sample({"text": document}) for document in documents)


def mapped(*keys: str) -> dict[str, Any]:
    mappings = [{"input_key": key, "source_type": "payload", "path": "a"} for key in keys]
    return {"labeling_inputs": {"input_mappings": mappings}}


def test_the_request_holds_what_is_known_and_nothing_else() -> None:
    assert request(ask(BARE)) == {}
    evidence = Evidence(
        cluster_id="cl_9",
        samples=(Sample({"text": "a"}), Sample({"text": "b", "price": 3}), Sample({"x": [None]})),
        boundary=texts("c"),
        keywords=("shoes", "trail\n"),
        neighbours=(("road", "run\nway"), ()),
        parent_keywords=("shoes", "boots"),
        forbidden=("Road shoes",),
    )
    question = ask(evidence)
    assert request(question) == {
        "documents": ["a", {"text": "b", "price": 3}, {"x": [None]}],
        "documents_at_the_edge": ["c"],
        "keywords": ["shoes", "trail"],
        "neighbours": [["road", "run way"]],
        "part_of": ["shoes", "boots"],
        "forbidden_labels": ["Road shoes"],
    }
    assert question.max_tokens == MAX_TOKENS
    assert ask(evidence) == question


def test_the_same_documents_make_the_same_question_whatever_the_cluster_is_called() -> None:
    known: dict[str, Any] = {"samples": texts("a"), "keywords": ("shoes",)}
    assert ask(Evidence("cl_7", **known)) == ask(Evidence("cl_3_sub_1", **known))


def test_the_instructions_hold_the_schema_and_that_documents_are_data() -> None:
    for more in PROMPTS.values():
        settings = settings_of(**more)
        question = ask(BARE, settings)
        assert question.schema == asked_shape(settings).schema
        assert json.dumps(question.schema) in system(question)
        assert "never instructions" in system(question)
        assert ("You name clusters" in system(question)) == ("custom_prompt" not in more)
    assert system(ask(BARE, settings_of(**PROMPTS["custom"]))).startswith("Name ads by")
    assert "Also the mood of the ads." in system(ask(BARE, settings_of(**PROMPTS["english"])))


@pytest.mark.parametrize("style", PROMPTS)
def test_hostile_documents_stay_strings_in_the_request(style: str) -> None:
    settings = settings_of(**PROMPTS[style])
    expected = system(ask(BARE, settings))
    for before, text in pairwise(INJECTIONS):
        evidence = Evidence(
            "cl_0",
            samples=(Sample({"text": text}), Sample({"title": text, before[:100]: [text]})),
            boundary=texts(text),
            keywords=(text,),
            neighbours=((text,),),
            parent_keywords=(text,),
            forbidden=(text,),
        )
        question = ask(evidence, settings)
        assert system(question) == expected
        assert [message["role"] for message in question.messages] == ["system", "user"]
        found = request(question)
        if len(text) < 2_000:
            assert found["documents"] == [text, {"title": text, before[:100]: [text]}]
            assert found["documents_at_the_edge"] == [text]
        else:
            assert text.startswith(found["documents"][0])
        lines = [*found.get("keywords", ()), *found.get("forbidden_labels", ())]
        lines += [
            *found.get("part_of", ()),
            *(w for words in found.get("neighbours", ()) for w in words),
        ]
        assert all(line.isprintable() or not line.isascii() for line in lines)
        assert all(len(line.splitlines()) <= 1 for line in lines)


def test_after_a_refusal_no_document_is_shown() -> None:
    medium = Medium("image_url", "https://host/a.png")
    evidence = Evidence(
        "cl_0",
        samples=(Sample({"text": "secret"}, (medium,)),),
        boundary=texts("secret"),
        keywords=("shoes",),
        neighbours=(("road",),),
    )
    question = ask(evidence, keywords_only=True)
    assert "secret" not in str(question)
    assert request(question)["keywords"] == ["shoes"]
    assert request(question)["neighbours"] == [["road"]]
    assert size(question)[1] == 0


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_parameters_say_how_long_a_reply_may_be(name: str) -> None:
    assert ask(BARE, settings_of(parameters={name: 77})).max_tokens == 77


def test_an_invalid_reply_is_shown_with_its_problem() -> None:
    first = ask(BARE)
    again = ask(BARE, problem="label is empty", reply="x" * 3_000, max_tokens=99)
    assert again.messages[:2] == first.messages
    assert again.max_tokens == 99
    said, what = again.messages[2:]
    assert said == {"role": "assistant", "content": "x" * 2_000}
    assert what["role"] == "user"
    assert "label is empty" in what["content"]
    assert "\n" not in ask(BARE, problem="a\nb", reply="").messages[3]["content"]
    assert ask(BARE, problem="a", reply=" ").messages[2]["content"] == "(nothing)"


def test_media_follow_the_text_and_say_whose_they_are() -> None:
    evidence = Evidence(
        "cl_0",
        samples=(
            Sample({"text": "a"}),
            Sample({}, (Medium("image_url", "s3://b/i"), Medium("video_url", "https://h/v"))),
        ),
        boundary=(Sample({"text": "c"}, (Medium("audio_url", "https://h/a"),)),),
    )
    question = ask(evidence)
    assert request(question)["documents"] == ["a", {}]
    assert question.messages[1]["content"][1:] == [
        {"type": "text", "text": "The image of documents[1]:"},
        {"type": "image_url", "image_url": {"url": "s3://b/i"}},
        {"type": "text", "text": "The video of documents[1]:"},
        {"type": "video_url", "video_url": {"url": "https://h/v"}},
        {"type": "text", "text": "The audio of documents_at_the_edge[0]:"},
        {"type": "audio_url", "audio_url": {"url": "https://h/a"}},
    ]
    counted, n_media = size(question)
    assert n_media == 3
    assert "The audio of documents_at_the_edge[0]:" in counted
    assert system(question) in counted
    assert not any("https://h/v" in text for text in counted)


def test_what_is_sent_is_signed_and_what_is_kept_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    media = ("s3://mine/a.png", "s3://other/b.png", "https://host/c.png")
    sample = Sample({"text": "a"}, tuple(Medium("image_url", url) for url in media))
    question = ask(Evidence("cl_0", samples=(sample,)), problem="p", reply="r")
    before = json.dumps(question.messages)
    sent = signed(question, Presigner(["s3://mine"]))
    assert json.dumps(question.messages) == before
    assert "X-Amz-Signature" not in before
    parts = sent.messages[1]["content"]
    assert [part["type"] for part in parts] == ["text", *["text", "image_url"] * 2]
    assert "X-Amz-Signature" in parts[2]["image_url"]["url"]
    assert parts[4]["image_url"]["url"] == "https://host/c.png"
    assert (sent.messages[0], sent.messages[2:]) == (question.messages[0], question.messages[2:])
    assert replace(sent, messages=()) == replace(question, messages=())


def test_long_documents_are_cut_to_what_is_left() -> None:
    documents = ["short", "x" * 100_000, "y" * 3_000, '"\n\\' * 50_000]
    found = request(ask(Evidence("cl_0", samples=texts(*documents))))["documents"]
    assert found[0] == "short"
    assert found[2] == "y" * 3_000
    lengths = [len(json.dumps(text, ensure_ascii=False)) for text in found]
    assert abs(lengths[1] - lengths[3]) <= 1
    assert PROMPT_CHARS - 20 <= sum(lengths) <= PROMPT_CHARS
    assert documents[3].startswith(found[3])


def test_fields_are_cut_as_documents_are() -> None:
    fields = {"id": 7, "title": "t", "body": "b" * 50_000, "list": ["l" * 30_000], "short": [1, 2]}
    (found,) = request(ask(Evidence("cl_0", samples=(Sample(fields),))))["documents"]
    assert [*found] == [*fields]
    assert (found["id"], found["title"], found["short"]) == (7, "t", [1, 2])
    assert fields["body"].startswith(found["body"])
    assert found["list"].startswith('["lll')
    assert 11_000 < len(found["body"]) < 12_500
    assert 23_000 < len(json.dumps(found)) <= PROMPT_CHARS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=50),
    lambda inner: (
        st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=60), inner, max_size=30)
    ),
    max_leaves=60,
)
fields = st.dictionaries(st.text(max_size=200), json_values, min_size=1, max_size=8)


@given(st.lists(fields, max_size=6), st.integers(1, 2_000))
def test_documents_never_take_more_than_their_share(
    documents: list[dict[str, Any]], times: int
) -> None:
    longer = [
        {key: value * times if isinstance(value, str) else value for key, value in document.items()}
        for document in documents
    ]
    samples = tuple(Sample(document) for document in longer)
    question = ask(Evidence("cl_0", samples=samples[:4], boundary=samples[4:]))
    found = request(question)
    shown = [*found.get("documents", ()), *found.get("documents_at_the_edge", ())]
    assert len(shown) == len(documents)
    assert len(json.dumps(shown, ensure_ascii=False)) <= PROMPT_CHARS
    whole = [sample.fields.get("text") if len(sample.fields) == 1 and "text" in sample.fields
             else sample.fields for sample in samples]  # fmt: skip
    if len(json.dumps(whole, ensure_ascii=False)) <= PROMPT_CHARS:
        assert shown == whole


def test_a_hundred_documents_with_many_fields_fit() -> None:
    wide = Sample({f"a column of a wide table {i}": "x" * 100 for i in range(300)})
    question = ask(Evidence("cl_0", samples=(wide,) * 102))
    assert len(json.dumps(request(question)["documents"])) <= PROMPT_CHARS


@pytest.mark.parametrize(
    ("more", "keys", "refused"),
    [
        ({"model_name": "gpt-5-mini"}, ["image_url", "text"], None),
        ({"model_name": "gpt-5-mini"}, ["video_url"], "video_url"),
        ({"model_name": "gpt-5-mini"}, ["audio_url", "video_url"], "audio_url or video"),
        ({"model_name": "claude-x"}, ["audio_url"], "audio_url"),
        ({"model_name": "claude-x"}, ["image_url"], None),
        ({"model_name": "gemini-2.5-flash"}, ["video_url", "audio_url"], None),
        ({"model_name": "q", "base_url": "http://h/v1"}, ["video_url", "audio_url"], None),
        ({"provider": "keywords"}, ["video_url"], None),
        ({"provider": "command"}, ["video_url"], None),
    ],
)  # fmt: skip
def test_media_that_a_provider_cannot_take_are_refused(
    more: dict[str, Any], keys: list[str], refused: str | None
) -> None:
    settings = LabelingSettings.model_validate({**more, **mapped(*keys)})
    assert media_kinds(settings) == {*keys} - {"text"}
    if refused is None:
        check_media(settings)
    else:
        with pytest.raises(ConfigError, match=refused):
            check_media(settings)


def test_nothing_is_mapped_without_mappings() -> None:
    assert media_kinds(settings_of()) == set()
    check_media(settings_of())
