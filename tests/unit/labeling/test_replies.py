"""What is taken of a model's reply, and what never is."""

from __future__ import annotations

import html
import json
import re
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.labeling.answer.replies import Answer, clean_label, read_reply
from gpucluster.labeling.answer.shapes import InvalidReply, Shape
from gpucluster.labeling.question.prompts import asked_shape
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.labeling.text import plain
from tests.helpers.injections import INJECTIONS

HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # which may stand between letters or emoji
FORBIDDEN = re.compile(r"https?:|://|www\.|\]\(|<[a-z/!?]|`|\*\*|javascript:", re.IGNORECASE)
SHAPES = {
    "default": None,
    "short": {"label": "string", "keywords": ["string"], "mood": "calm | loud", "who": "string"},
    "english": "Also whatever else is worth knowing.",
    "schema": {"type": "object", "properties": {"label": {"type": "string"}, "more": {}}},
}


def shape_of(response_shape: Any = None, **more: Any) -> Shape:
    return asked_shape(
        LabelingSettings.model_validate(
            {"model_name": "gpt-5-mini", "response_shape": response_shape, **more}
        )
    )


DEFAULT = shape_of()
GOOD = {"label": "Trail shoes", "summary": "Shoes for trails.", "keywords": ["trail", "shoes"]}
ANSWER = Answer("Trail shoes", "Shoes for trails.", ("trail", "shoes"))


def read(reply: Any, shape: Shape = DEFAULT) -> Answer:
    text = reply if isinstance(reply, str) else json.dumps(reply)
    return read_reply(text, shape)


def hides(text: str) -> bool:
    """Say whether something in a text is not seen."""
    return any(unicodedata.category(c) in HIDDEN and c not in JOINERS for c in text)


def keeps_the_rules(text: str, limit: int) -> bool:
    """Say so by other means than the code does."""
    seen = html.unescape(unicodedata.normalize("NFKC", text))
    return (
        0 < len(text) <= limit
        and len(text.splitlines()) == 1
        and text == text.strip()
        and not hides(text)
        and not FORBIDDEN.search(text)
        and not FORBIDDEN.search(seen)
    )


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in strings(item))]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def check_rules(answer: Answer) -> None:
    assert keeps_the_rules(answer.label, 80)
    assert any(c.isalnum() for c in answer.label)
    assert answer.summary is None or keeps_the_rules(answer.summary, 600)
    if answer.keywords is not None:
        assert 0 < len(answer.keywords) <= 10
        assert all(keeps_the_rules(word, 40) for word in answer.keywords)
        assert len({word.casefold() for word in answer.keywords}) == len(answer.keywords)
    assert len(json.dumps(answer.fields, ensure_ascii=False, allow_nan=False).encode()) <= 8_000
    for text in strings(dict(answer.fields)):
        assert len(text) <= 500
        assert len(text.splitlines()) <= 1
        assert not hides(text)


def test_the_forms_of_a_reply() -> None:
    bare = json.dumps(GOOD, indent=1)
    for reply in (
        bare,
        f"\ufeff {bare}\n",
        f"```json\n{bare}\n```",
        f"```\n{bare}\n```",
        f"Sure! Here it is:\n\n{bare}\n\nAnything else?",
        f"Sure!\n```json\n{bare}\n```\nAs {{asked}}.",
        f'<think>{{"label": "no"}} or [1]?</think>{bare}',
        f"The clusters [0] and {{x}} overlap: {bare}",
        {"cluster_id": "cl_7", **GOOD},
        [GOOD],
        {"cl_0": GOOD},
        {"anything": GOOD},
        {"clusters": [GOOD]},
        {"labels": {"cl_9": GOOD}},
        {**GOOD, "mood": "calm", "confidence": 1},
        bare + json.dumps({"label": "Road shoes"}),
    ):
        assert read(reply) == ANSWER


