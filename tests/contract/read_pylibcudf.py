"""Read the signatures of pylibcudf that we call out of the stubs in its wheel.

    pip download --no-deps 'pylibcudf-cu13==26.10.*'
    python tests/contract/read_pylibcudf.py pylibcudf_cu13-26.10.2-*.whl

renews their lines in ``rapids_26_10_signatures.json``. cuDF's Python layer is on top of
pylibcudf, which is Cython: the ``.pyi`` files say what a call may be.
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
)


def signature(wheel: zipfile.ZipFile, name: str) -> str:
    """Return the parameters of a class or method, without their types."""
    *module, owner, method = name.split(".")
    if owner[0].islower():  # a class: its constructor is meant
        module, owner, method = [*module, owner], method, "__init__"
    tree = ast.parse(wheel.read("/".join(module) + ".pyi"))
    (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == owner)
    (found,) = (n for n in body if isinstance(n, ast.FunctionDef) and n.name == method)
    for argument in found.args.args + found.args.kwonlyargs:
        argument.annotation = None
    return f"({ast.unparse(found.args)})"


if __name__ == "__main__":
    known = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        known |= {name: signature(wheel, name) for name in NAMES}
    SNAPSHOT.write_text(json.dumps(known, indent=1), encoding="utf-8")
