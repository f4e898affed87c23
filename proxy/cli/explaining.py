"""`explain`: what the recogniser makes of recorded requests, and the upstream body that they would become together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.cli import recorded, screen
from proxy.cli.recorded import Recorded, UnreadableError
from proxy.lessons.forms import FORMS
from proxy.lessons.recognise import Recogniser
from proxy.model import Call, Lesson, Unbatchable
from proxy.policy import LessonPolicy
from proxy.settings import ConfigError, Settings, load

_COLUMNS = ("decision", "rule", "reason", "subject", "topic", "user", "scope", "key")
_SHOWN_KEY = 12


@dataclass(frozen=True, slots=True)
class Explained:
    """One file and what was decided."""

    name: str
    judgement: Lesson | Unbatchable

    def row(self) -> dict[str, Any]:
        """Return the decision as `--json` prints it; what does not apply is None."""
        empty: dict[str, Any] = dict.fromkeys(("file", *_COLUMNS))
        match self.judgement:
            case Unbatchable(reason, rule):
                return empty | {"file": self.name, "decision": "single", "reason": reason, "rule": rule}
            case Lesson() as lesson:
                found = {"file": self.name, "rule": lesson.rule, "subject": lesson.subject, "topic": lesson.topic}
                found |= {"user": lesson.user, "scope": lesson.scope, "key": lesson.key}
                # recognised, but merging is switched off or only tried out for it
                reason = "dry_run" if lesson.mode == "dry_run" else "share"
                merging = {"decision": "merge"} if lesson.mode == "on" else {"decision": "single", "reason": reason}
                return empty | found | merging

    @property
    def lesson(self) -> Lesson | None:
        """Return the lesson where the call would be merged."""
        match self.judgement:
            case Lesson(mode="on") as lesson:
                return lesson
            case _:
                return None


def run(files: list[str], config: Path | None, *, as_json: bool, merged: bool) -> int:
    """Explain every file; 1 where one can't be read, or where `merged` and they would not all go together."""
    try:
        settings = load(config)
        found = recorded.read_all(files)
    except ConfigError as error:
        screen.mistakes(error)
        return 1
    except UnreadableError as error:
        screen.line(str(error), stderr=True, style="red")
        return 1
    explained = explain(found, settings.lesson_policy())
    if merged:
        return _print_merged(explained, settings)
    if as_json:
        for one in explained:
            screen.line(orjson.dumps(one.row()).decode())
    else:
        _print_table(explained)
    return 0


def explain(calls: Sequence[Recorded], policy: LessonPolicy) -> list[Explained]:
    """Judge every call as the proxy would."""
    recogniser = Recogniser(policy)
    return [Explained(one.name, judge(one.call, recogniser)) for one in calls]


def judge(call: Call, recogniser: Recogniser) -> Lesson | Unbatchable:
    """Judge one call; paths whose calls are never merged are named as such."""
    return recogniser.judge(call) if call.path in FORMS else Unbatchable("not_chat")


def _print_table(explained: Sequence[Explained]) -> None:
    shown = screen.table("", "file", *_COLUMNS)
    for one in explained:
        row = one.row()
        row["key"] = row["key"] and row["key"][:_SHOWN_KEY]
        screen.row(shown, *(str(value) if value is not None else "-" for value in row.values()))
    screen.console().print(shown)


def group(explained: Sequence[Explained]) -> list[list[Lesson]]:
    """Return the lessons that would be merged, those of one batch key together, in the order of the files."""
    groups: dict[str, list[Lesson]] = {}
    for one in explained:
        if one.lesson is not None:
            groups.setdefault(one.lesson.key, []).append(one.lesson)
    return list(groups.values())


def _print_merged(explained: Sequence[Explained], settings: Settings) -> int:
    groups = group(explained)
    together = len(explained) > 1 and len(groups) == 1 and len(groups[0]) == len(explained)
    if not together:
        _print_apart(explained)
    bodies = [_print_body(lessons, settings) for lessons in groups if len(lessons) > 1]
    return 0 if together and all(bodies) else 1


def _print_apart(explained: Sequence[Explained]) -> None:
    screen.line("these files do not become one call:", stderr=True, style="red")
    for one in explained:
        row = one.row()
        why = f"key {row['key'][:_SHOWN_KEY]}" if row["decision"] == "merge" else f"goes alone: {row['reason']}"
        screen.line(f"  {one.name}: {why}", stderr=True)


def _print_body(lessons: Sequence[Lesson], settings: Settings) -> bool:
    from proxy.cli.merging import NotMergedError, merged_body  # noqa: PLC0415 - it brings litellm in, which takes seconds

    try:
        body, note = merged_body(lessons, settings)
    except NotMergedError as error:
        screen.line(f"{lessons[0].model}, {len(lessons)} lessons: not merged: {error}", stderr=True, style="red")
        return False
    screen.line(f"{lessons[0].model}, {len(lessons)} lessons {note}", stderr=True)
    screen.line(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
    return True
