"""What an operator may say, and what of it is refused before a server starts."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError

from gpucluster.errors import ConfigError, PermissionRefusedError
from gpucluster.service.server import _check_root
from gpucluster.service.settings import ServiceSettings


def test_lists_are_flags_that_repeat_or_hold_commas(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    a, b, c = (str(tmp_path / name) for name in ("a", "b", "c"))
    assert ServiceSettings(import_roots=(f"{a},{b}", c)).import_roots == (a, b, c)
    monkeypatch.setenv("GPUCLUSTER_SERVE_IMPORT_ROOTS", f"{a},s3://bucket/prefix")
    assert ServiceSettings().import_roots == (a, "s3://bucket/prefix")


def test_a_root_to_import_from_is_there(tmp_path):
    with pytest.raises(ValidationError, match="there is no folder"):
        ServiceSettings(import_roots=(str(tmp_path / "nowhere"),))


def test_without_tokens_only_this_machine_may_ask():
    assert not ServiceSettings(auth=False, host="::1").auth
    with pytest.raises(ValidationError, match="without tokens only this machine"):
        ServiceSettings(auth=False, host="0.0.0.0")


def test_a_root_is_made_and_has_to_be_a_folder(tmp_path):
    _check_root(tmp_path / "new" / "root")
    assert (tmp_path / "new" / "root").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot use"):
        _check_root(tmp_path / "file" / "root")


def test_a_root_has_to_be_writable(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionRefusedError, match="no permission"):
        _check_root(tmp_path)
