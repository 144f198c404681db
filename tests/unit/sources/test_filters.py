"""Filters choose the rows that a plain reading of their words would choose."""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpucluster
from gpucluster.errors import (
    ConfigError,
    DuplicateIdsError,
    GpuclusterError,
    SchemaMismatchError,
    TooFewSamplesError,
)
from gpucluster.sources import Filters, compile_filter, open_source
from gpucluster.sources.filters import MAX_CONDITIONS, MAX_DEPTH
from gpucluster.sources.matching import evaluate, matching
from tests.helpers.vectors import (
    N_ROWS,
    names,
    read,
    table,
    vectors,
    write_arrow,
    write_npy,
    write_parquet,
)

SCHEMA = pa.schema(
    {
        "count": pa.int64(),
        "price": pa.float64(),
        "title": pa.string(),
        "sold": pa.bool_(),
        "meta": pa.struct({"colour": pa.string(), "size": pa.struct({"width": pa.int32()})}),
        "tags": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),
        "deep": pa.struct({"sizes": pa.large_list(pa.int32())}),
        "three": pa.list_(pa.int64(), 3),
        "empty": pa.list_(pa.null()),
        "nothing": pa.null(),
    }
)
FIELDS = {
    "count": "number",
    "price": "number",
    "title": "text",
    "sold": "bool",
    "meta.colour": "text",
    "meta.size.width": "number",
    "tags": "texts",
    "scores": "numbers",
    "deep.sizes": "numbers",
    "three": "numbers",
    "empty": "numbers",
    "nothing": "null",
    "gone": "absent",
}

ALPHABET = "aAbBéÉ .+1_"
WORDS = st.text(ALPHABET, max_size=6)
NUMBERS_INT = st.integers(-3, 3)
NUMBERS = st.integers(-3, 3) | st.sampled_from([-2.5, -1.0, 0.5, 2.0, 1e6])
SCORES = st.sampled_from([-2.5, 0.5, 2.0, float("nan")])
VALUES = {"number": NUMBERS, "text": WORDS, "bool": st.booleans(), "null": NUMBERS | WORDS}
ELEMENTS = {"texts": WORDS, "numbers": NUMBERS}
PATTERNS = ["a", "^a.*b$", "[AB]+", "é|1", r"\.", "a{2}", "^$"]


def rows() -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries(
        {
            "count": st.none() | st.integers(-3, 3),
            "price": st.none() | st.sampled_from([-2.5, 0.5, 2.0, float("nan")]),
            "title": st.none() | WORDS,
            "sold": st.none() | st.booleans(),
            "meta": st.none()
            | st.fixed_dictionaries(
                {
                    "colour": st.none() | WORDS,
                    "size": st.none() | st.fixed_dictionaries({"width": st.none() | NUMBERS_INT}),
                }
            ),
            "tags": st.none() | st.lists(st.none() | WORDS, max_size=3),
            "scores": st.none() | st.lists(st.none() | SCORES, max_size=3),
            "deep": st.none()
            | st.fixed_dictionaries(
                {"sizes": st.none() | st.lists(st.none() | NUMBERS_INT, max_size=3)}
            ),
            "three": st.none() | st.lists(st.none() | NUMBERS_INT, min_size=3, max_size=3),
            "empty": st.none() | st.lists(st.none(), max_size=2),
            "nothing": st.none(),
        }
    )


