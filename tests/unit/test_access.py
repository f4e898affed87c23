"""Access: who is calling, what stays secret of it, and what a wrong key learns."""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.keys import Access, NamedKey, presented_key
from proxy.errors import UnauthorizedError
from proxy.model import Secret
from tests.unit.asgi import House, ask

KEYS = [NamedKey("app-a", Secret("key-a")), NamedKey("app-b", Secret("key-b"))]


def guarded(**options: Any) -> Access:
    return Access(digest_key=b"k" * 32, keys=KEYS, **options)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer sk-1"}, "sk-1"),
        ({"authorization": "bearer   sk-1 "}, "sk-1"),
        ({"authorization": "BEARER sk-1"}, "sk-1"),
        ({"authorization": "sk-1"}, "sk-1"),
        ({"authorization": "Bearer"}, ""),
        ({"authorization": "Bearer "}, ""),
        ({"authorization": ""}, ""),
        ({"api-key": "sk-1"}, "sk-1"),
        ({"x-api-key": "sk-1"}, "sk-1"),
        ({"authorization": "Bearer ", "api-key": "sk-1"}, "sk-1"),
        ({"authorization": "Bearer sk-1", "api-key": "sk-2"}, "sk-1"),
        ({}, ""),
    ],
)
def test_a_key_is_found_however_clients_send_it(headers: dict[str, str], key: str) -> None:
    assert presented_key(headers) == key


def test_open_access_takes_any_key_or_none_and_tells_them_apart() -> None:
    access = Access(digest_key=b"k" * 32)
    one, same, other, none = (
        access.identify({"authorization": "Bearer 1"}),
        access.identify({"api-key": "1"}),
        access.identify({"authorization": "Bearer 2"}),
        access.identify({}),
    )
    assert one.key_digest == same.key_digest != other.key_digest
    assert (none.key_digest, none.name, none.bearer) == ("", None, None)
    assert one.bearer is None


def test_a_digest_means_nothing_in_another_process() -> None:
    headers = {"authorization": "Bearer 1"}
    assert Access(digest_key=b"a" * 32).identify(headers) != Access(digest_key=b"b" * 32).identify(headers)


def test_the_callers_key_is_kept_only_where_it_goes_upstream_and_never_shown() -> None:
    caller = Access(digest_key=b"k" * 32, keep_bearer=True).identify({"authorization": "Bearer sk-secret"})
    assert caller.bearer == Secret("sk-secret")
    assert "sk-secret" not in repr(caller)


def test_who_pays_is_kept_as_the_call_says_it() -> None:
    headers = {"openai-organization": "org-1", "openai-beta": "x", "x-other": "y"}
    assert Access(digest_key=b"a" * 32).identify(headers).account == (("openai-organization", "org-1"), ("openai-beta", "x"))


def test_a_configured_key_opens_and_gives_its_name() -> None:
    assert guarded().identify({"authorization": "Bearer key-b"}).name == "app-b"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer key-c"}, {"authorization": "Bearer key-"}, {"authorization": "Bearer "}])
def test_another_key_or_none_is_refused_without_a_fragment_of_any(headers: dict[str, str]) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        guarded().identify(headers)
    assert (caught.value.http_status, caught.value.code) == (401, "invalid_api_key")
    assert "key-" not in caught.value.message


@given(st.text(st.characters(max_codepoint=255)))
def test_any_header_bytes_are_a_key_or_none(value: str) -> None:
    """Whatever stands in the header: an unknown key is refused, and nothing else happens."""
    with pytest.raises(UnauthorizedError):
        guarded().identify({"authorization": value + "!"})


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant time: the first key costs as many comparisons as the last and as a wrong one."""
    compared: list[str] = []
    real = hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        compared.append(other)
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    access = guarded()
    access.identify({"authorization": "Bearer key-a"})
    assert len(compared) == len(KEYS)


async def test_a_refused_caller_gets_401_in_openais_form_before_its_body_is_read() -> None:
    house = House(access=guarded())
    answer = await ask(house.edge, body=b"not even JSON")
    assert (answer.status, answer.error["code"], house.calls) == (401, "invalid_api_key", [])
    assert (await ask(house.edge, "GET", "/v1/models", b"")).status == 401
    assert (await ask(house.edge, "GET", "/v1/files", b"")).status == 401
    assert (await ask(house.edge, headers=[("authorization", "Bearer key-a")])).status == 200
    assert house.calls[0].caller.name == "app-a"
