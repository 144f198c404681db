"""Read the signatures of RAPIDS that we call out of its wheels, no GPU needed.

    pip download --no-deps 'pylibcudf-cu13==26.10.*' 'rmm-cu13==26.10.*'
    pip download --no-deps 'cuml-cu13==26.10.*' 'cuvs-cu13==26.10.*'
    python tests/contract/read_stubs.py *_cu13-26.10.*.whl

renews their lines in ``rapids_26_10_signatures.json``. All four are Cython. pylibcudf (cuDF's
Python layer is on top of it) and RMM have ``.pyi`` files that say what a call may be; of cuML and
cuVS the ``.pyx`` sources are in the wheel.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from pathlib import Path

SNAPSHOT = Path(__file__).with_name("rapids_26_10_signatures.json")

NAMES = (
    "pylibcudf.column.Column.size",
    "pylibcudf.column.Column.to_arrow",
    "pylibcudf.io.parquet.ChunkedParquetReader",
    "pylibcudf.io.parquet.ChunkedParquetReader.has_next",
    "pylibcudf.io.parquet.ChunkedParquetReader.read_chunk",
    "pylibcudf.io.parquet.ParquetReaderOptions.builder",
    "pylibcudf.io.parquet.ParquetReaderOptions.set_column_names",
    "pylibcudf.io.parquet.ParquetReaderOptions.set_row_groups",
    "pylibcudf.io.parquet.ParquetReaderOptionsBuilder.build",
    "pylibcudf.io.parquet.ParquetReaderOptionsBuilder.use_pandas_metadata",
    "pylibcudf.io.types.SourceInfo",
    "pylibcudf.io.types.TableWithMetadata.columns",
    "rmm.mr.CudaAsyncViewMemoryResource",
    "rmm.mr.LimitingResourceAdaptor",
    "rmm.mr.LimitingResourceAdaptor.get_allocated_bytes",
    "rmm.mr.set_current_device_resource",
    "cuml.cluster.AgglomerativeClustering",
    "cuml.cluster.AgglomerativeClustering.fit",
    "cuml.cluster.AgglomerativeClustering.fit_predict",
    "cuml.cluster.DBSCAN",
    "cuml.cluster.DBSCAN.fit",
    "cuml.cluster.DBSCAN.fit_predict",
    "cuml.cluster.HDBSCAN",
    "cuml.cluster.HDBSCAN.fit",
    "cuml.cluster.HDBSCAN.fit_predict",
    "cuml.cluster.KMeans",
    "cuml.cluster.KMeans.fit",
    "cuml.cluster.KMeans.fit_predict",
    "cuml.cluster.KMeans.predict",
    "cuml.manifold.UMAP",
    "cuml.manifold.UMAP.fit",
    "cuml.manifold.UMAP.fit_transform",
    "cuml.manifold.UMAP.transform",
    "cuvs.cluster.kmeans.KMeansParams",
    "cuvs.cluster.kmeans.fit",
    "cuvs.cluster.kmeans.predict",
)
STUBS = {"rmm/mr": "rmm/pylibrmm/memory_resource/_memory_resource"}  # where names come from


def definition(wheel: zipfile.ZipFile, name: str) -> ast.FunctionDef:
    """Return the definition of a method or function, and of a class that of its constructor."""
    *module, last = name.split(".")
    owner = module.pop() if module[-1][0].isupper() else None
    if last[0].isupper():
        owner, last = last, "__init__"
    path = "/".join(module)
    stub = f"{STUBS.get(path, path)}.pyi"
    if stub not in wheel.namelist():
        return of_cython(wheel, path, owner, last)
    body = ast.parse(wheel.read(stub)).body
    if owner:
        (found,) = (n for n in body if isinstance(n, ast.ClassDef) and n.name == owner)
        body = found.body
    (wanted,) = (n for n in body if isinstance(n, ast.FunctionDef) and n.name == last)
    return wanted


def of_cython(wheel: zipfile.ZipFile, folder: str, owner: str | None, name: str) -> ast.FunctionDef:
    """Find a definition in the sources below a package; C types of parameters are dropped."""
    inside = rf"^(?:cdef )?class {owner}\b.*?^    " if owner else "^"
    pattern = re.compile(rf"{inside}(?:cp)?def {name}(\(.*?\))(?: ->[^:]*)?:$", re.DOTALL | re.M)
    sources = (
        wheel.read(path).decode()
        for path in wheel.namelist()
        if path.startswith(f"{folder}/") and path.endswith(".pyx")
    )
    (found,) = filter(None, map(pattern.search, sources))
    text = re.sub(r"#.*", "", found[1])
    text = re.sub(r"([(,]\s*)\w+ (\w+)", r"\1\2", text)
    (wanted,) = ast.parse(f"def {name}{text}: ...").body
    assert isinstance(wanted, ast.FunctionDef)
    return wanted


def signature(wheel: zipfile.ZipFile, name: str) -> str:
    """Return the parameters of a class, method or function, without their types."""
    arguments = definition(wheel, name).args
    for argument in arguments.args + arguments.kwonlyargs:
        argument.annotation = None
    return f"({ast.unparse(arguments)})"


if __name__ == "__main__":
    known = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    for path in sys.argv[1:]:
        with zipfile.ZipFile(path) as wheel:
            package = Path(path).name.partition("_")[0]
            names = (name for name in NAMES if name.startswith(f"{package}."))
            known |= {name: signature(wheel, name) for name in names}
    SNAPSHOT.write_text(json.dumps(known, indent=1), encoding="utf-8")