@st.composite
def conditions(draw: st.DrawFn) -> dict:
    field = draw(st.sampled_from(list(FIELDS)))
    kind = FIELDS[field]
    operators = ["exists"] if kind == "absent" else ["exists", "is_null"]
    if kind in VALUES:
        operators += ["eq", "ne", "in", "nin"]
    if kind in {"number", "text", "null"}:
        operators += ["gt", "lt", "gte", "lte"]
    if kind in ELEMENTS:
        operators += ["contains", "in", "nin"]
    if kind == "text":
        operators += ["contains", "starts_with", "ends_with", "regex", "text"] * 2
    operator = draw(st.sampled_from(operators))
    if operator in {"exists", "is_null"}:
        value = draw(st.booleans())
    elif operator in {"in", "nin"}:
        value = draw(st.lists({**VALUES, **ELEMENTS}[kind], min_size=1, max_size=3))
    elif kind in ELEMENTS:
        value = draw(ELEMENTS[kind].filter(lambda one: one != "" and not str(one).isspace()))
    elif operator == "regex":
        value = draw(st.sampled_from(PATTERNS))
    elif operator in {"contains", "starts_with", "ends_with", "text"}:
        value = draw(WORDS.filter(str.strip))
    else:
        value = draw(VALUES[kind])
    return {"field": field, "operator": operator, "value": value}


def groups(items: st.SearchStrategy) -> st.SearchStrategy[dict]:
    lists = st.lists(items, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {}, optional={"AND": lists, "OR": lists, "NOT": lists, "case_sensitive": st.booleans()}
    ).filter(lambda group: group.keys() - {"case_sensitive"})


FILTERS = groups(st.recursive(conditions(), groups, max_leaves=4))


def holds(item: dict, row: dict, case: bool = False) -> bool:
    """Say what a filter says, in Python."""
    if "field" not in item:
        case = item.get("case_sensitive", case)
        return (
            all(holds(inner, row, case) for inner in item.get("AND", ()))
            and ("OR" not in item or any(holds(inner, row, case) for inner in item["OR"]))
            and not any(holds(inner, row, case) for inner in item.get("NOT", ()))
        )
    found = row
    for step in item["field"].split("."):
        found = None if found is None else found.get(step)
    operator, value = item["operator"], item["value"]
    if operator in {"ne", "nin"}:
        opposite = {"ne": "eq", "nin": "in"}[operator]
        return not holds({**item, "operator": opposite}, row, case)
    if operator in {"exists", "is_null"}:
        return (found is None) == (value == (operator == "is_null"))
    if found is None:
        return False
    if isinstance(found, list):
        asked = {**item, "field": "x", "operator": {"contains": "eq"}.get(operator, operator)}
        return any(holds(asked, {"x": element}, case) for element in found)
    if operator in {"gt", "lt", "gte", "lte"}:
        low, high = (value, found) if operator[0] == "g" else (found, value)
        return low < high or (operator.endswith("e") and low == high)
    if operator == "regex":
        return re.search(value, found, 0 if case else re.IGNORECASE) is not None
    if not case:
        found, value = folded(found), folded(value)
    if operator == "text":
        return all(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", found) for word in value.split())
    return {
        "eq": lambda: found == value,
        "in": lambda: found in value,
        "contains": lambda: value in found,
        "starts_with": lambda: found.startswith(value),
        "ends_with": lambda: found.endswith(value),
    }[operator]()


def folded(value: object) -> object:
    if isinstance(value, list):
        return [folded(item) for item in value]
    return value.lower() if isinstance(value, str) else value


@given(filters=FILTERS, data=st.lists(rows(), min_size=1, max_size=6))
def test_compiled_filters_say_what_their_words_say(filters, data):
    batch = pa.RecordBatch.from_pylist(data, SCHEMA)
    parsed = Filters.model_validate(filters)
    compiled = compile_filter(parsed, batch.schema)
    expected = [holds(filters, row) for row in data]
    assert evaluate(compiled, batch).tolist() == expected
    assert evaluate(compiled, batch.slice(1)).tolist() == expected[1:]
    again = Filters.model_validate(parsed.to_dict())
    assert again == parsed
    assert again.to_dict() == parsed.to_dict()


# --- forms -----------------------------------------------------------------------------------


def condition(field: str, operator: str, value: object) -> dict:
    return {"field": field, "operator": operator, "value": value}


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ({}, {}),
        ({"a": 1}, {"AND": [condition("a", "eq", 1)]}),
        ({"a": 1, "b": "x"}, {"AND": [condition("a", "eq", 1), condition("b", "eq", "x")]}),
        ({"field": "a", "value": 1}, {"AND": [condition("a", "eq", 1)]}),
        ({"field": "a", "operator": "exists"}, {"AND": [condition("a", "exists", True)]}),
        ({"a": 1, "case_sensitive": True},
         {"AND": [condition("a", "eq", 1)], "case_sensitive": True}),
        ({"NOT": [{"OR": [{"a": 1}, {"b": 2, "c": 3}]}]},
         {"NOT": [{"OR": [condition("a", "eq", 1),
                          {"AND": [condition("b", "eq", 2), condition("c", "eq", 3)]}]}]}),
    ],
)  # fmt: skip
def test_canonical_form(given, canonical):
    assert Filters.model_validate(given).to_dict() == canonical


