"""Runs in series over time, as a table and as a picture."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpucluster
from gpucluster.artifacts import LocalStore, Run
from gpucluster.artifacts.manifest import Counts, Manifest
from gpucluster.errors import (
    ArtifactError,
    BackendUnavailableError,
    ConfigError,
    DiskFullError,
    RunNotFoundError,
    StoreError,
)
from gpucluster.report.drawing import history_plot
from gpucluster.report.drawing.canvas import Look, encoded
from gpucluster.report.drawing.time_axis import CHARACTER, between, limits, ticks
from gpucluster.timeline import History, _grouped
from tests.helpers.runs import manifest, publish_small

BEGIN = datetime(2026, 8, 3, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEY, OTHER = "a" * 64, "b" * 64
THRESHOLDS = {"silhouette_score": 0.25, "noise_ratio": 0.4}
SVG = "{http://www.w3.org/2000/svg}"


def changes(
    number: int, *, silhouette: float | None = 0.3, name: str | None = "topics", **more: Any
) -> dict[str, Any]:
    """Return what a manifest says of the run that was finished after so many days."""
    when = BEGIN + number * DAY
    metrics = {
        "silhouette_score": silhouette,
        "mean_cosine_to_centroid": 0.7,
        "noise_ratio": 0.05,
        "num_clipped_cosines": 0,
        "should_recluster": 0,
    }
    return {
        "run_id": f"run_{number:016x}",
        "created_at": when - timedelta(minutes=1),
        "completed_at": when,
        "definition": {"cluster_name": name, "quality_thresholds": THRESHOLDS},
        "definition_key": KEY,
        "metrics": metrics,
        **more,
    }


def fired(metric: str, value: float, threshold: float, base: str | None = None) -> dict[str, Any]:
    operator = ">" if metric == "share_divergence" else "<"
    return {
        "metric": metric,
        "value": value,
        "op": operator,
        "threshold": threshold,
        "baseline_run_id": base,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a full run, two that joined it, a full one, and one of another kind."""
    store = LocalStore(tmp_path / "runs")
    base = changes(0)["run_id"]
    joined = {"mode": "assign", "base_run_id": base}
    publish_small(store, **changes(0))
    publish_small(store, **changes(1, drift={"share_divergence": 0.02, "num_new": 9}, **joined))
    drift = {"share_divergence": 0.2, "growth": 1.5, "by_cluster": [1, 2], "num_new": 12}
    reasons = (fired("silhouette_score", 0.2, 0.25), fired("share_divergence", 0.2, 0.1, base))
    changed = changes(2, silhouette=0.2, drift=drift, recluster_reasons=reasons, **joined)
    publish_small(store, **changed)
    publish_small(store, **changes(3, silhouette=None))
    publish_small(store, **changes(4, name=None, definition_key=OTHER))
    return tmp_path / "runs"


def ids(history: History) -> list[list[int]]:
    return [[int(run.run_id[4:], 16) for run in series.runs] for series in history.series]


# Finding and grouping


def test_runs_of_a_definition_and_those_that_joined_them_are_a_series(folder: Path) -> None:
    history = gpucluster.history(folder)
    assert ids(history) == [[0, 1, 2, 3], [4]]
    assert [(s.key, s.cluster_name, s.title) for s in history.series] == [
        (KEY, "topics", "topics"),
        (OTHER, None, "definition bbbbbbbbbbbb"),
    ]
    assert history.unreadable == ()
    assert isinstance(history.series[0].runs[0], Run)
    assert len(history.series[0].runs[0].labels_) == 200
    assert repr(history) == f"History({str(folder)!r}: 5 runs in 2 series, 0 unreadable)"
    assert repr(history.series[0]) == "Series('topics': 4 runs)"


@pytest.mark.parametrize("where", ["run_0000000000000001", "run_0000000000000001/manifest.json"])
def test_a_run_stands_for_the_folder_around_it(folder: Path, where: str) -> None:
    assert ids(gpucluster.history(str(folder / where))) == ids(gpucluster.history(folder))


def test_the_name_of_the_verb_stays_that_of_the_verb(folder: Path) -> None:
    gpucluster.history(folder)
    assert callable(gpucluster.history)


