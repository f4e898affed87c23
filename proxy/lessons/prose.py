"""Tells what a prompt says beside its labels: whether it brings a text of its own, whether it asks a question; it knows no rules.

A request speaks of the lesson, to the model or of the learner; a finished lesson, an answer or a source does so in few of
its sentences. Sentences of other languages that name no lesson count as such a text: in doubt a call goes alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from proxy.lessons.phrases import PROSE, QUESTION
from proxy.lessons.words import STOP, is_unspaced, words_of

MIN_WORDS = 12
"""So many words of running text are a passage; in a single value of a label or of a JSON object it takes `MIN_VALUE_WORDS`."""
MIN_VALUE_WORDS = 20
_SENTENCE_WORDS = 5
_CHARS_A_WORD = 2
_OPENING_WORDS = 2
_LEAST_SHARE = 2 / 3
"""Of what stands behind no label: long instructions hold sentences that none of our words tell from running text."""
_POINT_WORDS = 8
_MOST_SENTENCES = 2_000
"""No request has as many: what has more is a text."""
_READ_CHARS = 30_000
"""Of what stands behind no label, and of any value: so long a beginning shows what the whole is."""
_BULLETS = ("-", "*", "•", "+")
_STOPS = " . "

_OF_THE_LESSON = """
lesson lessons microlesson microlessons learner learners student students pupil pupils teacher teachers tutor class kids
audience subject topic level grade pace tone style difficulty format json markdown schema tool output paragraph paragraphs
section sections heading headings title bullet bullets minutes words quiz quizzes exercise exercises objective objectives
activity activities explanation introduction summary accuracy goal interests misconceptions please must should you your
lección leccion leçon lektion unterrichtsstunde lezione aula lição les lekcję lekcja lekci hodinu ders урок урока درس درسا
lektionen lecciones leçons aulas lezioni lessen pelajaran lecție lecke leckét oppitunti μάθημα שיעור पाठ পাঠ học somo
alumno alumna estudiante élève schüler schülerin alunno studente aluno aluna leerling uczeń ucznia ученика ученику учня
учню öğrenci öğrencisi elev eleven žáka siswa murid छात्र विद्यार्थी mwanafunzi طالب لطالب
"""
_INSTRUCTING = """
write create make generate produce prepare design build explain describe use include add give provide avoid keep ensure
open start begin end finish focus adapt adjust tailor return respond reply call do don never always limit cover assume teach
show pick choose mention define introduce connect match mix stay be plan help work follow set put target aim reflect
say tell ask develop interpret emphasise emphasize compare collect solve derive illustrate motivate discuss check name mark finish
"""
_SPEAKS_OF_THE_LESSON = frozenset(_OF_THE_LESSON.split())
_OPENS_AN_INSTRUCTION = frozenset(_INSTRUCTING.split())
_NAMES_A_LESSON = frozenset({"lesson", "microlesson", "lección", "leçon", "lektion", "lezione", "aula", "lição", "урок", "ders"})
_IN_UNSPACED = ("课", "課", "レッスン", "授業", "수업", "学生", "生徒", "학생", "บทเรียน")
_POLITE = frozenset({"can", "could", "would", "will", "may"})
# the `?` of a quotation or an aside ('Did you know?', e.g. why?) asks nothing of the model
_ASKS = re.compile('(?:^|[.!])([^.!?"\u201c\u201d()\uff1f\u061f]{4,300})[?\uff1f\u061f](?!["\'\u201d\u2019)])')


def signs(prose: Iterable[str], values: Iterable[str]) -> frozenset[str]:
    """Return the signs that hold: of the lines that stand behind no label, and of the values of labels and objects."""
    lines = tuple(_beginning(prose))
    running = _running_words(_STOPS.join(line for line in lines if not _is_point(line)))
    if running < _LEAST_SHARE * sum(len(line.split()) for line in lines):
        running = 0
    told = (_running_words(value[:_READ_CHARS]) for value in values)
    running += sum(words for words in told if words >= MIN_VALUE_WORDS)
    found = {PROSE} if running >= MIN_WORDS else set[str]()
    if any(_is_question(line) for line in lines):
        found.add(QUESTION)
    return frozenset(found)


def _beginning(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines, as far as they are read."""
    left = _READ_CHARS
    for line in lines:
        if left <= 0:
            return
        yield line[:left]
        left -= len(line)


def _is_point(line: str) -> bool:
    """Tell whether a line is a short point of a list, which rules and wishes are written as."""
    return line.lstrip().startswith(_BULLETS) and len(line.split()) <= _POINT_WORDS


def _running_words(text: str) -> int:
    """Count the words of the sentences that speak neither of the lesson nor to the model."""
    total = 0
    words = words_of(text)
    words.append(STOP)
    if words.count(STOP) > _MOST_SENTENCES:
        return len(words)
    start = 0
    unspaced = is_unspaced(text)
    least = 1 if unspaced else _SENTENCE_WORDS
    while start < len(words):
        end = words.index(STOP, start)
        if end - start >= least:
            total += _weight(words[start:end], unspaced=unspaced)
        start = end + 1
    return total


def _weight(sentence: list[str], *, unspaced: bool) -> int:
    """Return the words of a sentence that speaks neither of the lesson nor to the model; 0 for another."""
    if not _SPEAKS_OF_THE_LESSON.isdisjoint(sentence) or not _OPENS_AN_INSTRUCTION.isdisjoint(sentence[:_OPENING_WORDS]):
        return 0
    weight = len(sentence)
    if unspaced:
        unparted = [word for word in sentence if is_unspaced(word)]
        if any(noun in word for word in unparted for noun in _IN_UNSPACED):
            return 0
        weight += sum(map(len, unparted)) // _CHARS_A_WORD - len(unparted)
    return weight if weight >= _SENTENCE_WORDS else 0


def _is_question(line: str) -> bool:
    return any(not _is_request(asked[1]) for asked in _ASKS.finditer(line)) if "?" in line or not line.isascii() else False


def _is_request(asked: str) -> bool:
    """Tell whether a question is a polite request for a lesson."""
    words = words_of(asked)
    return bool(words) and words[0] in _POLITE and not _NAMES_A_LESSON.isdisjoint(words)