def deep(levels: int) -> dict:
    filters: dict = {"AND": [{"a": 1}]}
    for _ in range(levels):
        filters = {"NOT": [filters]}
    return filters


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (3, "filters: got 3, expected"),
        ({"AND": []}, "at least one condition in AND"),
        ({"AND": {"a": 1}}, "filters.AND: got"),
        ({"AND": [3]}, "filters.AND.0"),
        ({"AND": [{"a": 1}], "b": 2}, "filters.b: unknown setting. known are: AND, OR, NOT"),
        ({"AND": [{"field": "a", "opperator": "eq"}]}, "unknown setting. did you mean operator?"),
        ({"field": "a", "operator": "like", "value": "x"}, "got 'like', expected 'eq', 'ne'"),
        ({"a": None}, "is_null finds null"),
        ({"a": [1]}, "in takes a list"),
        ({"a": {"b": 1}}, "expected a text, number or boolean, for eq"),
        ({"a": float("inf")}, "finite"),
        (condition("a", "in", 1), "expected a list of 1 to 10,000"),
        (condition("a", "in", [None]), "none null"),
        (condition("a", "nin", []), "for nin"),
        (condition("a", "gt", True), "a number or a text"),
        (condition("a", "exists", 1), "true or false"),
        (condition("a", "text", " "), "a text that is not empty"),
        (condition("a", "regex", "(x"), r"a regular expression of RE2 \(missing \): \(x\)"),
        (condition("a", "regex", "(?=x)"), "invalid perl operator"),
        (condition("a", "eq", "x" * 10_001), "at most 10,000 characters"),
        (condition("", "eq", "x"), "at least 1 character"),
        (deep(MAX_DEPTH), f"nested deeper than {MAX_DEPTH} groups"),
        (deep(30), "nested deeper"),
        ({"OR": [{"a": 1}] * (MAX_CONDITIONS + 1)}, "more than 1,000 conditions"),
    ],
)
def test_what_is_no_filter(filters, message):
    with pytest.raises(ConfigError, match=message) as caught:
        gpucluster.ClusterDefinition.parse(filters=filters)
    assert len(str(caught.value).splitlines()) == 1


def test_a_definition_keeps_its_filters():
    parsed = gpucluster.ClusterDefinition.parse({"filters": {"a": 1}})
    again = gpucluster.ClusterDefinition.parse(parsed, sample_size=5)
    assert again.filters == parsed.filters
    assert gpucluster.ClusterDefinition.parse(parsed.to_dict()).filters == parsed.filters
    assert parsed.to_dict()["filters"] == {"AND": [condition("a", "eq", 1)]}
    assert gpucluster.ClusterDefinition.parse().to_dict()["filters"] is None


# --- types -----------------------------------------------------------------------------------


