"""The page in a browser: signing in, lists, a definition, and running it."""

from __future__ import annotations

import pytest

from tests.helpers.browsing import make
from tests.helpers.serving import TOKEN, ended, serving


def texts(page, selector):
    return [each.inner_text() for each in page.query_selector_all(selector)]


def test_a_token_opens_it(page, world):
    page.goto(f"{world.url}/")
    page.wait_for_selector("#token")
    assert page.query_selector("[role=alert]") is None
    for wrong, told in (("nonsense", "not valid"), ("zwölf €", "no token")):
        page.fill("#token", wrong)
        page.press("#token", "Enter")
        page.wait_for_selector(f"[role=alert]:has-text('{told}')")
    page.fill("#token", f" {TOKEN} ")
    page.press("#token", "Enter")
    page.wait_for_selector("h1:has-text('Clusters')")
    page.reload()
    page.wait_for_selector("h1:has-text('Clusters')")
    sent = [r for r in page.asked if "/v1/" in r.url and r.headers.get("authorization")]
    assert sent[-1].headers["authorization"] == f"Bearer {TOKEN}"
    assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]


def test_signing_out_forgets_the_token(inside):
    inside.click("text=Sign out")
    inside.wait_for_selector("#token")
    assert inside.evaluate("() => sessionStorage.length") == 0
    assert inside.query_selector("table") is None


def test_a_revoked_token_asks_for_another(inside):
    inside.evaluate("() => sessionStorage.setItem('gpucluster', '{\"token\": \"gpc_gone\"}')")
    inside.reload()
    inside.wait_for_selector("[role=alert]:has-text('not valid')")
    assert inside.query_selector("nav:visible") is None


def test_without_tokens_it_is_open(chromium, tmp_path):
    with serving(tmp_path, auth=False, max_jobs=0) as (client, _):
        tab = chromium.new_page()
        tab.goto(str(client.base_url))
        tab.wait_for_selector("text=No definition yet")
        assert tab.query_selector("text=Sign out") is None
        tab.close()


def answered(page):
    """Wait for the answer to the last question of a list."""
    page.wait_for_selector(".rows:not([aria-busy]) :is(tbody, .none)")


def test_clusters_are_searched_filtered_and_sorted(inside):
    rows = "tbody tr td:first-child"
    answered(inside)
    inside.select_option("select >> nth=1", "COMPLETED")
    answered(inside)
    assert "in depth" in texts(inside, rows)
    assert "never run" not in texts(inside, rows)
    assert "status=COMPLETED" in inside.url
    inside.reload()
    answered(inside)
    assert "in depth" in texts(inside, rows)
    assert "never run" not in texts(inside, rows)
    inside.select_option("select >> nth=1", "")
    inside.select_option("select >> nth=2", "cluster_name:asc")
    answered(inside)
    assert "never run" in texts(inside, rows)
    assert texts(inside, rows) == sorted(texts(inside, rows))
    inside.fill("input[type=search]", "depth")
    inside.wait_for_selector("tbody:not(:has-text('never run'))")
    assert texts(inside, rows) == ["in depth"]
    inside.fill("input[type=search]", "nothing of the kind")
    inside.wait_for_selector("text=Nothing fits")


def test_lists_have_pages(inside, world):
    made = [
        world.client.post(
            "/v1/clusters",
            json={
                "cluster_name": f"paged {number:02}",
                "collection_ids": [world.topics],
                "cluster_type": "attribute",
                "attribute_config": {"attributes": ["topic"]},
            },
        ).json()
        for number in range(51)
    ]
    inside.goto(f"{world.url}/#/clusters?search=paged&sort=cluster_name%3Aasc")
    inside.wait_for_selector("text=1 to 50 of 51")
    inside.click("text=Next")
    inside.wait_for_selector("text=51 to 51 of 51")
    assert texts(inside, "tbody tr td:first-child") == ["paged 50"]
    assert inside.is_disabled("text=Next")
    for each in made:  # others look at the first page
        assert world.client.delete(f"/v1/clusters/{each['cluster_id']}").is_success


def test_a_namespace_shows_its_own(inside, world):
    world.client.post("/v1/namespaces", json={"namespace_id": "elsewhere"})
    inside.reload()
    inside.wait_for_selector("table")
    inside.select_option("#who select", "elsewhere")
    inside.wait_for_selector("text=No definition yet")
    assert inside.asked[-1].headers["x-namespace"] == "elsewhere"
    inside.select_option("#who select", "default")
    inside.wait_for_selector("tbody tr")


def test_a_definition_shows_its_runs_and_metrics(inside, world):
    inside.goto(f"{world.url}/#/clusters/{world.deep}")
    inside.wait_for_selector("h1:has-text('in depth')")
    assert len(texts(inside, "tbody tr")) == 2
    runs = world.client.get(f"/v1/clusters/{world.deep}/executions").json()["results"]
    charts = inside.query_selector_all(".charts figure")
    assert [c.query_selector("figcaption span").inner_text() for c in charts] == [
        *("Silhouette", "Noise ratio", "Mean cosine to centroid", "Clusters", "Size entropy")
    ]
    shown = [c.query_selector("strong").inner_text() for c in charts]
    assert shown[1] == f"{runs[0]['metrics']['noise_ratio']:.3f}"
    assert shown[3] == str(runs[0]["num_clusters"])
    assert len(charts[1].query_selector_all("svg a")) == 2
    assert runs[0]["recluster_reasons"] != []
    inside.click("summary:has-text('Why to cluster anew')")
    told = inside.inner_text(".reasons")
    for reason in runs[0]["recluster_reasons"]:
        assert reason["metric"].replace("_", " ") in told
    inside.click("summary:has-text('Definition')")
    assert '"clustering_method": "dbscan"' in inside.inner_text("pre")
    charts[1].query_selector("svg a").click()
    inside.wait_for_selector(f"h1:has-text('{world.full}')")


