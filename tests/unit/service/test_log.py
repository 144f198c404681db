"""The lines of a server's log."""

from __future__ import annotations

import json
import logging
import re

import pytest

from gpucluster.service.log import JsonLines, TextLines, logged

FIELDS = {"route": "/v1/clusters", "status": 200, "namespace": None}


def record(**changes):
    made = logging.LogRecord(
        "gpucluster.x", logging.WARNING, "x.py", 1, "%s is late", ("it",), None
    )
    vars(made).update({"created": 0.25, **changes})
    return made


def failure():
    error = ValueError('a "bug"\nin two lines')
    return type(error), error, error.__traceback__


def test_a_line_for_people():
    assert TextLines().format(record(fields=FIELDS)) == (
        "1970-01-01T00:00:00.250Z WARNING gpucluster.x: it is late route=/v1/clusters status=200"
    )
    assert TextLines().format(record(exc_info=failure())).splitlines()[1:] == [
        'ValueError: a "bug"',
        "in two lines",
    ]


def test_a_line_for_programs_is_one_object_whatever_happened():
    line = JsonLines().format(record(fields=FIELDS, exc_info=failure()))
    assert "\n" not in line
    said = json.loads(line)
    assert said.pop("exception").endswith('ValueError: a "bug"\nin two lines')
    assert said == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "warning",
        "logger": "gpucluster.x",
        "message": "it is late",
        **FIELDS,
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_logged_goes_to_stderr_while_a_server_runs(capsys, form):
    ours, theirs = logging.getLogger("gpucluster.service"), logging.getLogger("library")
    with logged(form):
        ours.info("seen")
        theirs.warning("seen")
        theirs.info("missed")
    ours.info("missed")
    with logged(form, logging.ERROR):
        ours.warning("missed")
    said = capsys.readouterr()
    assert said.out == ""
    assert "missed" not in said.err
    assert len(re.findall("seen", said.err)) == 2
