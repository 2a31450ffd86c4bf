"""What the server answers is what its OpenAPI document says, whatever is sent."""

from __future__ import annotations

import json
import urllib.request

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from agentlightning.capture.otlp import JSON, PROTOBUF
from agentlightning.store import MemoryStore
from lightning_plugin_server.testing import RunningServer, running_server

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
EXAMPLES = 12


def test_the_document_describes_what_exporters_send_and_get() -> None:
    with (
        running_server(MemoryStore()) as server,
        urllib.request.urlopen(f"{server.url}/openapi.json") as said,
    ):
        paths = json.load(said)["paths"]
    for path, outermost in (("/v1/traces", "resourceSpans"), ("/v1/logs", "resourceLogs")):
        operation = paths[path]["post"]
        bodies = [operation["requestBody"], operation["responses"]["200"], operation["responses"]["400"]]
        assert all(body["content"].keys() == {JSON, PROTOBUF} for body in bodies)
        assert outermost in bodies[0]["content"][JSON]["schema"]["properties"]
        assert bodies[0]["content"][PROTOBUF]["schema"]["format"] == "binary"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # schemathesis' own
def test_no_request_that_the_document_allows_or_forbids_breaks_the_server() -> None:
    with running_server(MemoryStore()) as server:
        document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        operations = [found.ok() for found in document.get_all_operations()]
        posts = [one for one in operations if one.method.upper() == "POST" and one.path.startswith("/api/")]
        assert len(posts) > 30
        for operation in posts:
            try_out(operation, server)


def try_out(operation: schemathesis.schemas.APIOperation, server: RunningServer) -> None:
    """Sends some requests that the document allows, and some that it forbids."""
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def send(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):
            for name in ("wait_s", "timeout_s"):
                case.body.pop(name, None)
            if "wait" in case.path or "completions" in case.path:
                case.body["timeout_s" if "wait" in case.path else "wait_s"] = 0
        case.call_and_validate(base_url=server.url, headers={"x-api-key": server.key}, checks=list(CHECKS))

    send()
