"""Which columns are chosen, and what is said when that is not clear."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gpucluster.errors import ConfigError, DtypeError, SchemaMismatchError
from gpucluster.sources import Columns
from gpucluster.sources.detect import ID_NAMES, TEXT_NAMES, VECTOR_NAMES, candidates, choose
from tests.helpers.vectors import names, read, table, vectors

FLOATS, INTS = pa.list_(pa.float32()), pa.list_(pa.int8())


def chosen(types: dict[str, pa.DataType], **asked: str) -> Columns:
    return choose(pa.schema(types), Columns(**asked), "x.parquet")


def test_first_usual_names_win():
    types = dict.fromkeys(reversed(ID_NAMES + TEXT_NAMES), pa.string()) | {"v": FLOATS}
    for names_, role in ((ID_NAMES, "id"), (TEXT_NAMES, "text")):
        for name in names_:
            assert getattr(chosen(types), role) == name
            del types[name]
    assert chosen(types) == Columns(vector="v")


@pytest.mark.parametrize(
    "type_", [pa.int32(), pa.uint64(), pa.large_string(), pa.binary(), pa.uuid()]
)
def test_types_of_ids(type_):
    assert chosen({"id": type_, "v": FLOATS}).id == "id"


def test_unfit_types_are_passed_over():
    types = {"document_id": pa.float64(), "key": pa.string(), "text": pa.int8(), "v": FLOATS}
    assert chosen(types) == Columns(id="key", vector="v")


@pytest.mark.parametrize("name", VECTOR_NAMES)
def test_named_vectors_win_over_other_lists(name):
    assert chosen({"scores": FLOATS, name: INTS}).vector == name
    assert chosen({"scores": FLOATS, name: pa.binary(8)}).vector == name
    assert chosen({"scores": FLOATS, name: FLOATS, "more": FLOATS}).vector == name


def test_the_only_float_list_needs_no_name():
    assert chosen({"tags": INTS, "whatever": FLOATS}).vector == "whatever"
    assert chosen({"tags": INTS, "t": pa.fixed_shape_tensor(pa.float16(), [4])}).vector == "t"


def test_truth_is_never_guessed():
    types = {"v": FLOATS, "truth": pa.string(), "label": pa.string()}
    assert chosen(types).truth is None
    assert chosen(types, truth="label").truth == "label"


def test_what_was_asked_for_is_taken():
    types = {"id": pa.string(), "other": pa.int64(), "embedding": FLOATS, "v": FLOATS}
    assert chosen(types, id="other", vector="v") == Columns(id="other", vector="v")


@pytest.mark.parametrize("pair", [("a", "b"), ("embedding", "emb")])
def test_two_vectors_are_named_with_their_types(pair):
    first, second = pair
    message = (
        rf"vector_column: x\.parquet has several columns that may hold the vectors: "
        rf"{first} \(list<item: float>\), {second} \(fixed_size_list<item: halffloat>\[4\]\)"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        chosen({first: FLOATS, second: pa.list_(pa.float16(), 4)})
    assert caught.value.path == "vector_column"


def test_no_vectors():
    with pytest.raises(
        SchemaMismatchError, match=r"looks like vectors: id \(string\), n \(int64\)"
    ):
        chosen({"id": pa.string(), "n": pa.int64()})


def test_missing_columns_name_the_nearest():
    types = {"id": pa.string(), "embedding": FLOATS}
    message = r"vector_column 'embeding' is not among id, embedding\. did you mean 'embedding'"
    with pytest.raises(SchemaMismatchError, match=message):
        chosen(types, vector="embeding")
    with pytest.raises(SchemaMismatchError, match="truth_column 'q' is not among id, embedding$"):
        chosen(types, truth="q")


def test_long_lists_of_columns_are_cut():
    types = {f"column_{i}": pa.int8() for i in range(500)}
    with pytest.raises(SchemaMismatchError, match="and 480 more") as caught:
        chosen(types, id="q")
    assert len(str(caught.value)) < 400


def test_a_name_that_two_columns_have():
    schema = pa.schema([("id", pa.string()), ("v", FLOATS), ("v", FLOATS)])
    with pytest.raises(SchemaMismatchError, match="2 columns are called 'v'"):
        choose(schema, Columns(vector="v"), "x")


def test_candidates_are_told():
    types = {"key": pa.string(), "uuid": pa.int8(), "emb": INTS, "v": FLOATS, "body": pa.string()}
    assert candidates(pa.schema(types)) == {
        "id": ("uuid", "key"),
        "vector": ("emb", "v"),
        "text": ("body",),
    }


@pytest.mark.parametrize("name", ["id", "n"])
def test_columns_of_the_wrong_type(name):
    data = table(vectors(), n=np.ones(60))
    with pytest.raises(DtypeError, match=f"column '{name}' is .*, no vectors"):
        read(data, vector_column=name)
    with pytest.raises(SchemaMismatchError, match="column 'n' is double, it cannot be the id"):
        read(data, id_column="n")


def test_text_is_read_only_when_asked_for():
    data = table(vectors(), text=names(), label=pa.array(names()).dictionary_encode())
    assert read(data).payload == {}
    assert read(data).source["columns"]["text"] == "text"
    asked = read(data, text_column="text", truth_column="label")
    assert {role: column.type for role, column in asked.payload.items()} == {
        "text": pa.large_string(),
        "truth": pa.string(),
    }
    assert asked.payload["truth"].to_pylist() == names()


def test_a_text_is_no_list():
    with pytest.raises(
        DtypeError, match=r"x.parquet: column 'tags' is list<item: string>, no text"
    ):
        chosen({"v": FLOATS, "tags": pa.list_(pa.field("item", pa.string()))}, text="tags")
