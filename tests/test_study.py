"""Study material against its schema; predictions and quizzes as the learner meets them."""

from __future__ import annotations

import json
from pathlib import Path

import ipywidgets as widgets
import pytest

from helpers.ledger import ledger
from helpers.study import content, guess, predict, predictions, quiz, shown
from helpers.study.checks import find

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHAPTERS = content.chapters()
WIDGET = "application/vnd.jupyter.widget-view+json"

PREDICTION = """
[[prediction]]
id = "03-x"
section = "s"
question = "q"
unit = "µs"
low = 1
high = 10
"""
QUIZ = """
[[quiz]]
id = "03-q"
section = "s"
question = "q"
[[quiz.options]]
text = "a"
right = true
reason = "r"
[[quiz.options]]
text = "b"
right = false
reason = "r"
"""
EXERCISE = """
[[exercise]]
id = "03-e"
section = "s"
title = "t"
task = "t"
stub = "def f(): ..."
solution = "def f(): return 1"
[exercise.hints]
other = "h"
"""


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "ledger.sqlite"))


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "not-a-folder"
    folder.write_text("")
    monkeypatch.setenv("HELPERS_LEDGER", str(folder / "ledger.sqlite"))


# --- Content --------------------------------------------------------------------------------------------------------


def test_every_content_file_follows_the_schema() -> None:
    numbers = [chapter.notebook[:2] for chapter in CHAPTERS]
    assert numbers == ["00", "01", "02", "03", "04", "05", "06", "07", "08"]
    for chapter in CHAPTERS:
        assert chapter.predictions and chapter.exercises and chapter.questions and chapter.cards


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.notebook)
def test_sections_are_headings_of_the_notebook(chapter: content.Chapter) -> None:
    cells = _cells(chapter)
    headings = {
        line[3:].strip()
        for cell in cells
        if cell["cell_type"] == "markdown"
        for line in _source(cell).splitlines()
        if line.startswith("## ")
    }
    assert {entry.id: entry.section for entry in chapter.entries if entry.section not in headings} == {}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.notebook)
def test_the_notebook_has_stubs_and_solutions_word_for_word(chapter: content.Chapter) -> None:
    sources = [_source(cell).strip() for cell in _cells(chapter)]
    for exercise in chapter.exercises:
        for code in (exercise.stub, exercise.solution):
            assert any(code.strip() in source for source in sources), f"{exercise.id} is not as in {chapter.notebook}"


def _cells(chapter: content.Chapter) -> list[dict]:
    path = NOTEBOOKS / f"{chapter.notebook}.ipynb"
    if not path.exists():
        pytest.skip(f"{path.name} isn't written yet")
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _source(cell: dict) -> str:
    return "".join(cell["source"])


def test_right_answers_are_not_always_in_the_same_place_nor_given_away_by_length() -> None:
    questions = [question for chapter in CHAPTERS for question in chapter.questions]
    places = [[option.right for option in question.options].index(True) for question in questions]
    assert len(set(places)) >= 3
    longest = [max(question.options, key=lambda option: len(option.text)).right for question in questions]
    assert sum(longest) < 0.5 * len(longest)


def test_every_exercise_has_a_check() -> None:
    for chapter in CHAPTERS:
        for exercise in chapter.exercises:
            assert callable(find(exercise.id))
    with pytest.raises(LookupError, match="03-nothing"):
        find("03-nothing")