def test_what_is_no_run_is_passed_over_and_what_is_damaged_is_listed(folder: Path) -> None:
    (folder / "run_unfinished" / "checkpoints").mkdir(parents=True)
    (folder / "notes.txt").write_text("no run")
    (folder / ".hidden").mkdir()
    paths = [folder / f"run_{number:016x}" / "manifest.json" for number in range(5)]
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    newer = json.loads(paths[2].read_bytes()) | {"schema_version": 9, "gpucluster_version": "7.1"}
    paths[2].write_text(json.dumps(newer))
    paths[3].write_bytes(paths[3].read_bytes().replace(b"topics", b"tropic"))
    (folder / "run_folder" / "manifest.json").mkdir(parents=True)
    history = gpucluster.history(folder)
    assert ids(history) == [[0], [4]]
    reasons = {unreadable.path.name: unreadable.reason for unreadable in history.unreadable}
    assert list(reasons) == [*(path.parent.name for path in paths[1:4]), "run_folder"]
    said = ["is no manifest, or a damaged one", "install gpucluster 7.1 or later", "seal_sha256"]
    for reason, expected in zip(reasons.values(), [*said, "Is a directory"], strict=True):
        assert expected in reason
        assert "\n" not in reason


def test_no_runs(tmp_path: Path) -> None:
    for name, says in (("none", "there is no such folder"), ("", "name the folder that holds")):
        with pytest.raises(RunNotFoundError, match=says):
            gpucluster.history(tmp_path / name)


def test_a_folder_of_damaged_runs_is_listed_but_not_drawn(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*/manifest.json"):
        path.write_text("{}")
    history = gpucluster.history(folder)
    assert (history.series, len(history.unreadable)) == ((), 5)
    assert history.to_arrow().num_rows == 0
    with pytest.raises(RunNotFoundError, match="nothing to draw"):
        history.plot(tmp_path / "a.png")


def of(number: int, **more: Any) -> Run:
    """Return a run that is nowhere on disk."""
    return Run(Path("runs"), manifest(**changes(number, **more)))


@given(st.data())
def test_every_run_is_in_the_series_of_the_run_whose_clusters_it_has(data: st.DataObject) -> None:
    runs: list[Run] = []
    roots: dict[str, str] = {}
    for number in range(data.draw(st.integers(1, 12))):
        base = data.draw(st.sampled_from([None, *runs]))
        key = data.draw(st.sampled_from("abc"))
        mode = "full" if base is None else data.draw(st.sampled_from(["assign", "update"]))
        at = BEGIN + data.draw(st.integers(0, 3)) * DAY
        more = {"base_run_id": base and base.run_id, "completed_at": at, "mode": mode}
        runs.append(of(number, definition_key=key, **more))
        roots[runs[-1].run_id] = key if base is None else roots[base.run_id]
    series = _grouped(data.draw(st.permutations(runs)))
    assert sorted(run.run_id for each in series for run in each.runs) == sorted(roots)
    assert {each.key for each in series} == set(roots.values())
    for each in series:
        assert {roots[run.run_id] for run in each.runs} == {each.key}
        order = [(run.manifest.completed_at, run.run_id) for run in each.runs]
        assert order == sorted(order)
    begins = [(each.runs[0].manifest.completed_at, each.key) for each in series]
    assert begins == sorted(begins)


def test_runs_without_a_key_are_with_those_of_the_same_definition() -> None:
    old, new = "0" * 64, "1" * 64
    runs = [
        of(0, definition_key=None, definition_sha256=old),
        of(1, definition_key=None, definition_sha256=new),
        of(2, definition_key=KEY, definition_sha256=new),
    ]
    assert [(s.key, len(s.runs)) for s in _grouped(runs)] == [(old, 1), (KEY, 2)]
    runs.append(of(3, definition_key=OTHER, definition_sha256=new))  # which of the two is it?
    keys = [(s.key, len(s.runs)) for s in _grouped(runs)]
    assert keys == [(old, 1), (new, 1), (KEY, 1), (OTHER, 1)]


def test_a_base_that_is_not_there_and_bases_in_a_circle() -> None:
    orphan = of(1, mode="assign", base_run_id="run_gone")
    assert [len(s.runs) for s in _grouped([of(0), orphan])] == [2]
    names = [of(number).run_id for number in range(3)]
    circle = [of(n, mode="update", base_run_id=names[(n + 1) % 3]) for n in range(3)]
    assert [len(s.runs) for s in _grouped(circle)] == [3]


# Selecting


def test_select(folder: Path) -> None:
    history = gpucluster.history(folder)
    assert ids(history.select(cluster_name="topics")) == [[0, 1, 2, 3]]
    for run in ("run_0000000000000002", "0000000000000002", folder / "run_0000000000000002"):
        assert ids(history.select(run=run)) == [[0, 1, 2, 3]]
    assert ids(history.select(run="run_0000000000000004")) == [[4]]
    assert ids(history.select(last=2)) == [[2, 3], [4]]
    assert ids(history.select(cluster_name="topics", last=1)) == [[3]]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"cluster_name": "topic"}, RunNotFoundError, "did you mean topics"),
        ({"run": "run_9"}, RunNotFoundError, "no run 'run_9' in"),
        ({"run": "run_0000"}, ConfigError, "begins the ids of runs of 2 series"),
        ({"run": "run_"}, ConfigError, "begins the ids of runs of 2 series"),
        ({"last": 0}, ConfigError, "last: got 0, expected 1 or more"),
        ({"run": "run_0000000000000003"}, ArtifactError, "cannot be read: .*seal_sha256"),
    ],
)
def test_what_cannot_be_selected(
    folder: Path, given: dict[str, Any], error: type[Exception], says: str
) -> None:
    broken = folder / "run_0000000000000003" / "manifest.json"
    broken.write_bytes(broken.read_bytes().replace(b"topics", b"tropic"))
    with pytest.raises(error, match=says) as caught:
        gpucluster.history(folder).select(**given)
    assert "\n" not in str(caught.value)


