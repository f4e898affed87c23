"""Splitting keeps its laws: each caller its own lesson, one outcome each, however the answer is written and cut."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lessons.split import Invalid, Split, Stray, Valid
from proxy.model import Piece
from tests.make import make_lesson, make_lessons, make_text_lesson
from tests.unit.splitting import ANSWERS, CUTS, KEYS, LESSONS, NOISE, contents, dumps, faults, forms, outcomes, pieces, run, strays

FORMS = forms(LESSONS)
TEXTS = tuple(f'A plain lesson with a quote " and {{braces}}, for {key}.\nSecond line.' for key in KEYS)
TEXT_FORMS = forms(TEXTS)


@pytest.mark.parametrize("kind", ["arguments", "content"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_every_caller_its_own_lesson(form: str, kind: str) -> None:
    """Whatever form an answer takes, and wherever it stands, each caller gets what stands under its key."""
    parts = run(pieces(FORMS[form], kind="content" if kind == "content" else "arguments"))
    assert {index: orjson.loads(content) for index, content in contents(parts).items()} == dict(enumerate(LESSONS))
    assert len(parts) == len(KEYS)


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_texts_come_decoded(form: str) -> None:
    """A caller that asked for text gets text, not a JSON string."""
    lessons = [make_text_lesson() for _ in KEYS]
    assert contents(run(TEXT_FORMS[form], lessons)) == dict(enumerate(TEXTS))


@given(form=st.sampled_from(sorted(FORMS)), cuts=CUTS)
def test_good_answers_survive_every_cut(form: str, cuts: list[int]) -> None:
    parts = run(pieces(FORMS[form], cuts))
    assert {index: orjson.loads(content) for index, content in contents(parts).items()} == dict(enumerate(LESSONS))


def test_every_single_cut_of_a_good_answer() -> None:
    """Cut between any two characters, inside escapes and keys too."""
    text = FORMS["fenced"]
    whole = outcomes(run(text))
    for cut in range(len(text)):
        assert outcomes(run(pieces(text, [cut]))) == whole
    assert outcomes(run(pieces(text, range(len(text))))) == whole


@given(answer=ANSWERS, cut_off=st.booleans())
def test_any_answer_gives_each_lesson_exactly_one_outcome(answer: str, cut_off: bool) -> None:  # noqa: FBT001
    """Arbitrary text: no exception, and one Valid or Invalid an index."""
    parts = run(answer, cut_off=cut_off)
    settled = [part.index for part in parts if not isinstance(part, Stray)]
    assert sorted(settled) == list(range(len(KEYS)))


@given(answer=ANSWERS, cuts=CUTS)
def test_cutting_differently_changes_nothing(answer: str, cuts: list[int]) -> None:
    assert outcomes(run(pieces(answer, cuts))) == outcomes(run(answer))


@given(first=ANSWERS, second=ANSWERS, cuts=CUTS)
def test_cutting_differently_changes_nothing_across_arguments_and_content(first: str, second: str, cuts: list[int]) -> None:
    whole = [*pieces(first), *pieces(second, kind="content"), *pieces(first)]
    cut = [*pieces(first, cuts), *pieces(second, cuts, kind="content"), *pieces(first, cuts)]
    assert outcomes(run(cut)) == outcomes(run(whole))


@given(order=st.permutations(range(3)), noise=NOISE, cuts=CUTS)
def test_never_anothers_content(order: list[int], noise: str, cuts: list[int]) -> None:
    """Entries in any order, noise before them: whoever gets a lesson gets the one of its own key."""
    answer = noise + dumps({"lessons": {KEYS[i]: LESSONS[i] for i in order}})
    for index, content in contents(run(pieces(answer, cuts))).items():
        assert orjson.loads(content) == LESSONS[index]


@given(order=st.permutations(range(3)), noise=NOISE, cuts=CUTS)
def test_never_anothers_content_without_a_schema(order: list[int], noise: str, cuts: list[int]) -> None:
    """Even a caller that takes any object never gets one in which others' entries stand."""
    lessons = [make_lesson(shape="json_object", schema=None, schema_name=None, force=None) for _ in KEYS]
    answer = noise + dumps({"lessons": {KEYS[i]: LESSONS[i] for i in order}})
    for index, content in contents(run(pieces(answer, cuts), lessons)).items():
        assert not any(f"of {key}" in content for key in KEYS if key != KEYS[index])


def test_a_lesson_is_handed_over_the_moment_its_entry_closes() -> None:
    """Callers don't wait for those behind them."""
    split = Split(make_lessons(3), KEYS)
    text = FORMS["object"]
    end_of_first = text.index('"},"q2b"') + len('"}')
    assert split.feed(Piece("arguments", text[: end_of_first - 1])) == []
    parts = split.feed(Piece("arguments", text[end_of_first - 1 : end_of_first]))
    assert [part.index for part in parts if isinstance(part, Valid)] == [0]