def test_well_formed_samples_are_accepted() -> None:
    chapter = content.parse(PREDICTION + QUIZ + EXERCISE, "03_x.toml")
    assert [entry.id for entry in chapter.entries] == ["03-x", "03-e", "03-q"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PREDICTION.replace('unit = "µs"\n', ""), "03_x.toml: prediction 03-x: unit: missing"),
        (PREDICTION.replace("low = 1", "low = 0"), "03_x.toml: prediction 03-x: low: a number above zero"),
        (PREDICTION.replace("low = 1", "low = true"), "prediction 03-x: low: a number is needed, not True"),
        (PREDICTION.replace("high = 10", "high = 1"), "prediction 03-x: high: 1 is not above low"),
        (PREDICTION.replace('"s"', '" "'), "prediction 03-x: section: empty"),
        (PREDICTION + 'uint = "µs"\n', "prediction 03-x: uint: no such field"),
        (PREDICTION.replace("03-x", "04-x"), "03_x.toml: 04-x: id: starts with another"),
        (PREDICTION.replace("03-x", "x"), "prediction x: id: 'x' is not like"),
        (PREDICTION + PREDICTION, "03_x.toml: 03-x: id: used twice"),
        (QUIZ.replace("false", "true"), "quiz 03-q: options: exactly one must be right, 2 are"),
        (QUIZ.replace("true", "false"), "quiz 03-q: options: exactly one must be right, 0 are"),
        (QUIZ.replace('reason = "r"\n[[', "[["), "quiz 03-q: options 1: reason: missing"),
        (QUIZ.replace('"b"', '"a"'), "quiz 03-q: options: two of them"),
        (EXERCISE.replace("other", "swapped"), "exercise 03-e: hints: a hint named other"),
        (EXERCISE.replace("def f(): ...", "f = 1"), "exercise 03-e: stub: defines no function"),
        (EXERCISE.replace("def f(): return", "def g(): return"), "exercise 03-e: solution: does not define f"),
        ("[[predictions]]\n", "03_x.toml: predictions: no such field"),
        ("[prediction]\n", "03_x.toml: prediction: write [[prediction]]"),
        ("id = ", "03_x.toml: "),
    ],
)
def test_complaints_name_file_entry_and_field(text: str, complaint: str) -> None:
    with pytest.raises(content.ContentError) as raised:
        content.parse(text, "03_x.toml")
    assert complaint in str(raised.value)


def test_an_unknown_id_is_answered_with_those_that_exist() -> None:
    with pytest.raises(content.ContentError, match="03-nothing: no such entry; there are 03-switch"):
        predict("03-nothing")
    with pytest.raises(content.ContentError, match="99"):
        quiz("99")


# --- Predictions ----------------------------------------------------------------------------------------------------


def test_a_saved_guess_is_there_for_the_figure_and_for_the_next_session() -> None:
    assert guess("03-switch") is None
    asked = predict("03-switch")
    asked.field.value = 5
    assert asked.slider.value == pytest.approx(5)
    assert guess("03-switch") is None
    asked.button.click()
    assert "Saved: 5 µs. Run on." in asked.status.value
    assert guess("03-switch") == 5
    again = predict("03-switch")
    assert again.field.value == 5 and again.slider.value == pytest.approx(5)
    assert "5 µs" in again.status.value


def test_slider_and_field_agree_to_the_digits_of_a_guess() -> None:
    asked = predict("03-ram")
    asked.slider.value = 123.456
    assert asked.field.value == 120
    asked.field.value = 87.6
    assert (asked.field.value, asked.slider.value) == (87.6, pytest.approx(87.6))
    for end in (asked.about.low, asked.about.high):
        asked.field.value = end
        assert asked.slider.value == pytest.approx(end)


def test_a_typed_guess_survives_the_steps_of_the_slider() -> None:
    asked = predict("03-switch")
    asked.field.value = 7.5
    asked.slider.value = 10**0.88  # as the browser answers, being able to stand at whole steps only
    assert asked.field.value == 7.5
    asked.slider.value = 10**0.87
    assert asked.field.value == 7.4


def test_a_changed_guess_is_not_shown_as_saved() -> None:
    asked = predict("03-switch")
    asked.button.click()
    asked.field.value = 7
    assert asked.status.value == ""


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.notebook)
def test_every_prediction_makes_a_widget(chapter: content.Chapter) -> None:
    for about in chapter.predictions:
        asked = predict(about.id)
        assert about.low < asked.field.value < about.high


def test_a_guess_in_another_unit() -> None:
    asked = predict("00-process-start")
    asked.field.value = 2
    asked.button.click()
    assert guess("00-process-start", "µs") == pytest.approx(2000)
    assert guess("00-process-start", "furlong") is None


