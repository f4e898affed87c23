"""Every way an upstream can lie: whatever it sends, each caller gets its own lesson or goes alone, and nothing breaks."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.lessons import split as splitting_module
from proxy.lessons.split import Invalid
from proxy.model import Json, Piece
from tests.make import make_body, make_lesson, make_text_lesson, make_user_text
from tests.unit.splitting import KEYS, LESSONS, TRICKY, contents, dumps, faults, pieces, run, strays

FIRST, SECOND, THIRD = LESSONS
GOOD = dict(zip(KEYS, LESSONS, strict=True))
NOBODY = dict.fromkeys(range(3), "missing")


def batch(**entries: Any) -> str:
    return dumps({"lessons": entries})


def raw(*members: str) -> str:
    """An object whose members are written out, so that names may come twice."""
    return '{"lessons":{' + ",".join(members) + "}}"


def member(key: str, value: Any) -> str:
    return f"{dumps(key)}:{dumps(value)}"


def titles(answer: str) -> dict[int, str]:
    return {index: orjson.loads(content)["title"] for index, content in contents(run(answer)).items()}


# Keys


def test_doubled() -> None:
    """The first valid entry of a key is its caller's; the second is dropped and counted."""
    answer = raw(member("k7a", FIRST), member("k7a", SECOND), member("q2b", SECOND), member("z9c", THIRD))
    parts = run(answer)
    assert titles(answer) == {0: FIRST["title"], 1: SECOND["title"], 2: THIRD["title"]}
    assert strays(parts) == ["doubled"]


def test_missing() -> None:
    parts = run(batch(k7a=FIRST, z9c=THIRD))
    assert contents(parts).keys() == {0, 2}
    assert faults(parts) == {1: "missing"}


def test_unknown() -> None:
    """Nobody gets what stands under nobody's key, not even the one who is missing."""
    parts = run(batch(k7a=FIRST, lesson_2=SECOND, z9c=THIRD))
    assert faults(parts) == {1: "missing"}
    assert strays(parts) == ["unknown"]


def test_reordered() -> None:
    assert titles(batch(z9c=THIRD, k7a=FIRST, q2b=SECOND)) == {0: FIRST["title"], 1: SECOND["title"], 2: THIRD["title"]}


@pytest.mark.parametrize("key", ["K7A", "k7a ", " k7a", "k7", "k7aa", "0", "", "k7\u0430"])
def test_a_key_that_is_only_similar_is_not_accepted(key: str) -> None:
    """Neither case, nor space, nor a letter that looks alike makes a key."""
    assert faults(run(batch(**{key: FIRST, "q2b": SECOND, "z9c": THIRD}))) == {0: "missing"}


@pytest.mark.parametrize("key", [None, 0, ["k7a"], {"k7a": 1}, "k7a q2b"])
def test_an_element_whose_key_is_no_key(key: Any) -> None:
    assert faults(run(dumps({"lessons": [{"key": key, "lesson": FIRST}]}))) == NOBODY


def test_the_index_in_place_of_the_key() -> None:
    """Order and number never decide."""
    assert faults(run(dumps({"lessons": [{"index": i, "lesson": GOOD[key]} for i, key in enumerate(KEYS)]}))) == NOBODY
    assert faults(run(dumps({"lessons": list(LESSONS)}))) == NOBODY
    assert faults(run(batch(**{"0": FIRST, "1": SECOND, "2": THIRD}))) == NOBODY


def test_two_keys_for_one_lesson() -> None:
    answer = '{"lessons":[{"key":"k7a","key":"q2b","lesson":' + dumps(FIRST) + "}]}"
    assert faults(run(answer)) == {0: "ambiguous", 1: "missing", 2: "missing"}


def test_one_lesson_without_the_batch() -> None:
    """A model that ignored the batch and wrote one lesson wrote nobody's."""
    assert faults(run(dumps(FIRST))) == NOBODY


# Contents


@pytest.mark.parametrize("value", [None, 1, True, "a text", [], [FIRST], "", {}, {"title": "only"}, {**FIRST, "extra": 1}])
def test_an_invalid_entry_fails_alone(value: Any) -> None:
    parts = run(batch(k7a=FIRST, q2b=value, z9c=THIRD))
    assert contents(parts).keys() == {0, 2}
    assert faults(parts)[1] in ("schema", "not_object")


