"""The shape of an answer: what may be asked for, and what is checked."""

from __future__ import annotations

import builtins
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.errors import BackendUnavailableError
from gpucluster.labeling.answer.schemas import import_jsonschema
from gpucluster.labeling.answer.shapes import InvalidReply, Shape, check_shape
from gpucluster.labeling.question.prompts import asked_shape
from gpucluster.labeling.settings import LabelingSettings

SEED = {
    "label": "string",
    "keywords": ["string"],
    "sentiment": "positive | negative | neutral",
    "target_audience": "string",
}
ANSWER = {
    "label": "Trail running shoes",
    "keywords": ["trail", "shoes"],
    "sentiment": "positive",
    "target_audience": "runners",
}
GIVEN = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "label": {"type": "string", "maxLength": 30},
        "audience": {"$ref": "#/$defs/Audience", "description": "Who buys."},
        "score": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    },
    "required": ["audience"],
    "$defs": {
        "Audience": {
            "type": "object",
            "properties": {"age": {"type": "integer"}},
            "required": ["age"],
            "additionalProperties": False,
        }
    },
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def shape_of(response_shape: Any = None, **more: Any) -> Shape:
    return asked_shape(
        LabelingSettings.model_validate(
            {"model_name": "gpt-5-mini", "response_shape": response_shape, **more}
        )
    )


def of_type(schema: Any) -> dict[str, Any]:
    return {"$schema": DIALECT, "type": "object", "properties": {"a": schema}}


def lists(levels: int) -> dict[str, Any]:
    return {"type": "array", "items": lists(levels - 1)} if levels else {"type": "string"}


def nested(shape: Any, levels: int) -> Any:
    for _ in range(levels):
        shape = {"a": shape}
    return shape


@pytest.fixture
def no_jsonschema(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("jsonschema"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == "jsonschema"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({}, ["label", "summary", "keywords"]),
        ({"include_summary": False}, ["label", "keywords"]),
        ({"include_keywords": False}, ["label", "summary"]),
        ({"include_summary": False, "include_keywords": False}, ["label"]),
    ],
)
def test_without_a_shape_the_flags_decide(flags: dict[str, bool], names: list[str]) -> None:
    shape = shape_of(**flags)
    assert [*shape.schema["properties"]] == shape.schema["required"] == names
    assert shape.schema["additionalProperties"] is False
    assert shape.instructions is None
    assert shape.extra == ()
    answer = {"label": "a", "summary": "b", "keywords": ["c"], "mood": "d"}
    assert shape.check(answer) == {name: answer[name] for name in names}


def test_a_name_is_enough() -> None:
    assert shape_of().check({"label": "a", "summary": None}) == {"label": "a"}
    with pytest.raises(InvalidReply, match="label"):
        shape_of().check({"summary": "b"})


def test_keywords_may_be_one_text() -> None:
    assert shape_of().check({"label": "a", "keywords": "b, c d,,"})["keywords"] == ["b", "c d"]


def test_the_short_form_says_types_lists_and_alternatives() -> None:
    shape = shape_of(SEED)
    assert shape.extra == ("sentiment", "target_audience")
    assert shape.schema == {
        "type": "object",
        "properties": {
            "label": {"type": "string"},
            "keywords": {"type": "array", "items": {"type": "string"}},
            "sentiment": {"type": "string", "enum": ["positive", "negative", "neutral"]},
            "target_audience": {"type": "string"},
        },
        "required": ["label", "keywords", "sentiment", "target_audience"],
        "additionalProperties": False,
    }
    assert shape.check({**ANSWER, "more": 1}) == ANSWER


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"sentiment": "angry"},
            "sentiment: 'angry' is not one of ['positive', 'negative', 'neutral']",
        ),
        ({"sentiment": None}, "sentiment: None is not of type 'string'"),
        ({"target_audience": 3}, "target_audience: 3 is not of type 'string'"),
        ({"keywords": ["a", 3]}, "keywords[1]: 3 is not of type 'string'"),
        ({"label": ["a"]}, "label: ['a'] is not of type 'string'"),
    ],
)
def test_the_problem_names_the_place(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidReply) as caught:
        shape_of(SEED).check({**ANSWER, **change})
    assert str(caught.value) == problem


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidReply, match="'target_audience' is a required property"):
        shape_of(SEED).check({name: ANSWER[name] for name in ANSWER if name != "target_audience"})


