"""Find what a file of Python calls of RAPIDS and CuPy, without running it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

RAPIDS = ("cuml", "cuvs", "pylibcudf", "rmm")
LIBRARIES = ("cupy", *RAPIDS)

# What a call gives, where that has methods of its own; a class gives its objects.
MADE = {
    "cupy.get_default_memory_pool": "cupy.cuda.MemoryPool",
    "cupy.get_default_pinned_memory_pool": "cupy.cuda.PinnedMemoryPool",
    "cupy.cuda.get_current_stream": "cupy.cuda.Stream",
    "cupy.cuda.Stream.record": "cupy.cuda.Event",
    "pylibcudf.io.parquet.ParquetReaderOptions.builder": (
        "pylibcudf.io.parquet.ParquetReaderOptionsBuilder"
    ),
    "pylibcudf.io.parquet.ParquetReaderOptionsBuilder.build": (
        "pylibcudf.io.parquet.ParquetReaderOptions"
    ),
    "pylibcudf.io.parquet.ChunkedParquetReader.read_chunk": (
        "pylibcudf.io.types.TableWithMetadata"
    ),
}
# What an attribute is, under the name that the snapshot has it.
SAME = {
    "cupy.cuda.Stream.null": "cupy.cuda.Stream",
    "cupy.cuda.device.Device": "cupy.cuda.Device",
    "cupy.cuda.memory.MemoryPool": "cupy.cuda.MemoryPool",
    "cupy.ndarray.device": "cupy.cuda.Device",
}
ELEMENTS = {"pylibcudf.io.types.TableWithMetadata.columns": "pylibcudf.column.Column"}
ARRAY = "cupy.ndarray"  # what else a call of CuPy gives, often


@dataclass(frozen=True)
class LibraryCall:
    file: str
    line: int
    name: str
    n_positional: int
    keywords: tuple[str | None, ...]  # None stands for **

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}"


class Reader(ast.NodeVisitor):
    """Follows names of the libraries through a file, and notes what is called of them.

    ``names`` says what a name of the file stands for: a name of a library, where an object goes by
    that of its class. A function knows what was assigned above it, and a file what its functions
    return, if it was read before.
    """

    def __init__(self, file: str, returned: dict[str, str]) -> None:
        self.file, self.returned = file, returned
        self.names: dict[str, str] = {}
        self.function = ""
        self.calls: list[LibraryCall] = []

    def named(self, node: ast.expr) -> str | None:
        """Return what an expression stands for, if that is of a library."""
        known = self.names.get(ast.unparse(node))
        if known is not None:
            return known
        if isinstance(node, ast.IfExp):
            return self.named(node.body) or self.named(node.orelse)
        if isinstance(node, ast.Name):
            return "cupy" if node.id in {"cupy", "xp"} else None
        if isinstance(node, ast.Attribute):
            if node.attr in {"xp", "_xp"}:  # of any object
                return "cupy"
            owner = self.named(node.value)
            name = f"{owner}.{node.attr}"
            return owner and SAME.get(name, name)
        if isinstance(node, ast.Subscript):
            return ELEMENTS.get(self.named(node.value) or "")
        return self.given(node) if isinstance(node, ast.Call) else None

    def given(self, call: ast.Call) -> str | None:
        """Return the class of what a call gives, or the module that it imports."""
        function = ast.unparse(call.func)
        if function.rpartition(".")[2] == "namespace":
            return "cupy"
        if function.rpartition(".")[2] in {"need", "import_module"}:
            name = call.args[0].value if isinstance(call.args[0], ast.Constant) else ""
            return name if name.startswith(LIBRARIES) else None
        called = self.named(call.func)
        if called is None:
            return self.returned.get(function)
        owner, _, last = called.rpartition(".")
        if called in MADE:
            return MADE[called]
        if last[0].isupper():
            return called
        if last == "fit":
            return owner
        return ARRAY if called.startswith("cupy.") else None

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        """Note what is assigned; what only may be an array is not followed."""
        if isinstance(target, ast.Tuple):
            if isinstance(value, ast.Tuple):
                for pair in zip(target.elts, value.elts, strict=False):
                    self.bind(*pair)
            else:
                self.bind_each(target.elts, value)
            return
        if isinstance(value, ast.Constant):  # None, until there is something
            return
        text, name = ast.unparse(target), self.named(value)
        self.names.pop(text, None)
        if name not in {None, ARRAY}:
            self.names[text] = name

    def bind_each(self, targets: list[ast.expr], value: ast.expr) -> None:
        """Note what the elements of a value are assigned to."""
        element = ELEMENTS.get(self.named(value) or "")
        for target in targets:
            self.names.pop(ast.unparse(target), None)
            if element:
                self.names[ast.unparse(target)] = element

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.startswith(LIBRARIES):
                top = alias.name.partition(".")[0]
                self.names[alias.asname or top] = alias.name if alias.asname else top

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").startswith(LIBRARIES):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                self.names[alias.asname or alias.name] = SAME.get(name, name)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = self.names, self.function
        self.names, self.function = dict(self.names), node.name
        for each in node.args.posonlyargs + node.args.args + node.args.kwonlyargs:
            self.names.pop(each.arg, None)
        self.generic_visit(node)
        made = {text: name for text, name in self.names.items() if text.startswith("self.")}
        self.names, self.function = outer
        self.names |= made  # for the methods below

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer = dict(self.names)
        self.generic_visit(node)
        self.names = outer

    def visit_Return(self, node: ast.Return) -> None:
        self.generic_visit(node)
        name = node.value and self.named(node.value)
        if name not in {None, ARRAY}:
            self.returned[self.function] = name

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self.bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self.bind(node.target, node.value)

    def visit_For(self, node: ast.For) -> None:
        self.bind_each([node.target], node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.bind_each([node.target], node.iter)
        self.generic_visit(node)

    def _comprehended(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> None:
        for each in [*node.generators, node.elt]:  # a tree has what is made first
            self.visit(each)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = _comprehended  # noqa: N815

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, item.context_expr)
        for statement in node.body:
            self.visit(statement)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = self.named(node.func)
        if name is None or "." not in name:
            return
        keywords = tuple(keyword.arg for keyword in node.keywords)
        spread = any(isinstance(argument, ast.Starred) for argument in node.args)
        count = 0 if spread else len(node.args)
        self.calls.append(LibraryCall(self.file, node.lineno, name, count, keywords))


def library_calls(source: str, file: str) -> list[LibraryCall]:
    """Find the calls of the libraries in `source`."""
    tree, returned = ast.parse(source), {}
    Reader(file, returned).visit(tree)  # for what its functions return
    reader = Reader(file, returned)
    reader.visit(tree)
    return reader.calls
