"""What the GPU paths pass to RAPIDS is accepted by RAPIDS, checked without a GPU.

``rapids_26_10_signatures.json`` is a snapshot of the signatures of cuML and cuVS 26.10, read out
of their wheels. The calls are read out of our sources: every name imported from these libraries,
wherever it is called. So a keyword must be spelled out at the call; ``**kwargs`` hides it and
fails here.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "gpucluster"
SNAPSHOT = json.loads(Path(__file__).with_name("rapids_26_10_signatures.json").read_text())

# What each file is known to call; a call that vanishes from here is a GPU path that vanished.
EXPECTED = {
    "algorithms/agglomerative.py": {"cuml.cluster.AgglomerativeClustering"},
    "algorithms/dbscan.py": {"cuml.cluster.DBSCAN"},
    "algorithms/hdbscan.py": {"cuml.cluster.HDBSCAN"},
    "preprocess/umap.py": {"cuml.manifold.UMAP"},
}


@dataclass(frozen=True)
class RapidsCall:
    file: str
    line: int
    name: str
    n_positional: int
    keywords: tuple[str | None, ...]  # None stands for **

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}"


def rapids_calls(source: str, file: str) -> Iterator[RapidsCall]:
    """Find the calls of names that `source` imports from cuML or cuVS."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("cuml", "cuvs"))
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        local, _, attributes = ast.unparse(node.func).partition(".")
        if local in imported:
            name = f"{imported[local]}.{attributes}".rstrip(".")
            keywords = tuple(keyword.arg for keyword in node.keywords)
            yield RapidsCall(file, node.lineno, name, len(node.args), keywords)


def signature(name: str) -> ast.arguments:
    """Parse the signature of `name` in the snapshot; `self` is left out."""
    text = SNAPSHOT[name].partition(" ->")[0]
    arguments = ast.parse(f"def f{text}: ...").body[0].args
    arguments.args = [argument for argument in arguments.args if argument.arg != "self"]
    return arguments


def objections(call: RapidsCall) -> list[str]:
    """Say what RAPIDS would refuse about `call`."""
    if call.name not in SNAPSHOT:
        return [f"{call.name} is not in the snapshot"]
    accepted = signature(call.name)
    names = {argument.arg for argument in accepted.args + accepted.kwonlyargs}
    found = [
        "** hides keywords from this test" if keyword is None else f"no parameter {keyword!r}"
        for keyword in call.keywords
        if keyword not in names
    ]
    if call.n_positional > len(accepted.args):
        found.append(f"{call.n_positional} positional arguments, takes {len(accepted.args)}")
    return found


CALLS = [
    call
    for path in sorted(PACKAGE.rglob("*.py"))
    for call in rapids_calls(path.read_text(), path.relative_to(PACKAGE).as_posix())
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_call_is_accepted(call):
    assert objections(call) == []


@pytest.mark.parametrize("file", EXPECTED)
def test_gpu_path_calls_rapids(file):
    assert EXPECTED[file] <= {call.name for call in CALLS if call.file == file}


def test_rapids_is_imported_by_name():
    """``import cuml`` would hide the calls from this test."""
    hidden = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        and any(alias.name.split(".")[0] in {"cuml", "cuvs"} for alias in node.names)
    ]
    assert hidden == []


@pytest.mark.parametrize(
    ("source", "objection"),
    [
        ("KMeans(n_cluster=3)", "no parameter 'n_cluster'"),
        ("KMeans(3)", "1 positional arguments, takes 0"),
        ("KMeans(**settings)", "** hides keywords from this test"),
        ("KMeans.restore()", "cuml.cluster.KMeans.restore is not in the snapshot"),
        ("KMeans(n_clusters=3, output_type='numpy')", None),
    ],
)
def test_the_check_sees_wrong_calls(source, objection):
    source = f"def fit():\n    from cuml.cluster import KMeans\n    return {source}"
    (call,) = rapids_calls(source, "example.py")
    assert objections(call) == ([objection] if objection else [])
