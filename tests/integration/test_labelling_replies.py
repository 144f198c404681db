"""The replies beside runs: how many stay, and the command that shows and forgets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import gpucluster
from gpucluster.cli import main
from gpucluster.errors import ConfigError
from gpucluster.labeling.asking.pruning import LIMIT, LIMIT_MB
from gpucluster.labeling.fake_server import FakeServer
from tests.helpers.topics import by, planted
from tests.integration.test_labelling_faults import InterruptError, interrupting


def told(*args: str | Path) -> dict[str, int]:
    done = CliRunner().invoke(main, ["replies", *map(str, args), "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_without_any_room_an_interrupted_labelling_still_pays_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "0")
    run, other = planted(tmp_path / "a", 12), planted(tmp_path / "b", 3)
    out = other.path.rename(run.path.parent / other.path.name)
    with FakeServer() as server:
        for fresh in (False, True):
            with pytest.raises(InterruptError):
                gpucluster.label(
                    run, by(server), observer=interrupting(5), concurrency=1, fresh=fresh
                )
            gpucluster.label(out, by(server), fresh=fresh)  # which ends, and takes no more room
            gpucluster.label(run, by(server), fresh=fresh)
            assert told(run.path)["replies"] == 0
        assert len(server.billed) == 2 * (12 + 3)
        gpucluster.label(run, by(server))
        assert len(server.billed) == 2 * (12 + 3)  # names are there without replies


def test_what_left_something_to_be_asked_for_keeps_its_replies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "0")
    run = planted(tmp_path, 12)
    with FakeServer(faults={"rejected": 0.3}, seed=3) as server:
        named = gpucluster.label(run, by(server)).labeling
    n_named = named.counts["num_llm"]
    assert 0 < n_named < 12
    assert told(run.path)["needed"] == n_named
    with FakeServer() as server:
        settings = named.settings | {"base_url": server.base_url}
        gpucluster.label(run, settings)  # another address: another labelling
        assert told(run.path)["replies"] == n_named


def test_the_command_shows_and_forgets_replies(tmp_path: Path) -> None:
    run = planted(tmp_path, 12)
    nothing = {"replies": 0, "bytes": 0, "needed": 0, "most_bytes": LIMIT_MB * 1_000_000}
    path = run.path.parent / "label-cache.sqlite"
    assert told(run.path.parent) == {"path": str(path), **nothing}
    assert not path.exists()
    with FakeServer() as server:
        names = gpucluster.label(run, by(server)).centroids["label"]
        assert len(server.billed) == 12
        with pytest.raises(InterruptError):
            gpucluster.label(
                run, by(server), observer=interrupting(5), concurrency=1, max_samples_per_cluster=1
            )
    n_needed = len(server.billed) - 12
    assert n_needed > 0
    found = told(run.path)
    assert (found["replies"], found["needed"]) == (12 + n_needed, n_needed)
    assert found == told(run.path.parent)
    assert found["bytes"] > 100 * found["replies"]
    text = CliRunner().invoke(main, ["replies", str(run.path)]).stdout
    assert f"{12 + n_needed}\n" in text
    assert f"of at most {LIMIT_MB} MB" in text
    left = told(run.path, "--empty")
    assert (left["replies"], left["needed"]) == (n_needed, n_needed)
    assert gpucluster.open_run(run.path).centroids["label"].equals(names)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["replies", str(tmp_path / "none")])
    assert done.exit_code == 5
    assert "none: there is no such folder" in done.stderr


def test_a_limit_that_is_wrong_is_said_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "plenty")
    run = planted(tmp_path, 3)
    with FakeServer() as server, pytest.raises(ConfigError, match=LIMIT):
        gpucluster.label(run, by(server))
    assert server.calls == 0