# The table


def test_the_table_has_a_row_for_each_run(folder: Path) -> None:
    table = gpucluster.history(folder).to_arrow()
    assert table.num_rows == 5
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds == {
        "run_id": "string",
        "series": "string",
        "cluster_name": "string",
        "mode": "string",
        "base_run_id": "string",
        "created_at": "timestamp[us, tz=UTC]",
        "completed_at": "timestamp[us, tz=UTC]",
        "num_rows": "int64",
        "num_points": "int64",
        "num_clusters": "int64",
        "num_noise": "int64",
        "silhouette_score": "double",
        "mean_cosine_to_centroid": "double",
        "noise_ratio": "double",
        "num_clipped_cosines": "int64",
        "drift_share_divergence": "double",
        "drift_num_new": "int64",
        "drift_growth": "double",
        "should_recluster": "bool",
        "reasons": "string",
    }
    rows = table.to_pylist()
    assert [row["silhouette_score"] for row in rows] == [0.3, 0.3, 0.2, None, 0.3]
    assert [row["drift_share_divergence"] for row in rows] == [None, 0.02, 0.2, None, None]
    assert [row["should_recluster"] for row in rows] == [False, False, True, False, False]
    assert rows[2]["reasons"] == (
        "silhouette_score 0.2000 is below 0.2500; "
        "share_divergence 0.2000 is above 0.1000, against run_0000000000000000"
    )
    assert rows[0]["completed_at"] == BEGIN
    frame = gpucluster.history(folder).to_pandas()
    assert list(frame.columns) == table.column_names
    assert len(frame) == 5


def test_metrics_that_are_no_numbers_and_those_of_some_runs() -> None:
    metrics = [
        {"silhouette_score": float("nan"), "num_clusters": 7, "kind": "text", "num_x": 1.5},
        {"extra": True, "should_recluster": 1},
    ]
    runs = [of(number, metrics=each) for number, each in enumerate(metrics)]
    runs.append(of(2, external_metrics={"ami": 0.5}))
    table = History(Path("runs"), _grouped(runs)).to_arrow()
    rows = table.to_pylist()
    assert [row["silhouette_score"] for row in rows] == [None, None, 0.3]
    assert [row["num_clusters"] for row in rows] == [5, 5, 5]
    assert [row["ami"] for row in rows] == [None, None, 0.5]
    assert [row["should_recluster"] for row in rows] == [False, True, False]
    assert table["num_x"].type == pa.float64()
    assert table["kind"].null_count == table["extra"].null_count == 3


# The picture


def drawn(path: Path) -> tuple[dict[str, ET.Element], list[str]]:
    """Return the groups of an SVG by their ids, and all its texts."""
    root = ET.parse(path).getroot()
    groups = {group.get("id", ""): group for group in root.iter(f"{SVG}g")}
    return groups, texts(root)


def texts(element: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in element.iter(f"{SVG}text")]


