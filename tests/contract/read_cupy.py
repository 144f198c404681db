"""Read the signatures of CuPy's functions out of its wheel, no GPU needed.

    python tests/contract/read_cupy.py cupy_cuda13x-14.2.0-cp311-cp311-manylinux2014_x86_64.whl

writes ``cupy_14_signatures.json`` beside this file. The wheel must be for the running Python: it
is unpacked and imported, since what is compiled says its signature only in docstrings.

``names`` maps each public name to its signature, to its value where it is an integer constant,
and to null where there is neither. ``ufuncs`` lists the names that have ``ufunc``'s methods.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

NAMESPACES = [
    *("cupy", "cupy.linalg", "cupy.cuda", "cupy.cuda.cublas", "cupy.cuda.device"),
    *("cupy.cuda.memory", "cupy.cuda.runtime", "cupyx", "cupyx.scipy.sparse"),
    *("cupyx.scipy.sparse.linalg", "cupyx.scipy.special"),
]
CLASSES = [
    *("cupy.ndarray", "cupy.ufunc", "cupy.RawModule", "cupy.RawKernel"),
    *("cupy.cuda.Device", "cupy.cuda.Stream", "cupy.cuda.Event", "cupy.cuda.MemoryPool"),
    "cupy.cuda.PinnedMemoryPool",
]


def written(parameters: inspect.Signature) -> str:
    """Return a signature whose defaults are literals, or ``...`` where they are none."""
    plain = (
        each.replace(
            annotation=each.empty,
            default=each.default
            if isinstance(each.default, (int, float, str, tuple, type(None)))
            or each.default is each.empty
            else ...,
        )
        for each in parameters.parameters.values()
        if each.name != "self"
    )
    text = str(inspect.Signature(list(plain)))
    return text.replace("Ellipsis", "...").replace("=inf", "=...").replace("=nan", "=...")


def documented(text: str | None) -> str | None:
    """Return the signature that leads a docstring, without types and without `self`."""
    lead = re.match(r"(?:[\w.]+)?\((.*?)\)(?:$| ->|\n)", (text or "").lstrip().replace("\\\n", ""))
    if lead is None:
        return None
    parts = []
    for part in re.findall(r"(?:[^,(]|\([^)]*\))+", lead[1].replace("\\", "")):
        name, equals, default = part.strip().partition("=")
        default = default.strip()
        if re.match(r"u?'[^']*'$", default):
            default = default.removeprefix("u")
        elif default and not re.match(r"(-?[\d.e-]+|True|False|None|\(\))$", default):
            default = "..."
        parts.append(name.split()[-1] + (f"={default}" if equals else ""))
    return f"({', '.join(part for part in parts if part != 'self')})"


def signature(value: Any) -> str | None:
    """Return the signature of anything that may be called, or None."""
    try:
        found = written(inspect.signature(value))
    except (TypeError, ValueError):
        found = None
    if found is None or "**" in found:
        spoken = value.__init__.__doc__ if isinstance(value, type) else None
        better = documented(spoken) if spoken and "See help" not in spoken else None
        better = better or documented(value.__doc__)
        found = better or found
    try:
        if found is not None:
            compile(f"def f{found}: ...", "signature", "exec")
    except SyntaxError:
        return None
    return found


def resolved(name: str) -> Any:
    """Return a module or class by its public name; some modules are mere attributes."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        owner, _, attribute = name.rpartition(".")
        return getattr(resolved(owner), attribute)


def members(name: str, owner: Any) -> Iterator[tuple[str, Any]]:
    """Give the public names of a module or class."""
    for attribute in sorted(set(dir(owner)) - {"annotations"}):
        value = getattr(owner, attribute, None)
        if not attribute.startswith("_") and not isinstance(value, ModuleType):
            yield f"{name}.{attribute}", value


def snapshot() -> dict[str, Any]:
    """Return what the CuPy on the path offers."""
    import cupy

    found: dict[str, Any] = {}
    ufuncs = []
    for name in NAMESPACES + CLASSES:
        found.update(members(name, resolved(name)))
    for name, value in found.items():
        if isinstance(value, cupy.ufunc):
            ufuncs.append(name)
            given = ", ".join(f"x{i + 1}" for i in range(value.nin))
            outs = ["out"] if value.nout == 1 else [f"out{i + 1}" for i in range(value.nout)]
            outs = ", ".join(f"{out}=None" for out in outs)
            out = "" if value.nout == 1 else "out=None, "
            found[name] = f"({given}, /, {outs}, *, {out}casting='same_kind', dtype=None)"
        elif isinstance(value, int):
            found[name] = int(value)
        else:
            found[name] = signature(value) if callable(value) else None
    return {"version": cupy.__version__, "ufuncs": ufuncs, "names": found}


if __name__ == "__main__":
    target = Path(__file__).with_name("cupy_14_signatures.json")
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(sys.argv[1]).extractall(folder)
        sys.path.insert(0, folder)
        text = json.dumps(snapshot(), indent=1)
    target.write_text(text + "\n", encoding="utf-8")
