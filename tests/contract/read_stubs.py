"""Read the signatures of pylibcudf and RMM that we call out of the stubs in their wheels.

    pip download --no-deps 'pylibcudf-cu13==26.10.*' 'rmm-cu13==26.10.*'
    python tests/contract/read_stubs.py pylibcudf_cu13-26.10.2-*.whl rmm_cu13-26.10.0-*.whl

renews their lines in ``rapids_26_10_signatures.json``. cuDF's Python layer is on top of
pylibcudf, which is Cython, as RMM is: the ``.pyi`` files say what a call may be.
"""

from __future__ import annotations

import ast
import json
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
)
STUBS = {"rmm/mr": "rmm/pylibrmm/memory_resource/_memory_resource"}  # where names come from


def signature(wheel: zipfile.ZipFile, name: str) -> str:
    """Return the parameters of a class, method or function, without their types."""
    *module, last = name.split(".")
    owner = [module.pop()] if module[-1][0].isupper() else []
    path = "/".join(module)
    body = ast.parse(wheel.read(f"{STUBS.get(path, path)}.pyi")).body
    for inside in [*owner, last] if owner or last[0].isupper() else []:
        classes = [n for n in body if isinstance(n, ast.ClassDef) and n.name == inside]
        body = classes[0].body if classes else body
    wanted = "__init__" if last[0].isupper() else last
    (found,) = (n for n in body if isinstance(n, ast.FunctionDef) and n.name == wanted)
    for argument in found.args.args + found.args.kwonlyargs:
        argument.annotation = None
    return f"({ast.unparse(found.args)})"


if __name__ == "__main__":
    known = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    for path in sys.argv[1:]:
        with zipfile.ZipFile(path) as wheel:
            package = Path(path).name.partition("_")[0]
            names = (name for name in NAMES if name.startswith(package))
            known |= {name: signature(wheel, name) for name in names}
    SNAPSHOT.write_text(json.dumps(known, indent=1), encoding="utf-8")
