"""What happens to a collection over time: batches of known intents, with and without drift."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

STRENGTHS = {"new": (0.05, 0.5), "mix": (0.5, 0.9), "surge": (0.1, 0.3), "shift": (0.1, 0.6)}
KINDS = tuple(STRENGTHS)  # of drift
OUTSIDE = "oos"  # texts of no intent


@dataclass(frozen=True)
class Texts:
    """Documents with the intent of each."""

    ids: Any
    X: Any
    intents: Any

    @classmethod
    def read(cls, path: Path) -> Texts:
        """Read a labelled set, without what has no intent."""
        table = pq.read_table(path, columns=["document_id", "embedding", "label"])
        intents = np.array(table["label"].to_pylist())
        vectors = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        X = vectors.reshape(len(table), -1).astype(np.float32)
        inside = intents != OUTSIDE
        ids = np.array(table["document_id"].to_pylist())
        return cls(ids[inside], X[inside], intents[inside])

    def of(self, names: Any) -> Any:
        """Return the rows of some intents."""
        return np.flatnonzero(np.isin(self.intents, names))

    @property
    def names(self) -> Any:
        """All intents."""
        return np.unique(self.intents)


@dataclass(frozen=True)
class Scenario:
    """Rows of a fit, and rows that come later."""

    kind: str
    strength: float
    n_intents: int
    base: Any
    new: Any
    vectors: Any  # of the new rows


def scenario(texts: Texts, seed: int) -> Scenario:
    """Make a scenario: every second one has no drift, the others one kind after the other.

    ``none`` has other texts of the same intents. ``new``: 5 to 50 % are of 2 to 8 intents that the
    fit has not seen. ``mix``: 50 to 90 % are of a third of the intents. ``surge``: two intents have
    10 to 30 %. ``shift``: all vectors move into one direction, by 0.1 to 0.6 of their length, as
    by another version of the model. There are 60 to 2,000 rows.
    """
    rng = np.random.default_rng(seed)
    kind = KINDS[seed // 2 % len(KINDS)] if seed % 2 else "none"
    names = rng.choice(texts.names, rng.integers(60, 101), replace=False)
    rows = rng.permutation(texts.of(names))
    cut = int(0.65 * len(rows))
    base, held = rows[:cut], rows[cut:]
    size = min(int(np.exp(rng.uniform(np.log(60), np.log(2000)))), len(held), int(0.45 * cut))
    strength = {"none": 0.0} | {name: float(rng.uniform(*ends)) for name, ends in STRENGTHS.items()}

    def parted(some: Any, others: Any, share: float) -> Any:
        """Draw `size` rows or fewer, `share` of them from `some`."""
        count = min(int(size * share), len(some))
        rest = min(int(count / share) - count, len(others))
        return np.concatenate(
            [rng.choice(some, count, replace=False), rng.choice(others, rest, replace=False)]
        )

    new = rng.choice(held, size, replace=False)
    if kind == "new":
        unseen = rng.choice(np.setdiff1d(texts.names, names), rng.integers(2, 9), replace=False)
        new = parted(texts.of(unseen), held, strength[kind])
    elif kind in {"mix", "surge"}:
        count = len(names) // 3 if kind == "mix" else 2
        favoured = np.isin(texts.intents[held], rng.choice(names, count, replace=False))
        new = parted(held[favoured], held[~favoured], strength[kind])
    vectors = texts.X[new]
    if kind == "shift":
        away = rng.normal(size=vectors.shape[1])
        vectors = vectors + strength[kind] * away / np.linalg.norm(away)
    return Scenario(kind, strength[kind], len(names), base, new, vectors.astype(np.float32))


@dataclass
class Month:
    """A collection from whose intents ten batches come; what happens in them is planned.

    Attributes
    ----------
    events : dict of int to str
        What is done to the data, by batch.
    """

    texts: Texts
    seed: int = 0
    n_batches: int = 10
    events: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Plan it: who is there from the start, appears, grows, is told apart, vanishes."""
        self._rng = np.random.default_rng(self.seed)
        names = self._rng.permutation(self.texts.names)
        self.first, self.late = list(names[:60]), list(names[60:68])
        self.pair = self._nearest_pair(names[68:])
        self.growing = self.first[:2]
        self.vanishing = self.first[2:7]
        self.events = {
            3: f"appear: {', '.join(self.late)}",
            5: f"grow: {', '.join(self.growing)}",
            7: f"told apart: {', '.join(self.pair)}",
            9: f"vanish: {', '.join(self.vanishing)}",
        }
        self._left = {
            name: list(self._rng.permutation(self.texts.of([name]))) for name in self.texts.names
        }
        # the pair begins as a few texts of each, too few to be two clusters
        self.alive: list[int] = [*self._take(self.first, 80), *self._take(self.pair, 12)]

    def _nearest_pair(self, names: Any) -> list[str]:
        """Return the two intents that lie closest together."""
        means = np.stack([self.texts.X[self.texts.of([name])].mean(axis=0) for name in names])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        cosine = means @ means.T - 2 * np.eye(len(means))
        return [str(names[i]) for i in np.unravel_index(cosine.argmax(), cosine.shape)]

    def _take(self, names: Any, count: int) -> list[int]:
        taken: list[int] = []
        for name in names:
            taken += self._left[name][:count]
            self._left[name] = self._left[name][count:]
        return taken

    def batch(self, number: int) -> list[int]:
        """Return the rows that come in a batch, from 1 on."""
        rows = self._take([n for n in self.first if n not in self.gone(number)], 5)
        if number >= 3:
            rows += self._take(self.late, 30 if number == 3 else 5)
        if number == 5:
            rows += self._take(self.growing, 60)
        if number >= 7:
            rows += self._take(self.pair, 60 if number == 7 else 5)
        if number == 9:
            gone = set(self.texts.of(self.vanishing).tolist())
            self.alive = [row for row in self.alive if row not in gone]
        return [int(row) for row in self._rng.permutation(rows)]

    def gone(self, number: int) -> list[str]:
        """Return the intents that have vanished by a batch."""
        return self.vanishing if number >= 9 else []
