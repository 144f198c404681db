"""Rates of this machine: measured once, kept by its kind, and followed by predictions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gpucluster.definition import ClusterDefinition
from gpucluster.device import rates
from gpucluster.device.rates import REFERENCE, Rates, calibrate, known_rates, rates_file
from gpucluster.device.select import Decision
from gpucluster.errors import StoreError
from gpucluster.planner import make_plan

CPU = Decision("cpu", "cpu", "asked for")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUCLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(rates, "DISK_BYTES", 16 << 20)
    return tmp_path / "state"


def keep(found: Rates) -> None:
    rates_file().parent.mkdir(exist_ok=True)
    rates_file().write_text(json.dumps({rates.machine_kind(): asdict(found)}))


def test_what_was_measured_is_known_from_then_on(tmp_path: Path) -> None:
    assert known_rates() is REFERENCE
    found = calibrate(tmp_path / "out")
    assert found == known_rates()
    assert found.measured_at is not None
    assert 1e8 < found.product_flop < 1e15
    assert 1e7 < found.copied_bytes < 1e13
    assert found.disk_written_bytes > 1e5
    assert found.disk_read_bytes > 1e5
    assert list((tmp_path / "out").iterdir()) == []


def test_machines_that_share_a_home_keep_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrate(tmp_path)
    monkeypatch.setattr(rates, "machine_kind", lambda: "another one, 96 cores")
    assert known_rates() is REFERENCE
    second = calibrate(tmp_path)
    assert known_rates() == second
    monkeypatch.undo()
    monkeypatch.setenv("GPUCLUSTER_STATE_DIR", str(tmp_path / "state"))
    assert known_rates() == first


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"KIND": 5}', '{"KIND": {"product_flop": 1}}', "null"]
)
def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    rates_file().parent.mkdir()
    rates_file().write_text(text.replace("KIND", rates.machine_kind()))
    assert known_rates() is REFERENCE
    assert calibrate(tmp_path) == known_rates()


def test_rates_of_nothing_are_none() -> None:
    keep(replace(REFERENCE, product_flop=0.0))
    assert known_rates() is REFERENCE


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/out cannot be written"):
        calibrate(tmp_path / "file" / "out")


def test_predicted_times_follow_the_machine() -> None:
    definition = ClusterDefinition.parse(
        algorithm="kmeans", preprocessing_steps=[{"method": "whitening"}]
    )
    as_measured = make_plan(definition, 100_000, 768, CPU)
    fast = replace(REFERENCE, product_flop=4 * REFERENCE.product_flop, measured_at="2026-01-01")
    keep(fast)
    here = make_plan(definition, 100_000, 768, CPU)
    assert here.rates == fast
    for stage, before in zip(here.stages, as_measured.stages, strict=True):
        ratio = 1 if stage.name in {"load", "write"} else 4
        assert stage.seconds == pytest.approx(before.seconds / ratio)
        assert stage.bytes == before.bytes
