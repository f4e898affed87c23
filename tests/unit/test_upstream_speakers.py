"""Which servers have the Responses API: said by the table or the operator, else learned from a 404 that speaks of the path."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.model import Capability, Deployment, Json, Reply
from proxy.upstream.responses import Speakers
from tests.make import make_call, make_responses_body

UNKNOWN = Deployment("m#0", "llama-3", "", Capability())


def learned(body: bytes, *, status: int = 404, deployment: Deployment = UNKNOWN, **asked: Any) -> bool:
    speakers = Speakers()
    call = make_call(path="/v1/responses", body=make_responses_body(**asked))
    found = speakers.learn(call, Reply(status, (), body), (deployment,))
    assert speakers.have_it((deployment,)) is (not found and deployment.capability.responses is not False)
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"404 page not found",
        b'{"detail":"Not Found"}',
        b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}',
        b'{"error":{"message":"Invalid URL (POST /v1/responses)","type":"invalid_request_error","param":null,"code":null}}',
        b'{"message":"no Route matched with those values"}',
        b"<pre>Cannot POST /v1/responses</pre>",
        b"\xff not_found",
    ],
)
def test_a_server_without_the_path_says_so_in_its_own_words(body: bytes) -> None:
    assert learned(body)


@pytest.mark.parametrize("status", [405, 501])
def test_and_with_other_statuses(status: int) -> None:
    assert learned(b'{"detail":"Method Not Allowed"}', status=status)


@pytest.mark.parametrize(
    ("body", "status", "asked"),
    [
        (b'{"error":{"message":"The model `llama-3` does not exist or was not found."}}', 404, {}),
        (b'{"error":{"message":"not found","code":"model_not_found"}}', 404, {}),
        (b'{"error":{"message":"Project has no access."}}', 404, {}),
        (b'{"error":{"message":"Not found"}}', 400, {}),
        (b'{"error":{"message":"Not found"}}', 500, {}),
        (b'{"error":{"message":"Not found"}}', 200, {}),
        (b'{"error":{"message":"Response not found"}}', 404, {"previous_response_id": "resp_1"}),
        (b'{"error":{"message":"Item not found"}}', 404, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        (b'{"error":{"message":"Vector store not found"}}', 404, {"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}),
    ],
)
def test_what_else_was_not_found_says_nothing_of_the_api(body: bytes, status: int, asked: Json) -> None:
    assert not learned(body, status=status, **asked)


@pytest.mark.parametrize("said", [True, False])
def test_the_operators_word_is_not_doubted(said: bool) -> None:  # noqa: FBT001
    known = replace(UNKNOWN, capability=Capability(responses=said))
    assert not learned(b"Not Found", deployment=known)