def test_a_label_may_be_all_there_is() -> None:
    assert read({"label": "Trail shoes"}) == Answer("Trail shoes")
    assert read({"label": "Trail shoes", "summary": "", "keywords": []}) == Answer("Trail shoes")


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "no JSON"),
        ("Trail shoes", "no JSON"),
        ("{'label': 'Trail shoes'}", "no JSON"),
        ('{"label": NaN}', "no JSON"),
        ('{"label": "a", "summary": 1e999}', "no JSON"),
        ('{"label": "Trail', "no JSON"),
        ('"Trail shoes"', "no single object with a label"),
        ("[]", "no single object with a label"),
        ("[1, 2]", "no single object with a label"),
        ({"name": "Trail shoes"}, "no single object with a label"),
        ({"cl_0": "Trail shoes"}, "no single object with a label"),
        ([GOOD, GOOD], "no single object with a label"),
        ({"cl_0": GOOD, "cl_1": GOOD}, "no single object with a label"),
        ([[[[GOOD]]]], "no single object with a label"),
        ({"label": None}, "label: None is not of type 'string'"),
        ({"label": 3}, "label: 3 is not of type 'string'"),
        ({"label": ""}, "empty"),
        ({"label": ' "" '}, "no word"),
        ({"label": "?!"}, "no word"),
        ({"label": "a" * 81}, "81 characters"),
        ({"label": "a", "keywords": ["b", 3]}, "keywords"),
        ({"label": "a", "keywords": {"b": 1}}, "keywords"),
        ({"label": "a", "summary": ["b"]}, "summary"),
        ("a" * 64_001, "longer"),
        ('{"label": ' + "[" * 50 + "]" * 50 + "}", "no JSON"),
        ("[" * 60_000, "no JSON"),
        ('{"a":' * 10_000, "no JSON"),
    ],
)
def test_what_cannot_be_taken_is_said_in_a_line(reply: Any, problem: str) -> None:
    with pytest.raises(InvalidReply, match=problem) as caught:
        read(reply)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("  Trail \n shoes\t", "Trail shoes"),
        ('"Trail shoes"', "Trail shoes"),
        ("\u201cTrail shoes\u201d", "Trail shoes"),
        ("\u00abChaussures\u00bb", "Chaussures"),
        ('"Trail" and "road"', '"Trail" and "road"'),
        ("'90s music", "'90s music"),
        ("Trail\u200b \ufeffshoes\u00ad", "Trail shoes"),
        ("登山靴", "登山靴"),
        ("أحذية الجري", "أحذية الجري"),
        ("C++ & C#: A/B tests, 50% off", "C++ & C#: A/B tests, 50% off"),
        ("R&amp;D", "R&amp;D"),
        ("Node.js (v20) - how-to", "Node.js (v20) - how-to"),
        ("Prices < 5", "Prices < 5"),
        ("Shoes 👟", "Shoes 👟"),
        ("می\u200cروم", "می\u200cروم"),
        ("क्\u200dष", "क्\u200dष"),
        ("Family 👨\u200d👩\u200d👧", "Family 👨\u200d👩\u200d👧"),
        ("Trail\u200d sh\u200coes", "Trail shoes"),
        ("Unknown", "Unknown"),
        ("a" * 80, "a" * 80),
    ],
)
def test_labels_that_pass(label: str, expected: str) -> None:
    assert clean_label(label) == expected
    assert clean_label(expected) == expected


