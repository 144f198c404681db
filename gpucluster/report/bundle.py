"""The browser's modules as one, so that a page needs no other file.

Each module becomes a function that returns what it exports. What the modules may look like is
narrow, so that lines tell it: imports of named things from files beside them, one on a line, and
named declarations that are exported.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gpucluster.errors import InternalError

_IMPORT = re.compile(r'import \{ (\w+(?:, \w+)*) \} from "\./([\w-]+\.js)";')
_EXPORT = re.compile(r"export ((?:async function|function|class|const) (\w+).*)")


def bundle(entry: str, read: Callable[[str], str]) -> str:
    """Return a module and all that it imports as one script.

    Parameters
    ----------
    entry : str
        Name of the module that is run last.
    read : callable
        Returns the text of a module by its name.

    Returns
    -------
    str
        Ends with a line break; each module stands after those that it imports.

    Raises
    ------
    InternalError
        A module is written in another way than is understood here, or imports itself.
    """
    done: dict[str, str] = {}
    _add(entry, read, done, ())
    return "".join(done.values())


def _add(
    name: str, read: Callable[[str], str], done: dict[str, str], above: tuple[str, ...]
) -> None:
    if name in above:
        raise InternalError(f"modules import each other: {' -> '.join((*above, name))}")
    if name in done:
        return
    text = read(name)
    if "</script" in text.lower() or "<!--" in text:
        raise InternalError(f"{name}: it would end the script that it stands in")
    lines, exported = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if found := _IMPORT.fullmatch(line):
            _add(found[2], read, done, (*above, name))
            lines.append(f"const {{ {found[1]} }} = {_variable(found[2])};")
        elif found := _EXPORT.fullmatch(line):
            lines.append(found[1])
            exported.append(found[2])
        elif re.match(r"(import|export)\b|.*\bimport\(", line):
            raise InternalError(f"{name}:{number}: not understood: {line.strip()}")
        else:
            lines.append(line)
    body = "\n".join(lines)
    known = f"return {{ {', '.join(exported)} }};\n" if exported else ""
    done[name] = f"const {_variable(name)} = (() => {{\n{body}\n{known}}})();\n"


def _variable(name: str) -> str:
    return "$" + re.sub(r"\W", "_", name.removesuffix(".js"))
