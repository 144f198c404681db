"""Whatever names, labels and ids hold, the page shows it as text."""

from __future__ import annotations

import json

from tests.helpers.hostile import INERT, NAMES, QUIET, TEXTS

KEPT = {"status", "mode", "created_at", "started_at", "completed_at", "updated_at"}
KEPT |= {"last_executed_at"}


def test_there_are_enough_of_them():
    assert len(set(TEXTS)) == 300


def test_real_names_labels_and_documents(inside, world):
    inside.goto(f"{world.url}/#/clusters?search=%3Cimg%20src")
    inside.wait_for_selector("tbody tr")
    assert NAMES[0] in inside.inner_text("tbody")
    inside.click(f"tbody a:text-is({json.dumps(NAMES[0])})")
    inside.wait_for_selector(".charts")
    assert inside.inner_text("h1") == NAMES[0]
    inside.goto(f"{world.url}/#/clusters/{world.hostile}/runs/{world.hostile_run}")
    inside.wait_for_selector("[data-done]")
    while more := inside.query_selector("button:has-text('Show'):has-text('more')"):
        more.click()
    shown = [each.inner_text() for each in inside.query_selector_all(".pick")]
    assert len(shown) == len(TEXTS)
    assert sum(text in shown for text in TEXTS) > 250  # white space may be shown otherwise
    for pick in inside.query_selector_all(".pick")[:20]:
        pick.click()
    assert inside.evaluate(INERT) == QUIET


def test_every_text_of_every_answer(inside, world):
    """Put them in the place of all strings that the service answers."""
    number = 0

    def hostile(value, key=None):
        nonlocal number
        if isinstance(value, dict):
            return {name: hostile(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [hostile(each, key) for each in value] or [hostile("")] * 3
        is_way = isinstance(value, str) and value.startswith("clust_")  # requests go there
        if isinstance(value, str) and key not in KEPT and not is_way:
            number += 1
            return TEXTS[number % len(TEXTS)]
        return hostile("") if value is None and key in {"error_message", "description"} else value

    def answered(route):
        answer = route.fetch()
        if "json" not in answer.headers["content-type"]:
            route.fulfill(response=answer)
            return
        body = json.loads(answer.text())
        changed = hostile(body)
        if "namespaces" in route.request.url:
            changed["results"].append({"namespace_id": "default"})
        route.fulfill(response=answer, json=changed)

    inside.route("**/v1/**", answered)
    deep = f"#/clusters/{world.deep}"
    runs = [f"{deep}/runs/{run}" for run in (world.joined, world.full)]
    lists = [f"#/{name}" for name in ("clusters", "collections", "tasks")]
    for n, where in enumerate((*lists, deep, *runs)):
        inside.goto(f"{world.url}/?{n}{where}")  # another address, so that all is loaded anew
        inside.wait_for_selector("tbody tr")
        inside.wait_for_selector("main:not([aria-busy])")
        for summary in inside.query_selector_all("summary"):
            summary.click()
        assert inside.evaluate(INERT) == QUIET, where
    inside.hover("canvas")
    for pick in inside.query_selector_all(".pick"):
        pick.click()
    assert inside.evaluate(INERT) == QUIET
    assert number > 300
    inside.unroute("**/v1/**")


def test_addresses_of_this_page(inside, world):
    for text in TEXTS[::10]:
        inside.goto(f"{world.url}/#/clusters?search={text}&status={text}&sort={text}&page={text}")
        inside.goto(f"{world.url}/#/clusters/{text}")
        inside.goto(f"{world.url}/#/{text}")
    inside.wait_for_selector("[role=alert]")
    assert inside.evaluate(INERT) == QUIET