@pytest.mark.parametrize(
    "entry",
    [
        '{"title":NaN,"content":"c"}',
        '{"title":"t","content":"lone \\ud800"}',
        '{"title":"t","content":"c",}',
        "{'title':'t','content':'c'}",
        '{"title":"t","content":"c"]',
        '{"title":"t" "content":"c"}',
        '{"title":"t","content":"a\nb"}',
        '{"title":"t","content":"a\x00b"}',
        '{"title":"t","content":"\\x41"}',
        '{"title":"t","content":"c"/* done */}',
        '{"title":"t","content":"c","n":1e999}',
        '{"title":' + "[" * 5000 + "]" * 5000 + "}",
        "{title:1}",
    ],
)
def test_what_is_not_strict_json_fails_alone(entry: str) -> None:
    """What a caller's own parser might refuse, or read otherwise, isn't handed over."""
    parts = run(raw(member("k7a", FIRST), f'"q2b":{entry}', member("z9c", THIRD)))
    assert faults(parts) == {1: "not_json"}
    assert contents(parts).keys() == {0, 2}


def test_quotes_that_were_not_escaped_never_shorten_a_text() -> None:
    """A text that ends at a quote within it is not taken for whole."""
    lessons = [make_text_lesson() for _ in KEYS]
    for inner in ('He said "hi" to all', 'one", "two', 'a"', 'He said "'):
        parts = run(f'{{"lessons":{{"k7a":"{inner}","q2b":"Second."}}}}', lessons)
        assert 0 not in contents(parts)
        assert contents(parts).get(1, "Second.") == "Second."


def test_long_numbers_and_strange_characters_stay_as_they_were_written() -> None:
    lesson = make_lesson(schema={"type": "object"})
    written = '{"n":123456789012345678901234567890.000,"t":"\\u0000\\r\\n\ufeff\u2028"}'
    assert contents(run(f'{{"lessons":{{"k1":{written}}}}}', [lesson], ["k1"])) == {0: written}


def test_surrogate_halves_in_two_deltas_are_one_character() -> None:
    said = [Piece("arguments", '{"lessons":{"k1":{"title":"\ud83d'), Piece("arguments", '\ude00","content":"c"}}}')]
    assert contents(run(said, [make_lesson()], ["k1"])) == {0: '{"title":"\U0001f600","content":"c"}'}


def test_half_a_surrogate_pair_fails_alone() -> None:
    assert faults(run('{"lessons":{"k1":{"title":"\ud83d","content":"c"}}}', [make_lesson()], ["k1"])) == {0: "not_json"}


def test_empty_texts_are_no_lessons() -> None:
    lessons = [make_text_lesson() for _ in KEYS]
    assert faults(run(batch(k7a="", q2b=" \n", z9c={"text": "t"}), lessons)) == {0: "empty", 1: "empty", 2: "not_text"}


# What looks like an entry


def test_entries_inside_a_lessons_strings_are_text() -> None:
    decoy = {"title": "t", "content": batch(q2b=SECOND) + "}}" + TRICKY}
    parts = run(batch(k7a=decoy))
    assert contents(parts).keys() == {0}
    assert faults(parts) == {1: "missing", 2: "missing"}


def test_entries_inside_a_lesson_are_not_entries() -> None:
    """Siblings' entries nested in one entry are nobody's, and spoil that entry too."""
    lessons = [make_lesson(schema={"type": "object"}) for _ in KEYS]
    nested = ({"q2b": SECOND}, {"lessons": {"q2b": SECOND}}, {"lessons": [{"key": "q2b", "lesson": SECOND}]})
    for value in nested:
        assert faults(run(batch(k7a={"title": "t", **value}), lessons)) == {0: "crossed", 1: "missing", 2: "missing"}
    texts = [make_text_lesson() for _ in KEYS]
    assert faults(run(batch(k7a=batch(q2b="Second.")), texts)) == {0: "crossed", 1: "missing", 2: "missing"}


def test_the_prompts_schema_echoed_is_no_answer() -> None:
    item = {"$ref": "#/$defs/item"}
    schema = {"type": "object", "properties": {"lessons": {"type": "object", "properties": dict.fromkeys(KEYS, item)}}}
    assert faults(run(dumps(schema))) == NOBODY
    assert contents(run(dumps(schema) + batch(**GOOD))).keys() == {0, 1, 2}


@pytest.mark.parametrize(
    "prose",
    [
        "k7a: a lesson on lines. q2b: another.",
        'First "k7a": then {"q2b"} and [z9c].',
        'The set {1, 2} is [not closed, a "quote is',
        '"',
        "{",
        "[",
        '["',
        "```json\n",
        "\ufeff\r\n\t\x00",
        '{"note": "k7a comes first"}\r\n',
        "[1] [2] {} []",
        "<think>{k7a}</think>",
    ],
)
def test_prose_before_the_answer(prose: str) -> None:
    """Keys, braces and quotes in prose are prose. Where they hide what follows, callers go alone; nobody gets another's."""
    parts = run(pieces(prose + "\n" + batch(**GOOD), kind="content"))
    for index, content in contents(parts).items():
        assert orjson.loads(content) == LESSONS[index]
    if not prose.endswith(('"', "is")):
        assert contents(parts).keys() == {0, 1, 2}


