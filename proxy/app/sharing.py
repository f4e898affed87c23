"""Windows that are shared through Redis: what they are built from, and what they tell turned into events."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

import orjson
from pydantic import SecretStr

from proxy.interfaces import Dispatch, Listener
from proxy.observe.events import StateChanged, StoreAsked, WindowShared
from proxy.settings import Settings
from proxy.windows.notices import CameLate, JoinedElsewhere, Notice, RoundTrip, StoreDown, StoreUp, TakenBack, WindowLed
from proxy.windows.redis import RedisWindow, Sharing

_EACH_ITS_OWN = {"redis", "bounds", "log", "drain_grace_seconds", "drain_seconds"}
"""Parts of the configuration in which processes that share windows may differ."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What a configuration says of sharing."""

    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    timeout_s: float

    @classmethod
    def of(cls, settings: Settings) -> Shared | None:
        """Return it; None: each process has its own windows."""
        redis = settings.redis
        if redis.url is None or redis.secret is None:
            return None
        return cls(redis.url.get_secret_value(), redis.secret.get_secret_value().encode(), redis.timeout_ms / 1000)

    def digest_key(self) -> bytes:
        """Return the key for digests of API keys, which must be equal in all processes: they are part of batch keys."""
        return hmac.digest(self.secret, b"digests of API keys", "sha256")

    def window(self, settings: Settings, dispatch: Dispatch, publish: Listener) -> RedisWindow:
        """Return a window, not open yet."""
        return RedisWindow(
            dispatch,
            Sharing(self.url, self.secret, fingerprint(settings), timeout_s=self.timeout_s),
            max_waiting=settings.bounds.waiting_calls,
            max_windows=settings.bounds.open_windows,
            tell=_teller(publish),
        )


def fingerprint(settings: Settings) -> bytes:
    """Return what is equal only where a lesson means the same: how it is recognised, where it goes, how it is checked.

    Processes that differ in it (in the course of a rolling update) don't share windows. It holds keys in clear: it is
    only ever digested.
    """
    told = {"settings": settings.model_dump(exclude=_EACH_ITS_OWN), "policy": settings.lesson_policy()}
    return orjson.dumps(told, default=_in_clear, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _in_clear(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, frozenset | set):
        return sorted(value, key=str)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return repr(value)


def _teller(publish: Listener) -> Callable[[Notice], None]:
    def tell(notice: Notice) -> None:
        publish(_event(notice))

    return tell


def _event(notice: Notice) -> StateChanged | WindowShared | StoreAsked:  # noqa: PLR0911 - one notice a line
    match notice:
        case StoreUp():
            return StateChanged("sharing")
        case StoreDown(why):
            return StateChanged("sharing_lost", why)
        case WindowLed(size, others):
            return WindowShared("led", size=size, others=others)
        case JoinedElsewhere():
            return WindowShared("joined_elsewhere")
        case TakenBack(why):
            return WindowShared("taken_back", why)
        case CameLate():
            return WindowShared("late")
        case RoundTrip(commands, seconds):
            return StoreAsked(commands, seconds)
        case _:
            assert_never(notice)
