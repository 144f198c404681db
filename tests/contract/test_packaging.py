"""What is installed, and that the files which name versions agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import deque
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import gpucluster

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
DOCKERFILE = (ROOT / "Dockerfile.cuda").read_text()

EXTRAS = {"all", "bench", "client", "dask", "dev", "faiss-gpu", "gpu-cu12", "gpu-cu13", "llm"}
EXTRAS |= {"multi-gpu-cu12", "multi-gpu-cu13", "plot", "postgres", "qdrant", "s3", "serve", "test"}
EXTRAS |= {"tsne"}

GPU_NAME = re.compile(r"-cu1\d|cupy|cuda|cudf|cuml|cuvs|faiss-gpu|nvidia|raft|rmm|torch")


def requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    """Map canonical names to versions."""
    parsed = map(Requirement, lines)
    return {canonicalize_name(found.name): found.specifier for found in parsed}


def conda_requirements() -> dict[str, SpecifierSet]:
    """Read environment.yml, where ``name=1.2`` means any 1.2."""
    matches = [re.sub(r"^([\w-]+)=([\d.]+)$", r"\1==\2.*", line) for line in conda_lines()]
    return requirements(matches)


def conda_lines() -> list[str]:
    return [line for line in ENVIRONMENT if isinstance(line, str)]


def extra(name: str) -> dict[str, SpecifierSet]:
    return requirements(PROJECT["optional-dependencies"][name])


def test_version_has_one_home():
    assert metadata.version("gpucluster") == gpucluster.__version__


def test_extras_are_the_documented_ones():
    assert set(PROJECT["optional-dependencies"]) == EXTRAS


def test_base_and_all_need_nothing_of_a_gpu():
    """Walks what the base dependencies pull in on this machine."""
    seen, queue = set(), deque(requirements(PROJECT["dependencies"]))
    while queue:
        name = queue.popleft()
        if name in seen:
            continue
        seen.add(name)
        for line in metadata.requires(name) or []:
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                queue.append(canonicalize_name(required.name))
    assert {"numpy", "llvmlite", "joblib"} <= seen
    named = {line for key in ("all", "llm", "serve", "plot", "dask") for line in extra(key)}
    assert [name for name in sorted(seen | named) if GPU_NAME.search(name)] == []


@pytest.mark.parametrize("kind", ["gpu", "multi-gpu"])
def test_cuda_12_and_13_differ_in_nothing_else(kind):
    lines = PROJECT["optional-dependencies"]
    twin = [
        re.sub(r"cu12|cuda12x", lambda m: m[0].replace("12", "13"), x)
        for x in lines[f"{kind}-cu12"]
    ]
    assert twin == lines[f"{kind}-cu13"]


@pytest.mark.parametrize("key", ["gpu-cu13", "multi-gpu-cu13"])
def test_environment_agrees_with_the_gpu_extras(key):
    conda = conda_requirements()
    pip = {name: versions for name, versions in extra(key).items() if name != "gpucluster"}
    for name, versions in pip.items():
        assert conda[re.sub(r"-cu13$|-cuda13x$", "", name)] == versions, name
    for name in ("dask-cudf", "raft-dask", "rapids-dask-dependency"):
        assert conda[name] == pip["cuml-cu13"], name


def test_environment_agrees_with_the_base_dependencies():
    conda = conda_requirements()
    for name, versions in requirements(PROJECT["dependencies"]).items():
        assert conda[name] == versions, name


def test_image_agrees_with_environment_and_extra():
    (installed,) = re.findall(r"'/src\[([\w-]+)\]'", DOCKERFILE)
    assert installed in EXTRAS
    cuda = Version(re.search(r"^FROM nvidia/cuda:([\d.]+)-base-", DOCKERFILE, re.MULTILINE)[1])
    assert installed == f"gpu-cu{cuda.major}"
    bounds = {str(bound) for bound in conda_requirements()["cuda-version"]}
    assert bounds == {f">={cuda.major}.0", f"<={cuda.major}.{cuda.minor}"}


def test_every_file_names_a_supported_python():
    supported = SpecifierSet(PROJECT["requires-python"])
    image = re.search(r"--python (3\.\d+)", DOCKERFILE)[1]
    assert conda_requirements()["python"] == SpecifierSet(f"=={image}.*")
    assert image in supported
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    label = "Programming Language :: Python :: 3."
    stated = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith(label)]
    assert tested == stated
    assert all(version in supported for version in tested)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*command, folder], cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"gpucluster-{gpucluster.__version__}.dist-info"
    files = {name for name in names if not name.startswith(f"{info}/")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "gpucluster").rglob("*.py")}
    kernels = {
        f"gpucluster/_kernels/{path.relative_to(ROOT / 'kernels')}"
        for path in (ROOT / "kernels").rglob("*")
        if path.suffix in {".cu", ".cuh", ".hpp"}
    }
    assert wheel.name.endswith("-py3-none-any.whl")
    pages = {
        str(path.relative_to(ROOT))
        for folder in ("gpucluster/service/page", "gpucluster/report/web")
        for path in (ROOT / folder).iterdir()
    }
    assert files == modules | kernels | pages | {"gpucluster/py.typed"}
    assert f"{info}/licenses/LICENSE" in names


def test_wheel_works_without_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import gpucluster.cli; print(gpucluster.__file__)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "gpucluster" / "__init__.py")
