"""The service does what its OpenAPI says, whatever it is sent."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gpucluster.service import waiting
from tests.helpers.serving import HEADERS, serving
from tests.helpers.stocked import COLLECTION, fill, parameters_of
from tests.helpers.workflow import TEXT_URI

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
N_CASES = 24  # of each operation, sound and unsound ones
N_OF_DEFINITION = 12  # its schema is large, and slow to draw from
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
LAST = ("DELETE", "/cancel", "/documents/delete", "/rotate")  # what takes away


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The description of a server that has one of each thing, and works on nothing new."""
    root = tmp_path_factory.mktemp("conformance") / "root"
    with serving(root) as (client, _):
        ids = fill(client)
    with (
        pytest.MonkeyPatch.context() as patched,
        serving(root, max_jobs=0, triggers=False, deliveries=False, rate_per_s=1e6) as (client, _),
    ):
        patched.setattr(waiting, "WAIT_S", 0.0)  # nobody works on what is waited for
        described = client.get("/openapi.json").json()
        schema = schemathesis.openapi.from_dict(described)
        schema.config.update(base_url=str(client.base_url).rstrip("/"))
        with requests.Session() as session:
            session.headers.update(HEADERS)
            yield SimpleNamespace(schema=schema, ids=ids, session=session, client=client)


def operations(api):
    found = [result.ok() for result in api.schema.get_all_operations()]
    return sorted(
        found, key=lambda each: any(word in f"{each.method.upper()} {each.path}" for word in LAST)
    )


def known_ones(body, ids):
    """Return a body that names things that there are, where it names things."""
    if not isinstance(body, dict):
        return body
    known = {
        "collection_ids": [COLLECTION],
        "source_collection_ids": [COLLECTION],
        "source_collection_id": COLLECTION,
        "collection_id": COLLECTION,
        "cluster_id": ids["cluster_id"],
        "clustering_ids": [ids["run_id"]],
        "cluster_ids": [ids["cluster_id"]],
        "run_id": ids["run_id"],
        "source_run_id": ids["run_id"],
        "feature_uri": TEXT_URI,
        "feature_uris": [TEXT_URI],
        "feature_addresses": [TEXT_URI],
        "template_id": ids["template_identifier"],
    }
    return {
        name: known.get(name, known_ones(value, ids) if isinstance(value, dict) else value)
        for name, value in body.items()
    }


def test_whatever_is_sent_the_answer_is_one_that_is_described(api):
    wrong, n_cases, statuses = [], 0, {}
    for operation in operations(api):
        name = f"{operation.method.upper()} {operation.path}"
        n = N_OF_DEFINITION if name == "POST /v1/clusters" else N_CASES
        known = parameters_of(operation.path, api.ids)
        for mode, own in product(GenerationMode, [None, known] if known else [None]):
            try:
                strategy = operation.as_strategy(mode, path_parameters=own)
                n_cases += tried(api, strategy, n // 3 if known and own is None else n, statuses)
            except RecursionError:  # of who draws, from a schema that refers to itself
                continue
            except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - all are told
                wrong.append(f"{name} {mode} {own}: {said(error)}")
    assert not wrong, f"{n_cases}\n\n" + "\n\n".join(wrong)
    assert n_cases > 4000, n_cases
    reached = {name for name, codes in statuses.items() if codes & {200, 201, 202, 204}}
    assert len(reached) > 40, sorted(set(statuses) - reached)


def said(error):
    """Return what is wrong, of one failure or several."""
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
    return "\n".join(f"{type(part).__name__}: {str(part)[:1500]}" for part in parts)


def tried(api, strategy, n, statuses):
    count = 0

    @seed(20)
    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=QUIET,
    )
    @given(case=strategy, known=st.booleans())
    def check(case, known):
        nonlocal count
        count += 1
        if known:
            case.body = known_ones(case.body, api.ids)
        response = case.call(session=api.session)
        name = f"{case.method} {case.operation.path}"
        statuses.setdefault(name, set()).add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    check()
    return count