@pytest.mark.usefixtures("full_disk")
def test_a_guess_that_cannot_be_stored_is_used_all_the_same() -> None:
    asked = predict("03-switch")
    asked.field.value = 3
    asked.button.click()
    assert "Noted for this session: 3 µs. Run on." in asked.status.value
    assert shown.rich(ledger().trouble or "no trouble") in asked.status.value
    assert guess("03-switch") == 3


def test_a_saved_notebook_shows_the_question_without_widgets() -> None:
    bundle = predict("03-switch")._repr_mimebundle_()
    assert "Two processes share one core" in bundle["text/html"] and "µs" in bundle["text/html"]
    assert "Two processes share one core" in bundle["text/plain"] and "<" not in bundle["text/plain"]
    assert bundle[WIDGET]["model_id"]


def test_a_guess_outside_todays_scale_is_left_alone() -> None:
    ledger().predict("03-switch", 1e9, "µs")
    asked = predict("03-switch")
    assert asked.field.value < 1000 and asked.status.value == ""


# --- Quizzes --------------------------------------------------------------------------------------------------------


def _choose(asked: widgets.RadioButtons, option: content.Option) -> None:
    asked.value = option.text


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.notebook)
def test_every_option_is_answered_with_its_own_reason(chapter: content.Chapter) -> None:
    asked = quiz(chapter.notebook[:2])
    for item in asked.asked:
        assert item.options.value is None and item.feedback.value == ""
        for option in item.about.options:
            _choose(item.options, option)
            assert ("✓ Right." if option.right else "✗ Not quite.") in item.feedback.value
            assert shown.rich(option.reason) in item.feedback.value
            assert 'role="status"' in item.feedback.value


def test_the_score_counts_and_says_what_is_left() -> None:
    asked = quiz("03")
    total = len(asked.asked)
    assert f"0 of {total} right</strong>, {total} still to answer" in asked.score.value
    for item in asked.asked:
        _choose(item.options, next(option for option in item.about.options if not option.right))
    assert f"0 of {total} right" in asked.score.value and "choose again" in asked.score.value
    for item in asked.asked:
        _choose(item.options, next(option for option in item.about.options if option.right))
    assert f"{total} of {total} right</strong>." in asked.score.value


def test_answers_are_there_again_after_a_restart() -> None:
    first = quiz("03").asked[0]
    _choose(first.options, first.about.options[0])
    again = quiz("03")
    assert again.asked[0].options.value == first.about.options[0].text
    assert shown.rich(first.about.options[0].reason) in again.asked[0].feedback.value
    assert again.asked[1].options.value is None


def test_an_answer_to_an_older_version_of_the_question_counts_as_none() -> None:
    about = content.chapter("03").questions[0]
    ledger().answer("quiz", about.id, "what the option said last year")
    assert quiz("03").asked[0].options.value is None


@pytest.mark.usefixtures("full_disk")
def test_an_answer_that_cannot_be_stored_is_judged_all_the_same() -> None:
    item = quiz("00").asked[0]
    _choose(item.options, item.about.options[0])
    assert shown.rich(item.about.options[0].reason) in item.feedback.value
    assert shown.rich(ledger().trouble or "no trouble") in item.feedback.value


def test_a_saved_notebook_shows_questions_options_and_folded_answers() -> None:
    static = quiz("03").static_html()
    for question in content.chapter("03").questions:
        assert shown.rich(question.question) in static
        assert all(shown.rich(option.text) in static for option in question.options)
    assert static.count("<details>") == static.count("</details>") == len(content.chapter("03").questions)


# --- Texts ----------------------------------------------------------------------------------------------------------


def test_texts_become_html() -> None:
    assert shown.rich("a < b, `x*y*z`, *this* and 2 * 3 * 4") == (
        "a &lt; b, <code>x*y*z</code>, <em>this</em> and 2 * 3 * 4"
    )
    assert shown.plain("`os.read` *now*") == "os.read now"


def test_guess_units_are_those_that_figures_use() -> None:
    units = {about.unit for chapter in CHAPTERS for about in chapter.predictions}
    assert units <= {*predictions.SECONDS, "%", "x", "KiB", "MiB", "MB", "cores", "connections", "round trips"}
