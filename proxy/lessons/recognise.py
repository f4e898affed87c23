"""Decides whether a call asks for one lesson and which calls it belongs with; it knows the policy, and no clock or network.

Structure first: the form of the answer, then subject and topic, then what the prompt says; in doubt a call goes alone.
Every reason is one short word that can be searched for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.lessons.embedded import filled_keys, form_fields, split_objects, spoken, values_of
from proxy.lessons.forms import FORMS
from proxy.lessons.forms.chat import MAX_TEXT_CHARS, ChatRequest
from proxy.lessons.identity import IdentityReader, Learner, body_fields, metadata_fields, read_source
from proxy.lessons.key import KeyParts, NotEncodableError, batch_key, falls_within, identity_digest, site_digest
from proxy.lessons.labels import LabelReader, Labels, distinct, normalised, trimmed, visible
from proxy.lessons.prose import signs
from proxy.lessons.rules import Prompt, RuleBook, Verdict
from proxy.model import Call, Json, Lesson, Unbatchable
from proxy.policy import LessonPolicy, Rule, Source

MAX_BODY_BYTES = 400_000
"""Larger bodies go alone unread: a batch of them would meet the model's limits, and reading them costs the others' time."""
_MAX_DIGITS = 9
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OFF = frozenset({"off", "false", "0", "no"})


@dataclass(frozen=True, slots=True)
class _Told:
    """What the prompt says of the lesson."""

    subject: str = field(repr=False)
    topic: str = field(repr=False)
    prompt: Prompt
    fields: frozenset[str]
    """Top-level keys of the JSON that the prompt gives as the form of the answer, folded."""


class Recogniser:
    """Judges calls by one policy; raises ValueError where a rule's phrase can't be read."""

    def __init__(self, policy: LessonPolicy) -> None:
        self._policy = policy
        self._rules = RuleBook(policy.rules)
        self.asleep = policy.mode == "off" and all(rule.mode in (None, "off") for rule in policy.rules)
        """Lessons are off and no rule says otherwise, so no body needs to be looked into."""
        self._subject = _Sources(policy.subject)
        self._topic = _Sources(policy.topic)
        self._labels = LabelReader((*self._subject.labels, *self._topic.labels))
        self._silent = (*self._subject.keys, *self._topic.keys)
        self._identity = IdentityReader(policy.identity)
        self._identity_fields = body_fields(policy.identity)
        self._identity_metadata = metadata_fields(policy.identity)

    def judge(self, call: Call) -> Lesson | Unbatchable:
        """Return the lesson that the call asks for, or why it goes alone; never raises, whatever the body holds."""
        unread = self._unread(call)
        request = unread or FORMS[call.path].read(call.body)
        if isinstance(request, str):
            return Unbatchable(request)
        if call.headers.get("x-lesson-merge", "").strip().casefold() in _OFF:
            request = replace(request, obstacle="header_off")
        if not self._rules.may_be_lesson(request, call):
            return Unbatchable(request.obstacle or "no_rule")
        told = self._read_prompt(call, request)
        if isinstance(told, str):
            return Unbatchable(request.obstacle or told, self._rules.by_form(request, call))
        if request.asked.shape == "json_object":
            # what a schema would say the prompt says itself
            request = replace(request, fields=told.fields)
        verdict = self._rules.judge(request, call, told.prompt)
        objection = _objection(request, verdict)
        if objection is not None or verdict.rule is None:
            return objection or Unbatchable("no_rule")
        if (verdict.rule.mode or self._policy.mode) == "off":
            return Unbatchable("off" if verdict.rule.mode is None else "rule_off", verdict.rule.name)
        return self._with_learner(call, request, told, verdict.rule)

    def _unread(self, call: Call) -> str | None:
        """Return why the body needs no reading."""
        if self.asleep:
            return "off"
        if call.path not in FORMS or call.method != "POST":
            return "path"
        if call.query:
            # what it means to a provider is not known, and litellm can't send it
            return "query"
        return "too_long" if len(call.raw) > MAX_BODY_BYTES else None

    def _read_prompt(self, call: Call, request: ChatRequest) -> _Told | str:
        given = (self._subject.given(call), self._topic.given(call))
        users = tuple(map(visible, request.users))
        low = "\n".join(users).casefold()
        if not (given[0] or self._subject.mentioned(low)):
            return "no_subject"
        if not (given[1] or self._topic.mentioned(low)):
            return "no_topic"
        described = _described(request)
        embedded = tuple(map(split_objects, users))
        labels = self._labels.read([one.around for one in embedded])
        if labels is None or any(one.unread for one in embedded) or sum(map(len, described)) > MAX_TEXT_CHARS:
            return "too_long"
        objects = [found for one in embedded for found in one.objects]
        subjects = self._subject.written(labels, objects)
        topics = self._topic.written(labels, objects)
        if len(subjects) > 1 or len(topics) > 1:
            return "several_subjects" if len(subjects) > 1 else "several_topics"
        subject, topic = given[0] or "".join(subjects), given[1] or "".join(topics)
        if not subject or not topic:
            return "no_topic" if subject else "no_subject"
        said = spoken(objects, self._silent)
        phrases = self._rules.phrases_in((*described, *request.system), ("\n".join(labels.rest), *said))
        phrases |= signs(labels.prose, (*labels.told, *said))
        filled = filled_keys(objects, (text for one in embedded for text in one.broken))
        fields = form_fields(form for one in embedded for form in one.forms)
        return _Told(subject, topic, Prompt(phrases, labels.words, filled), fields)

    def _with_learner(self, call: Call, request: ChatRequest, told: _Told, rule: Rule) -> Lesson | Unbatchable:
        identity = self._policy.identity
        learner = self._identity.read(call)
        if learner == "conflict":
            return Unbatchable("identity_conflict", rule.name)
        if learner is None and identity.when_missing == "never":
            return Unbatchable("no_user", rule.name)
        if request.deterministic and (learner is None or identity.identical_across_users):
            return Unbatchable("identical_temperature_0", rule.name)
        try:
            return self._lesson(call, request, told, rule, learner)
        except NotEncodableError:
            return Unbatchable("not_encodable", rule.name)

    def _lesson(self, call: Call, request: ChatRequest, told: _Told, rule: Rule, learner: Learner | None) -> Lesson:
        identity, asked, headers = self._policy.identity, request.asked, call.headers
        shared = None if learner is None or identity.identical_across_users else (learner.kind, *learner.parts)
        parts = KeyParts(
            model=rule.model or request.model,
            rule=rule.name,
            subject=normalised(told.subject),
            topic=normalised(told.topic),
            learner=shared,
            half=self._identity.half(call) if learner is None else (),
            identity_fields=self._identity_fields,
            identity_metadata=self._identity_metadata,
            across_users=identity.identical_across_users,
        )
        key = batch_key(call, request.body, parts)
        mode = (rule.mode or self._policy.mode) if falls_within(key, rule.share) else "off"
        return Lesson(
            id=call.id,
            body=request.body,
            # what is not merged stays where it was: a trial moves only the calls that take part
            model=parts.model if mode == "on" else request.model,
            shape=asked.shape,
            rule=rule.name,
            mode=mode,
            subject=told.subject,
            topic=told.topic,
            user=None if learner is None else learner.name,
            scope="identical" if shared is None else "user",
            key=key,
            identity_digest=identity_digest(request.body),
            schema=asked.schema,
            schema_name=asked.name,
            force=asked.force,
            token_limit=request.token_limit,
            token_limit_field=request.token_limit_field,
            stream=request.stream,
            include_usage=request.include_usage,
            window=rule.window or self._policy.window,
            merge=rule.merge or self._policy.merge,
            checks=self._policy.checks if rule.checks is None else rule.checks,
            expect=_count(headers, "x-lesson-expect") or None,
            max_wait_ms=_count(headers, "x-lesson-max-wait-ms"),
            deadline_s=_deadline_s(headers),
            retry_count=_count(headers, "x-stainless-retry-count") or 0,
            site=site_digest(call.caller.key_digest, parts.model, request.system, asked.schema),
            deterministic=request.deterministic,
        )


def _objection(request: ChatRequest, verdict: Verdict) -> Unbatchable | None:
    """Return what stands against merging, the form of the request before its words."""
    rule, against = verdict.rule, verdict.against
    if request.obstacle is not None:
        return Unbatchable(request.obstacle, None if rule is None else rule.name)
    if against is not None:
        return Unbatchable(against.reason or "rule", None if rule is None else against.name)
    return None


class _Sources:
    """Where a subject or topic is looked up, in the policy's order."""

    def __init__(self, sources: Sequence[Source]) -> None:
        parted = [(kind, name) for kind, _, name in (source.partition(".") for source in sources)]
        self._given = tuple(source for source in sources if source.partition(".")[0] in {"header", "body", "metadata"})
        self._written = tuple((kind, name.casefold()) for kind, name in parted if kind in {"label", "json"})
        self.labels = tuple(name for kind, name in self._written if kind == "label")
        self.keys = tuple(name for kind, name in self._written if kind == "json")

    def given(self, call: Call) -> str | None:
        """Return what a header, body field or metadata says, by which the app decides whatever the prompt says."""
        for source in self._given:
            value = read_source(source, call.headers, call.body)
            kept = trimmed(value) if isinstance(value, str) else None
            if kept is not None:
                return kept
        return None

    def mentioned(self, low: str) -> bool:
        """Tell whether the text (case folded) could hold a label or key of these; a cheap test before any reading."""
        return any(name in low for _, name in self._written)

    def written(self, labels: Labels, objects: Sequence[Json]) -> tuple[str, ...]:
        """Return the distinct values that the prompt gives: one where it is explicit, more where it contradicts itself.

        Sources of other names (`json.focus` beside `json.topic`) are only asked where those before them gave nothing.
        What is only quoted names nothing, but counts where it contradicts.
        """
        found: dict[str, tuple[str, ...]] = {}
        for kind, name in self._written:
            values = labels.values.get(name, []) if kind == "label" else values_of(objects, name)
            found[name] = distinct((*found.get(name, ()), *values))
        name, values = next(((name, values) for name, values in found.items() if values), ("", ()))
        return distinct((*values, *labels.quoted.get(name, ()))) if values else ()


def _described(request: ChatRequest) -> tuple[str, ...]:
    """Return what the tool or schema says of itself, its name as words."""
    asked = request.asked
    schema = asked.schema or {}
    texts = [_CAMEL.sub(" ", asked.name or ""), asked.description, schema.get("title"), schema.get("description")]
    return tuple(text for text in texts if isinstance(text, str) and text)


def _count(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


def _deadline_s(headers: Mapping[str, str]) -> float | None:
    """Return the shorter of the client's own timeouts, in seconds."""
    found: list[float] = []
    for name in ("x-stainless-timeout", "x-stainless-read-timeout"):
        try:
            seconds = float(headers.get(name, ""))
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds > 0:
            found.append(seconds)
    return min(found, default=None)
