"""A provider that checks its answers against their schemas itself: the whole request fails over one of them."""

from __future__ import annotations

from collections.abc import Sequence

import jsonschema_rs
import orjson

from proxy.simulated.answer import Answer
from proxy.simulated.asked import Asked
from proxy.simulated.mishaps import tool_use_failed
from proxy.simulated.refusals import RefusalError


def broken_call(asked: Asked, answers: Sequence[Answer]) -> RefusalError | None:
    """Return the error that an answer beside its schema brings in the dialect; None: it keeps it, or nobody looks."""
    if not asked.dialect.checks_arguments or not asked.declared:
        return None
    for answer in answers:
        for text in answer.calls or (answer.text,):
            if answer.tool != asked.form.tool or not _keeps(asked.form.schema or {}, text):
                return _failed(asked, text)
    return None


def _failed(asked: Asked, text: str) -> RefusalError:
    if asked.form.tool is not None:
        # as models without a tool call of their own write it
        return tool_use_failed(f"<function={asked.form.tool}>{text}</function>")
    error = RefusalError(400, "Generated JSON does not match the expected schema. See 'failed_generation'.", code="json_validate_failed")
    error.error["failed_generation"] = text
    return error


def _keeps(schema: dict[str, object], text: str) -> bool:
    try:
        return jsonschema_rs.validator_for(schema, offline=True).is_valid(orjson.loads(text))
    except orjson.JSONDecodeError:
        return False