def test_a_text_is_handed_over_when_the_next_entry_begins() -> None:
    """Only what follows a quote shows that the text ended there."""
    split = Split([make_text_lesson(), make_text_lesson()], ["k1", "k2"])
    assert split.feed(Piece("arguments", '{"lessons":{"k1":"A text","k2"')) == []
    assert contents(split.feed(Piece("arguments", ":"))) == {0: "A text"}


def test_content_is_the_models_own_text() -> None:
    """Numbers, spaces, escapes and the order of fields stay as the model wrote them."""
    written = '{ "content" :"\\u00e9\\/", "title":"T", "n": 1.50e+2 }'
    lesson = make_lesson(schema={"type": "object"})
    assert contents(run(f'{{"lessons":{{"k1": {written} }}}}', [lesson], ["k1"])) == {0: written}


def test_parallel_calls_each_with_a_part() -> None:
    """Several tool calls, one lesson each: each begins a new document, torn ones included."""
    said = [Piece("arguments", dumps({"lessons": {key: lesson}}), opens=True) for key, lesson in zip(KEYS, LESSONS, strict=True)]
    torn = [said[0], Piece("arguments", '{"lessons":{"q2b":{"title":"to', opens=True), *said[1:]]
    assert contents(run(said)).keys() == {0, 1, 2}
    parts = run(torn)
    assert contents(parts).keys() == {0, 1, 2}
    assert strays(parts) == ["cut_off"]


def test_parallel_calls_that_are_written_by_turns_do_not_run_together() -> None:
    """What one call writes between another's pieces is no part of that one's lesson, wherever it is cut."""
    said = [dumps({"lessons": {key: lesson}}) for key, lesson in zip(KEYS, LESSONS, strict=True)]
    for width in (1, 5, 40):
        turns = [
            Piece("arguments", text[at : at + width], call=call, opens=at == 0)
            for at in range(0, max(map(len, said)), width)
            for call, text in enumerate(said)
            if at < len(text)
        ]
        assert {index: orjson.loads(content) for index, content in contents(run(turns)).items()} == dict(enumerate(LESSONS))


def test_arguments_and_content_both_count_and_the_first_valid_entry_wins() -> None:
    told = dumps({"k7a": LESSONS[0]})
    other = dumps({"k7a": {"title": "Other", "content": "c"}, "q2b": LESSONS[1]})
    parts = run([*pieces(told), *pieces(other, kind="content")])
    assert orjson.loads(contents(parts)[0]) == LESSONS[0]
    assert strays(parts) == ["doubled"]
    assert faults(parts) == {2: "missing"}


def test_a_valid_entry_after_an_invalid_one_is_its_callers() -> None:
    """An invalid entry is held, and dropped when a valid one follows."""
    answer = f'{{"lessons":{{"k7a":{{"title":1}},"k7a":{dumps(LESSONS[0])},"k7a":{dumps(LESSONS[1])}}}}}'
    parts = run(answer)
    assert orjson.loads(contents(parts)[0]) == LESSONS[0]
    assert strays(parts) == ["schema", "doubled"]


def test_an_invalid_entry_tells_its_reason_and_text_at_the_end() -> None:
    parts = run('{"lessons":{"k7a":{"title":1}}}')
    assert Invalid(0, "schema", '{"title":1}') in parts


def test_a_lesson_with_a_field_named_like_the_wrapping() -> None:
    """A caller's own `lesson`, `input` or `lessons` field stays part of its lesson."""
    schema = {"type": "object", "required": ["lesson", "input"], "properties": {"lesson": {"type": "string"}}}
    value = {"lesson": "text", "input": {"a": 1}, "lessons": [1]}
    lessons = [make_lesson(schema=schema)]
    for answer in ({"lessons": {"k1": value}}, [{"key": "k1", "lesson": value}], [{"key": "k1", **value}]):
        assert orjson.loads(contents(run(dumps(answer), lessons, ["k1"]))[0]) == value


def test_finishing_ends_the_split() -> None:
    """After the end nothing more comes, whatever is said."""
    split = Split(make_lessons(2), ["a1", "b2"])
    assert len(split.finish(cut_off=True)) == 2
    assert split.feed(Piece("arguments", '{"lessons":{"a1":{"title":"t","content":"c"}}}', opens=True)) == []
    assert split.finish(cut_off=False) == []


def test_reprs_show_no_content() -> None:
    assert "secret" not in repr([Valid(0, "secret"), Invalid(0, "schema", "secret"), Stray("doubled", "secret")])


def test_split_of_a_batch_without_lessons() -> None:
    assert Split([], []).finish(cut_off=False) == []
    assert [type(part) for part in run(dumps({"k7a": LESSONS[0]}), make_lessons(1), ["k7a"])] == [Valid]
