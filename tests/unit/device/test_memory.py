from __future__ import annotations

from pathlib import Path

import pytest

from gpucluster.device.memory import _cgroup_left


@pytest.mark.parametrize(
    ("folder", "limit", "usage", "cache"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        (
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_file_cache_that_can_be_dropped_is_available(
    tmp_path: Path, folder: str, limit: str, usage: str, cache: str
) -> None:
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / limit).write_text("1000\n")
    (group / usage).write_text("900\n")
    (group / "memory.stat").write_text(f"anon 300\n{cache} 500\nactive_file 100\n")
    assert _cgroup_left(tmp_path) == 600


def test_without_a_limit_the_group_says_nothing(tmp_path: Path) -> None:
    assert _cgroup_left(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("inactive_file 500\n")
    assert _cgroup_left(tmp_path) is None