def markers(groups: dict[str, ET.Element], name: str) -> dict[str, int]:
    """Return how many markers of each kind a panel has."""
    prefix = f"series-0-{name}-"
    return {
        group.removeprefix(prefix): len(list(element.iter(f"{SVG}use")))
        for group, element in groups.items()
        if group.startswith(prefix) and not group.endswith("-line")
    }


def test_what_is_drawn(folder: Path, tmp_path: Path) -> None:
    history = gpucluster.history(folder).select(cluster_name="topics")
    assert history.plot(tmp_path / "a.svg") == tmp_path / "a.svg"
    groups, said = drawn(tmp_path / "a.svg")
    assert "topics: 4 runs, 3 Aug to 6 Aug 2026 (UTC)" in said
    assert set(history_plot.PANELS.values()) <= set(said)
    assert markers(groups, "silhouette_score") == {
        "full": 1,  # the other one has no value
        "assign": 1,
        "assign-flagged": 1,
        "fired": 1,
    }
    assert markers(groups, "num_rows") == {"full": 2, "assign": 1, "assign-flagged": 1}
    divergence = {"assign": 1, "assign-flagged": 1, "fired": 1}
    assert markers(groups, "share_divergence") == divergence
    assert {"4 Aug", "5 Aug", "6 Aug"} <= set(texts(groups["series-0-num_rows"]))
    assert "0.25" in texts(groups["series-0-silhouette_score"])
    assert "0.1" in texts(groups["series-0-share_divergence"])  # the threshold of a reason
    assert "0.4 \u2191" in texts(groups["series-0-noise_ratio"])  # and one that is far away
    legend = ["full run", "assigned to a base", "should be redone", "because of this metric"]
    assert said[-6:] == [*legend, "threshold", "threshold beyond the panel"]


def pieces(groups: dict[str, ET.Element], name: str) -> list[int]:
    """Return how many runs each unbroken piece of the line of a panel joins."""
    (path,) = groups[f"series-0-{name}-line"].iter(f"{SVG}path")
    return [part.count("L") + 1 for part in path.get("d", "").split("M")[1:]]


def test_a_value_that_is_missing_is_a_gap(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "runs")
    for number in range(6):  # two runs join each of two others
        more: dict[str, Any] = {}
        if number % 3:
            more = {"mode": "update", "base_run_id": changes(number - number % 3)["run_id"]}
            more["drift"] = {"share_divergence": 0.1}
        publish_small(store, **changes(number, silhouette=None if more else 0.3, **more))
    gpucluster.history(store.root).plot(tmp_path / "a.svg")
    groups, said = drawn(tmp_path / "a.svg")
    assert pieces(groups, "num_rows") == [6]
    assert pieces(groups, "share_divergence") == [2, 2]
    assert pieces(groups, "silhouette_score") == [2]  # over the runs that cannot have one
    assert "assigned, centroids moved" in said
    publish_small(store, **changes(7, silhouette=None))
    publish_small(store, **changes(8))
    publish_small(store, **changes(9))
    gpucluster.history(store.root).plot(tmp_path / "a.svg")
    assert pieces(drawn(tmp_path / "a.svg")[0], "silhouette_score") == [2, 2]


def test_a_divergence_is_drawn_as_rules_see_it(tmp_path: Path) -> None:
    found = [{"share_divergence": 0.3, "share_divergence_expected": e} for e in (0.1, 0.4, None)]
    runs = [of(number, drift=drift) for number, drift in enumerate([*found, {}, None])]
    (series,) = _grouped(runs)
    expected = [0.2, 0.0, 0.3, None, None]
    assert list(series.values("share_divergence")) == pytest.approx(expected)
    assert series.thresholds("noise_ratio") == (0.4,)
    assert series.thresholds("share_divergence") == ()


def test_what_is_not_there_is_not_explained(tmp_path: Path) -> None:
    publish_small(LocalStore(tmp_path), run_id="run_a", completed_at=BEGIN)
    gpucluster.history(tmp_path).plot(tmp_path / "a.svg")
    groups, said = drawn(tmp_path / "a.svg")
    assert said[-1] == "full run"
    assert said.count("not measured") == 3  # cosine, noise, divergence
    assert texts(groups["series-0-num_rows"])[0] == "3 Aug 2026"


def test_several_series_have_a_row_each(folder: Path, tmp_path: Path) -> None:
    store = LocalStore(folder)
    publish_small(store, **changes(5, name="topics", definition_key="c" * 64))
    gpucluster.history(folder).plot(tmp_path / "a.svg")
    groups, said = drawn(tmp_path / "a.svg")
    assert sum(group.count("-") == 2 and group.startswith("series-") for group in groups) == 18
    for title in ("topics (aaaaaaaaaaaa)", "topics (cccccccccccc)", "definition bbbbbbbbbbbb"):
        assert any(text.startswith(f"{title}: ") for text in said), title


def test_the_same_runs_give_the_same_bytes_whatever_the_settings(
    folder: Path, tmp_path: Path
) -> None:
    import matplotlib as mpl

    history = gpucluster.history(folder)
    before = dict(mpl.rcParams)
    contents = []
    for size in (10.0, 20.0):
        with mpl.rc_context({"font.size": size, "svg.fonttype": "path", "axes.grid": True}):
            changed = dict(mpl.rcParams)
            names = (tmp_path / "a.svg", tmp_path / "a.png")
            contents += [history.plot(name).read_bytes() for name in names]
            assert dict(mpl.rcParams) == changed
    assert contents[:2] == contents[2:]
    assert b"<dc:date>" not in contents[0]
    assert contents[1].startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
    large = history.plot(tmp_path / "b.PNG", dpi=300).read_bytes()
    width = [int.from_bytes(picture[16:20], "big") for picture in (contents[1], large)]
    assert abs(width[1] - 2 * width[0]) <= 1


def test_a_name_is_text_and_nothing_else(tmp_path: Path) -> None:
    name = "$\\frac{$ <b> & \x1b[31m\n" + "long " * 30
    publish_small(LocalStore(tmp_path), **changes(0, name=name))
    gpucluster.history(tmp_path).plot(tmp_path / "a.svg")
    _, said = drawn(tmp_path / "a.svg")
    (heading,) = [text for text in said if ": 1 run" in text]
    assert heading.startswith("$\\frac{$ <b> & ?[31m long ")
    assert "...: 1 run, 3 Aug 2026 (UTC)" in heading


def dates(groups: dict[str, ET.Element]) -> Iterator[list[tuple[float, str]]]:
    """Yield where the dates of each panel stand, in points, and what they say."""
    for name, group in groups.items():
        if re.fullmatch(r"series-\d+-\w+", name):
            axis = next(g for g in group.iter(f"{SVG}g") if g.get("id", "").startswith("matplot"))
            found = [text for text in axis.iter(f"{SVG}text") if "middle" in text.get("style", "")]
            yield [(float(text.get("x", "nan")), "".join(text.itertext())) for text in found]


@pytest.mark.parametrize("count", [1, 2, 30, 300])
@pytest.mark.parametrize("step", [timedelta(seconds=7), timedelta(hours=5), DAY, 40 * DAY])
def test_dates_do_not_touch(tmp_path: Path, count: int, step: timedelta) -> None:
    n_series = 1 + (count + step.days) % 2  # wide panels and narrow ones
    when = tuple(BEGIN + number * step for number in range(count))
    values = dict.fromkeys(history_plot.PANELS, tuple(1.0 + n for n in range(count)))
    track = history_plot.Track(
        title="topics",
        when=when,
        modes=("full",) * count,
        flagged=(False,) * count,
        values=values,
        thresholds=dict.fromkeys(values, (0.25,)),
        fired=dict.fromkeys(values, (False,) * count),
    )
    (tmp_path / "a.svg").write_bytes(
        encoded(history_plot.draw([track] * n_series, Look()), "svg", 150)
    )
    groups, _ = drawn(tmp_path / "a.svg")
    panels = list(dates(groups))
    assert len(panels) == 6 * n_series
    for panel in panels:
        assert panel
        for (left, first), (right, second) in pairwise(panel):
            assert right - left > (len(first) + len(second)) / 2 * CHARACTER * 72


def test_a_page_of_many_series_has_bounds(tmp_path: Path) -> None:
    runs = [of(number, definition_key=f"{number:064x}") for number in range(50)]
    history = History(Path("runs"), _grouped(runs))
    for dpi, says in ((0, "got 0"), ("300", "got '300'"), (5_000, "got 5000"), (1_200, "dots at")):
        with pytest.raises(ConfigError, match=f"dpi: .*{says}"):
            history.plot(tmp_path / "a.png", dpi=dpi)  # type: ignore[arg-type]


def test_two_hundred_series_are_too_many(tmp_path: Path) -> None:
    runs = [of(number, definition_key=f"{number:064x}") for number in range(200)]
    with pytest.raises(ConfigError, match="200 series are too many for one plot"):
        History(Path("runs"), _grouped(runs)).plot(tmp_path / "a.png")