def test_several_documents() -> None:
    """A draft, then the answer: what was valid first stays."""
    answer = batch(k7a=FIRST) + "\r\n---\r\n" + batch(k7a=SECOND, q2b=SECOND) + "[]" + batch(z9c=THIRD)
    assert titles(answer) == {0: FIRST["title"], 1: SECOND["title"], 2: THIRD["title"]}


# Endings


def test_cut_off_in_the_middle() -> None:
    """What closed before stays; what had begun and what had not are told apart from missing."""
    text = batch(**GOOD)
    parts = run(text[: text.index('"z9c"') - 40], cut_off=True)
    assert contents(parts).keys() == {0}
    assert faults(parts) == {1: "cut_off", 2: "cut_off"}
    torn = next(part for part in parts if isinstance(part, Invalid) and part.index == 1)
    assert torn.text.startswith('{"title"')


def test_ended_in_the_middle_though_upstream_says_it_is_whole() -> None:
    text = batch(**GOOD)
    assert faults(run(text[:-40])) == {2: "cut_off"}
    assert faults(run(text[: text.index('"q2b"')])) == {1: "missing", 2: "missing"}


def test_a_text_that_ends_the_stream_is_not_whole() -> None:
    assert faults(run('{"lessons":{"k1":"The end', [make_text_lesson()], ["k1"])) == {0: "cut_off"}
    assert faults(run('{"lessons":{"k1":"The end"', [make_text_lesson()], ["k1"])) == {0: "cut_off"}


def test_nothing_at_all() -> None:
    assert faults(run([])) == NOBODY
    assert faults(run([Piece("content", ""), Piece("arguments", "", opens=True)], cut_off=True)) == dict.fromkeys(range(3), "cut_off")


# Amounts


def test_megabytes_of_spaces_are_read_up_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is stuck costs bounded time and memory; what lies behind the bound is as if it had been cut off."""
    monkeypatch.setattr(splitting_module, "MAX_TEXT", 100_000)
    gap = " " * 60_000
    said = [Piece("arguments", raw(member("k7a", FIRST))[:-2] + "," + gap), Piece("arguments", gap + member("q2b", SECOND) + "}}")]
    parts = run(said)
    assert contents(parts).keys() == {0}
    assert faults(parts) == {1: "cut_off", 2: "cut_off"}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"lessons":' * 20_000, '{"k7a":' * 20_000, '{"k7a":[' + "{" * 100_000])
def test_deep_nesting(text: str) -> None:
    assert contents(run(text)) == {}


def test_strings_within_strings_end_somewhere() -> None:
    text = batch(**GOOD)
    for _ in range(6):
        text = dumps(text)
    assert faults(run(text)) == NOBODY


def test_twenty_thousand_strangers() -> None:
    parts = run("[" + ",".join(['{"key":"x","lesson":1}'] * 20_000) + "]" + batch(**GOOD))
    assert contents(parts).keys() == {0, 1, 2}
    assert strays(parts) == ["unknown"] * 20_000


# Exchanged contents


LEVELS: Json = {"type": "object", "properties": {"difficulty_level": {"enum": ["easy", "hard", "Very Hard"]}, "n": {"type": "integer"}}}


def asking(*requests: str) -> list[Any]:
    bodies = [make_body(messages=[{"role": "user", "content": make_user_text(request=request)}]) for request in requests]
    return [make_lesson(schema=LEVELS, body=body) for body in bodies]


def test_crossed_where_callers_asked_for_listed_values() -> None:
    """Right keys, exchanged contents: what the callers' labels tell apart is seen."""
    lessons = asking("Difficulty level: easy", "- **Difficulty level:** very hard", '{"difficulty_level": "hard"}')
    answer = batch(k7a={"difficulty_level": "Very Hard"}, q2b={"difficulty_level": "easy"}, z9c={"difficulty_level": "hard"})
    parts = run(answer, lessons)
    assert faults(parts) == {0: "crossed", 1: "crossed"}
    assert contents(parts).keys() == {2}


def test_not_crossed_where_it_cannot_be_known() -> None:
    """A value is the model's own choice where its caller named none, or several, or where nobody else asked for it."""
    hard = {"difficulty_level": "hard"}
    for own in ("No word of it", "Difficulty level: easy\nDifficulty level: Very hard", "Difficulty level: unheard of"):
        assert contents(run(batch(k7a=hard), asking(own, "Difficulty level: hard", "No word of it"))).keys() == {0}
    assert contents(run(batch(k7a=hard), asking("Difficulty level: easy", "Difficulty level: Very hard", "No word"))).keys() == {0}
