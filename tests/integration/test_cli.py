"""The command line: what it prints where, its exit codes, and that its examples work."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from gpucluster import __version__, api, errors
from gpucluster.artifacts import LocalStore
from gpucluster.cli import main
from gpucluster.cli.exits import MEANINGS, Stopped, exit_code
from gpucluster.cli.progress import COMPILING, Lines
from gpucluster.cli.render import amount, duration, shortened, table
from gpucluster.cli.voice import Voice
from gpucluster.device.select import decide
from gpucluster.errors import GpuclusterError, WillNotFitError
from gpucluster.events import Progress, StageFinished, StageRecord, StageStarted
from gpucluster.labeling.fake_server import FakeServer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "gpucluster")
KMEANS = ("--algorithm", "kmeans", "--param", "n_clusters=3", "--param", "n_init=1")

STAGES = ["load", "cluster", "measure", "calibrate", "write"]


def documents(n_rows: int = 120, n_features: int = 8) -> pa.Table:
    """Return three groups of rows; what they say tries to control a terminal."""
    stream = np.random.default_rng(0)
    group = np.arange(n_rows) % 3
    X = np.eye(3, n_features)[group] * 4 + stream.normal(size=(n_rows, n_features)) * 0.3
    return pa.table(
        {
            "document_id": [f"d{row}" for row in range(n_rows)],
            "text": [f"\x1b[31mgroup {g}\n{'long ' * 30}" for g in group],
            "label": [f"g{g}" for g in group],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(X.astype(np.float32).ravel()), n_features
            ),
        }
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with docs.parquet in it."""
    pq.write_table(documents(), tmp_path / "docs.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(folder: Path) -> Callable[..., Result]:
    """Return a function that runs a command in this process."""
    runner = CliRunner()
    return lambda *args, **more: runner.invoke(main, [str(arg) for arg in args], **more)


def process(*args: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [*PROGRAM, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **more)


# The main flows, as users run them


def test_a_run_ends_with_a_table(folder: Path, sample_path: Path) -> None:
    columns = ("--truth-column", "label", "--text-column", "text")
    steps = ("--steps", "pca", "--step-param", "pca.n_components=16")
    done = process("run", sample_path, "--algorithm", "kmeans", *steps, *columns)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["cluster", "members", "share", "cosine", "example"]
    assert re.fullmatch(r"cl_0 +[\d,]+ +\d+\.\d % +0\.\d\d  \w.+", lines[1])
    for fact in ("clusters +8", r"noise +0 \(0.0 %\)", "rows +3,000", "rejected +0", "ami +0"):
        assert re.search(f"^{fact}", done.stdout, re.M), fact
    assert re.search(
        r"^should_recluster +yes: silhouette_score 0\.\d+ is below 0\.25", done.stdout, re.M
    )
    path = re.search(r"^files +(.+)$", done.stdout, re.M)[1]
    assert Path(path, "manifest.json").is_file()
    assert Path(path).parent == folder / "gpucluster-out"
    said = done.stderr.replace(f"{COMPILING} ...\n", "")  # in a new installation
    for stage in ("load", "prepare.0.pca", "cluster", "measure", "calibrate", "write"):
        assert f"{stage} ...\n{stage}: done in " in said.replace("the run lies", "\nthe")
    again = process("run", sample_path, "--algorithm", "kmeans", *steps, *columns)
    assert again.stdout == done.stdout
    assert "nothing was left to do" in again.stderr


def test_json_is_one_object(folder: Path) -> None:
    done = process("run", "docs.parquet", *KMEANS, "--truth-column", "label", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["num_points"], answer["num_rejected"], answer["num_clusters"]) == (120, 0, 3)
    assert Path(answer["path"]).name == answer["run_id"]
    assert set(answer["metrics"]) >= {
        "silhouette_score",
        "davies_bouldin_index",
        "calinski_harabasz_score",
        "mean_cosine_to_centroid",
        "noise_ratio",
        "cluster_size_entropy",
        "should_recluster",
    }
    assert set(answer["external_metrics"]) >= {"ami", "ari", "nmi", "v_measure", "purity"}
    assert [stage["name"] for stage in answer["stages"]] == STAGES
    for stage in answer["stages"]:
        facts = {"device", "backend", "executor", "method", "reason", "seconds", "peak_bytes"}
        assert set(stage) >= facts
    assert (answer["recluster_reasons"], answer["warnings"]) == ([], [])


def test_version_says_what_would_run(folder: Path) -> None:
    done = process("--version")
    python = ".".join(map(str, sys.version_info[:3]))
    device = f"device auto: {decide('auto').device}"
    assert done.stdout.startswith(f"gpucluster {__version__} (Python {python}; {device}")


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "config", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
        assert command.wait(60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_an_answer_that_cannot_be_written(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*PROGRAM, "config", "schema"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 7
    assert done.stderr == "error: cannot write to <stdout>: No space left on device\n"


def test_the_first_run_of_an_installation_says_that_it_compiles(folder: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    said = []
    for name in ("a", "b"):
        done = subprocess.run(
            [*PROGRAM, "run", "docs.parquet", *KMEANS, "--out", name],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(done.stderr.count(f"{COMPILING} ...\n"))
    assert said == [1, 0]


@pytest.mark.parametrize("no_color", [False, True])
def test_progress_on_a_terminal(folder: Path, no_color: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        **({"NO_COLOR": "1"} if no_color else {}),
    }
    with subprocess.Popen(
        [*PROGRAM, "run", "docs.parquet", *KMEANS],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
    ) as command:
        os.close(theirs)
        shown = b"".join(until_closed(ours))
        assert command.stdout.read().startswith(b"cluster ")
    os.close(ours)
    assert command.returncode == 0
    assert "━".encode() in shown
    assert (b"\x1b[3" in shown) is not no_color  # a colour
    for stage in (b"load", b"cluster", b"measure", b"calibrate", b"write"):
        assert stage in shown


def until_closed(fd: int) -> Iterator[bytes]:
    """Yield what arrives; a terminal whose other end is closed is an error on Linux."""
    while True:
        try:
            data = os.read(fd, 1 << 16)
        except OSError:
            return
        if not data:
            return
        yield data


def test_lines_tell_of_long_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("gpucluster.cli.progress.time.monotonic", lambda: now)
    lines = Lines(Voice(verbose=True))
    lines(StageStarted("cluster"))
    now = 9
    lines(Progress("cluster", 300, 1_200))
    lines.tick()
    assert capsys.readouterr().err == "cluster ...\n"
    now = 12
    lines.tick()
    assert capsys.readouterr().err == "cluster: 12 s, 300 of 1,200 rows, 25 rows/s, 36 s left\n"
    lines(Progress("cluster", 1_200, 1_200))
    now = 19
    lines.tick()
    now = 22
    lines.tick()
    assert capsys.readouterr().err == "cluster: 22 s, 1,200 of 1,200 rows\n"
    record = StageRecord("cluster", "cpu", "numpy", "local", "asked for", 30.0, 2 * 10**9)
    lines(StageFinished(record))
    lines.tick()
    said = "cluster: done in 30 s, numpy on cpu (local, exact), 2.00 GB: asked for\n"
    assert capsys.readouterr().err == said


def test_lines_elsewhere_need_no_rich(folder: Path) -> None:
    code = (
        "import sys\nfrom gpucluster.cli import main\n"
        "try: main()\nfinally: assert 'rich' not in sys.modules, 'rich was loaded'"
    )
    command = [sys.executable, "-c", code, "run", "docs.parquet", *KMEANS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Errors


@pytest.mark.parametrize(
    ("args", "code", "name", "says"),
    [
        ("rum", 2, "usage", "did you mean 'run'"),
        ("run --algoritm kmeans", 2, "usage", "did you mean '--algorithm'"),
        ("run", 2, "usage", "missing INPUT"),
        ("run docs.parquet --device tpu", 2, "usage", "'auto', 'cpu', 'gpu'"),
        ("run docs.parquet --param n_clusters", 2, "usage", "expected NAME=VALUE"),
        ("run docs.parquet --step-param umap.n=1", 2, "usage", "--steps"),
        ("run a.yaml --config b.yaml", 2, "usage", "both a.yaml"),
        ("run docs.parquet --config none.yaml", 2, "config_invalid", "none.yaml"),
        ("run docs.parquet --algorithm kmean", 2, "config_invalid", "did you mean kmeans"),
        ("run docs.parquet --steps umpa", 2, "config_invalid", "preprocessing_steps.0"),
        (
            "run docs.parquet --algorithm kmeans --param n_clusters=0",
            2,
            "config_invalid",
            "vector_config.algorithm_params.n_clusters: got 0",
        ),
        ("run none.parquet", 5, "source_not_found", "none.parquet"),
        ("inspect broken.parquet", 5, "source_corrupt", "broken.parquet"),
        ("run docs.parquet --id-column idd", 5, "source_schema", "idd"),
        ("show .", 5, "run_not_found", "no run at"),
        (
            "run docs.parquet --algorithm kmeans --out docs.parquet",
            7,
            "store_error",
            "docs.parquet",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    invoke: Callable[..., Result], args: str, code: int, name: str, says: str
) -> None:
    Path("broken.parquet").write_bytes(Path("docs.parquet").read_bytes()[:-9])
    done = invoke(*shlex.split(args), "--quiet")
    assert (done.exit_code, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says.lower() in line.lower()

    as_json = invoke(*shlex.split(args), "--quiet", "--json")
    assert (as_json.exit_code, as_json.stderr) == (code, "")
    error = json.loads(as_json.stdout)["error"]
    assert set(error) == {"code", "message", "hint", "retryable"}
    assert error["code"] == name
    assert line.startswith(f"error: {error['message'].partition(' (')[0]}")


def test_no_gpu(invoke: Callable[..., Result]) -> None:
    if decide("auto").device == "gpu":
        pytest.skip("there is a GPU")
    done = invoke("plan", "docs.parquet", "--device", "gpu")
    assert done.exit_code == 3
    assert done.stderr.startswith("error: device=gpu: ")


def test_a_run_that_another_process_holds(invoke: Callable[..., Result]) -> None:
    found = json.loads(invoke("run", "docs.parquet", *KMEANS, "--json").stdout)
    (Path(found["path"]) / "manifest.json").unlink()
    with LocalStore(Path("gpucluster-out")).lease(found["run_id"]):
        done = invoke("run", "docs.parquet", *KMEANS, "--quiet")
    assert done.exit_code == 7
    assert found["run_id"] in done.stderr


def test_a_bug_leaves_a_trace(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("this cannot be")

    monkeypatch.setattr(api, "open_run", broken)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    done = invoke("show", "run_a")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: RuntimeError: this cannot be. this is a bug")
    (trace,) = folder.glob("gpucluster-trace-*.txt")
    assert str(trace) in line
    assert "in broken" in trace.read_text()
    assert "Traceback" in invoke("show", "run_a", "--debug").stderr


def test_every_error_has_the_exit_code_of_its_family() -> None:
    families = {
        errors.ConfigError: 2,
        errors.DeviceError: 3,
        errors.ExecutorError: 3,
        errors.StageCrashedError: 3,
        errors.InputError: 5,
        errors.SourceError: 5,
        errors.ArtifactError: 5,
        errors.ClientError: 6,
        errors.StoreError: 7,
        errors.InternalError: 1,
    }
    classes = [
        c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, GpuclusterError)
    ]
    for kind in set(classes) - {GpuclusterError, errors.Cancelled}:
        (code,) = {code for family, code in families.items() if issubclass(kind, family)}
        assert exit_code(kind.__new__(kind)) == code
        assert code in MEANINGS
    assert exit_code(MemoryError()) == 3
    assert exit_code(click.Abort()) == exit_code(Stopped(2)) == 130
    assert exit_code(Stopped(15)) == 143
    assert exit_code(ZeroDivisionError()) == 1


# Commands


def test_plan(invoke: Callable[..., Result]) -> None:
    done = invoke("plan", "docs.parquet", *KMEANS, "--device", "cpu")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["stage", "device", "method", "memory", "seconds", "why"]
    assert [line.split()[0] for line in lines[1:6]] == STAGES
    assert re.search(r"^algorithm +kmeans \(n_clusters=3, .*n_init=1\)", done.stdout, re.M)
    assert not Path("gpucluster-out").exists()
    answer = json.loads(invoke("plan", "docs.parquet", "--json").stdout)
    assert answer["fits"]
    assert answer["definition"]["vector_config"]["clustering_method"] == "hdbscan"
    assert {"stages", "peak_bytes", "available_bytes", "seconds", "reason"} <= set(answer)


def test_what_will_not_fit(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucluster.device.storage.available_bytes", lambda _: 1000)
    done = invoke("plan", "docs.parquet")
    assert done.exit_code == 3
    assert done.stdout.startswith("stage ")
    assert re.fullmatch(r"error: the \w+ stage needs about .* are free\. try .*\n", done.stderr)
    as_json = invoke("plan", "docs.parquet", "--json")
    assert as_json.exit_code == 3
    answer = json.loads(as_json.stdout)
    assert (answer["fits"], answer["error"]["code"]) == (False, WillNotFitError.code)
    run = invoke("run", "docs.parquet", "--json", "--quiet")
    assert run.exit_code == 3
    assert json.loads(run.stdout)["error"]["code"] == WillNotFitError.code
    assert not Path("gpucluster-out").exists()


def test_a_limit_of_memory_is_planned_with(invoke: Callable[..., Result]) -> None:
    few = invoke("plan", "docs.parquet", *KMEANS, "--memory-limit", "2GB", "--storage", "disk")
    assert few.exit_code == 0
    assert re.search(r"^memory +0.\d\d GB, 2.00 GB are allowed$", few.stdout, re.M)
    assert re.search(
        r"^disk +0.00 GB for matrices, .* GB are free in .*gpucluster-out$", few.stdout, re.M
    )
    none = invoke("plan", "docs.parquet", "--memory-limit", "a lot")
    assert none.exit_code == 2
    assert "memory_limit: got 'a lot', expected bytes, such as 6GB or 512MiB" in none.stderr
    done = invoke("run", "docs.parquet", *KMEANS, "--storage", "disk", "--json")
    assert {stage["storage"] for stage in json.loads(done.stdout)["stages"]} == {"disk"}


def test_inspect_names_the_command_to_run(invoke: Callable[..., Result]) -> None:
    done = invoke("inspect", "docs.parquet", "--truth-column", "label")
    assert done.exit_code == 0
    for fact in (
        "rows +120",
        "vectors +embedding: 8 of float32",
        "id +document_id",
        "truth +label",
    ):
        assert re.search(f"^{fact}", done.stdout, re.M), fact
    command = shlex.split(re.search(r"^run it +gpucluster (.+)$", done.stdout, re.M)[1])
    assert invoke(*command, *KMEANS, "--quiet").exit_code == 0
    answer = json.loads(invoke("inspect", "docs.parquet", "--json").stdout)
    assert (answer["n_rows"], answer["n_features"]) == (120, 8)
    assert answer["columns"]["vector"] == "embedding"


def test_show(invoke: Callable[..., Result]) -> None:
    found = json.loads(invoke("run", "docs.parquet", *KMEANS, "--json").stdout)
    path = Path(found["path"])
    assert json.loads(invoke("show", path, "--json").stdout) == found
    done = invoke("show", path, "--clusters", 2, "--verbose")
    assert re.search(r"^load +cpu +pyarrow +local ", done.stdout, re.M)
    assert re.search(r"^cl_1 .+\nand 1 more$", done.stdout, re.M)
    assert "cl_2" not in done.stdout

    members = bytearray((path / "members.parquet").read_bytes())
    members[len(members) // 2] ^= 1
    (path / "members.parquet").write_bytes(members)
    damaged = invoke("show", path, "--verify")
    assert damaged.exit_code == 5
    assert "members.parquet is damaged" in damaged.stderr


def test_examples_are_texts_where_there_are_texts(invoke: Callable[..., Result]) -> None:
    done = invoke("run", "docs.parquet", *KMEANS, "--text-column", "text")
    assert "\x1b" not in done.stdout
    examples = re.findall(r"^cl_\d .+  (\?\[31mgroup \d long [a-z ]+\.\.\.)$", done.stdout, re.M)
    assert len(examples) == 3
    Path("docs.parquet").unlink()
    (path,) = Path("gpucluster-out").iterdir()
    assert re.findall(r"^cl_\d .+  (d\d+)$", invoke("show", path).stdout, re.M)


def test_doctor(invoke: Callable[..., Result]) -> None:
    answer = json.loads(invoke("doctor", "--json").stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    assert set(checks) >= {
        "gpucluster",
        "python",
        "cores",
        "memory",
        "disk",
        "blas",
        "cupy",
        "cuml",
    }
    assert "core type" in checks["blas"]["value"]
    assert checks["device auto"]["value"].startswith(decide("auto").device)
    assert "python " in invoke("doctor").stdout


def test_doctor_says_how_to_mend(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["click>=8", "no-such-library>=1", "cupy; extra == 'gpu'"]
    monkeypatch.setattr("gpucluster.cli.checks.requires", lambda _: needed)
    done = invoke("doctor")
    assert done.exit_code == 3
    assert re.search(
        r"^no-such-library +missing\n +fix: pip install 'no-such-library'$", done.stdout, re.M
    )
    assert re.search(r"^click +\d", done.stdout, re.M)


def test_doctor_sees_a_card_without_its_libraries(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.65, 9.0, 143000 MiB, 143771 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("gpucluster.device.select.find_spec", lambda name: None)
    done = invoke("doctor")
    card = "NVIDIA H200, driver 580.65, compute capability 9.0, 143000 MiB of 143771 MiB are free"
    assert re.search(rf"^gpu +{card}$", done.stdout, re.M)
    assert re.search(
        r"^cupy +not installed\n +fix: pip install 'gpucluster\[gpu-", done.stdout, re.M
    )


def test_what_config_show_prints_is_a_definition(invoke: Callable[..., Result]) -> None:
    flags = (*KMEANS, "--steps", "whitening,umap", "--step-param", "umap.n_components=15")
    first = invoke("config", "show", *flags, "--sample-size", 50)
    Path("topics.json").write_text(first.stdout)
    second = invoke("config", "show", "topics.json")
    assert (second.exit_code, second.stdout) == (0, first.stdout)
    config = json.loads(first.stdout)["vector_config"]
    assert config["algorithm_params"]["n_clusters"] == 3
    assert [step["method"] for step in config["preprocessing_steps"]] == ["whitening", "umap"]
    assert config["preprocessing_steps"][1]["n_components"] == 15
    assert config["sample_size"] == 50


def test_flag_before_environment_before_file_before_default(invoke: Callable[..., Result]) -> None:
    Path("topics.toml").write_text(
        "algorithm = 'kmeans'\nalgorithm_config = {num_clusters = 4, max_iter = 9}\n"
        "sample_size = 60\nrandom_state = 1\n"
    )
    done = invoke(
        *("config", "show", "topics.toml", "--origin", "--json"),
        *("--param", "num_clusters=7", "--random-state", 3),
        env={"GPUCLUSTER_SAMPLE_SIZE": "70", "GPUCLUSTER_RANDOM_STATE": "2"},
    )
    values = json.loads(done.stdout)
    place = "vector_config.algorithm_params"
    assert values[f"{place}.n_clusters"] == {"value": 7, "origin": "--param"}
    assert values[f"{place}.max_iter"] == {"value": 9, "origin": "topics.toml"}
    assert values[f"{place}.random_state"] == {"value": 3, "origin": "--random-state"}
    assert values["random_state"] == {"value": 3, "origin": "--random-state"}
    assert values["vector_config.sample_size"] == {"value": 70, "origin": "GPUCLUSTER_SAMPLE_SIZE"}
    assert values["max_bad_fraction"] == {"value": 0.01, "origin": "default"}
    assert values["device"] == {"value": "auto", "origin": "default"}
    other = invoke("config", "show", "topics.toml", "--algorithm", "hdbscan", "--steps", "none")
    config = json.loads(other.stdout)["vector_config"]
    assert (config["clustering_method"], config["preprocessing_steps"]) == ("hdbscan", [])


def test_features_on_the_command_line(invoke: Callable[..., Result]) -> None:
    Path("topics.json").write_text('{"algorithm": "kmeans", "feature_uris": ["mixpeek://a@v1/a"]}')
    done = invoke(
        *("config", "show", "topics.json", "--origin", "--json"),
        *("--feature", "mixpeek://text@v1/text", "--feature", "mixpeek://image@v1/image"),
    )
    values = json.loads(done.stdout)
    for i, uri in enumerate(("mixpeek://text@v1/text", "mixpeek://image@v1/image")):
        expected = {"value": uri, "origin": "--feature"}
        assert values[f"vector_config.feature_uris.{i}"] == expected


def test_filters_on_the_command_line(invoke: Callable[..., Result]) -> None:
    Path("topics.json").write_text('{"algorithm": "kmeans", "filters": {"old": 1}}')
    show = ("config", "show", "topics.json", "--origin", "--json")
    values = json.loads(invoke(*show).stdout)
    assert values["filters.AND.0.field"] == {"value": "old", "origin": "topics.json"}
    done = invoke(*show, "--filter", "label=7", "--filter", '{"NOT": [{"text": "x"}]}')
    values = json.loads(done.stdout)
    assert values["filters.AND.0.value"] == {"value": 7, "origin": "--filter"}
    assert values["filters.AND.1.NOT.0.field"] == {"value": "text", "origin": "--filter"}
    assert '"old"' not in done.stdout
    refused = invoke("config", "show", "--filter", "label")
    assert refused.exit_code == 2
    assert "--filter 'label': expected NAME=VALUE" in refused.stderr


def test_a_definition_names_its_inputs_beside_itself(invoke: Callable[..., Result]) -> None:
    Path("deep").mkdir()
    Path("docs.parquet").rename("deep/docs.parquet")
    text = "algorithm: kmeans\nalgorithm_params: {n_clusters: 3}\ncollection_ids: [docs.parquet]\n"
    Path("deep/topics.yaml").write_text(text)
    first = invoke("run", "deep/topics.yaml", "--json", "--quiet")
    assert first.exit_code == 0, first.output
    other = invoke("run", "--config", "-", "--json", input=text)
    assert json.loads(other.stdout)["error"]["code"] == "source_not_found"
    named = invoke("run", "deep/docs.parquet", "--config", "deep/topics.yaml", "--json")
    assert json.loads(named.stdout)["run_id"] == json.loads(first.stdout)["run_id"]


def test_warnings_are_said_once(invoke: Callable[..., Result]) -> None:
    args = ("run", "docs.parquet", "--algorithm", "hdbscan", "--param", "min_cluster_size=500")
    done = invoke(*args)
    assert done.exit_code == 0
    (line,) = [line for line in done.stderr.splitlines() if "min_cluster_size" in line]
    assert line.startswith("warning: ")
    assert done.stdout.startswith("clusters ")
    answer = json.loads(invoke(*args, "--json").stdout)
    assert [warning["code"] for warning in answer["warnings"]] == ["min_cluster_size_above_rows"]
    assert "warning" not in invoke(*args, "--quiet").stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(invoke: Callable[..., Result], shell: str) -> None:
    done = invoke("completion", shell)
    assert done.exit_code == 0
    assert "_GPUCLUSTER_COMPLETE" in done.stdout
    words = {"COMP_WORDS": "gpucluster pl", "COMP_CWORD": "1" if shell != "fish" else "pl"}
    environment = {**os.environ, **words, "_GPUCLUSTER_COMPLETE": f"{shell}_complete"}
    assert "plan" in process(env=environment).stdout


# Help and documentation


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


ALL = dict(commands(main))
MAPPED = ("--config", "points.yaml", "--truth-column", "label")
EXAMPLE = re.compile(r"^ +gpucluster (.+?)(?: [|>].*)?$", re.M)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_example_of_the_help_works(
    invoke: Callable[..., Result], path: tuple[str, ...]
) -> None:
    examples = EXAMPLE.findall(ALL[path].help or "")
    assert examples
    pq.write_table(documents(150, 32), "docs.parquet")
    for name in ("new.parquet", "all.parquet"):
        pq.write_table(documents(150, 32), name)
    Path("parts").mkdir()
    pq.write_table(
        documents().rename_columns(["document_id", "text", "label", "emb"]), "parts/a.parquet"
    )
    Path("topics.yaml").write_text("algorithm: kmeans\ncollection_ids: [docs.parquet]\n")
    Path("points.yaml").write_text("dimension_reduction: {method: pca}\n")
    with FakeServer() as server:
        _try_examples(invoke, examples, server.base_url)


def _try_examples(invoke: Callable[..., Result], examples: list[str], base_url: str) -> None:
    if any("--config" in example and "label" in example for example in examples):
        Path("topics.yaml").write_text(
            f"llm_labeling: {{base_url: '{base_url}', model_name: m, "
            "prices: {input: 1, output: 1}}\n"
        )
    for example in examples:
        args = shlex.split(example.replace("http://localhost:8080/v1", base_url))
        if "gpucluster-out" in example:
            more = MAPPED if args[0] == "plot" else ()
            run = json.loads(invoke("run", "docs.parquet", *KMEANS, *more, "--json").stdout)
            args = shlex.split(re.sub(r"gpucluster-out/\w+", str(run["path"]), shlex.join(args)))
        if "--flow" in args:  # leads to another run of the same definition
            assert invoke("run", "docs.parquet", *KMEANS, "--fresh").exit_code == 0
        if "--taxonomy" in args:
            assert invoke("promote", "gpucluster-out", "--name", "topics").exit_code == 0
        if args[0] == "serve":
            _try_serving(args)
            continue
        done = invoke(*args)
        assert done.exit_code == 0, (args, done.stderr)
        assert done.stdout


def _try_serving(args: list[str]) -> None:
    """Start a server, wait until it listens, and end it."""
    command = [sys.executable, "-m", "gpucluster", *args, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = next(line for line in server.stderr if "listening at http://127.0.0.1:" in line)
        server.terminate()
    assert said
    assert server.returncode in {0, 128 + signal.SIGTERM}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    options = [p for p in ALL[path].params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_documentation_is_current() -> None:
    command = [sys.executable, ROOT / "docs" / "generate.py", "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run: python docs/generate.py"


# Words and numbers


def test_numbers() -> None:
    assert [amount(value) for value in (3, 3.5, 12.6, 1234567)] == ["3", "3.5", "13", "1,234,567"]
    seconds = (None, 0.04, 9.96, 99.4, 100, 3723.0)
    said = ["-", "0.0 s", "10.0 s", "99 s", "1 min 40 s", "1 h 02 min"]
    assert [duration(value) for value in seconds] == said
    assert shortened("a\tb\x07", 10) == "a b?"
    assert shortened("x" * 11, 10) == "xxxxxxx..."
    assert table([("a", "b"), ("ccc", "1")], right=(1,)) == "a    b\nccc  1"