TYPED = pa.record_batch(
    {
        "small": pa.array([1, 255, None], pa.uint8()),
        "large": pa.array([2**53, 2**53 + 1, None], pa.int64()),
        "huge": pa.array([2**64 - 1, 0, None], pa.uint64()),
        "half": pa.array(np.array([0.1, 2, 3], "f2")),
        "single": pa.array([0.1, 2, None], pa.float32()),
        "money": pa.array([1, 2, None], pa.decimal128(10, 2)),
        "kind": pa.array(["A", "b", None]).dictionary_encode(),
        "view": pa.array(["A", "b", None], pa.string_view()),
        "day": pa.array([dt.date(2024, 1, 1), dt.date(2025, 1, 1), None]),
        "time": pa.array(["2024-01-01", "2025-01-01", None]).cast(pa.timestamp("us")),
        "zoned": pa.array([0, 10**9, None], pa.timestamp("s", "UTC")),
        "dotted.name": ["x", None, "y"],
        "flags": [[True, False], [False], None],
        "days": pa.array([[dt.date(2024, 1, 1)], [dt.date(2025, 1, 1), None], []]),
        "kinds": pa.ListArray.from_arrays(
            pa.array([0, 2, 3, 3], pa.int32()), pa.array(["A", "b", "a"]).dictionary_encode()
        ),
        "views": pa.array([["A"], ["a", None, "c"], None], pa.list_view(pa.string_view())),
        "pairs": [[["a"]], [], None],
    }
)


def chosen(item: dict, batch: pa.RecordBatch = TYPED) -> list[int]:
    mask = evaluate(compile_filter(Filters.model_validate(item), batch.schema), batch)
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("field", "operator", "value", "expected"),
    [
        ("small", "lt", 1000, [0, 1]),
        ("small", "gte", 0.5, [0, 1]),
        ("small", "in", [1, 254.5, 3.0], [0]),
        ("large", "eq", 2**53 + 1, [1]),
        ("large", "gt", float(2**53), [1]),
        ("huge", "eq", 2**64 - 1, [0]),
        ("half", "gt", 1, [1, 2]),
        ("single", "eq", 0.1, [0]),
        ("single", "gt", 0.1, [1]),
        ("money", "gt", 1.5, [1]),
        ("kind", "eq", "a", [0]),
        ("view", "starts_with", "B", [1]),
        ("day", "gt", "2024-06-01", [1]),
        ("day", "eq", "2024-01-01", [0]),
        ("time", "lte", "2024-01-01T00:00:00", [0]),
        ("zoned", "gt", "1970-01-01T00:00:00Z", [1]),
        ("zoned", "nin", ["1970-01-01T01:00:00+01:00"], [1, 2]),
        ("dotted.name", "is_null", True, [1]),
        ("flags", "contains", True, [0]),
        ("days", "in", ["2025-01-01"], [1]),
        ("kinds", "contains", "a", [0, 1]),
        ("views", "contains", "A", [0, 1]),
        ("views", "nin", ["a", "c"], [2]),
    ],
)
def test_values_take_the_type_of_the_column(field, operator, value, expected):
    assert chosen(condition(field, operator, value)) == expected


@pytest.mark.parametrize(
    ("field", "operator", "value", "message"),
    [
        ("kind", "gt", 3, "kind is dictionary<.*>, gt does not compare it with int 3"),
        ("small", "eq", "1", "small is uint8, eq does not compare it with str '1'"),
        ("small", "contains", "1", "contains does not compare"),
        ("small", "eq", True, "eq does not compare it with bool True"),
        ("day", "eq", "soon", "day is date32.day., which cannot be 'soon'. write times as"),
        ("day", "text", "2024", "text does not compare"),
        ("zoned", "gt", "2024-01-01", "with Z or an offset"),
        ("large", "lt", 10**30, "large is int64, which cannot be 1000"),
        ("kinds", "eq", "a", "eq does not compare .* contains finds an element of a list"),
        ("kinds", "contains", 3, "an element of kinds is .*, contains does not compare it"),
        ("kinds", "starts_with", "a", "starts_with does not compare"),
        ("flags", "in", [1], "in does not compare it with int"),
        ("pairs", "contains", "a", "an element of pairs is list<.*>, .* with str .a.$"),
        ("small", "contains", 1, "contains does not compare it with int 1"),
    ],
)
def test_values_of_another_type(field, operator, value, message):
    with pytest.raises(ConfigError, match=f"filters: .*{message}") as caught:
        chosen(condition(field, operator, value))
    assert "\n" not in str(caught.value)


