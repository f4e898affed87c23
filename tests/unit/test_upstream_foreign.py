"""What others say went wrong becomes one of our errors, whatever it looks like."""

from __future__ import annotations

from typing import Any

import aiohttp
import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import (
    ProxyError,
    UpstreamError,
    UpstreamQuotaError,
    UpstreamRateLimitedError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
    UpstreamUnreadableError,
)
from proxy.upstream.foreign import Said, error_object, from_answer, from_litellm


class Foreign(Exception):  # noqa: N818 - litellm's errors have many names
    def __init__(self, text: str = "", **attributes: Any) -> None:
        super().__init__(text)
        self.__dict__.update(attributes)


class RouterRateLimitError(Foreign): ...


class ContextWindowExceededError(Foreign): ...


class ContentPolicyViolationError(Foreign): ...


@pytest.mark.parametrize(
    ("status", "detail", "kind"),
    [
        (429, {"message": "slow down"}, UpstreamRateLimitedError),
        (429, {"message": "Request too large for gpt-4o"}, UpstreamTooLargeError),
        (429, {"code": "insufficient_quota"}, UpstreamQuotaError),
        (429, {"type": "insufficient_quota"}, UpstreamQuotaError),
        (402, {}, UpstreamQuotaError),
        (413, {}, UpstreamTooLargeError),
        (400, {"code": "context_length_exceeded"}, UpstreamTooLargeError),
        (400, {"message": "the request exceeds the available context size"}, UpstreamTooLargeError),
        (400, {"message": "prompt is too long: 9 tokens > 5 maximum"}, UpstreamTooLargeError),
        (400, {"message": "Please reduce the length of the messages"}, UpstreamTooLargeError),
        (400, {"type": "request_too_large", "message": "Request exceeds the maximum size"}, UpstreamTooLargeError),
        (400, {"message": "bad tool"}, UpstreamRejectedError),
        (404, {}, UpstreamRejectedError),
        (408, {}, UpstreamTimeoutError),
        (504, {}, UpstreamTimeoutError),
        (500, {"message": "context length lookup failed"}, UpstreamUnavailableError),
        (529, {}, UpstreamUnavailableError),
    ],
)
def test_the_table_of_answers(status: int, detail: dict[str, Any], kind: type[UpstreamError]) -> None:
    """Each status and wording leads to the class whose remedy helps."""
    error = from_answer(Said(status, detail, {}), secrets=())
    assert type(error) is kind
    assert error.http_status == status
    assert error.message


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=2) | st.dictionaries(st.sampled_from(["error", "message", "code"]), x, max_size=3),
        max_leaves=6,
    ),
    st.integers(400, 599),
)
def test_any_body_makes_an_error(body: Any, status: int) -> None:
    """Four keys, all of OpenAI's types, whatever upstream sent."""
    try:
        raw = orjson.dumps(body)
    except TypeError:
        raw = b"\xff not json"
    told = from_answer(Said(status, error_object(raw), {}), secrets=None).body()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert isinstance(told["message"], str)
    assert told["message"]


@pytest.mark.parametrize("code", ["half an emoji \ud83d", "a whole prompt: Subject: Algebra", "x" * 65, "line\nbreak"])
def test_what_is_no_code_is_told_to_the_caller_alone(code: str) -> None:
    """Events and metric labels take the code; one in another form may quote anything."""
    error = from_answer(Said(400, {"message": "m", "code": code}, {}), secrets=())
    assert (error.code, error.body()["error"]["code"]) == ("upstream_rejected", code)
    assert from_answer(Said(400, {"code": "tool_use_failed"}, {}), secrets=()).code == "tool_use_failed"


@pytest.mark.parametrize("status", [0, 101, 302, 600, 999])
def test_a_status_that_is_no_errors_is_never_passed_on(status: int) -> None:
    error = from_litellm(Foreign("x", status_code=status, litellm_response_headers={"a": "b"}), secrets=())
    assert isinstance(error, UpstreamUnavailableError)
    assert error.http_status == 502


def test_no_key_survives_in_a_message() -> None:
    """Every field of the error object is cleaned."""
    detail = {"message": "bad key sk-1 or sk-2", "param": "sk-1", "code": "sk-2", "type": "sk-1"}
    assert "sk-" not in str(from_answer(Said(400, detail, {}), secrets=("sk-1", "sk-2")).body())