moments = st.integers(0, 130 * 365).map(lambda day: BEGIN + (day - 36 * 365) * DAY)
spans = st.one_of(
    st.timedeltas(timedelta(0), timedelta(minutes=3)),
    st.timedeltas(timedelta(0), timedelta(days=70)),
    st.timedeltas(timedelta(0), timedelta(days=30_000)),
)


@given(moments, spans, st.sampled_from([1.8, 2.9]))
def test_every_axis_has_dates_that_do_not_touch(
    first: datetime, span: timedelta, width: float
) -> None:
    low, high = limits(first, first + span)
    found = ticks(first, first + span, width)
    assert found
    places = [(place - low) / (high - low) * width for place, _ in found]
    assert places[0] >= 0
    assert places[-1] <= width
    for i in range(1, len(found)):
        apart = (len(found[i - 1][1]) + len(found[i][1])) / 2 * CHARACTER
        assert places[i] - places[i - 1] > apart


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (timedelta(0), ["3 Aug 2026"]),
        (timedelta(seconds=40), ["04:12:00", "04:12:10", "04:12:20", "04:12:30", "04:12:40"]),
        (timedelta(hours=30), ["06:00", "12:00", "18:00", "4 Aug", "06:00"]),
        (10 * DAY, ["3 Aug", "5 Aug", "7 Aug", "9 Aug", "11 Aug", "13 Aug"]),
        (60 * DAY, ["3 Aug", "17 Aug", "31 Aug", "14 Sep", "28 Sep"]),
        (300 * DAY, ["Sep", "Nov", "2027", "Mar", "May"]),
        (2000 * DAY, ["2027", "2028", "2029", "2030", "2031", "2032"]),
    ],
)
def test_dates_are_as_exact_as_the_span(span: timedelta, expected: list[str]) -> None:
    assert [text for _, text in ticks(BEGIN, BEGIN + span, 2.9)] == expected


def test_days_in_words() -> None:
    assert between(BEGIN, BEGIN) == "3 Aug 2026"
    assert between(BEGIN, BEGIN + 400 * DAY) == "3 Aug 2026 to 7 Sep 2027"


def test_a_picture_needs_matplotlib(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'gpucluster\[plot\]'"):
        gpucluster.history(folder).plot(tmp_path / "a.png")


def test_nothing_is_drawn_before_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, gpucluster\n"
        f"history = gpucluster.history({str(folder)!r})\n"
        "assert not {'matplotlib', 'numpy', 'pyarrow'} & sys.modules.keys()\n"
        f"history.plot({str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["a.gif", "a", "png"])
def test_a_picture_has_one_of_three_kinds(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"ends in one of \.png, \.svg, \.pdf"):
        gpucluster.history(folder).plot(tmp_path / name)


def test_a_picture_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, path = gpucluster.history(folder), tmp_path / "my picture.svg"
    with pytest.raises(StoreError, match="there is no such folder"):
        history.plot(tmp_path / "none" / "a.png")
    history.plot(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="cannot write .*my picture.svg: No space left"):
        history.select(last=1).plot(path)
    assert path.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs", "my picture.svg"}


@pytest.mark.slow
def test_a_thousand_runs_are_read_in_seconds(tmp_path: Path) -> None:
    import time

    example: Manifest = manifest(**changes(0), algorithm_info={"spectrum": [0.5] * 500})
    for number in range(1000):
        one = example.model_copy(update={"run_id": f"run_{number:016x}"})
        (tmp_path / one.run_id).mkdir()
        (tmp_path / one.run_id / "manifest.json").write_bytes(one.to_json())
    begin = time.process_time()
    history = gpucluster.history(tmp_path)
    assert time.process_time() - begin < 5  # less than one where nothing else runs
    assert len(history.series[0].runs) == 1000
    assert history.to_arrow().num_rows == 1000


def test_counts_are_those_of_the_manifest(tmp_path: Path) -> None:
    counts = Counts(num_rows=203, num_points=200, num_rejected=3, num_clusters=5, num_noise=33)
    publish_small(LocalStore(tmp_path), **changes(0, counts=counts))
    (row,) = gpucluster.history(tmp_path).to_arrow().to_pylist()
    found = [row[name] for name in ("num_rows", "num_points", "num_clusters", "num_noise")]
    assert found == [203, 200, 5, 33]
