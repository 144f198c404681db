"""What SQL of one database has in other words than that of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Bind = Callable[[object], str]  # keeps a value, returns what stands for it in a statement


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a list as SQL expressions, each null where it has another type."""

    text: str
    number: str
    boolean: str


class Dialect(Protocol):
    """SQL expressions; a path is the keys from the body down to a field.

    Values stand as ``:name`` in statements, whatever the driver wants.
    """

    position: str  # function: where a text lies in another one, from 1; 0: nowhere
    fold: str  # function: `gpucluster.service.catalog.folding.fold`
    element: Element  # of a row of `elements`

    def is_there(self, path: Sequence[str], bind: Bind) -> str:
        """Return whether a field has a value that is not null; may be null itself."""

    def text(self, path: Sequence[str], bind: Bind) -> str:
        """Return the text that a field holds; null where it holds another value."""

    def number(self, path: Sequence[str], bind: Bind) -> str:
        """Return the number that it holds, as a double."""

    def boolean(self, path: Sequence[str], bind: Bind) -> str:
        """Return the boolean that it holds."""

    def elements(self, path: Sequence[str], bind: Bind) -> str:
        """Return a table of the elements of the list that it holds: no rows where it holds none."""

    def double(self, number: str, bind: Bind) -> str:
        """Return a number that Python wrote, read as those of fields are."""

    def among(self, expression: str, values: Sequence[Any], bind: Bind) -> str:
        """Return whether an expression is one of many texts."""
