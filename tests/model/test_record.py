"""The record of a training."""

from dataclasses import replace

import pytest

from napari_uflow.model.record import OutcomeKind, PlantedOutcome, TrainingOutcome, TrainingRecord


@pytest.mark.parametrize(
    ("outcome", "text", "remark"),
    [
        (TrainingOutcome(), "done", ""),
        (TrainingOutcome(OutcomeKind.CONVERGED, 4), "done: no better model after step 4", None),
        (TrainingOutcome(OutcomeKind.STOPPED, 3), "stopped at step 3", "stopped at step 3"),
        (TrainingOutcome(OutcomeKind.INTERRUPTED, 2), "interrupted after step 2", "interrupted after step 2"),
    ],
)
def test_an_outcome_in_words(outcome, text, remark):
    assert outcome.text() == text
    assert outcome.remark() == (text.removeprefix("done: ") if remark is None else remark)


@pytest.mark.parametrize("kind", OutcomeKind)
def test_the_words_tell_all_kinds_apart(kind):
    others = {TrainingOutcome(other, 1).text() for other in OutcomeKind if other is not kind}
    assert TrainingOutcome(kind, 1).text() not in others
    assert TrainingOutcome(kind, 1).text().startswith("done") == TrainingOutcome(kind, 1).is_complete


def test_a_specimen_that_is_divided_by_place():
    assert TrainingRecord(specimens=("a", "b"), holdout_specimens=("b",)).is_divided_by_place
    record = TrainingRecord(specimens=("a", "b"), holdout_specimens=("c",))
    assert not record.is_divided_by_place
    assert record.all_specimens == {"a", "b", "c"}


def planted_outcome(**changes):
    values = {"n_defects": 96, "n_tiles": 24, "n_found": 74, "n_found_untrained": 69}
    return PlantedOutcome(**{**values, "merit": 0.75, "merit_untrained": 0.7, "error": 0.01, **changes})


def test_what_a_training_brought_in_words():
    text = planted_outcome().text()
    assert text.startswith("74 of 96 found at one false alarm in ten images, 69 before training")
    assert "(75.0 % on average, at 0 to 1 false alarms per image; +5.0 +- 1.0 by training)" in text
    assert "+-" not in planted_outcome(error=None).text()


@pytest.mark.parametrize(("error", "is_better"), [(0.02, True), (0.03, False), (None, False)])
def test_a_gain_within_two_standard_errors_is_not_clear(error, is_better):
    assert planted_outcome(error=error).is_better == is_better


@pytest.mark.parametrize(
    ("n_found", "error", "expected"),
    [
        (74, 0.001, "It finds 74 of 96 planted defects, 5 more than without training."),
        (66, 0.5, "It finds 66 of 96 planted defects, 3 fewer than without training, no clear gain."),
        (69, None, "It finds 69 of 96 planted defects, as many as without training, no clear gain."),
    ],
)
def test_what_training_brought_in_a_sentence(n_found, error, expected):
    assert planted_outcome(n_found=n_found, error=error).sentence() == expected


def test_a_model_that_was_not_trained_is_not_compared_with_itself():
    same = PlantedOutcome(
        n_defects=9, n_tiles=4, n_found=5, n_found_untrained=5, merit=0.5, merit_untrained=0.5, error=0
    )
    assert not same.has_trained
    assert same.sentence() == "It finds 5 of 9 planted defects."
    assert (
        same.text()
        == "5 of 9 found at one false alarm in ten images (50.0 % on average, at 0 to 1 false alarms per image)"
    )
    better = replace(same, n_found=7, merit=0.7)
    assert better.has_trained
    assert "2 more than without training" in better.sentence()