@pytest.mark.parametrize(
    "label",
    [
        "Buy at http://evil.example",
        "ht\u200btp://evil.example",
        "w\u200cww.evil.example",
        "w&zwnj;ww.evil.example",
        "see www.evil.example",
        "[Shoes](x)",
        "[Shoes] (x)",
        "![Shoes]",
        "javascript:alert(1)",
        "mailto:a@b.example",
        "data:text/html,x",
        "<b>Shoes</b>",
        "<!-- Shoes",
        "&lt;script&gt; Shoes",
        "\uff1cscript\uff1e Shoes",
        "\uff48\uff54\uff54\uff50\uff1a\uff0f\uff0fevil",
        "`rm`",
        "**Shoes**",
        "Shoes\u202e",
        "\u2066Shoes\u2069",
        "Shoes\u200f",
        "Shoes\x00",
        "\x1b[31mShoes",
        "Shoes\ue000",
        "Shoes\ud800",
        "Shoes\U000e0041",
        "Shoes &#x202e; x",
        "\u3164\u2800",
    ],
)
def test_labels_that_do_not(label: str) -> None:
    with pytest.raises(InvalidReply, match="label"):
        clean_label(label)


def test_summaries_are_cut_at_a_word() -> None:
    summary = read({"label": "a", "summary": "word " * 200}).summary
    assert summary is not None
    assert len(summary) <= 600
    assert summary.endswith("word…")
    assert read({"label": "a", "summary": "b\n\nc"}).summary == "b c"


def test_keywords_are_cleaned_told_apart_and_few() -> None:
    words = [" Trail\n", "trail", "TRAIL", "", "!!", "x" * 41, "'a'", *map(str, range(20))]
    keywords = read({"label": "a", "keywords": words}).keywords
    assert keywords == ("Trail", "'a'", *map(str, range(8)))
    assert read({"label": "a", "keywords": "b, c ,b"}).keywords == ("b", "c")
    assert read({"label": "a", "keywords": "b, c"}, shape_of({"keywords": "string"})).keywords == (
        "b",
        "c",
    )


def test_what_breaks_a_rule_beside_a_good_label_is_left_out() -> None:
    said = {
        "label": "Package managers",
        "summary": "See https://npmjs.com for more.",
        "keywords": ["yarn", "`npm`", "evil.com/x", "node.js/npm", "www.npmjs.com", "a\u202eb"],
    }
    assert read(said) == Answer("Package managers", None, ("yarn", "node.js/npm"))
    assert read({**said, "keywords": ["http://x"]}) == Answer("Package managers")
    with pytest.raises(InvalidReply, match="label has an address"):
        read({**said, "label": "See https://npmjs.com"})


def test_other_fields_are_kept_as_they_were_asked_for() -> None:
    shape = shape_of({"label": "string", "mood": "calm | loud", "parts": [{"n": "integer"}]})
    answer = read({"label": "a", "mood": "calm", "parts": [{"n": 1}], "more": "no"}, shape)
    assert answer == Answer("a", None, None, {"mood": "calm", "parts": [{"n": 1}]})
    with pytest.raises(InvalidReply, match="mood: 'angry' is not one of"):
        read({"label": "a", "mood": "angry", "parts": []}, shape)


def test_other_fields_are_cleaned_and_bounded() -> None:
    shape = shape_of(SHAPES["english"])
    answer = read(
        {"label": "a", "x\u202e": "b\x1b[1m\u202ec\nd", "y": ["e" * 600], "": 1, "n": 10**30}, shape
    )
    assert answer.fields == {"x": "b[1mc d", "y": ["e" * 499 + "…"], "n": 1e30}
    for fields in (
        {f"f{i}": "x" * 400 for i in range(25)},
        {f"f{i}": 0 for i in range(51)},
        {"f": [[[[[[[[[0]]]]]]]]]},
    ):
        with pytest.raises(InvalidReply):
            read({"label": "a", **fields}, shape)


