"""The ids of merged answers in the Responses API, which callers may name later: they tell that nothing was stored, and for which site.

The site stands in the id itself, so that no memory and no other replica is needed to know an answer of ours again.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any, Literal, cast

from proxy.model import SITE_APP, CallId, Json

_SITE_DIGITS = 2 * SITE_APP
_MARK_BYTES = 8
"""With them an id has 60 characters; OpenAI takes no more than 64 where one comes back with a whole item."""
_OURS = re.compile(rf"(?:resp|msg|fc)_lesson([0-9a-f]{{{_SITE_DIGITS}}})[0-9a-f]{{{2 * _MARK_BYTES}}}")


def answer_id(kind: Literal["resp", "msg", "fc"], site: str, call: CallId) -> str:
    """Return the id of an answer, or of the message or function call in it; equal for the same call."""
    return f"{kind}_lesson{site:0>{_SITE_DIGITS}}{mark(call)}"


def mark(call: CallId) -> str:
    """Derive what an answer's ids end with: equal for the same call, and of a length that every client takes."""
    return blake2b(call.encode(), digest_size=_MARK_BYTES).hexdigest()


def site_of(named: Any) -> str | None:
    """Return the call site of the merged answer that an id names; None: it names none of ours."""
    found = _OURS.fullmatch(named) if isinstance(named, str) else None
    return None if found is None else found[1]


def builds_on(body: Json) -> tuple[str, str] | None:
    """Return the id of a merged answer that a Responses body goes on from, with its field; None: it names none."""
    previous = body.get("previous_response_id")
    if site_of(previous) is not None:
        return "previous_response_id", cast("str", previous)
    given: Any = body.get("input")
    for item in cast("list[Any]", given) if isinstance(given, list) else ():
        known = cast("Json", item) if isinstance(item, dict) else {}
        # a reference may leave its type out
        if known.get("type") in (None, "item_reference") and "content" not in known and site_of(known.get("id")) is not None:
            return "input", known["id"]
    return None
