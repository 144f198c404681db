"""What the GPU paths pass to RAPIDS and CuPy is accepted by them, checked without a GPU.

``rapids_26_10_signatures.json`` is a snapshot of the signatures of cuML, cuVS, RMM and pylibcudf
(which cuDF is made of) 26.10, which ``read_stubs.py`` renews from their wheels;
``cupy_14_signatures.json`` is one of CuPy, which ``read_cupy.py`` wrote. The calls are read out of
the package and the benchmark of the GPU: of every name imported from these libraries, of ``xp``,
which stands for numpy or CuPy, and of the methods of what such a call has made. So a keyword must
be spelled out at the call; ``**kwargs`` hides it and fails here.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from tests.contract.library_calls import ARRAY, RAPIDS, LibraryCall, library_calls

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, STAND_INS = ROOT / "gpucluster", ROOT / "tests" / "stand_ins"
FILES = [*sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "benchmarks").glob("gpu*.py"))]
SNAPSHOT = json.loads(Path(__file__).with_name("rapids_26_10_signatures.json").read_text())
CUPY = json.loads(Path(__file__).with_name("cupy_14_signatures.json").read_text())

# What each file is known to call; a call that vanishes from here is a GPU path that vanished.
EXPECTED = {
    "algorithms/agglomerative.py": {"cuml.cluster.AgglomerativeClustering.fit"},
    "algorithms/dbscan.py": {"cuml.cluster.DBSCAN", "cuml.cluster.DBSCAN.fit"},
    "algorithms/hdbscan.py": {"cuml.cluster.HDBSCAN", "cuml.cluster.HDBSCAN.fit"},
    "device/memory.py": {
        "rmm.mr.CudaAsyncViewMemoryResource",
        "rmm.mr.LimitingResourceAdaptor",
        "rmm.mr.LimitingResourceAdaptor.get_allocated_bytes",
        "cupy.cuda.MemoryPool.set_limit",
        "cupy.cuda.MemoryPool.used_bytes",
    },
    "ops/streaming.py": {"cupy.cuda.Stream", "cupy.cuda.Stream.synchronize"},
    "preprocess/umap.py": {"cuml.manifold.UMAP", "cuml.manifold.UMAP.fit_transform"},
    "sources/device_parquet.py": {
        "pylibcudf.column.Column.to_arrow",
        "pylibcudf.io.parquet.ChunkedParquetReader",
        "pylibcudf.io.parquet.ChunkedParquetReader.read_chunk",
        "pylibcudf.io.parquet.ParquetReaderOptions.set_row_groups",
    },
    "gpu_peers.py": {
        "cuml.cluster.KMeans",
        "cuml.cluster.KMeans.fit",
        "cuml.cluster.KMeans.predict",
        "cuvs.cluster.kmeans.KMeansParams",
        "cuvs.cluster.kmeans.predict",
    },
    "gpu_pipeline.py": {"cuml.cluster.HDBSCAN.fit", "cuml.manifold.UMAP.fit_transform"},
    "gpu_place.py": {"cupy.cuda.Event.record", "cupy.cuda.MemoryPool.free_all_blocks"},
}

MISSING = "is not in the snapshot"
PARQUET = "pylibcudf.io.parquet.ParquetReaderOptions"
LIMITED = "rmm.mr.LimitingResourceAdaptor"


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


def objections(call: LibraryCall) -> list[str]:
    """Say what RAPIDS or CuPy would refuse about `call`."""
    try:
        accepted = signature(call.name)
    except KeyError:
        # what a function of CuPy gives need not be an array
        return [] if call.name.startswith(ARRAY) else [f"{call.name} is not in the snapshot"]
    except SyntaxError:
        return [f"{call.name} is not known to be called"]
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


def objections_to(source: str) -> list[str]:
    """Say what would be refused in `source`."""
    calls = library_calls(source, "example.py")
    assert calls
    return [said for call in calls for said in objections(call)]


def file_name(path: Path) -> str:
    """Return a path within the package; the benchmarks are one folder."""
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name


CALLS = [call for path in FILES for call in library_calls(path.read_text(), file_name(path))]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_call_is_accepted(call):
    assert objections(call) == []


@pytest.mark.parametrize("file", EXPECTED)
def test_gpu_path_calls_rapids(file):
    assert EXPECTED[file] <= {call.name for call in CALLS if call.file == file}


def test_rapids_is_imported_by_name():
    """``import cuml`` would hide what comes from where."""
    hidden = [
        f"{file_name(path)}:{node.lineno}"
        for path in FILES
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
        ("KMeans(n_clusters=3).fit(x, sample_weights=w)", "no parameter 'sample_weights'"),
        ("KMeans(n_clusters=3).fit(x).predict(x, y)", "2 positional arguments, takes 1"),
        ("KMeans(n_clusters=3).fit(x, sample_weight=w).labels_", None),
    ],
)
def test_the_check_sees_wrong_calls(source, objection):
    source = f"def fit():\n    from cuml.cluster import KMeans\n    return {source}"
    assert objections_to(source) == ([objection] if objection else [])


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
        ("xp.arange(3).sum(where=x)", "no parameter 'where'"),
        ("cublas.gemmEx(1, 2)", None),
        ("cuda.getAttribute(1)", "cupy.cuda.runtime.getAttribute is not in the snapshot"),
        ("place.xp.cuda.Device().synchronise()", "cupy.cuda.Device.synchronise {}"),
        ("xp.cuda.Device(0).id(1)", "cupy.cuda.Device.id is not known to be called"),
        ("xp.cuda.get_current_stream().wait_event()", None),
        ("xp.cuda.Stream.null.record(1, 2)", "2 positional arguments, takes 1"),
        ("cupy.get_default_memory_pool().set_limit(bytes=1)", "no parameter 'bytes'"),
    ],
)
def test_the_check_sees_wrong_calls_of_cupy(source, objection):
    source = f"from cupy.cuda import cublas\ncuda = cupy.cuda.runtime\n{source}"
    assert objections_to(source) == ([objection.format(MISSING)] if objection else [])


@pytest.mark.parametrize(
    ("source", "objection"),
    [
        ("model = UMAP()\nmodel.fit_transform(x, knn_graphh=g)", "no parameter 'knn_graphh'"),
        ("model = UMAP()\nmodel.fit_transform(x, knn_graph=g)", None),
        ("model = UMAP()\nmodel = other()\nmodel.fit_transform(x, knn_graphh=g)", None),
        ("model: UMAP = UMAP()\nmodel.embed(x)", "cuml.manifold.UMAP.embed {}"),
        ("model = UMAP() if x else None\nmodel.embed(x)", "cuml.manifold.UMAP.embed {}"),
        ("pool = cupy.get_default_memory_pool()\npool.set_limit(bytes=1)", "no parameter 'bytes'"),
        ("stream = xp.cuda.Stream()\nstream.synchronise()", "cupy.cuda.Stream.synchronise {}"),
        ("with xp.cuda.Stream() as s:\n  s.synchronise()", "cupy.cuda.Stream.synchronise {}"),
        ("a, b = xp.cuda.Event(), 1\na.recorded()", "cupy.cuda.Event.recorded {}"),
        ("self._s = xp.cuda.Stream()\ndef f():\n  self._s.wait(1)", "cupy.cuda.Stream.wait {}"),
        ("limited = mr.LimitingResourceAdaptor(pool, 1)\nlimited.left()", f"{LIMITED}.left {{}}"),
        ("mr.LimitingResourceAdaptor(upstream=pool)", "no parameter 'upstream'"),
        ("options = OPTIONS.build()\noptions.set_rowgroups([x])", f"{PARQUET}.set_rowgroups {{}}"),
        ("builder = OPTIONS\nbuilder.use_pandas_metadata(x, y)", "2 positional arguments, takes 1"),
        ("(column,) = READ.columns\ncolumn.to_arrow(metadatas=x)", "no parameter 'metadatas'"),
        ("for column in READ.columns:\n  column.sizes()", "pylibcudf.column.Column.sizes {}"),
        ("[column.sizes() for column in READ.columns]", "pylibcudf.column.Column.sizes {}"),
        ("READ.columns[0].sizes()", "pylibcudf.column.Column.sizes {}"),
        ("kmeans = need('cuvs.cluster.kmeans')\nkmeans.predict(p, x, y, z=1)", "no parameter 'z'"),
        ("def made():\n  return UMAP()\nmade().embed(x)", "cuml.manifold.UMAP.embed {}"),
    ],
)
def test_the_check_sees_wrong_calls_of_what_a_call_gave(source, objection):
    source = source.replace("OPTIONS", "ParquetReaderOptions.builder(x)")
    source = source.replace("READ", "ChunkedParquetReader(x).read_chunk()")
    imports = (
        "from cuml.manifold import UMAP\nfrom rmm import mr\n"
        "from pylibcudf.io.parquet import ChunkedParquetReader, ParquetReaderOptions\n"
    )
    assert objections_to(imports + source) == ([objection.format(MISSING)] if objection else [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_constants_of_cuda_are_those_of_cupy(path):
    """Attributes are looked up when they are reached, which without a GPU is never."""
    named = re.findall(r"\b(runtime|cublas)\.(cuda\w+|CUBLAS_\w+)", path.read_text())
    assert [name for name in named if f"cupy.cuda.{'.'.join(name)}" not in CUPY["names"]] == []


@pytest.mark.parametrize("library", ["cuml", "rmm"])
def test_the_stand_ins_have_the_signatures_of_the_libraries(library):
    """Those of pylibcudf and CuPy are held against theirs elsewhere, or when they are called."""
    found = {}
    for path in (STAND_INS / library).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            methods = node.body if isinstance(node, ast.ClassDef) else [node]
            for method in (each for each in methods if isinstance(each, ast.FunctionDef)):
                for argument in method.args.args + method.args.kwonlyargs:
                    argument.annotation = None
                parts = (library, path.stem, node.name, method.name)
                name = ".".join(dict.fromkeys(parts)).removesuffix(".__init__")
                found[name] = f"({ast.unparse(method.args)})"
    known = found.keys() & SNAPSHOT.keys()
    assert known
    assert {name: found[name] for name in known} == {name: SNAPSHOT[name] for name in known}
