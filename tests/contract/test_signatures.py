"""What the GPU paths pass to RAPIDS is accepted by RAPIDS, checked without a GPU.

``rapids_26_10_signatures.json`` is a snapshot of the signatures of cuML, cuVS, RMM and pylibcudf
(which cuDF is made of) 26.10, read out of their wheels. The calls are read out of our sources:
every name imported from these libraries, wherever it is called. So a keyword must be spelled out
at the call; ``**kwargs`` hides it and fails here.

The same holds for CuPy, by ``cupy_14_signatures.json``, which ``read_cupy.py`` wrote: every call of
``cupy``, of a name imported from it, and of ``xp``, which stands for numpy or CuPy.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "gpucluster"
SNAPSHOT = json.loads(Path(__file__).with_name("rapids_26_10_signatures.json").read_text())
CUPY = json.loads(Path(__file__).with_name("cupy_14_signatures.json").read_text())
RAPIDS = ("cuml", "cuvs", "pylibcudf", "rmm")

# What each file is known to call; a call that vanishes from here is a GPU path that vanished.
EXPECTED = {
    "algorithms/agglomerative.py": {"cuml.cluster.AgglomerativeClustering"},
    "algorithms/dbscan.py": {"cuml.cluster.DBSCAN"},
    "algorithms/hdbscan.py": {"cuml.cluster.HDBSCAN"},
    "device/memory.py": {"rmm.mr.CudaAsyncViewMemoryResource", "rmm.mr.LimitingResourceAdaptor"},
    "preprocess/umap.py": {"cuml.manifold.UMAP"},
    "sources/device_parquet.py": {"pylibcudf.io.parquet.ChunkedParquetReader"},
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
    """Find the calls of names that `source` imports from RAPIDS."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(RAPIDS)
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


def cupy_calls(source: str, file: str) -> Iterator[RapidsCall]:
    """Find the calls of CuPy in `source`, by its own name or as `xp`."""
    tree = ast.parse(source)
    local = {"cupy": "cupy", "xp": "cupy", "self.xp": "cupy", "self._xp": "cupy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cupy"):
            local |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple | ast.Name):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(node.targets[0].elts, node.value.elts, strict=False)
            for target, value in pairs:  # such as `runtime = cupy.cuda.runtime`
                if ast.unparse(value).startswith("cupy.cuda.") and "(" not in ast.unparse(value):
                    local[ast.unparse(target)] = ast.unparse(value)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = re.sub(r"^namespace\([^()]*\)", "xp", ast.unparse(node.func))
        owner = next((each for each in local if f"{called}.".startswith(f"{each}.")), None)
        if owner is None:
            continue
        name = local[owner] + called[len(owner) :]
        if "(" in name:  # a method of what a call gave: an array, if it is known of arrays
            name = f"cupy.ndarray.{name.rpartition('.')[2]}"
            if name not in CUPY["names"]:
                continue
        keywords = tuple(keyword.arg for keyword in node.keywords)
        spread = any(isinstance(argument, ast.Starred) for argument in node.args)
        yield RapidsCall(file, node.lineno, name, 0 if spread else len(node.args), keywords)


def cupy_signature(name: str) -> str | None:
    """Return the signature of a name in the snapshot of CuPy, or None if it has none there."""
    owner, _, method = name.rpartition(".")
    if owner in CUPY["ufuncs"]:
        name = f"cupy.ufunc.{method}"
    return CUPY["names"][name]


def signature(name: str) -> ast.arguments:
    """Parse the signature of `name` in the snapshot; `self` is left out."""
    text = cupy_signature(name) if name.startswith("cupy") else SNAPSHOT[name].partition(" ->")[0]
    arguments = ast.parse(f"def f{text}: ...").body[0].args
    arguments.args = [argument for argument in arguments.args if argument.arg != "self"]
    return arguments


def objections(call: RapidsCall) -> list[str]:
    """Say what RAPIDS or CuPy would refuse about `call`."""
    try:
        accepted = signature(call.name)
    except KeyError:
        return [f"{call.name} is not in the snapshot"]
    names = {argument.arg for argument in accepted.args + accepted.kwonlyargs}
    found = [
        "** hides keywords from this test" if keyword is None else f"no parameter {keyword!r}"
        for keyword in call.keywords
        if keyword not in names
    ]
    n_accepted = len(accepted.posonlyargs + accepted.args)
    if call.n_positional > n_accepted and not accepted.vararg:
        found.append(f"{call.n_positional} positional arguments, takes {n_accepted}")
    return found


CALLS = [
    call
    for path in sorted(PACKAGE.rglob("*.py"))
    for read in (rapids_calls, cupy_calls)
    for call in read(path.read_text(), path.relative_to(PACKAGE).as_posix())
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
        and any(alias.name.split(".")[0] in {"cudf", *RAPIDS} for alias in node.names)
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


@pytest.mark.parametrize(
    ("source", "objection"),
    [
        ("xp.add(x, y, where=x > 0)", "no parameter 'where'"),
        ("self.xp.sum(x, where=x > 0)", "no parameter 'where'"),
        ("xp.nosuch(x)", "cupy.nosuch is not in the snapshot"),
        ("namespace(x).lexsort(x, y)", "2 positional arguments, takes 1"),
        ("xp.add.at(x, y, z)", None),
        ("xp.einsum('ij,ij,ij->i', x, y, z, dtype=float)", None),
        ("xp.linalg.eigh(x, lower=True)", "no parameter 'lower'"),
        ("cublas.gemmEx(1, 2)", None),
        ("cuda.getAttribute(1)", "cupy.cuda.runtime.getAttribute is not in the snapshot"),
    ],
)
def test_the_check_sees_wrong_calls_of_cupy(source, objection):
    source = f"from cupy.cuda import cublas\ncuda = cupy.cuda.runtime\n{source}"
    (call,) = cupy_calls(source, "example.py")
    assert objections(call) == ([objection] if objection else [])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_constants_of_cuda_are_those_of_cupy(path):
    """Attributes are looked up when they are reached, which without a GPU is never."""
    named = re.findall(r"\b(runtime|cublas)\.(cuda\w+|CUBLAS_\w+)", path.read_text())
    assert [name for name in named if f"cupy.cuda.{'.'.join(name)}" not in CUPY["names"]] == []
