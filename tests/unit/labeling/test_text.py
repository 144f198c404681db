"""What of a text can be seen, in one line and cut to a length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.labeling.text import cut, is_hidden, one_line, plain, visible

PERSIAN = "می\u200cروم"  # "I go", whose parts do not join
FAMILY = "👨\u200d👩\u200d👧"


@pytest.mark.parametrize(
    "text", [PERSIAN, FAMILY, "👩🏽\u200d💻", "❤️\u200d🔥", "🏳️\u200d🌈", "क्\u200dष", "ශ්\u200dරී"]
)
def test_joiners_stay_where_they_join(text: str) -> None:
    assert one_line(text) == visible(text) == plain(text, 80) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tr\u200dail", "trail"),  # letters with case never need one
        ("\u200cمی \u200dروم\u200c", "می روم"),
        ("می \u200c روم", "می روم"),
        ("می\u200c\u200d\u200cروم", PERSIAN),
        ("می\u200b\u200c\ufeffروم", PERSIAN),
        ("می\u202e\u200c\u202cروم", PERSIAN),
        ("👨\u200d doctor", "👨 doctor"),
        ("7\u200d8", "78"),
    ],
)
def test_elsewhere_joiners_are_dropped(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_what_is_hidden_is_told_from_what_takes_no_room() -> None:
    assert one_line("a\u00adb\u200bc\ufeff\u3164") == "abc"
    assert one_line("a\u202eb") == "a\u202eb"
    assert visible("a\u202eb\x00c\td\x1b[1m\ue000") == "abc d[1m"
    assert [is_hidden(c) for c in "\u202e\x00\ud800\u200c \nä"] == [True] * 3 + [False] * 4


def test_texts_are_cut_behind_a_word() -> None:
    assert cut("one two three", 13) == "one two three"
    assert cut("one two three four", 12) == "one two…"
    assert cut("one two - three", 11) == "one two…"
    assert cut("x" * 200, 120) == "x" * 119 + "…"
    assert cut(f"{FAMILY}x", 4) == "👨\u200d👩…"


@given(st.text() | st.text("a ی\u200c\u200d\u202e\u200b👨"), st.integers(1, 50))
def test_what_is_seen_is_seen_again(text: str, limit: int) -> None:
    line = visible(text)
    assert visible(line) == line == " ".join(line.split())
    assert not any(map(is_hidden, line))
    short = plain(text, limit)
    assert len(short) <= limit
    assert plain(short, limit) == short