def test_what_never_reached_upstream_is_unavailable_and_what_took_too_long_a_timeout() -> None:
    """litellm's invented 500 has no headers; our own errors pass as they are; wrapped ones are unwrapped."""
    assert type(from_litellm(Foreign("x", status_code=500), secrets=())) is UpstreamUnavailableError
    assert type(from_litellm(Foreign("x"), secrets=())) is UpstreamUnavailableError
    assert type(from_litellm(TimeoutError(), secrets=())) is UpstreamTimeoutError
    ours = UpstreamRejectedError("x")
    wrapped: Exception = ours
    for _ in range(3):
        wrapped = Foreign("outer", status_code=500, original_exception=wrapped)
    assert from_litellm(wrapped, secrets=()) is ours
    endless = Foreign("x", status_code=400)
    endless.__dict__["original_exception"] = endless
    assert isinstance(from_litellm(endless, secrets=()), ProxyError)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"detail": "no"}, "no"),
        ({"detail": {"error": "no"}}, "no"),
        ({"object": "error", "message": {"detail": [{"type": "extra_forbidden", "msg": "no"}, {"msg": "never"}]}}, "no"),
        ({"detail": [{"loc": ["body"], "msg": "no"}]}, "no"),
        ({"error": {"error": {"message": "no"}}}, "no"),
        ({"error": "no"}, "no"),
        ({"detail": []}, None),
        ({"detail": {"error": {"error": {"error": {"error": "too deep"}}}}}, None),
    ],
)
def test_a_message_is_found_in_what_servers_wrap_it_in(body: dict[str, Any], message: str | None) -> None:
    assert error_object(orjson.dumps(body)).get("message") == message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"message": "m", "type": "invalid_request_error", "code": "tool_use_failed", "failed_generation": "x"}, UpstreamRejectedError),
        ({"message": "m", "status_code": 400}, UpstreamRejectedError),
        ({"message": "m", "code": 429}, UpstreamRateLimitedError),
        ({"message": "m", "type": "insufficient_quota", "code": None}, UpstreamQuotaError),
        ({"error": {"message": "m", "code": "context_length_exceeded"}}, UpstreamTooLargeError),
        ({"message": "boom", "type": "server_error"}, UpstreamUnavailableError),
        ({"message": "boom", "code": 7, "type": ["x"]}, UpstreamUnavailableError),
        ({"type": "invalid_request_error", "message": "maximum context length is 5"}, UpstreamTooLargeError),
        ({"code": 7, "type": "rate_limit_error"}, UpstreamRateLimitedError),
        ({"code": None, "type": ["invalid_request_error"]}, UpstreamUnavailableError),
    ],
)
def test_what_an_event_of_a_stream_says_keeps_its_meaning(body: dict[str, Any], kind: type[UpstreamError]) -> None:
    """litellm reads the code as a number and stumbles: the event is then found behind what it raised."""
    stumbled = ValueError("invalid literal for int()")
    stumbled.__context__ = Foreign(status_code=body.get("code"), body=body)
    found = from_litellm(stumbled, secrets=())
    assert type(found) is kind
    if isinstance(found, UpstreamRejectedError):
        assert found.salvage == body.get("failed_generation", "")
    assert type(from_litellm(Foreign(body=body), secrets=())) is kind


def test_a_resting_group_says_for_how_long() -> None:
    """No status of upstream's, but a time."""
    error = from_litellm(RouterRateLimitError("no deployments", cooldown_time=4.5), secrets=())
    assert isinstance(error, UpstreamRateLimitedError)
    assert (error.retry_after_s, error.upstream_status) == (4.5, None)


def test_litellms_own_classes_keep_their_meaning() -> None:
    """Context windows and content policies are known by class where the text says nothing."""
    assert isinstance(from_litellm(ContextWindowExceededError("x", status_code=400), secrets=()), UpstreamTooLargeError)
    filtered = from_litellm(ContentPolicyViolationError("x", status_code=400), secrets=())
    assert (type(filtered), filtered.code) == (UpstreamRejectedError, "content_filter")


def test_upstreams_own_words_are_found_in_litellms() -> None:
    """Prefixes and additions are cut off; JSON inside is read."""
    told = (
        'litellm.RateLimitError: RateLimitError: GroqException - {"error":{"message":"slow","code":"c"}}\n\nLiteLLM: model group x failed'
    )
    error = from_litellm(Foreign(told, message=told, status_code=429, litellm_response_headers={"Retry-After": "3"}), secrets=())
    assert (error.message, error.code, error.retry_after_s) == ("slow", "c", 3)
    plain = from_litellm(Foreign("", message="litellm.BadRequestError: OpenAIException - bad tool", status_code=400), secrets=())
    assert plain.message == "bad tool"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("""litellm.BadRequestError: GeminiException BadRequestError - b'{"error":{"message":"it\\'s wrong"}}'""", "it's wrong"),
        ("litellm.BadRequestError: AnthropicException - b\"{'not json'}\"", "{'not json'}"),
        ("litellm.BadRequestError: AnthropicException - b'cut o", "b'cut o"),
        ("litellm.BadRequestError: AnthropicException - b'a' + 1", "b'a' + 1"),
        ("b'" + "(" * 5000, ("b'" + "(" * 5000)[:2000]),
    ],
)
def test_what_litellm_quotes_as_python_does_is_read_as_it_was_written(told: str, message: str) -> None:
    assert from_litellm(Foreign(told, message=told, status_code=400), secrets=()).message == message


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (orjson.JSONDecodeError("Expecting value: SECRET", "SECRET", 0), UpstreamUnreadableError),
        (AttributeError("'list' object has no attribute 'SECRET'"), UpstreamUnreadableError),
        (ConnectionResetError(), UpstreamUnavailableError),
        (httpx.RemoteProtocolError("cut off"), UpstreamUnavailableError),
        (aiohttp.InvalidURL("SECRET"), UpstreamUnavailableError),
        (RuntimeError("SECRET"), UpstreamUnavailableError),
    ],
)
def test_an_answer_that_code_falls_over_is_not_told_as_none(cause: Exception, kind: type[UpstreamError]) -> None:
    """An operator must not look for a broken network; and what the code's error quotes of the answer goes nowhere."""
    wrapped = Foreign("litellm.InternalServerError", status_code=500)
    wrapped.__cause__ = cause
    error = from_litellm(wrapped, secrets=())
    assert type(error) is kind
    assert "SECRET" not in error.message
    assert (type(cause).__name__ in error.message) == (kind is UpstreamUnreadableError)


def test_what_code_falls_over_while_the_network_fails_is_the_networks_failure() -> None:
    wrapped = Foreign("litellm.InternalServerError", status_code=500)
    wrapped.__context__ = AttributeError("no response")
    wrapped.__context__.__context__ = httpx.ConnectError("refused")
    assert type(from_litellm(wrapped, secrets=())) is UpstreamUnavailableError
