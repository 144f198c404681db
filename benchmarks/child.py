"""A measured process: call one function of a script and leave what it returns in a folder.

    python child.py MODULE:FUNCTION '{"argument": ...}' OUT

The function is called with the folder and the arguments. Labels it saves there as
``labels.npy``; facts that it returns become ``facts.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Do what the command line says."""
    target, arguments, out = sys.argv[1:]
    module, name = target.split(":")
    function = getattr(importlib.import_module(module), name)
    facts = function(Path(out), **json.loads(arguments))
    Path(out, "facts.json").write_text(json.dumps(facts or {}), encoding="utf-8")


if __name__ == "__main__":
    main()
