"""Documents are listed, counted, taken away, and keep their place on a page."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.artifacts import open_store
from gpucluster.artifacts.store import LocalStore
from gpucluster.errors import ConfigError, CorruptArtifactError, SchemaMismatchError
from gpucluster.places import place
from gpucluster.service.collections import data, scanning
from gpucluster.service.collections.facets import count_values
from gpucluster.service.collections.listing import Cursor, Question, find_document, page
from gpucluster.service.collections.removing import remove
from gpucluster.sources import Filters
from tests.helpers.documents import NOW, add, add_file, documents, everything, ids, start

KINDS = ["a", "b", "c", None]


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "root")


@pytest.fixture
def small(monkeypatch):
    """Let files have row groups of a few rows, and be read in smaller batches still."""
    monkeypatch.setattr(data, "GROUP_ROWS", 7)
    monkeypatch.setattr(scanning, "SCAN_ROWS", 3)
    monkeypatch.setattr(scanning, "FETCH_ROWS", 2)


def rows_of(seed: int, n: int = 40) -> list[dict]:
    draw = random.Random(seed)
    return [
        {
            "document_id": f"doc-{number:03}",
            "text_embedding": [float(number)] * 4,
            "kind": draw.choice(KINDS),
            "n": draw.choice([None, *range(5)]),
            "score": draw.choice([None, 0.5, 1.5, float("nan")]),
            "tags": draw.choice([None, [], ["x"], ["x", "y"], ["y", "y"]]),
            "meta": {"lang": draw.choice(["de", "en"])},
            "text": f"Text {number} of {draw.choice(['Mainz', 'Köln'])}",
        }
        for number in range(n)
    ]


def filled(store, rows, n_files=3):
    versions = start(store)
    for part in np.array_split(np.arange(len(rows)), n_files):
        add(store, versions, [rows[at] for at in part])
    return versions


def pages(versions, question, limit, **how):
    version, cursor, found = versions.latest(), None, []
    while True:
        each = page(versions, version, question, limit=limit, cursor=cursor, **how)
        assert len(each.documents) <= limit
        found.append(each)
        if each.next_cursor is None:
            return found
        cursor = Cursor.parse(each.next_cursor)
        version = versions.read(cursor.version)


def listed(versions, question=None, limit=7):
    found = pages(versions, question or Question(), limit)
    return [each for part in found for each in part.documents]


def test_pages_hold_all_documents_once(store, small):
    rows = rows_of(0)
    versions = filled(store, rows)
    for limit in (1, 7, 39, 40, 41):
        found = listed(versions, limit=limit)
        assert [each["document_id"] for each in found] == [row["document_id"] for row in rows]
    first = listed(versions)[0]
    assert "text_embedding" not in first
    assert first["meta"] == rows[0]["meta"]
    some = Question(fields=["n", "text_embedding"], include_vectors=True)
    assert listed(versions, some)[3] == {
        name: rows[3][name] for name in ("document_id", "n", "text_embedding")
    }


def test_a_page_in_a_bucket(bucket):
    store = open_store(place(bucket + "/root"))
    versions = filled(store, rows_of(0, 10))
    assert len(listed(versions, limit=4)) == 10
    assert page(versions, versions.latest(), Question(search="köln"), limit=9).documents


def test_a_cursor_stays_with_its_version(store, small):
    versions = filled(store, rows_of(0))
    first = page(versions, versions.latest(), Question(), limit=30)
    remove(store, versions, now=NOW, ids=pa.array(["doc-031"]))
    add(store, versions, documents(1))
    cursor = Cursor.parse(first.next_cursor)
    rest = page(versions, versions.read(cursor.version), Question(), limit=30, cursor=cursor)
    assert [each["document_id"] for each in rest.documents] == [
        f"doc-{n:03}" for n in range(30, 40)
    ]
    assert len(listed(versions)) == 40


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("field", ["n", "score", "kind", "text", "document_id"])
def test_sorted_documents(store, small, field, direction):
    rows = rows_of(1)
    versions = filled(store, rows)
    found = listed(versions, Question(sort=field, direction=direction), limit=6)

    def value(row):
        return None if row[field] is None or row[field] != row[field] else row[field]

    present = [row for row in rows if value(row) is not None]
    present.sort(key=value, reverse=direction == "desc")  # equal ones stay as they were
    missing = [row for row in rows if value(row) is None]
    assert [each["document_id"] for each in found] == [
        row["document_id"] for row in present + missing
    ]


def test_what_cannot_be_sorted_or_found(store):
    versions = filled(store, rows_of(0, 5))
    for wrong, error in (
        (Question(sort="tags"), ConfigError),
        (Question(sort="text_embedding"), SchemaMismatchError),
        (Question(sort="nothing"), SchemaMismatchError),
        (Question(fields=["text_embedding"]), SchemaMismatchError),
        (Question(fields=["nothing"]), SchemaMismatchError),
        (Question(filters=Filters.model_validate({"nothing": 1})), SchemaMismatchError),
        (Question(filters=Filters.model_validate({"text_embedding": 1})), SchemaMismatchError),
        (Question(filters=Filters.model_validate({"kind": 1})), ConfigError),
    ):
        with pytest.raises(error):
            listed(versions, wrong)
    empty = start(LocalStore(store.root / "empty"))
    with pytest.raises(SchemaMismatchError):
        listed(empty, Question(filters=Filters.model_validate({"nothing": 1})))
    assert listed(empty) == []


@pytest.mark.parametrize("text", ["", "x", "W10=", "é", "a" * 2000, "eyJhIjoxfQ", "WzEsMl0"])
def test_what_is_no_cursor(text):
    with pytest.raises(ConfigError, match="no cursor"):
        Cursor.parse(text)


def test_a_cursor_belongs_to_its_question(store):
    versions = filled(store, rows_of(0))
    first = page(versions, versions.latest(), Question(), limit=3)
    other = Question(search="x")
    cursor = Cursor.parse(first.next_cursor)
    with pytest.raises(ConfigError, match="another question"):
        page(versions, versions.latest(), other, limit=3, cursor=cursor)


@pytest.mark.parametrize("sort", [None, "n"])
@pytest.mark.parametrize("row", [40, 2**61])
def test_a_cursor_leads_to_a_document_that_is_there(store, sort, row):
    versions = filled(store, rows_of(0))
    question = Question(sort=sort)
    cursor = Cursor(versions.latest().number, row, question.digest())
    with pytest.raises(ConfigError, match="no cursor"):
        page(versions, versions.latest(), question, limit=3, cursor=cursor)


def test_a_document_is_found_by_its_id(store, small):
    versions = filled(store, rows_of(0))
    version = versions.latest()
    assert find_document(versions, version, "doc-021") == 21
    assert find_document(versions, version, "doc-21") is None


SCALARS = st.one_of(
    st.tuples(st.just("kind"), st.sampled_from(["eq", "ne", "contains", "starts_with"]),
              st.sampled_from(["a", "B", "d"])),
    st.tuples(st.just("n"), st.sampled_from(["eq", "ne", "gt", "lte", "lt", "gte"]),
              st.integers(-1, 5)),
    st.tuples(st.just("score"), st.sampled_from(["gt", "lte", "eq"]), st.sampled_from([0.5, 1.0])),
    st.tuples(st.just("meta.lang"), st.just("in"), st.lists(st.sampled_from(["de", "fr"]),
              min_size=1)),
    st.tuples(st.sampled_from(["kind", "n", "tags"]), st.just("is_null"), st.booleans()),
    st.tuples(st.just("tags"), st.just("contains"), st.sampled_from(["x", "Y", "z"])),
    st.tuples(st.just("tags"), st.sampled_from(["in", "nin"]),
              st.lists(st.sampled_from(["x", "Y", "z"]), min_size=1)),
    st.tuples(st.just("document_id"), st.just("eq"), st.sampled_from(["doc-003", "doc-3"])),
)  # fmt: skip
CONDITIONS = SCALARS.map(lambda each: dict(zip(("field", "operator", "value"), each, strict=True)))
TREES = st.recursive(
    CONDITIONS,
    lambda inner: st.dictionaries(
        st.sampled_from(["AND", "OR", "NOT"]), st.lists(inner, min_size=1, max_size=3), min_size=1
    ),
    max_leaves=6,
)


def holds(item: dict, row: dict) -> bool:
    """Say in Python what a filter means."""
    if "field" not in item:
        return (
            all(holds(each, row) for each in item.get("AND", []))
            and (not item.get("OR") or any(holds(each, row) for each in item["OR"]))
            and not any(holds(each, row) for each in item.get("NOT", []))
        )
    field, operator, value = item["field"], item["operator"], item["value"]
    own = row["meta"]["lang"] if field == "meta.lang" else row[field]
    if operator == "is_null":
        return (own is None) == value
    if operator in {"ne", "nin"}:
        return not holds({**item, "operator": {"ne": "eq", "nin": "in"}[operator]}, row)
    if own is None:
        return False
    if isinstance(own, list):
        wanted = [v.lower() for v in (value if operator == "in" else [value])]
        return any(element.lower() in wanted for element in own)
    if isinstance(own, str):
        own = own.lower()
        value = [v.lower() for v in value] if isinstance(value, list) else value.lower()
    return {
        "eq": lambda: own == value,
        "gt": lambda: own > value,
        "gte": lambda: own >= value,
        "lt": lambda: own < value,
        "lte": lambda: own <= value,
        "in": lambda: own in value,
        "contains": lambda: value in own,
        "starts_with": lambda: own.startswith(value),
    }[operator]()


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    rows = rows_of(2)
    return rows, filled(LocalStore(tmp_path_factory.mktemp("filtered")), rows)


@given(TREES)
def test_filters_mean_what_they_mean_in_python(filtered, tree):
    rows, versions = filtered
    question = Question(filters=Filters.model_validate(tree if "field" not in tree else
                                                       {"AND": [tree]}))  # fmt: skip
    found = [each["document_id"] for each in listed(versions, question, limit=9)]
    assert found == [row["document_id"] for row in rows if holds(tree, row)]
    (only,) = pages(versions, question, 100, include_total=True)
    assert only.total == len(found)


def test_search_looks_in_texts(store):
    versions = filled(store, rows_of(0))
    found = {each["document_id"] for each in listed(versions, Question(search="TEXT 3"))}
    assert found == {"doc-003", *(f"doc-03{n}" for n in range(10))}
    assert [d["document_id"] for d in listed(versions, Question(search="oc-012"))] == ["doc-012"]
    both = Question(search="text 3", filters=Filters.model_validate({"document_id": "doc-031"}))
    assert len(listed(versions, both)) == 1


@pytest.mark.parametrize("filters", [None, {"kind": "a"}, {"n": 100}])
def test_facets_count_as_python_does(store, small, filters):
    rows = rows_of(3)
    versions = filled(store, rows)
    meant = [row for row in rows if filters is None or holds_all(filters, row)]
    asked = None if filters is None else Filters.model_validate(filters)
    fields = ["kind", "n", "tags", "meta.lang", "document_id"]
    found = count_values(versions, versions.latest(), fields, filters=asked, limit=2)
    for field in ("kind", "n", "document_id"):
        counted = Counter(row[field] for row in meant if row[field] is not None)
        check_facet(found[field], counted, sum(row[field] is None for row in meant))
    check_facet(found["meta.lang"], Counter(row["meta"]["lang"] for row in meant), 0)
    tags = Counter(tag for row in meant for tag in row["tags"] or [])
    check_facet(found["tags"], tags, sum(not row["tags"] for row in meant))


def holds_all(filters, row):
    return all(row[field] == value for field, value in filters.items())


def check_facet(facet, counted, n_null):
    order = sorted(counted.items(), key=lambda each: (-each[1], each[0]))
    assert facet.values == order[:2]
    assert facet.other_count == sum(n for _, n in order[2:])
    assert (facet.null_count, facet.distinct) == (n_null, len(order))


def test_facets_of_times_and_too_many_values(store, tmp_path, monkeypatch):
    from gpucluster.service.collections import facets

    versions = start(store)
    table = pa.table({
        "document_id": ["a", "b", "c"],
        "day": pa.array([dt.date(2026, 1, 1)] * 2 + [None]),
        "list": pa.array([[[1]], None, None]),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x")
    add_file(store, versions, tmp_path / "x", "parquet")
    found = count_values(versions, versions.latest(), ["day"], limit=9)
    assert found["day"].values == [("2026-01-01", 2)]
    with pytest.raises(ConfigError, match="not counted"):
        count_values(versions, versions.latest(), ["list"], limit=9)
    with pytest.raises(SchemaMismatchError, match="no field"):
        count_values(versions, versions.latest(), ["text_embedding"], limit=9)
    monkeypatch.setattr(facets, "MAX_DISTINCT", 2)
    with pytest.raises(ConfigError, match="more than 2 different"):
        count_values(versions, versions.latest(), ["document_id"], limit=9)


def test_documents_are_taken_away(store, small):
    rows = rows_of(0)
    versions = filled(store, rows)
    before = versions.latest()
    version, n = remove(store, versions, now=NOW, ids=pa.array(["doc-003", "doc-039", "none"]))
    assert (n, version.n_rows) == (2, 38)
    assert "doc-003" not in ids(versions)
    assert [file.name for file in version.files if file in before.files] == [before.files[1].name]
    version, n = remove(store, versions, now=NOW, filters=Filters.model_validate({"kind": "a"}))
    assert n == sum(row["kind"] == "a" for row in rows if row["document_id"] not in
                    {"doc-003", "doc-039"})  # fmt: skip
    assert "a" not in everything(versions)["kind"].to_pylist()
    assert ids(versions, before) == [row["document_id"] for row in rows]
    same, n = remove(store, versions, now=NOW, ids=pa.array(["none"]))
    assert (same.number, n) == (version.number, 0)
    all_ = {"AND": [{"field": "document_id", "operator": "exists"}]}
    all_ = {"AND": [{"field": "document_id", "operator": "exists"}]}
    empty, _ = remove(store, versions, now=NOW, filters=Filters.model_validate(all_))
    assert empty.n_rows == 0
    assert everything(versions).num_rows == 0
    add(store, versions, rows[:2])
    assert ids(versions) == ["doc-000", "doc-001"]


def test_a_file_that_is_gone_is_said_so(store):
    versions = filled(store, rows_of(0))
    file = versions.latest().files[1]
    (store.root / versions.key(file)).unlink()
    with pytest.raises(CorruptArtifactError, match="no such file"):
        listed(versions)
