"""Ten thousand wrong definitions: each is read, or refused in one line that names the field."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.cli import main
from gpucluster.definition import ClusterDefinition, definition_schema
from gpucluster.dialects import read_body
from gpucluster.errors import ConfigError
from gpucluster.notation import parse_body

SEED = 20_261_124
MUTATED, GENERATED, THROUGH_CLI, DAMAGED = 9_000, 1_000, 300, 500
LINE_CHARS = 300

FILES = sorted((Path(__file__).parents[1] / "data" / "definitions").glob("*.json"))
BODIES = [json.loads(file.read_text()) for file in FILES]
SCHEMA = definition_schema()

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**30, -(10**30), 10**4000, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "0", "true", "null", "umap", "kmeans",
    "x" * 5_000, "\n\r\t", "\x00", "\x1b[31mred\x1b[0m", "\u202eltr", "\ud800", "\U0001d54cmap",
    "é" * 200, "../../etc/passwd", "${HOME}", "{}", [], [[]], [None], [0] * 500, {}, {"": ""},
    {"method": "umap"}, {"method": None}, {"method": "x" * 400}, {"a": {"b": {"c": []}}},
    {"n_clusters": "5"},
]  # fmt: skip
NAMES = [
    "algorithm", "algorithm_params", "algorithm_config", "clustering_method", "vector_config",
    "kmeans_parameters", "hdbscan_parameters", "preprocessing_steps", "feature_vector", "model",
    "dimensionality_reduction", "dimension_reduction", "llm_labeling", "metadata", "cluster_type",
    "quality_thresholds", "method", "n_components", "n_clusters", "num_clusters", "random_state",
    "", " ", ".", "a.b", "x" * 2_000, "\n", "\x1b[2J", "\ud800", "naïve", "__class__",
    "model_config",
]  # fmt: skip
DAMAGES = [b"", b"{", b"]", b"\xff", b"&a *a", b"- "]


def read(body: Any, **fields: Any) -> ClusterDefinition | None:
    """Parse `body`; return None when it was refused as it should be."""
    try:
        definition = ClusterDefinition.parse(body, **fields)
    except ConfigError as error:
        refusal = error
    else:
        written = json.dumps(definition.to_dict(), allow_nan=False)
        assert ClusterDefinition.parse(json.loads(written)).to_dict() == definition.to_dict()
        return definition
    check_refusal(str(refusal), refusal.path)
    return None


def check_refusal(text: str, name: str | None) -> None:
    assert len(text) <= LINE_CHARS, text
    assert text.isprintable(), ascii(text)
    assert name, text
    assert name in text


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to all that a body holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def mutate(body: Any, drawn: random.Random) -> None:
    """Damage one place of a body."""
    paths = list(places(body))
    if not paths:
        body[drawn.choice(NAMES)] = drawn.choice(HOSTILE)
        return
    *way, last = drawn.choice(paths)
    parent = body
    for key in way:
        parent = parent[key]
    match drawn.randrange(7):
        case 0 | 1:
            parent[last] = copy.deepcopy(drawn.choice(HOSTILE))
        case 2:
            del parent[last]
        case 3 if isinstance(parent, dict):
            parent[drawn.choice(NAMES)] = parent.pop(last)
        case 4 if isinstance(parent, dict):
            parent[drawn.choice(NAMES)] = copy.deepcopy(drawn.choice(HOSTILE))
        case 5 if isinstance(last, str) and last:  # a slip of the finger
            i = drawn.randrange(len(last))
            parent[last[:i] + last[i + 1 :] + drawn.choice(["", "s", "_"])] = parent.pop(last)
        case _:
            nested = parent[last]
            for _ in range(drawn.choice([1, 5, 40, 300])):
                nested = [nested] if drawn.random() < 0.5 else {drawn.choice(NAMES[:8]): nested}
            parent[last] = nested


def mutated(number: int) -> Any:
    """Return the damaged body of a number, always the same."""
    drawn = random.Random(SEED + number)
    body = copy.deepcopy(drawn.choice(BODIES))
    for _ in range(drawn.choice([1, 1, 1, 2, 4])):
        mutate(body, drawn)
    return body


def from_schema(schema: dict[str, Any], around: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """Return a strategy for values that a part of `SCHEMA` allows, numbers at their bounds too."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if around.count(name) == 2:  # filters hold filters without end
            return st.nothing()
        return from_schema(SCHEMA["$defs"][name], (*around, name))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return st.one_of([from_schema(part, around) for part in schema[key]])
    low, high = schema.get("minimum"), schema.get("maximum")
    match schema.get("type"):
        case "object" if "properties" in schema:
            properties = schema["properties"].items()
            parts = {name: from_schema(part, around) for name, part in properties}
            required = {name: parts.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(required, optional=parts)
        case "object":
            return st.dictionaries(
                st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3
            )
        case "array":
            items = from_schema(schema.get("items", {}), around)
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=3)
        case "integer":
            return st.integers(low, high)
        case "number":
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string":
            return st.text(min_size=schema.get("minLength", 0), max_size=20)
    return st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_request_bodies_are_definitions_as_they_stand(file: Path) -> None:
    assert read(read_body(file)) is not None


