"""The rules that the whole house keeps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import gpucluster
from gpucluster import errors
from gpucluster.client import errors as client_errors

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "gpucluster").rglob("*.py"))

# What has an extra of its own, or wakes a GPU: no module needs it to be imported.
OPTIONAL = {
    "cudf",
    "cuml",
    "cupy",
    "cuvs",
    "dask",
    "faiss",
    "fastapi",
    "obstore",
    "openai",
    "psycopg",
    "pylibcudf",
    "qdrant_client",
    "rmm",
    "torch",
}
# What `import gpucluster` and `gpucluster --help` must not pay for either.
HEAVY = OPTIONAL | {"hdbscan", "matplotlib", "numba", "pyarrow", "scipy", "sklearn", "umap"}

PUBLIC = [
    "CancelToken",
    "ClusterDefinition",
    "Clusterer",
    "GpuclusterError",
    "Run",
    "Taxonomy",
    "assign",
    "cluster",
    "compare",
    "enrich",
    "estimate_labels",
    "history",
    "inspect",
    "label",
    "open_run",
    "open_taxonomy",
    "plan",
    "promote",
    "sweep",
    "undo_enrichment",
]

HELP_CPU_S = 0.3

# The project speaks of itself alone: no place on somebody's machine, no number of a tracker, no
# document that is not here. Written so that this file does not match itself.
FOREIGN = re.compile(
    r"""
      (?<![\w.{}<>/-])/(?:work|home|Users)/
    | \bshared/(?:reference|seed|data|gpu)\b
    | \bcontract[.]md\b | \bdesign[.]md\b | \bhouse[.]md\b
    | \b[Tt]he[ ]issue\b | \b[Ii]ssue[ ]\#?\d
    | \b(?:TO|FIX)(?:DO|ME)\b
    """,
    re.VERBOSE,
)


def modules_after(code: str) -> set[str]:
    """Return the top-level names of what a fresh interpreter has loaded after `code`."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_cheap():
    assert modules_after("import gpucluster") & HEAVY == set()


@pytest.mark.parametrize(
    ("skipped", "needed"), [("gpucluster.service", set()), ("nothing", {"fastapi"})]
)
def test_every_module_can_be_imported_without_a_gpu_library(skipped, needed):
    code = (
        "import gpucluster, importlib, pkgutil\n"
        "for module in pkgutil.walk_packages(gpucluster.__path__, 'gpucluster.'):\n"
        f"    if not module.name.startswith(('gpucluster.__main__', {skipped!r})):\n"
        "        importlib.import_module(module.name)"
    )
    assert modules_after(code) & OPTIONAL == needed


def test_a_run_on_the_cpu_loads_no_gpu_library_and_no_driver():
    code = (
        "import tempfile, pathlib, numpy as np, gpucluster\n"
        "X = np.random.default_rng(0).normal(size=(60, 8)).astype('float32')\n"
        "with tempfile.TemporaryDirectory() as out:\n"
        "    gpucluster.cluster(X, out=out, device='cpu',\n"
        "        algorithm='kmeans', algorithm_params={'n_clusters': 3},\n"
        "        preprocessing_steps=[{'method': 'pca', 'n_components': 3}],\n"
        "        dimension_reduction={'method': 'pca', 'components': 2})\n"
        "maps = pathlib.Path('/proc/self/maps')\n"
        "assert not maps.exists() or 'libcuda' not in maps.read_text()"
    )
    assert modules_after(code) & OPTIONAL == set()


def test_all_is_exact():
    assert gpucluster.__all__ == PUBLIC
    names = {}
    exec("from gpucluster import *", names)
    assert names.keys() - {"__builtins__"} == set(PUBLIC)


@pytest.mark.parametrize(
    ("module", "root"), [(errors, errors.GpuclusterError), (client_errors, errors.ClientError)]
)
def test_error_tree_is_drawn_as_it_is(module: ModuleType, root: type):
    assert dict(drawn_tree(module.__doc__, root)) == {
        child.__name__: {base.__name__ for base in child.__bases__}
        for child in descendants(root)
        if child.__module__ == module.__name__
    }


def test_errors_have_a_tree_to_stand_in():
    homes = {child.__module__ for child in descendants(errors.GpuclusterError)}
    assert {home for home in homes if home.startswith("gpucluster.")} == {
        errors.__name__,
        client_errors.__name__,
    }


def drawn_tree(text: str, root: type) -> Iterator[tuple[str, set[str]]]:
    """Read each class and its parents out of the tree in a docstring."""
    line = re.compile(r"    (?P<branch>[│ ]*[├└]── )(?P<name>\w+)(?: \((?P<builtin>\w+)\))?", re.M)
    at_depth = {0: root.__name__}
    for found in line.finditer(text):
        depth = len(found["branch"]) // 4
        at_depth[depth] = found["name"]
        yield found["name"], {at_depth[depth - 1], found["builtin"]} - {None}


def descendants(parent: type) -> Iterator[type]:
    for child in parent.__subclasses__():
        yield child
        yield from descendants(child)


def test_files_hold_one_idea():
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 400} == {}


def test_no_module_without_a_concept():
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert names & {"common", "core", "helpers", "misc", "util", "utils"} == set()


def texts_of_the_project() -> list[Path]:
    """List the files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and path.suffix not in {".parquet", ".png"}]


def test_the_project_speaks_of_itself_alone():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in texts_of_the_project()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if FOREIGN.search(line)
    ]
    assert found == []


def test_help_loads_little():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gpucluster", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
    }
    assert "gpucluster" in loaded
    assert loaded & HEAVY == set()


def test_help_is_quick():
    seconds = min(cpu_seconds([sys.executable, "-m", "gpucluster", "--help"]) for _ in range(5))
    assert seconds <= HELP_CPU_S


def cpu_seconds(command: list[str]) -> float:
    """Run `command` and return the processor time that it took, in seconds."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime
