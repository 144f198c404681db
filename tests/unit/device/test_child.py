from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpucluster import errors
from gpucluster.device.child import TAIL_BYTES, Child
from gpucluster.errors import (
    Cancelled,
    FallbackWarning,
    GpuclusterError,
    InternalError,
    StageCrashedError,
)
from gpucluster.events import CancelToken, Event, Progress, Reporter, Warned

HERE = Path(__file__).parent


@pytest.fixture
def child(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    with Child("umap", timeout_s=60, allow=("child_targets",)) as child:
        yield child


def call(child: Child, name: str, /, **kwargs):
    return child.call(f"child_targets:{name}", **kwargs)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


@pytest.mark.parametrize(
    "value", [None, True, -1, 2.5, "a\nb\u2028é", [1, [2]], {"a": {"b": []}}, "x" * 3_000_000]
)
def test_values_travel_both_ways(child, value):
    assert call(child, "echo", value=value) == value


def test_one_process_serves_all_calls_and_is_gone_afterwards(child):
    first = call(child, "pid")
    assert first != os.getpid()
    assert call(child, "pid") == first
    child.close()
    assert not alive(first)
    assert call(child, "pid") != first


def test_imports_resolve_as_in_the_parent(child):
    assert call(child, "path") == sys.path


def test_closing_without_a_call_is_fine():
    with Child("umap") as idle:
        assert idle._process is None  # it starts with the first call
    idle.close()
    assert idle._process is None


@pytest.mark.parametrize(
    ("name", "kwargs", "ended"),
    [
        ("abort", {}, "SIGABRT; its last words: .terminate called .*thrust::system_error'"),
        ("segfault", {}, "SIGSEGV"),
        ("kill_me", {"name": "SIGBUS"}, "SIGBUS"),
        ("kill_me", {"name": "SIGRTMIN"}, "SIGRTMIN"),
        ("kill_me", {"name": "SIGKILL"}, "SIGKILL .*memory runs out"),
        ("exit_hard", {"code": 3}, "exited with code 3"),
        ("exit_hard", {"code": 0}, "exited with code 0"),
        ("die_and_leave_a_fork", {}, "SIGABRT"),
    ],
)
def test_a_dead_process_is_an_error_and_the_next_call_works(child, name, kwargs, ended):
    with pytest.raises(StageCrashedError, match=f"stage umap: .*{ended}") as caught:
        call(child, name, **kwargs)
    assert caught.value.stage == "umap"
    assert "\n" not in str(caught.value)
    assert call(child, "echo", value=1) == 1


def test_a_process_that_died_between_the_calls_is_replaced(child):
    pid = call(child, "pid")
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert call(child, "pid") != pid


def test_a_process_that_hangs_up_is_killed(child, monkeypatch):
    monkeypatch.setattr("gpucluster.device.child.GRACE_S", 0.1)
    pid = call(child, "pid")
    with pytest.raises(StageCrashedError, match="closed the connection"):
        call(child, "hang_up")
    assert not alive(pid)


def test_a_hang_ends_with_the_time_and_takes_grandchildren_along(child, tmp_path):
    note = tmp_path / "pid"
    child._timeout_s = 2.0
    started = time.monotonic()
    with pytest.raises(StageCrashedError, match=r"stage umap: .* no answer within 2 s"):
        call(child, "hang_with_a_grandchild", note=str(note))
    assert time.monotonic() - started < 10
    assert wait_until(lambda: not alive(int(note.read_text())))
    assert call(child, "echo", value=1) == 1


def test_output_never_blocks_and_only_its_end_is_kept(child):
    assert call(child, "flood", n_bytes=20_000_000) == 20_000_000
    with pytest.raises(StageCrashedError, match="last words: 'the last line'") as caught:
        call(child, "flood_and_abort", n_bytes=5_000_000)
    assert len(str(caught.value)) < 400
    (note,) = caught.value.__notes__
    assert TAIL_BYTES / 2 < len(note) < 2 * TAIL_BYTES


def test_earlier_output_is_not_blamed(child):
    call(child, "echo", value=1)
    with pytest.raises(StageCrashedError) as caught:
        call(child, "exit_hard", code=1)
    assert "last words" not in str(caught.value)


def public_errors() -> list[type[GpuclusterError]]:
    return [
        e
        for e in vars(errors).values()
        if isinstance(e, type) and issubclass(e, errors.GpuclusterError)
    ]


@pytest.mark.parametrize("cls", public_errors(), ids=lambda cls: cls.__name__)
def test_our_errors_arrive_as_they_were_raised(child, cls):
    extra = {
        "ConfigError": {"path": "umap.n_neighbors", "got": 1, "expected": ">= 2"},
        "WillNotFitError": {"needed_bytes": 10, "available_bytes": 5},
        "StageCrashedError": {"stage": "knn"},
        "UnstableClustersError": {"clusters": {"cl_0": 0.5, "cl_1": None}},
    }.get(cls.__name__, {})
    with pytest.raises(GpuclusterError) as caught:
        call(child, "fail", name=cls.__name__, kwargs=extra)
    sent = cls("it went wrong", hint="do better", **extra)
    assert type(caught.value) is cls
    assert str(caught.value) == str(sent)
    public = {k: v for k, v in vars(caught.value).items() if not k.startswith("_")}
    assert public == vars(sent)
    assert "child_targets.py" in caught.value.__notes__[0]
    assert call(child, "echo", value=1) == 1


def test_a_foreign_subclass_arrives_as_ours(child):
    with pytest.raises(errors.InputError, match="theirs") as caught:
        call(child, "fail_foreign")
    assert type(caught.value) is errors.InputError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fail_otherwise", "child_targets:fail_otherwise raised ZeroDivisionError: several lines"),
        ("exit_soft", "SystemExit: bye"),
        ("no_json", "TypeError: .*not JSON serializable"),
        ("missing", "AttributeError: .*missing"),
    ],
)
def test_other_exceptions_become_a_crash_with_their_text(child, name, text):
    with pytest.raises(StageCrashedError, match=text):
        call(child, name)
    assert call(child, "echo", value=1) == 1


@pytest.mark.parametrize(
    "target",
    ["os:abort", "child_targets", "child_targets:", "gpuclusterx:f", "gpucluster.a:b.c", ""],
)
def test_only_our_functions_may_be_called(target):
    with Child("umap") as child, pytest.raises(InternalError, match="may not be called"):
        child.call(target)


def test_a_function_is_called_where_it_is_defined():
    with Child("umap") as child, pytest.raises(InternalError, match="not defined there"):
        child.call("gpucluster.device.supervised:import_module", name="json")


def test_progress_and_warnings_reach_the_observer(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    events: list[Event] = []
    reporter = Reporter("umap", events.append)
    with (
        Child("umap", reporter=reporter, allow=("child_targets",)) as child,
        pytest.warns(FallbackWarning, match="slow way"),
    ):
        assert call(child, "work", n=3) == "umap"
    warned = Warned("went_slow", "the slow way is taken", "FallbackWarning")
    assert events == [
        *(Progress("umap", n, 3, "blocks") for n in (1, 2, 3)),
        Progress("other", 1, None),
        warned,
    ]
    assert reporter.warnings == [warned]


@pytest.mark.parametrize("name", ["hang", "report_forever"])
def test_a_raised_cancel_token_kills_the_process(monkeypatch, name):
    monkeypatch.syspath_prepend(HERE)
    cancel = CancelToken()
    with Child("umap", reporter=Reporter(cancel=cancel), allow=("child_targets",)) as child:
        pid = call(child, "pid")
        threading.Timer(0.2, cancel.cancel).start()
        with pytest.raises(Cancelled):
            call(child, name)
        assert not alive(pid)


def test_an_observer_that_raises_leaves_no_process(monkeypatch):
    monkeypatch.syspath_prepend(HERE)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with Child("umap", reporter=Reporter("umap", interrupt), allow=("child_targets",)) as child:
        pid = call(child, "pid")
        with pytest.raises(KeyboardInterrupt):
            call(child, "report_forever")
        assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["hang", "hang_in_native_code"])
def test_the_process_dies_with_its_parent(tmp_path, name):
    note = tmp_path / "pid"
    code = f"""
import sys; sys.path[:] = {[str(HERE), *sys.path]!r}
from gpucluster.device.child import Child
with Child("umap", allow=("child_targets",)) as child:
    child.call("child_targets:{name}", note={str(note)!r})
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    assert wait_until(lambda: note.exists() and note.read_text(), 30)
    pid = int(note.read_text())
    assert alive(pid)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not alive(pid))