def test_mutated_bodies() -> None:
    outcomes = Counter(read(mutated(number)) is None for number in range(MUTATED))
    assert outcomes[True] > MUTATED / 2
    assert outcomes[False] > MUTATED / 20


def test_settings_on_top_of_mutated_bodies() -> None:
    for number in range(MUTATED // 20):
        definition = read(mutated(number), random_state=3, sample_size=5)
        if definition is not None:
            assert (definition.random_state, definition.vector_config.sample_size) == (3, 5)


@settings(max_examples=GENERATED)
@given(from_schema(SCHEMA))
def test_what_the_schema_allows(body: Any) -> None:
    read(body)  # asserts the round trip, or the form of the refusal


@pytest.mark.parametrize("body", [0, "kmeans", [], [{}], float("nan"), "x" * 1_000])
def test_what_is_no_object(body: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        ClusterDefinition.parse(body)
    check_refusal(str(refused.value), "the definition")


def test_damaged_text(tmp_path: Path) -> None:
    drawn = random.Random(SEED)
    for _ in range(DAMAGED):
        text = bytearray(drawn.choice(FILES).read_bytes())
        for _ in range(drawn.randrange(1, 4)):
            i = drawn.randrange(len(text))
            text[i : i + drawn.randrange(3)] = drawn.choice(DAMAGES)
        file = tmp_path / f"definition{drawn.choice(['.json', '.yaml', '.toml'])}"
        file.write_bytes(text)
        try:
            body = read_body(file)
        except ConfigError as error:
            refusal = error
        else:
            read(body)
            continue
        check_refusal(str(refusal), file.name)


LETTERS = "abcdefghi"
ONLY_IN_TEXT = {
    "bomb": "a: &a [x]\n" + "".join(f"{n}: &{n} [{f'*{p}, ' * 9}]\n" for p, n in pairwise(LETTERS)),
    "loop": "metadata: &a {b: *a}",
    "integer name": "metadata: {1: 2}",
    "endless name": f"metadata: {{0x{'f' * 20_000}: 2}}",
    "binary": "metadata: {a: !!binary aGVsbG8=}",
    "set": "metadata: {a: !!set {b}}",
    "date": "metadata: {a: 2026-01-01}",
    "nan": "metadata: {a: .nan}",
    "hexadecimal": f"random_state: 0x{'f' * 20_000}",
    "code": "cluster_name: !!python/object/apply:os.system [ls]",
    "list as name": "? [a, b]\n: c",
    "NaN": '{"metadata": {"a": NaN}}',
    "surrogate": '{"metadata": {"a": "\\ud800"}}',
    "digits": f'{{"random_state": 1{"0" * 5_000}}}',
    "depth": "[" * 100_000,
    "length": f'{{"metadata": {{"a": [0{", 0" * 200_000}]}}}}',
}  # fmt: skip


@pytest.mark.parametrize("text", ONLY_IN_TEXT.values(), ids=ONLY_IN_TEXT.keys())
def test_what_only_a_text_can_hold(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ClusterDefinition.parse(parse_body(text, "stdin"))
    check_refusal(str(refused.value), refused.value.path or "stdin")


def test_through_the_command_line(tmp_path: Path) -> None:
    runner, codes = CliRunner(), Counter()
    file = tmp_path / "definition.json"
    for number in range(THROUGH_CLI):
        text = json.dumps(mutated(number))
        file.write_text(text)
        config = "-" if number % 2 else str(file)
        done = runner.invoke(main, ["config", "show", "--config", config], input=text)
        codes[done.exit_code] += 1
        if done.exit_code == 0:
            json.loads(done.stdout)
            assert done.stderr == ""
        else:
            (line,) = done.stderr.splitlines()
            check_refusal(line, "error: ")
            assert done.stdout == ""
    assert set(codes) == {0, 2}