def test_a_label_is_always_asked_for() -> None:
    for without in ({"mood": "string"}, of_type({"type": "string"})):
        shape = shape_of(without)
        assert shape.schema["required"][0] == "label"
        assert next(iter(shape.schema["properties"])) == "label"
        with pytest.raises(InvalidReply):
            shape.check({"mood": "a", "a": "b"})


def test_types_are_told_apart() -> None:
    shape = shape_of(
        {"n": "integer", "x": "number", "is_new": "boolean", "parts": [{"a": "number"}]}
    )
    good = {"label": "a", "n": 1, "x": 1, "is_new": True, "parts": [{"a": 0.5}, {"a": 1}]}
    assert shape.check(good) == good
    for change in (
        {"n": True},
        {"n": 1.5},
        {"x": False},
        {"x": "1"},
        {"is_new": 0},
        {"parts": {"a": 1}},
        {"parts": [{"a": 1, "b": 2}]},
        {"parts": [{}]},
    ):
        with pytest.raises(InvalidReply):
            shape.check({**good, **change})


def test_a_json_schema_holds_as_it_is_written() -> None:
    shape = shape_of(GIVEN)
    assert shape.extra == ("audience", "score")
    assert "$" not in json.dumps(shape.schema)
    assert shape.schema["properties"]["audience"]["description"] == "Who buys."
    good = {"label": "a", "audience": {"age": 3}, "score": None}
    assert shape.check({**good, "more": 1}) == good
    for change in ({"score": 2}, {"audience": {}}, {"audience": {"age": "3"}}, {"label": "a" * 31}):
        with pytest.raises(InvalidReply):
            shape.check({**good, **change})


def test_plain_english_allows_other_properties() -> None:
    shape = shape_of(" Also give the mood of the ads. ", include_summary=False)
    assert shape.instructions == "Also give the mood of the ads."
    assert shape.schema["additionalProperties"] is True
    answer = {"label": "a", "keywords": ["b"], "mood": {"value": "calm"}}
    assert shape.check({**answer, "summary": "not asked for"}) == answer