def test_executing_shows_progress_and_then_the_result(inside, world):
    name = make(world.client, "to be run", world.topics)
    inside.goto(f"{world.url}/#/clusters/{name}")
    assert inside.wait_for_selector("option[value=assign]", state="attached").is_disabled()
    inside.click("text=Execute")
    inside.wait_for_selector("progress")
    inside.wait_for_selector(".clusters tbody tr", timeout=60_000)
    assert inside.query_selector("progress") is None
    assert len(texts(inside, ".clusters tbody tr")) == 6
    followed = [r for r in inside.asked if r.url.endswith("/events")]
    assert followed[0].headers["authorization"] == f"Bearer {TOKEN}"
    inside.click("text=to be run")
    inside.select_option("select:has(option[value=assign])", "assign")
    inside.fill("label:has-text('Threshold') input", "auto")
    inside.click("text=Execute")
    inside.wait_for_selector("text=Joined", timeout=60_000)
    (latest, _) = world.client.get(f"/v1/clusters/{name}/executions").json()["results"]
    assert latest["mode"] == "assign"


def test_clusters_beyond_one_answer_are_fetched(inside, world):
    path = f"/v1/clusters/{world.deep}/executions/{world.full}"
    part = world.client.get(path, params={"limit": 2}).json()
    assert part["next_offset"] == 2
    inside.route(f"**{path}", lambda route: route.fulfill(json=part))
    inside.goto(f"{world.url}/#/clusters/{world.deep}/runs/{world.full}")
    n = part["num_centroids"]
    inside.wait_for_selector(f".clusters .hint:has-text('{n} of {n}')")


def test_progress_is_told_by_stage_and_rows(inside, world):
    run = {"run_id": "run_a", "cluster_id": world.deep, "task_id": "task_a", "status": "processing"}
    run |= {"mode": "full", "recluster_reasons": [], "warnings": [], "error_message": None}
    inside.route("**/executions/run_a", lambda route: route.fulfill(json=run))
    stream = "".join(
        'event: task\ndata: {"status": "IN_PROGRESS", "additional_data": {"progress": '
        f'{{"stage": "{stage}", "done": {done}, "total": 9000, "unit": "rows"}}}}}}\n\n: alive\n\n'
        for stage, done in (("load", 0), ("fit", 500), ("fit", 4500))
    )
    sent = {"body": stream, "content_type": "text/event-stream"}
    inside.route("**/v1/tasks/task_a/events", lambda route: route.fulfill(**sent))
    inside.goto(f"{world.url}/#/clusters/{world.deep}/runs/run_a")
    inside.wait_for_selector(".live:has-text('4,500 of 9,000 rows')")
    assert inside.inner_text(".live").startswith("fit ")
    assert inside.get_attribute("progress", "value") == "4500"


def test_rows_a_second_are_those_of_the_stage(inside):
    rates = inside.evaluate("""async () => {
      const { Speed } = await import("/page/following.js");
      const speed = new Speed();
      const seen = [["load", 0, 0], ["load", 500, 1000], ["load", 2000, 2000], ["fit", 0, 3000],
        ["fit", 0, 4000], ["fit", 900, 6000], ["fit", 300, 7000], ["fit", 500, 9000]];
      return seen.map(([stage, done, now]) => speed.of({ stage, done }, now));
    }""")
    assert rates == [None, 500, 1000, None, None, 300, None, 100]  # it may begin anew


def test_a_live_run_is_canceled(inside, world):
    name = make(world.client, "to be canceled", world.topics)
    task = world.client.post(f"/v1/clusters/{name}/execute", json={}).json()
    inside.goto(f"{world.url}/#/clusters/{name}")
    inside.click("text=Watch the live run")
    inside.click("button:has-text('Cancel')")
    assert ended(world.client, task["task_id"])["status"] == "CANCELED"
    inside.wait_for_selector(".badge:has-text('canceled')")


def test_deleting_asks_first(inside, world):
    name = make(world.client, "to be deleted", world.topics)
    inside.goto(f"{world.url}/#/clusters/{name}")
    inside.click("main button:has-text('Delete')")
    inside.keyboard.press("Escape")
    assert inside.query_selector("dialog") is None
    assert world.client.get(f"/v1/clusters/{name}").status_code == 200
    inside.click("main button:has-text('Delete')")
    inside.click("dialog button:has-text('Delete')")
    inside.wait_for_selector("h1:has-text('Clusters')")
    assert world.client.get(f"/v1/clusters/{name}").status_code == 404


def test_tasks_lead_to_their_runs(inside, world):
    inside.click("nav >> text=Tasks")
    inside.wait_for_selector("h1:has-text('Tasks')")
    assert inside.get_attribute("nav a[aria-current]", "href") == "#/tasks"
    inside.click("tbody tr:last-child a")
    inside.wait_for_selector(f"h1:has-text('{world.full}')")


@pytest.mark.parametrize(
    "where", ["clusters/clust_none", "nowhere", "clusters/%zz", "clusters/a/b"]
)
def test_what_is_not_there_is_said(inside, world, where):
    inside.goto(f"{world.url}/#/{where}")
    assert "no" in inside.wait_for_selector("[role=alert]").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(inside, world, scheme):
    inside.emulate_media(color_scheme=scheme)
    inside.set_viewport_size({"width": 360, "height": 740})
    deep = f"#/clusters/{world.deep}"
    for where in ("#/clusters", "#/tasks", deep, f"{deep}/runs/{world.full}"):
        inside.goto(f"{world.url}/{where}")
        inside.wait_for_selector("tbody tr")
        assert inside.evaluate("() => document.documentElement.scrollWidth") <= 360, where
