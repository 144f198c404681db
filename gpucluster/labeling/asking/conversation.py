"""How a cluster is asked about again, where the reply before was of no use."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from gpucluster.labeling.answer.replies import read_reply
from gpucluster.labeling.answer.shapes import InvalidReply
from gpucluster.labeling.question.prompts import make_question

if TYPE_CHECKING:
    from gpucluster.labeling.answer.replies import Answer
    from gpucluster.labeling.answer.shapes import Shape
    from gpucluster.labeling.model.protocol import Question, Reply
    from gpucluster.labeling.question.prompts import Evidence
    from gpucluster.labeling.settings import LabelingSettings

REMEDIES = 2  # of each kind; with one, a server that often fails left 1 % of clusters unnamed
LONGER = 4  # times the tokens, after a reply that was cut off


class UselessError(Exception):
    """No reply was of use, and there is no other way to ask; the message says what was wrong."""


@dataclass(frozen=True, slots=True)
class _Approach:
    """How `make_question` asks: what was wrong before changes one of these, and keeps the rest."""

    problem: str | None = None
    reply: str | None = None
    keywords_only: bool = False
    max_tokens: int | None = None


class Conversation:
    """The questions about one cluster: each asks in the way that may help after the last reply.

    Parameters
    ----------
    evidence : Evidence
    settings : LabelingSettings
    shape : Shape
        What an answer must look like.

    Attributes
    ----------
    question : Question
        The next one.
    """

    def __init__(self, evidence: Evidence, settings: LabelingSettings, shape: Shape) -> None:
        self._evidence, self._settings, self._shape = evidence, settings, shape
        self._approach = _Approach()
        self._left = Counter(dict.fromkeys(("length", "refusal", "invalid"), REMEDIES))
        self.question = self._ask()

    def hear(self, reply: Reply) -> Answer | None:
        """Return the answer that a reply gives; None: ask the next question.

        Raises
        ------
        UselessError
            There is none.
        """
        fault: str = reply.finish
        if fault == "length":
            tokens = self.question.max_tokens
            problem = f"the reply was cut off after {tokens} tokens"
            approach = replace(self._approach, max_tokens=LONGER * tokens)
        elif fault == "refusal":
            problem = "the model refused"
            approach = replace(self._approach, keywords_only=True, problem=None, reply=None)
        else:
            try:
                return read_reply(reply.text, self._shape)
            except InvalidReply as error:
                fault, problem = "invalid", f"the reply is invalid: {error}"
                approach = replace(self._approach, problem=str(error), reply=reply.text)
        if not self._left[fault]:
            raise UselessError(problem)
        self._left[fault] -= 1
        self._approach = approach
        self.question = self._ask()
        return None

    def _ask(self) -> Question:
        # what an unusable reply said is the documents' too: a model that refuses them gets neither
        return make_question(self._evidence, self._settings, self._shape, **asdict(self._approach))
