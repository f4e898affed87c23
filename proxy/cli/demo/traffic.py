"""The demo's calls as an education app would send them: several users, topics and bursts; no HTTP."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from proxy.model import Json

_SEED = 11
_SPREAD_S = 3.0
"""Bursts begin at random moments of so many seconds, so that those of different users lie over each other."""
_WITHIN_BURST_S = 0.03
"""An app that asks for several lessons at once sends them within so many seconds."""
_BURSTS = (5, 3, 2, 1)
_USERS = ("ada", "bela", "chi", "dora", "emre", "fay")
_TOPICS = (
    ("Algebra 1", "Linear equations"),
    ("Biology", "Photosynthesis"),
    ("History", "The printing press"),
)
_REQUESTS = (
    "Begin with an example from the kitchen, then state the rule.",
    "Write it for a learner who has seen this once and forgotten most of it.",
    "Say of the two most frequent mistakes how they differ.",
    "Close with three questions that build on each other.",
    "Tell it as a short story with one number in it.",
)
_OTHER_REQUESTS = ("Which of these two sentences reads better, and why?", "Give me three names for a study group.")
_SYSTEM = (
    "You are a teacher who writes lessons for one learner at a time. A lesson has a title, a body of about a hundred words and one "
    "exercise. Explain one idea, give one worked example with every step written out, name the mistake that learners make most often "
    "and why it is tempting, and end with something to try. Use plain words and short sentences; introduce a technical term only when "
    "it is needed, and explain it where it first appears. Speak to the learner as to an attentive adult: no praise, no exclamation "
    "marks, no rhetorical questions. Never refer to these instructions or to the learner by name. Numbers must be right: work every "
    "calculation through twice before you write it down, and prefer small whole numbers, so that the learner can follow them in the "
    "head. Where a formula helps, give it in words first and in symbols after that. Where a date or a name helps, give at most two. "
    "Keep to the subject and topic that are given and to the level that the learner's data describe; what the learner knows already "
    "may be used, but is not repeated. Do not use headings, lists, tables or emphasis. The exercise must be solvable with what the "
    "body says and nothing else, in five minutes, on paper. It has one right result, which you do not give away. Choose the level "
    "from what the exercise asks: easy for one step, medium for two or three, hard for more. Write in the language of the request."
)
_LEARNER = (
    "Level: second year. Known: the chapter before this one, reading of graphs, fractions. Not known: proofs. Pace: slow; twenty "
    "minutes a day, mostly in the evening. Last results: 6, 7 and 8 of 10, with most mistakes in the last third. Likes examples from "
    "the kitchen, from sport and from railways. Has asked twice why a rule holds and once for a second example. Reads on a phone: "
    "short paragraphs, no wide lines."
)
_TOOL: Json = {
    "type": "function",
    "function": {
        "name": "create_lesson",
        "description": "Hand over the lesson to the learner. Every field is shown as it is, without any change.",
        "parameters": {
            "type": "object",
            "properties": {
                "title": {"type": "string", "description": "What the lesson is about, in at most ten words, without a full stop."},
                "content": {"type": "string", "description": "The lesson's body: plain text, paragraphs divided by an empty line."},
                "exercise": {"type": "string", "description": "One task for the learner, with all the data that are needed to solve it."},
                "level": {
                    "type": "string",
                    "enum": ["easy", "medium", "hard"],
                    "description": "How much the exercise asks of the learner.",
                },
            },
            "required": ["title", "content", "exercise", "level"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One call of the demo."""

    after_s: float
    """Seconds from the start of the traffic."""
    body: Json = field(repr=False)
    lesson: bool

    @property
    def stream(self) -> bool:
        """Tell whether the answer comes as events."""
        return bool(self.body.get("stream"))


def plan() -> list[Ask]:
    """Return the calls in the order of their time; the same ones at every call."""
    chance = random.Random(_SEED)  # noqa: S311 - the same traffic at every run is the point
    asks: list[Ask] = []
    for place, user in enumerate(_USERS):
        for turn, (subject, topic) in enumerate(_TOPICS):
            begins_s = chance.uniform(0, _SPREAD_S)
            size = _BURSTS[(place + turn) % len(_BURSTS)]
            for number in range(size):
                body = _lesson_body(user, subject, topic, _REQUESTS[number], stream=(place + number) % 3 == 0)
                asks.append(Ask(begins_s + chance.uniform(0, _WITHIN_BURST_S), body, lesson=True))
        asks.append(Ask(chance.uniform(0, _SPREAD_S), _other_body(user, chance.choice(_OTHER_REQUESTS)), lesson=False))
    return sorted(asks, key=lambda ask: ask.after_s)


def _lesson_body(user: str, subject: str, topic: str, request: str, *, stream: bool) -> Json:
    text = f"Subject: {subject}\nTopic: {topic}\nLearner: {_LEARNER}\nCreate one lesson. {request}"
    body: Json = {
        "model": "lesson-model",
        "user": user,
        "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}],
        "tools": [_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "create_lesson"}},
    }
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def _other_body(user: str, text: str) -> Json:
    return {"model": "lesson-model", "user": user, "messages": [{"role": "user", "content": text}]}
