"""Filters and orders of both databases mean what they mean in plain Python."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucluster.errors import ConfigError
from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import COLUMNS, Query, Record
from gpucluster.sources.filters import ORDER, Filters
from tests.helpers.catalogs import BEGIN, Clock, add, holds, record, sort_key, undone, walk

KEYS = [
    "a", "b", "0", "id", 'q"', '"', "back\\slash", "\\", "'", "%", "%s", "%(v0)s", "_", ":v0",
    "::text", "$", "[0]", "#-1", "\n", "\x7f", "\x01", "ü", "😀", "a b", "--", "/*", "u0022",
    "\\u0022", "*", "?",
]  # fmt: skip
WORDS = [
    "", "a", "A", "ab", "a b", "Äpfel", "äPFEL", "ÄPFEL und", "straße", "STRASSE", "İ", "i",
    "\u017f", "K", "k", "ß", "ς", "\u03c3", "%", "_", "a%b", "a_b", "\\", "\\\\", "'", "''",
    '"', "x' OR '1'='1", ":v0", "%(v0)s", "%s", "$1", "{}", "1", "1.0", "true", "null", "\n",
    "a\nb", "\t", "\x1f", "\x7f", "\ufffd", "\uffff", "😀", "👩‍👩‍👧", "e\u0301", "é", "[1]",
    "2026-01-31T12:00:00Z", "nan", "Infinity",
]  # fmt: skip
PATTERNS = [
    "^a", "B$", "[%_]", r"\\", "'", ".", "x|y", r"\p{L}+", "^$", "(?i)ä", "(?-i:A)", r"\d",
    "a.b", "ß", "K",
]  # fmt: skip

keys = st.sampled_from(KEYS)
texts = st.sampled_from(WORDS) | st.text(
    st.characters(exclude_categories=("Cs", "Cn"), exclude_characters="\0"), max_size=6
)
numbers = (
    st.sampled_from([0, 1, -1, 0.0, -0.0, 0.1, 0.30000000000000004, 1.0, 2**53, 2**53 + 1, 1e300])
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
)
scalars = texts | numbers | st.booleans()
values = st.recursive(
    st.none() | scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
bodies = st.dictionaries(keys, values, max_size=4)
paths = st.lists(keys, min_size=1, max_size=3).map(".".join)
fields = paths | st.sampled_from([*COLUMNS, "a..b", ".", "nowhere"])
times = st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31T13:00:01+01:00", "2026-01-31"])


def conditions(field: str, known: list) -> st.SearchStrategy:
    """Draw conditions on a field, often about values that are there."""
    some = scalars | st.sampled_from(known) if known else scalars
    if field in {"created_at", "updated_at"}:
        some = times | numbers | st.booleans()
    filled = texts.filter(str.strip)
    comparable = some.filter(lambda value: not isinstance(value, bool))
    drawn = st.one_of(
        st.tuples(st.sampled_from(["eq", "ne"]), some),
        st.tuples(st.sampled_from(ORDER), comparable),
        st.tuples(st.sampled_from(["in", "nin"]), st.lists(some, min_size=1, max_size=4)),
        st.tuples(st.sampled_from(["contains", "starts_with", "ends_with", "text"]), filled),
        st.tuples(st.just("contains"), st.integers(0, 2) | st.booleans()),
        st.tuples(st.just("regex"), st.sampled_from(PATTERNS)),
        st.tuples(st.sampled_from(["exists", "is_null"]), st.booleans()),
    )
    return drawn.map(lambda pair: {"field": field, "operator": pair[0], "value": pair[1]})


@st.composite
def cases(draw) -> tuple[list[Record], Filters, str]:
    """Draw records, and filters over fields that they mostly have."""
    records = [
        record(
            f"r{n}",
            body=draw(bodies),
            name=draw(st.none() | st.sampled_from([f"N{n}", f"näme {n}"])),
            status=draw(st.sampled_from([None, "A", "a", "b'"])),
            parent=draw(st.sampled_from([None, "p", "P"])),
        )
        for n in range(draw(st.integers(1, 6)))
    ]
    there = sorted({path for each in records for path, _ in leaves(each.body, ())})
    field = fields | st.sampled_from(there) if there else fields
    scalar = [v for each in records for _, v in leaves(each.body, ()) if v is not None]

    def group(depth: int) -> dict:
        items = [
            draw(conditions(draw(field), scalar))
            if depth == 2 or draw(st.booleans())
            else group(depth + 1)
            for _ in range(draw(st.integers(1, 3)))
        ]
        case = draw(st.sampled_from([{}, {"case_sensitive": True}, {"case_sensitive": False}]))
        return {draw(st.sampled_from(["AND", "OR", "NOT"])): items, **case}

    return records, Filters.model_validate(group(1)), draw(field)


def leaves(value, path):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif path:
        each = value if isinstance(value, list) else [value]
        yield from ((".".join(path), one) for one in each if not isinstance(one, list | dict))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def catalog(request, tmp_path_factory):
    url = (
        str(tmp_path_factory.mktemp("catalog") / "catalog.sqlite")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres").make_place()
    )
    catalog = open_catalog(url, clock=Clock())
    yield catalog
    catalog.close()


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(case=cases(), direction=st.sampled_from(["asc", "desc"]), limit=st.integers(1, 4))
def test_filters_and_orders_are_those_of_plain_python(catalog, case, direction, limit):
    records, filters, sort = case
    with undone(catalog) as transaction:
        records = [transaction.create(each) for each in records]
        meant = [each for each in records if holds(filters, each)]
        query = Query(filters=filters, sort=sort, direction=direction, limit=limit)
        pages = list(walk(transaction, query))
        summary = transaction.summary("n", "k", query)
    expected = sorted(
        meant, key=lambda each: sort_key(each, sort, direction), reverse=direction == "desc"
    )
    found = [key for page in pages for key in page]
    assert found == [each.id for each in expected]
    assert all(len(page) == limit for page in pages[:-1])
    assert summary.count == len(meant)
    statuses = {each.status for each in meant} - {None}
    assert summary.by_status == {
        each: sum(one.status == each for one in meant) for each in statuses
    }


@pytest.mark.parametrize(
    "operator", ["eq", "contains", "starts_with", "ends_with", "text", "gt", "lte"]
)
def test_every_word_is_compared_with_every_other(catalog, operator):
    words = [*WORDS, "\u03a3", "\u0391\u03a3", "\u03b1\u03c2", "\u03b1\u03c3", "Zebra", "zebra",
        "Z a", "Éa"]  # fmt: skip
    with undone(catalog) as transaction:
        records = [
            transaction.create(record(f"r{n:02}", body={"a": word})) for n, word in enumerate(words)
        ]
        for word in filter(str.strip, words):
            for case in (True, False):
                given = {"AND": [{"field": "a", "operator": operator, "value": word}]}
                filters = Filters.model_validate({**given, "case_sensitive": case})
                query = Query(filters=filters, sort="id", direction="asc", limit=100)
                found = [each.body["a"] for each in transaction.page("n", "k", query).records]
                assert found == [r.body["a"] for r in records if holds(filters, r)], (word, case)
        (order,) = walk(transaction, Query(sort="a", direction="asc", limit=100))
    assert order == [r.id for r in sorted(records, key=lambda r: sort_key(r, "a", "asc"))]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"operator": "contains", "value": "RED"}, "ac"),
        ({"operator": "contains", "value": "re"}, "c"),
        ({"operator": "contains", "value": 2}, "b"),
        ({"operator": "contains", "value": True}, "b"),
        ({"operator": "in", "value": ["big", 2.0]}, "ab"),
        ({"operator": "nin", "value": ["big", 2.0]}, "cde"),
        ({"operator": "eq", "value": "big"}, ""),
        ({"operator": "starts_with", "value": "big"}, ""),
        ({"operator": "exists"}, "abcd"),
    ],
    ids=lambda given: (
        given if isinstance(given, str) else f"{given['operator']} {given.get('value')}"
    ),
)
def test_lists_know_their_elements(catalog, condition, found):
    lists = {"a": ["Red", "big"], "b": [1, 2, True, None, ["big"]], "c": "red", "d": {"x": "big"}}
    with undone(catalog) as transaction:
        for key, value in lists.items():
            transaction.create(record(key, body={"of": {"tags": value}}))
        transaction.create(record("e"))
        filters = Filters.model_validate({"field": "of.tags", **condition})
        page = transaction.page("n", "k", Query(filters=filters, sort="id", direction="asc"))
        assert "".join(each.id for each in page.records) == found
        assert transaction.summary("n", "k", Query(filters=filters)).count == len(found)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(body=st.dictionaries(st.text(max_size=4), values | st.text(max_size=4), max_size=4))
def test_a_body_comes_back_as_it_was_given(catalog, body):
    lost = str.maketrans(dict.fromkeys(["\0", *map(chr, range(0xD800, 0xE000))], "\ufffd"))

    def kept(value):
        if isinstance(value, dict):
            return {key.translate(lost): kept(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [kept(inner) for inner in value]
        return value.translate(lost) if isinstance(value, str) else value

    with undone(catalog) as transaction:
        created = transaction.create(record(body=body))
        found = transaction.get("n", "k", "a")
    assert found == created
    assert found.body == kept(body)


def test_a_search_finds_what_contains_it(catalog):
    with undone(catalog) as transaction:
        for n, text in enumerate(WORDS):
            transaction.create(record(f"r{n}", text=f"<{text}>", name=f"Näme {n}."))
        for text in filter(None, WORDS):
            page = transaction.page("n", "k", Query(search=text, limit=1000))
            folded = Filters.model_validate(
                {"field": "t", "operator": "contains", "value": text or "x"}
            ) if text.strip() else None  # fmt: skip
            for n, other in enumerate(WORDS):
                parts = [f"r{n}", f"Näme {n}.", f"<{other}>"]
                wanted = (
                    any(holds(folded, record(body={"t": part})) for part in parts)
                    if folded
                    else any(text in part for part in parts) or text == "\x1f"
                )
                assert (f"r{n}" in {each.id for each in page.records}) == wanted, (text, other)
        assert len(transaction.page("n", "k", Query(search="NÄME 1.")).records) == 1


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "W10", "e30", "bnVsbA", "W1tdXQ", "WzEsMiwzLDRd" * 9]
)
def test_what_is_no_cursor_is_refused(catalog, cursor):
    with catalog.reading() as transaction, pytest.raises(ConfigError, match="cursor"):
        transaction.page("n", "k", Query(cursor=cursor))


def test_a_cursor_of_another_order_is_refused(catalog):
    with undone(catalog) as transaction:
        for n in range(3):
            transaction.create(record(f"r{n}"))
        cursor = transaction.page("n", "k", Query(limit=1)).next_cursor
        with pytest.raises(ConfigError, match="another order"):
            transaction.page("n", "k", Query(cursor=cursor, sort="name"))
        with pytest.raises(ConfigError, match="another order"):
            transaction.page("n", "k", Query(cursor=cursor, direction="asc"))


def test_a_value_that_no_database_keeps_matches_nothing(catalog):
    with undone(catalog) as transaction:
        transaction.create(record(body={"a": "x\0y"}))
        for value in ("x\0y", "\0", "\ud800"):
            assert not transaction.page("n", "k", Query(search=value)).records
            for operator in ("eq", "contains", "starts_with", "ends_with", "text", "gt"):
                given = {"field": "a", "operator": operator, "value": value}
                query = Query(filters=Filters.model_validate(given))
                assert not transaction.page("n", "k", query).records, operator
        for field in ("a\0", "a.\0"):
            query = Query(filters=Filters.model_validate({"field": field, "operator": "exists"}))
            assert not transaction.page("n", "k", query).records
            assert transaction.page("n", "k", Query(sort=field)).records


def test_a_time_that_is_none_is_refused(catalog):
    filters = Filters.model_validate({"field": "created_at", "operator": "gt", "value": "soon"})
    with catalog.reading() as transaction, pytest.raises(ConfigError, match="no time"):
        transaction.page("n", "k", Query(filters=filters))


def test_a_thousand_conditions_are_no_burden(catalog):
    with undone(catalog) as transaction:
        transaction.create(record(body={"a": 999}))
        many = [{"field": "a", "operator": "eq", "value": n} for n in range(1000)]
        wide = Filters.model_validate({"OR": many})
        assert len(transaction.page("n", "k", Query(filters=wide)).records) == 1
        many = [{"field": f"f{n}", "operator": "contains", "value": "x"} for n in range(1000)]
        none = Filters.model_validate({"NOT": many})
        assert len(transaction.page("n", "k", Query(filters=none)).records) == 1
        long = {"field": "b", "operator": "nin", "value": [f"v{n}" for n in range(10_000)]}
        query = Query(filters=Filters.model_validate(long))
        assert len(transaction.page("n", "k", query).records) == 1


def test_only_so_many_fields_have_all_their_values_read(catalog):
    given = [{"field": f"f{n}", "operator": "regex", "value": "x"} for n in range(11)]
    with catalog.reading() as transaction, pytest.raises(ConfigError, match="more than 10 fields"):
        transaction.page("n", "k", Query(filters=Filters.model_validate({"AND": given})))


def test_times_are_those_of_the_clock(catalog):
    add(catalog, record("clock"))
    with catalog.writing() as transaction:
        assert transaction.get("n", "k", "clock").created_at == BEGIN
        transaction.delete("n", "k", "clock")