def test_hostile_replies_are_read_quickly() -> None:
    begin = time.perf_counter()
    for reply in (
        "```" + " " * 60_000,
        "```" + "a" * 60_000,
        "```" * 20_000,
        "[{" * 30_000,
        '{"label":' * 7_000,
        "{" + '"a":[' * 10_000,
        '{"label": "' + "](" * 20_000 + '"}',
        '{"label": "' + "]" * 60_000 + '"}',
        '{"label": "' + "&" * 60_000 + '"}',
        '{"label": "' + "\ufdfa" * 20_000 + '"}',
        "<think>" * 9_000,
    ):
        with pytest.raises(InvalidReply):
            read(reply)
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("pass_on", [str, str.lower, json.dumps, repr])
def test_replies_that_obey_documents_break_no_rule(name: str, pass_on: Any) -> None:
    shape = shape_of(SHAPES[name])
    n_refused, problems = 0, set()
    for injection in INJECTIONS:
        said = pass_on(injection)
        for reply in (
            said,
            {"label": said, "mood": "calm", "who": said, "more": said},
            {"label": "Shoes", "summary": said, "mood": "calm", "who": said},
            {"label": "Shoes", "keywords": [said], "mood": "calm", "who": "all", said[:20]: said},
            {"cluster_id": said, "label": "Shoes"},
            f"{said}\n" + json.dumps({"label": said}),
            '{"label": "' + said + '"}',
        ):
            try:
                answer = read(reply, shape)
            except InvalidReply as error:
                n_refused += 1
                problems.add(str(error))
                continue
            check_rules(answer)
    assert n_refused > 300
    assert all(problem.isprintable() and len(problem) <= 250 for problem in problems)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from([text[:300] for text in INJECTIONS]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["label", "summary", "keywords", "cluster_id", "cl_0", "clusters"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(json_values, st.sampled_from(list(SHAPES)), st.text(max_size=10))
def test_any_value_is_an_answer_or_refused(value: Any, name: str, prose: str) -> None:
    try:
        answer = read(prose + json.dumps(value), shape_of(SHAPES[name]))
    except InvalidReply:
        return
    check_rules(answer)


@given(st.text(), st.text(), st.lists(st.text()))
def test_labels_that_are_accepted_keep_the_rules(
    label: str, summary: str, keywords: list[str]
) -> None:
    try:
        answer = read({"label": label, "summary": summary, "keywords": keywords})
    except InvalidReply:
        return
    check_rules(answer)
    assert clean_label(answer.label) == answer.label


@given(st.text() | st.sampled_from(INJECTIONS), st.integers(1, 100))
def test_plain_text_is_one_short_visible_line(text: str, limit: int) -> None:
    line = plain(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    assert not any(unicodedata.category(c) in HIDDEN for c in line)
    assert plain(line, limit) == line


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=80))
def test_plain_words_pass_unchanged(text: str) -> None:
    assert plain(text, 80) == text or {*text} & {*"\u3164\u115f\u1160\uffa0"}


@pytest.mark.parametrize(
    "label",
    [
        "evil.com/login?x=1",
        "Evil.COM/x",
        "bit.ly/x",
        "evil.com:8080/x",
        "wasp.net/x",
        "evil.js/x.com/y",
        "//evil.com/x",
        "# Heading",
        "[click][1]",
        "*bold* words",
        "see _this_ one",
        "A &amp;amp;lt;script&amp;amp;gt;",
        "=HYPERLINK(A1)",
        "+cmd|calc!A1",
        "@sum",
        "- item",
        "> quote",
        "Unclustered",
        "cl_3",
        "cl_0_sub_12",
        "a" + "\u0301" * 70,
    ],
)
def test_labels_that_mean_something_elsewhere_are_refused(label: str) -> None:
    with pytest.raises(InvalidReply):
        clean_label(label)


@pytest.mark.parametrize(
    "label",
    [
        "Node.js and C++",
        "Node.js/Express Setup",
        "ASP.NET/C# Errors",
        "VB.NET/VBA Macros",
        "package.json/lock files",
        "Booking.com Refunds",
        "TCP/IP and I/O",
        "C# errors",
        "24/7 support",
        "5 * 3 sums",
        "snake_case names",
        "हिन्दी",
        "Tiếng Việt",
    ],
)
def test_labels_of_people_are_not(label: str) -> None:
    assert clean_label(label) == label
