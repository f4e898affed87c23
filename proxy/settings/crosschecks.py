"""What is wrong though every value is of its type: parts that contradict each other, and what this release does not build."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from posixpath import normpath
from typing import Any, Final, cast
from urllib.parse import urlsplit

from proxy.lessons.phrases import PhraseSet
from proxy.settings.aliases import entries_for, fallback_pairs
from proxy.settings.document import Mistake
from proxy.settings.file import Settings
from proxy.settings.lessons import shipped_names
from proxy.settings.providers import LitellmParams

_SOURCE_KINDS: Final = ("header", "body", "metadata", "label", "json")
_OWN_PATHS: Final = frozenset(
    f"/v1/{name}"
    for name in ("chat/completions", "responses", "completions", "embeddings", "models", "lessons/batch", "lessons/variants", "savings")
)
_WHERE_AND_WHOSE: Final = (
    *("api_key", "api_base", "base_url", "api_version", "organization", "timeout"),
    *("extra_headers", "extra_body", "custom_llm_provider", "drop_params"),
)
"""Of `litellm_params`, what decides where a call goes, and as whom. litellm takes any name and sends an unknown one upstream, a key too."""
_ALIKE: Final = 0.85
_NOT_BUILT: Final = "is not built in this release"


def _aliases(settings: Settings) -> Iterator[Mistake]:
    for index, entry in enumerate(settings.model_list):
        path = f"model_list[{index}].litellm_params.model"
        model = entry.litellm_params.model
        if model.count("*") > entry.model_name.count("*"):
            yield Mistake(path, "has a `*` that `model_name` has not: there is nothing that it could stand for")
        provider, _, rest = model.partition("/")
        if "*" in provider or ("*" in model and not rest):
            yield Mistake(path, "name the provider before the `*`, as in `openai/*`: else callers choose the host that your key goes to")


def _misspelt(settings: Settings) -> Iterator[Mistake]:
    for index, entry in enumerate(settings.model_list):
        for name in entry.litellm_params.model_extra or {}:
            meant = [] if name in _WHERE_AND_WHOSE else get_close_matches(name, _WHERE_AND_WHOSE, 1, _ALIKE)
            if meant:
                yield Mistake(f"model_list[{index}].litellm_params.{name}", f"unknown key: `{meant[0]}` is meant?")


def _callers_keys(settings: Settings) -> Iterator[Mistake]:
    sizes = Counter(entry.model_name for entry in settings.model_list)
    for index, entry in enumerate(settings.model_list):
        if entry.litellm_params.key_source != "caller":
            continue
        if sizes[entry.model_name] > 1:
            yield Mistake(
                f"model_list[{index}].model_name",
                f"`api_key: caller` allows no sibling: {entry.model_name!r} stands for several entries, a caller's key goes to one host",
            )
        if settings.access.mode == "keys":
            yield Mistake(
                f"model_list[{index}].litellm_params.api_key",
                "`caller` excludes `access.mode: keys`: the bearer that opens the proxy would go upstream",
            )


def _unsendable(settings: Settings) -> Iterator[Mistake]:
    sent = [(f"access.keys[{i}].key", named.key.get_secret_value()) for i, named in enumerate(settings.access.keys)]
    for index, entry in enumerate(settings.model_list):
        sent += [(f"model_list[{index}].litellm_params.{name}", value) for name, value in _sent_as_headers(entry.litellm_params)]
    for path, text in sent:
        if not _fits_a_header(text):
            yield Mistake(path, "can't be sent as a header: it has a space or line break at an end, or a character beyond ASCII")


def _sent_as_headers(params: LitellmParams) -> Iterator[tuple[str, str]]:
    if params.api_key is not None:
        yield "api_key", params.api_key.get_secret_value()
    further = params.model_extra or {}
    yield "organization", str(further.get("organization") or "")
    extra: Any = further.get("extra_headers")
    for name, value in (cast("dict[str, Any]", extra) if isinstance(extra, dict) else {}).items():
        yield f"extra_headers.{name}", str(value)


def _fits_a_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip()


def _reasons(settings: Settings) -> Iterator[Mistake]:
    for index, rule in enumerate(settings.lessons.recognise):
        if rule.reason is not None and not _fits_a_header(rule.reason):
            yield Mistake(f"lessons.recognise[{index}].reason", "callers are told it in a header: one line of ASCII")


def _addresses(settings: Settings) -> Iterator[Mistake]:
    for index, entry in enumerate(settings.model_list):
        base, path = entry.litellm_params.api_base, f"model_list[{index}].litellm_params.api_base"
        if base is not None and not _is_address(base):
            yield Mistake(path, "must be like https://host/v1")
        elif base is not None and entry.litellm_params.model.startswith("openai/") and base.rstrip("/").endswith("/chat/completions"):
            yield Mistake(path, "leave out `/chat/completions`: an address ends where the API begins, as in https://host/v1")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not re.search(r"\s", text)


def _fallbacks(settings: Settings) -> Iterator[Mistake]:
    for path, alias, target in fallback_pairs(settings.router_settings):
        if not entries_for(settings.model_list, target):
            yield Mistake(path, f"no entry of model_list answers to {target!r}")
        for name in (alias, target):
            if any(entry.litellm_params.key_source == "caller" for entry in entries_for(settings.model_list, name)):
                yield Mistake(
                    path, f"{name!r} goes with `api_key: caller`, which has no fallback and is none: a caller's key goes to one host alone"
                )


def _draining(settings: Settings) -> Iterator[Mistake]:
    if settings.drain_grace_seconds > settings.drain_seconds:
        yield Mistake("drain_grace_seconds", f"must be ≤ drain_seconds ({settings.drain_seconds:g}), within which everybody is answered")


def _bodies(settings: Settings) -> Iterator[Mistake]:
    if settings.bounds.bodies_mb < settings.bounds.body_mb:
        yield Mistake("bounds.bodies_mb", f"must be ≥ body_mb ({settings.bounds.body_mb:g}): else the largest body never has room")


def _access(settings: Settings) -> Iterator[Mistake]:
    access = settings.access
    if access.mode == "keys" and not access.keys:
        yield Mistake("access.keys", "`mode: keys` needs at least one key")
    if access.mode == "open" and access.keys:
        yield Mistake("access.keys", "nobody is asked for these while `access.mode` is open: set `mode: keys`, or leave them out")
    yield from _twice("access.keys[{}].name", (key.name for key in access.keys))
    yield from _twice("access.keys[{}].key", (key.key.get_secret_value() for key in access.keys), show=False)


def _rule_names(settings: Settings) -> Iterator[Mistake]:
    yield from _twice("lessons.recognise[{}].name", (rule.name for rule in settings.lessons.recognise))
    for index, name in settings.lessons.amendments:
        if name not in shipped_names():
            yield Mistake(
                f"lessons.recognise[{index}].when", f"is missing: no shipped rule is called {name!r} whose conditions could be taken"
            )


def _phrases(settings: Settings) -> Iterator[Mistake]:
    for index, rule in enumerate(settings.lessons.recognise):
        for name in ("prompt_any", "prompt_none"):
            for place, phrase in enumerate(getattr(rule.when, name)):
                try:
                    PhraseSet((phrase,))
                except ValueError as error:
                    yield Mistake(f"lessons.recognise[{index}].when.{name}[{place}]", str(error))


def _guards(settings: Settings) -> Iterator[Mistake]:
    known = {rule.name for rule in settings.lessons.recognise} | shipped_names() | {"*"}
    amended = {index for index, _ in settings.lessons.amendments}
    for index, rule in enumerate(settings.lessons.recognise):
        if rule.guard and rule.merge_calls and index not in amended:
            yield Mistake(f"lessons.recognise[{index}].guard", "only a rule with `merge_calls: false` can be one")
        for place, name in enumerate(rule.despite):
            if name not in known:
                yield Mistake(f"lessons.recognise[{index}].despite[{place}]", f"no rule is called {name!r}")


def _rule_models(settings: Settings) -> Iterator[Mistake]:
    for index, rule in enumerate(settings.lessons.recognise):
        path = f"lessons.recognise[{index}].model"
        entries = () if rule.model is None else entries_for(settings.model_list, rule.model)
        if rule.model is not None and not entries:
            yield Mistake(path, f"no entry of model_list answers to {rule.model!r}")
        if any(entry.litellm_params.key_source == "caller" for entry in entries):
            yield Mistake(path, f"{rule.model!r} goes with the caller's key, which goes only where the caller's own model leads")


def _word_counts(settings: Settings) -> Iterator[Mistake]:
    places = [("lessons.checks", settings.lessons.checks)]
    places += [(f"lessons.recognise[{i}].checks", rule.checks or {}) for i, rule in enumerate(settings.lessons.recognise)]
    for path, checks in places:
        for name, check in checks.items():
            if check.max_words is not None and check.max_words < check.min_words:
                yield Mistake(f"{path}.{name}.max_words", f"must be ≥ min_words ({check.min_words})")


def _sources(settings: Settings) -> Iterator[Mistake]:
    places = [(f"lessons.subject[{i}]", source) for i, source in enumerate(settings.lessons.subject)]
    places += [(f"lessons.topic[{i}]", source) for i, source in enumerate(settings.lessons.topic)]
    for path, source in places:
        if not _names_a_value(source):
            yield Mistake(path, f"must be one of {', '.join(f'{kind}.NAME' for kind in _SOURCE_KINDS)}")


def _identity_sources(settings: Settings) -> Iterator[Mistake]:
    for index, source in enumerate(settings.identity.user):
        parts = (source,) if isinstance(source, str) else source
        if not parts or not all(_names_a_value(part) for part in parts):
            yield Mistake(
                f"identity.user[{index}]", f"must be one of {', '.join(f'{kind}.NAME' for kind in _SOURCE_KINDS)}, or a list of them"
            )


def _passthrough(settings: Settings) -> Iterator[Mistake]:
    yield from _twice("passthrough[{}].path", (entry.path for entry in settings.passthrough))
    for index, entry in enumerate(settings.passthrough):
        plain = normpath(entry.path)
        if plain != entry.path:
            yield Mistake(f"passthrough[{index}].path", f"must be in its plain form: {plain}")
        if entry.path in _OWN_PATHS or entry.path.startswith("/v1/models/"):
            yield Mistake(f"passthrough[{index}].path", "the proxy answers this path itself")
        if not entries_for(settings.model_list, entry.model):
            yield Mistake(f"passthrough[{index}].model", f"no entry of model_list answers to {entry.model!r}")


def _redis(settings: Settings) -> Iterator[Mistake]:
    redis = settings.redis
    if redis.url is None:
        if redis.secret is not None:
            yield Mistake("redis.secret", "does nothing without `redis.url`")
        return
    from proxy.windows.redis.link import problem  # noqa: PLC0415 - redis-py: only where somebody uses it

    if (wrong := problem(redis.url.get_secret_value())) is not None:
        yield Mistake("redis.url", wrong)
    if redis.secret is None:
        yield Mistake("redis.secret", "is missing: with it lessons are encrypted before they leave the process (`os.environ/NAME`)")


def _limits(settings: Settings) -> Iterator[Mistake]:
    if settings.limits:
        yield Mistake("limits", f"limits per user {_NOT_BUILT}: leave it empty")


def _key_limits(settings: Settings) -> Iterator[Mistake]:
    for index, key in enumerate(settings.access.keys):
        if key.limits is not None:
            yield Mistake(f"access.keys[{index}].limits", f"limits per key {_NOT_BUILT}: leave it out")


_CHECKS: Final[tuple[tuple[frozenset[str], Callable[[Settings], Iterable[Mistake]]], ...]] = (
    (frozenset({"model_list"}), _aliases),
    (frozenset({"model_list"}), _misspelt),
    (frozenset({"model_list"}), _addresses),
    (frozenset({"model_list", "access"}), _callers_keys),
    (frozenset({"model_list", "access"}), _unsendable),
    (frozenset({"model_list", "router_settings"}), _fallbacks),
    (frozenset({"lessons"}), _rule_names),
    (frozenset({"lessons"}), _phrases),
    (frozenset({"lessons"}), _reasons),
    (frozenset({"lessons"}), _guards),
    (frozenset({"lessons", "model_list"}), _rule_models),
    (frozenset({"lessons"}), _word_counts),
    (frozenset({"lessons"}), _sources),
    (frozenset({"identity"}), _identity_sources),
    (frozenset({"access"}), _access),
    (frozenset({"access"}), _key_limits),
    (frozenset({"limits"}), _limits),
    (frozenset({"redis"}), _redis),
    (frozenset({"passthrough", "model_list"}), _passthrough),
    (frozenset({"bounds"}), _bodies),
    (frozenset({"drain_grace_seconds", "drain_seconds"}), _draining),
)


def contradictions(settings: Settings, *, broken: frozenset[str] = frozenset()) -> list[Mistake]:
    """Return every contradiction; checks that read a `broken` part of the file are left out."""
    return [mistake for parts, check in _CHECKS if not parts & broken for mistake in check(settings)]


def _names_a_value(source: str) -> bool:
    kind, _, name = source.partition(".")
    return kind in _SOURCE_KINDS and bool(name.strip())


def _twice(path: str, values: Iterable[str], *, show: bool = True) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value in first:
            shown = f"{value!r} " if show else ""
            yield Mistake(path.format(index), f"{shown}stands twice: it is that of {path.format(first[value])} too")
        first.setdefault(value, index)