def test_fields_that_are_not_there():
    with pytest.raises(SchemaMismatchError, match="no field 'smal'. did you mean 'small'?"):
        chosen({"smal": 1})
    batch = pa.RecordBatch.from_pylist([{"meta": {"colour": "red"}}])
    with pytest.raises(SchemaMismatchError, match="'meta.color'. did you mean 'meta.colour'?"):
        chosen({"meta.color": "red"}, batch)
    assert chosen(condition("meta.color", "exists", True), batch) == []
    assert chosen(condition("meta.color", "exists", False), batch) == [0]


# --- sources ---------------------------------------------------------------------------------


def products() -> pa.Table:
    return table(
        vectors(),
        price=pa.array([None if row % 10 == 9 else row for row in range(N_ROWS)]),
        meta=pa.array([{"colour": "Red" if row % 2 else "blue"} for row in range(N_ROWS)]),
    )


ASKED = {"AND": [{"meta.colour": "red"}, {"field": "price", "operator": "gte", "value": 20}]}
EXPECTED = [row for row in range(20, N_ROWS) if row % 2 and row % 10 != 9]


def as_jsonl(folder):
    return write_json_rows(folder / "x.jsonl", products().to_pylist())


def write_json_rows(path, rows):
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    return path


SOURCES = {
    "parquet": lambda folder: write_parquet(folder / "x.parquet", products(), row_group_size=7),
    "arrow": lambda folder: write_arrow(folder / "x.arrow", products()),
    "stream": lambda folder: write_arrow(folder / "x.arrows", products()),
    "jsonl": as_jsonl,
    "pyarrow": lambda folder: products(),
    "dataset": lambda folder: pyarrow.dataset.dataset(products()),
    "pandas": lambda folder: products().to_pandas(),
    "polars": lambda folder: pl.DataFrame(products()),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_with_columns(kind, tmp_path, child):
    data = SOURCES[kind](tmp_path)
    samples = read(data, filters=Filters.model_validate(ASKED), child=child)
    assert samples.rows.tolist() == EXPECTED
    assert samples.ids.to_pylist() == [f"doc-{row}" for row in EXPECTED]
    assert samples.X.tolist() == vectors()[EXPECTED].tolist()
    assert (samples.n_rows, samples.num_filtered) == (N_ROWS, N_ROWS - len(EXPECTED))
    assert samples.rejected.num_rows == 0
    assert samples.source["sample"] is None
    assert samples.source["filters"] == Filters.model_validate(ASKED).to_dict()
    absent = Filters.model_validate({"prise": 3})
    with pytest.raises(SchemaMismatchError, match="no field 'prise'. did you mean 'price'?"):
        read(data, filters=absent, child=child)


def test_sources_without_columns(tmp_path):
    filters = Filters.model_validate({"price": 3})
    for data in (vectors(), write_npy(tmp_path / "x.npy", vectors())):
        with pytest.raises(SchemaMismatchError, match="have no columns .* Parquet"):
            read(data, filters=filters)
    with pytest.raises(SchemaMismatchError, match="a stream is read once"):
        read(products().to_reader(), filters=filters)


def test_fields_that_begin_late(tmp_path):
    rows = [{"id": row, "embedding": [1.0, row]} for row in range(200)]
    rows[150]["late"] = {"deep": "x"}
    path = write_json_rows(tmp_path / "x.jsonl", rows)
    lines = path.read_text().replace(',"late":null', "")
    path.write_text(lines)
    for item in (condition("late", "exists", True), {"late.deep": "x"}):
        assert read(path, filters=Filters.model_validate(item)).rows.tolist() == [150]


def test_json_fields_of_several_types(tmp_path):
    rows = [{"id": row, "embedding": [1.0, row], "x": "a" if row else 1} for row in range(3)]
    path = write_json_rows(tmp_path / "x.jsonl", rows)
    with pytest.raises(SchemaMismatchError, match="the values of 'x' are of several types"):
        read(path, filters=Filters.model_validate({"x": 1}))


def test_files_that_lack_a_column(tmp_path):
    X = vectors()
    write_parquet(tmp_path / "a.parquet", table(X[:10], names()[:10]))
    write_parquet(tmp_path / "b.parquet", table(X[10:20], names()[10:20], price=list(range(10))))
    cases = {
        ("gte", 8): [18, 19],
        ("exists", True): list(range(10, 20)),
        ("is_null", True): list(range(10)),
        ("ne", 0): [*range(10), *range(11, 20)],
    }
    for (operator, value), expected in cases.items():
        filters = Filters.model_validate(condition("price", operator, value))
        assert read(tmp_path, filters=filters).rows.tolist() == expected
    with pytest.raises(SchemaMismatchError, match="no field 'prices'"):
        read(tmp_path, filters=Filters.model_validate({"prices": 1}))


def test_only_rows_that_match_are_judged():
    X = vectors()
    X[:5] = 0
    ids = names()
    ids[1] = ids[2] = None
    ids[3] = ids[4] = "twice"
    data = table(X, pa.array(ids), row=list(range(N_ROWS)))
    kept = {"field": "row", "operator": "gte", "value": 5}
    samples = read(data, filters=Filters.model_validate(kept), on_bad_rows="error")
    assert samples.rows.tolist() == list(range(5, N_ROWS))
    assert samples.num_filtered == 5
    with pytest.raises(DuplicateIdsError, match="'twice'"):
        read(data, filters=Filters.model_validate({**kept, "value": 3}))
    with pytest.raises(GpuclusterError, match=r"row 1: the id is null \(2 rows"):
        read(data, filters=Filters.model_validate({**kept, "value": 1}))


def test_samples_are_drawn_from_what_matches():
    filters = Filters.model_validate(ASKED)
    sample = read(products(), filters=filters, sample_size=7)
    assert len(sample.X) == 7
    assert set(sample.rows.tolist()) < set(EXPECTED)
    assert sample.num_filtered == N_ROWS - len(EXPECTED)
    assert sample.source["sample"] == {"sample_size": 7, "random_state": 42}
    matching_alone = read(products().take(EXPECTED), sample_size=7)
    assert sample.ids.equals(matching_alone.ids)
    assert sample.X.tobytes() == matching_alone.X.tobytes()


def test_no_row_matches(tmp_path):
    with pytest.raises(TooFewSamplesError, match=r"no row matches the filter \(60 rows\)"):
        gpucluster.cluster(
            products(), filters={"price": -1}, algorithm="kmeans", out=tmp_path, device="cpu"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_changes(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", products())
    source = open_source(path)
    write_parquet(path, products().slice(0, 50))
    with pytest.raises(GpuclusterError, match="60 rows at first, 50 when"):
        matching(source, Filters.model_validate(ASKED))


def test_a_run_names_its_filter(tmp_path):
    run = gpucluster.cluster(
        products(),
        filters=ASKED,
        algorithm="kmeans",
        algorithm_params={"n_clusters": 2},
        out=tmp_path,
        device="cpu",
    )
    counts = run.manifest.counts
    assert (counts.num_rows, counts.num_points) == (N_ROWS, len(EXPECTED))
    assert counts.num_filtered == N_ROWS - len(EXPECTED)
    assert not run.manifest.sampled
    assert run.manifest.source["filters"] == run.manifest.definition["filters"]
