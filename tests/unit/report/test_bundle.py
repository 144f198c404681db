"""Modules of the browser become one script, or are refused."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources

import pytest

from gpucluster.errors import InternalError
from gpucluster.report.bundle import bundle

MODULES = {
    "main.js": 'import { add, TWO } from "./sums.js";\nimport { say } from "./say.js";\n'
    "say(add(TWO, 3));",
    "sums.js": 'import { ONE } from "./numbers.js";\nexport const TWO = ONE + ONE;\n'
    "export function add(a, b) {\n  return a + b;\n}",
    "say.js": 'import { ONE } from "./numbers.js";\nconst own = ONE;\n'
    "export async function say(x) { console.log(x, own); }",
    "numbers.js": "export const ONE = 1;\nconst own = 7;",
}


def test_each_module_stands_once_and_after_what_it_imports():
    found = bundle("main.js", MODULES.__getitem__)
    order = [found.index(f"const ${name} =") for name in ("numbers", "sums", "say", "main")]
    assert order == sorted(order)
    assert found.count("const $numbers =") == 1
    assert "import" not in found
    assert "export" not in found


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_it_does_what_the_modules_do():
    code = bundle("main.js", MODULES.__getitem__)
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5 1\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('import add from "./sums.js";', "main.js:1: not understood"),
        ("x;\nexport default 3;", "main.js:2: not understood"),
        ('export { x } from "./sums.js";', "not understood"),
        ("export let x = 1;", "not understood"),
        ('const x = await import("./sums.js");', "not understood"),
        ('import { a as b } from "./sums.js";', "not understood"),
        ('import { a } from "https://elsewhere.invalid/sums.js";', "not understood"),
        ('import { a } from "../sums.js";', "not understood"),
        ('const x = "</SCRIPT>";', "would end the script"),
        ("const x = '<!--';", "would end the script"),
        ('import { a } from "./main.js";', "main.js -> main.js"),
    ],
)
def test_what_is_not_understood_is_refused(text, said):
    with pytest.raises(InternalError, match=said):
        bundle("main.js", (MODULES | {"main.js": text}).__getitem__)


@pytest.mark.parametrize("entry", ["report.js", "report_map.js"])
def test_the_pages_of_the_package_can_be_bundled(entry):
    web = resources.files("gpucluster.report") / "web"
    found = bundle(entry, lambda name: (web / name).read_text("utf-8"))
    assert found.endswith("})();\n")
