"""What a model is asked, what it says, and what every model can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXTS_A_CALL: Final = 96  # that are embedded; Google embeds at most 100


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked.

    Attributes
    ----------
    messages : tuple of mapping
        Chat messages of the OpenAI protocol.
    schema : mapping
        JSON Schema that the reply must satisfy. Not every server enforces it.
    max_tokens : int
        Most tokens of the reply.
    """

    messages: tuple[Mapping[str, Any], ...]
    schema: Mapping[str, Any]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said.

    Attributes
    ----------
    text : str
        As it came: nothing says that it is JSON.
    finish : {"stop", "length", "refusal"}
        Why it ends there.
    input_tokens, output_tokens : int or None
        None where the server does not say.
    """

    text: str
    finish: Literal["stop", "length", "refusal"]
    input_tokens: int | None
    output_tokens: int | None


class Model(Protocol):
    """Answers questions, from any number of threads; each call is one attempt."""

    def ask(self, question: Question) -> Reply:
        """Return the reply, or raise `CallError`."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a vector for each of `TEXTS_A_CALL` texts or fewer, or raise `CallError`."""

    def close(self) -> None:
        """Let go of connections."""
