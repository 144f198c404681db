"""What a cluster is asked next, after a reply that was of no use."""

from __future__ import annotations

import pytest

from gpucluster.labeling.asking.conversation import REMEDIES, Conversation, UselessError
from gpucluster.labeling.model.protocol import Question, Reply
from gpucluster.labeling.question.inputs import Sample
from gpucluster.labeling.question.prompts import MAX_TOKENS, Evidence, asked_shape
from gpucluster.labeling.settings import LabelingSettings

SETTINGS = LabelingSettings(base_url="http://localhost:1/v1", model_name="m")
EVIDENCE = Evidence("cl_3", samples=(Sample({"text": "WHAT IT SAYS"}),), keywords=("card",))
CUT, REFUSED = Reply('{"lab', "length", 1, 1), Reply("I cannot", "refusal", 1, 1)
INVALID, GOOD = Reply("a name", "stop", 1, 1), Reply('{"label": "Card fees"}', "stop", 1, 1)


def begun() -> Conversation:
    return Conversation(EVIDENCE, SETTINGS, asked_shape(SETTINGS))


def shows(question: Question) -> bool:
    return "WHAT IT SAYS" in str(question.messages)


def test_a_good_reply_ends_it() -> None:
    talk = begun()
    assert shows(talk.question)
    answer = talk.hear(GOOD)
    assert answer is not None
    assert answer.label == "Card fees"


def test_what_helps_against_one_fault_holds_while_another_is_mended() -> None:
    talk = begun()
    for reply, tokens, is_shown, n_messages in (
        (CUT, 4 * MAX_TOKENS, True, 2),
        (REFUSED, 4 * MAX_TOKENS, False, 2),
        (INVALID, 4 * MAX_TOKENS, False, 4),
        (CUT, 16 * MAX_TOKENS, False, 4),
    ):
        assert talk.hear(reply) is None
        assert talk.question.max_tokens == tokens
        assert shows(talk.question) == is_shown
        assert len(talk.question.messages) == n_messages
    answer = talk.hear(GOOD)
    assert answer is not None


def test_a_refusal_forgets_the_reply_that_was_quoted() -> None:
    talk = begun()
    talk.hear(Reply("WHAT IT SAYS, more or less", "stop", 1, 1))
    assert "more or less" in str(talk.question.messages)
    talk.hear(REFUSED)
    assert not shows(talk.question)


@pytest.mark.parametrize("reply", [CUT, REFUSED, INVALID], ids=["cut", "refused", "invalid"])
def test_each_fault_is_met_so_many_times(reply: Reply) -> None:
    talk = begun()
    for _ in range(REMEDIES):
        assert talk.hear(reply) is None
    with pytest.raises(UselessError, match=r"cut off|refused|invalid"):
        talk.hear(reply)
