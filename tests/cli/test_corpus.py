"""The demo's corpus holds on the Python that runs it: every question has its answer among the passages."""

from __future__ import annotations

import pytest

from multiembed.cli import corpus
from multiembed.providers import local

pytestmark = pytest.mark.unit

PASSAGES = corpus.passages()
QUESTIONS = corpus.questions()


def in_language(items, language):
    return [item for item in items if item.language == language]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.expects)
def test_every_question_is_answered_by_one_or_two_passages(question):
    answering = [passage for passage in PASSAGES if corpus.answers(question, passage)]
    assert 1 <= len(answering) <= 2
    assert all(question.text not in passage.text for passage in PASSAGES)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_language_has_enough_questions_and_none_twice(language):
    texts = [question.text for question in in_language(QUESTIONS, language)]
    assert len(texts) >= 24
    assert len(set(texts)) == len(texts)


def test_passage_answers_only_with_title_and_phrase():
    question = corpus.Question(text="?", language="en", expects="Tea :: hot water")
    right = corpus.Passage(id="en-1", title="Tea", text="Tea\nTake hot\n  water.", language="en")
    other = corpus.Passage(id="en-2", title="Silk", text="Silk\nWash it in hot water.", language="en")
    without = corpus.Passage(id="en-3", title="Tea", text="Tea\nTake milk.", language="en")
    assert [corpus.answers(question, passage) for passage in (right, other, without)] == [True, False, False]


def test_ids_and_texts_are_unique():
    assert len({passage.id for passage in PASSAGES}) == len(PASSAGES)
    assert len({passage.text for passage in PASSAGES}) == len(PASSAGES)


def test_passages_begin_with_their_title_and_carry_no_underlines():
    for passage in PASSAGES:
        assert passage.text.startswith(f"{passage.title}\n")
        assert not any(line and not line.strip("-=*+|") for line in passage.text.splitlines()), passage.id


def test_the_english_part_is_of_a_size_for_a_demo():
    lengths = [len(passage.text) for passage in in_language(PASSAGES, "en")]
    assert 300 <= len(lengths) <= 500
    assert min(lengths) >= 120
    assert max(lengths) <= 1400
    assert sum(400 <= length <= 1000 for length in lengths) / len(lengths) > 0.9


def test_the_chinese_part_is_short_essays():
    chinese = in_language(PASSAGES, "zh")
    assert len(chinese) >= 60
    assert all(80 <= len(passage.text.removeprefix(f"{passage.title}\n")) <= 200 for passage in chinese)


def test_a_second_reading_gives_the_same():
    assert corpus.passages() == PASSAGES
    assert corpus.questions() == QUESTIONS


@pytest.mark.parametrize("language", ["en", "zh"])
def test_lexical_vectors_find_most_answers_but_not_all(language):
    asked = in_language(QUESTIONS, language)
    vectors = local.embed([passage.text for passage in PASSAGES], 1024)
    scores = local.embed([question.text for question in asked], 1024) @ vectors.T
    found = sum(
        any(corpus.answers(question, PASSAGES[index]) for index in row.argsort()[-3:])
        for question, row in zip(asked, scores, strict=True)
    )
    assert 0.6 <= found / len(asked) < 1.0


@pytest.mark.parametrize(("language", "title"), [("en", "Calls"), ("zh", "文本分块")])
def test_the_default_question_finds_its_answer_first(language, title):
    vectors = local.embed([passage.text for passage in PASSAGES], 1024)
    scores = vectors @ local.embed([corpus.DEFAULT_QUESTION[language]], 1024)[0]
    assert PASSAGES[scores.argmax()].title == title