@pytest.mark.parametrize(
    ("response_shape", "problem"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ({}, "expected a type"),
        ({"a": "text"}, "response_shape.a is 'text', expected string, number"),
        ({"a": "string | null"}, "alternatives"),
        ({"a": "x | "}, "alternatives"),
        ({"a": 3}, "expected a type"),
        ({"a": None}, "expected a type"),
        ({"a": []}, "expected a type"),
        ({"a": ["string", "number"]}, "expected a type"),
        ({"a": {}}, "expected a type"),
        ({"": "string"}, "no name"),
        ({"a\n": "string"}, "no name"),
        ({"\u202ea": "string"}, "no name"),
        ({"a" * 65: "string"}, "no name"),
        ({"label": "number"}, "label must be"),
        ({"label": ["string"]}, "label must be"),
        ({"summary": {"a": "string"}}, "summary must be"),
        ({"keywords": "number"}, "keywords must be"),
        ({"keywords": ["number"]}, "keywords must be"),
        ({f"a{i}": "string" for i in range(50)}, "more than 50"),
        (nested("string", 6), "deeper"),
        ({"a": "x" * 20_000}, "bytes"),
        ("x" * 20_001, "bytes"),
        ({"a": "\ud800 | b"}, "cannot be written"),
        ({"$schema": DIALECT, "type": "array"}, "one object"),
        ({"$schema": DIALECT, "type": "object"}, "one object"),
        ({"$schema": DIALECT, "type": "object", "properties": 3}, "as its properties"),
        (of_type("string"), "where a schema belongs"),
        (of_type({"type": "text"}), "is wrong"),
        (of_type({"minimum": "a"}), "is wrong"),
        (of_type({"anyOf": {}}), "as its anyOf"),
        (of_type({"items": [{"type": "string"}]}), "where a schema belongs"),
        (of_type({"$ref": "https://evil.example/schema.json"}), "refers to"),
        (of_type({"$ref": "file:///etc/passwd"}), "refers to"),
        (of_type({"$ref": "#/$defs/none"}), "nothing is there"),
        (of_type({"$ref": "#"}), "refers to"),
        (of_type({"$ref": 3}), "refers to"),
        (of_type({"$ref": "#/properties/a"}), "refers to itself"),
        (of_type({"$dynamicRef": "#a"}), "not supported"),
        (of_type({"pattern": "(a+)+$"}), "not supported"),
        (of_type({"patternProperties": {"a": {}}}), "not supported"),
        ({**of_type({}), "required": ["b"]}, "requires 'b'"),
        ({**of_type({}), "required": 3}, "requires 3"),
        (of_type({"properties": {f"a{i}": {} for i in range(50)}}), "more than 50"),
        (of_type(lists(5)), "deeper"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_refused_in_a_line(response_shape: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        check_shape(response_shape)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_references_that_multiply_are_refused() -> None:
    definitions = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(40)
    }
    with pytest.raises(ValueError, match="too large"):
        check_shape(of_type({"$ref": "#/$defs/d0"}) | {"$defs": {**definitions, "d40": {}}})


@pytest.mark.parametrize(
    "given", [None, "The mood.", SEED, GIVEN, nested("string", 5), of_type(lists(4))]
)
def test_what_can_be_asked_for_passes(given: Any) -> None:
    check_shape(given)


@pytest.mark.parametrize(
    "word", ["$ref", "pattern", "properties", "$schema", "type", "enum", "additionalProperties"]
)
def test_properties_may_be_called_like_keywords(word: str) -> None:
    given = {"$schema": DIALECT, "type": "object", "properties": {word: {"type": "string"}}}
    assert shape_of(given).check({"label": "a", word: "b"}) == {"label": "a", word: "b"}


@pytest.mark.usefixtures("no_jsonschema")
def test_jsonschema_is_needed_to_check_answers_and_not_to_ask_for_a_shape() -> None:
    check_shape(GIVEN)
    with pytest.raises(ValueError, match="refers to"):
        check_shape(of_type({"$ref": "https://evil.example/"}))
    for response_shape in (SEED, GIVEN, "The mood.", None):
        with pytest.raises(BackendUnavailableError, match=r"gpucluster\[llm\]"):
            shape_of(response_shape).check(ANSWER)
    with pytest.raises(BackendUnavailableError, match="jsonschema"):
        import_jsonschema()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "$ref", "label", "a", "allOf", "enum"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(st.dictionaries(st.sampled_from(["type", "$schema", "properties", "label"]), json_values))
def test_any_shape_is_taken_or_refused(given_shape: dict[str, Any]) -> None:
    problem = None
    try:
        check_shape(given_shape)
    except ValueError as error:
        problem = str(error)
    if problem is None:
        assert "label" in shape_of(given_shape).schema["properties"]
    else:
        assert problem.isprintable()


@given(json_values, st.sampled_from([None, SEED, GIVEN, "Also the mood."]))
def test_any_answer_is_taken_or_refused(value: Any, response_shape: Any) -> None:
    answer = value if isinstance(value, dict) else {"label": "a", "keywords": value, "score": value}
    problem = ""
    try:
        shape_of(response_shape).check(answer)
    except InvalidReply as error:
        problem = str(error)
    assert problem == "" or problem.isprintable()
    assert len(problem) <= 250
