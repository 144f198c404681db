"""Versions of collections are noted in the catalog, and told of: each once, in order.

A version holds from the moment it is published, which is before the catalog knows of it. Whoever
notes one tells of all between that one and the last that was noted, so that nothing is passed
over where a server died in between, or where a later version was noted first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from gpucluster.service.catalog.port import Catalog, Record, Transaction
from gpucluster.service.collections.records import KIND, READY, described
from gpucluster.service.collections.versions import Version, Versions
from gpucluster.service.definitions import Emit

CHANGING = "collection_change"  # kind of records, each there while a collection may be changed
LATER = timedelta(minutes=15)  # longer than a change takes


class Noting:
    """Notes versions of collections.

    Parameters
    ----------
    catalog : Catalog
    emit : callable
        Tells whoever listens; in the transaction of the change.
    versions_of : callable
        Gets a namespace and the id of a collection, returns its versions.
    """

    def __init__(
        self, catalog: Catalog, emit: Emit, versions_of: Callable[[str, str], Versions]
    ) -> None:
        self._catalog = catalog
        self._emit = emit
        self._versions_of = versions_of

    def expect(self, ns: str, collection_id: str) -> None:
        """Have a collection looked at later, should this server die over a change of it."""
        now = self._catalog.clock()
        with self._catalog.reading() as tx:
            there = tx.get(ns, CHANGING, collection_id)
        if there is not None and there.due_at is not None and there.due_at > now + LATER / 2:
            return
        blank = Record(ns=ns, kind=CHANGING, id=collection_id, body={}, due_at=now + LATER)
        with self._catalog.writing() as tx:
            there = tx.get(ns, CHANGING, collection_id)
            if there is None:
                tx.create(blank)
            else:
                tx.replace(replace(there, due_at=now + LATER))

    def note(self, ns: str, version: Version) -> None:
        """Note a version, and those before it that nobody has noted."""
        with self._catalog.reading() as tx:
            record = tx.get(ns, KIND, version.collection_id)
        if record is not None and record.body["version"] < version.number:
            new = [*self._between(record, version.number), version]  # read outside of a turn
            with self._catalog.writing() as tx:
                self._tell(tx, ns, version.collection_id, new)

    def note_number(self, ns: str, collection_id: str, number: int) -> None:
        """Note the version of that number, and those before it that nobody has noted."""
        with self._catalog.reading() as tx:
            record = tx.get(ns, KIND, collection_id)
        if record is not None and record.body["version"] < number:
            self.note(ns, self._versions_of(ns, collection_id).read(number))

    def look(self) -> bool:
        """Note what servers have published that died over it; return whether there is more."""
        with self._catalog.writing() as tx:
            due = tx.claim(CHANGING, hold=LATER)
        for each in due:
            latest = self._versions_of(each.ns, each.id).latest()
            if latest is not None:
                self.note(each.ns, latest)
            with self._catalog.writing() as tx:
                found = tx.get(each.ns, CHANGING, each.id)
                if found is not None and found.version == each.version:
                    tx.delete(each.ns, CHANGING, each.id)
        return bool(due)

    def _between(self, record: Record, end: int) -> list[Version]:
        """Return the versions after that of a record, before one."""
        versions = self._versions_of(record.ns, record.id)
        return [versions.read(number) for number in range(record.body["version"] + 1, end)]

    def _tell(
        self, tx: Transaction, ns: str, collection_id: str, versions: Sequence[Version]
    ) -> None:
        record = tx.get(ns, KIND, collection_id)
        if record is None:  # it was deleted meanwhile
            return
        new = [each for each in versions if each.number > record.body["version"]]
        if new:
            body = {**record.body, **described(ns, new[-1])}
            tx.replace(replace(record, body=body, status=READY))
        for each in new:
            told = {**each.details, "version": each.number}
            if each.number == 1:  # its documents were imported
                event, told = "collection.created", {"collection_name": record.name}
            elif each.made_by == "append":
                event = "collection.documents.written"
            else:
                event = "collection.updated"
            self._emit(tx, ns, event, KIND, record.id, told)
