"""The dialects of OpenAI's API in which a lesson is asked for and answered: the same lesson in other words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from proxy.lessons import render
from proxy.lessons.forms import chat, continuing, responses, responses_answer
from proxy.lessons.forms.chat import ChatRequest
from proxy.model import Completed, Json, Lesson

__all__ = ["FORMS", "Form"]


@dataclass(frozen=True, slots=True)
class Form:
    """One dialect: how its bodies are read, and how a lesson is answered in it."""

    read: Callable[[Any], ChatRequest | str]
    """Returns the request, or a short reason where the body can't be read as one."""
    render_json: Callable[[Json, Lesson, Completed, int], bytes]
    """The whole answer; takes the caller's own body, and the time in seconds since 1970."""
    render_sse: Callable[[Json, Lesson, Completed, int], bytes]
    """The whole stream of events."""
    was_cut_off: Callable[[bytes], bool]
    """Whether a lone JSON answer ended at its token limit: it then tells nothing of how long lessons are."""
    builds_on: Callable[[Json], tuple[str, str] | None] | None = None
    """Returns the field in which a body names a merged answer of ours, and the id that it names; None: no call can name one."""


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        chat.PATH: Form(
            chat.read_chat,
            lambda _, lesson, done, created: render.render_json(lesson, done, created),
            lambda _, lesson, done, created: render.render_sse(lesson, done, created),
            chat.was_cut_off,
        ),
        responses.PATH: Form(
            responses.read_responses,
            responses_answer.render_json,
            responses_answer.render_sse,
            responses_answer.was_cut_off,
            continuing.builds_on,
        ),
    }
)
"""By path."""
