"""The record of a training."""

import pytest

from napari_uflow.model.record import OutcomeKind, TrainingOutcome, TrainingRecord


@pytest.mark.parametrize(
    ("outcome", "text", "remark"),
    [
        (TrainingOutcome(), "done", ""),
        (TrainingOutcome(OutcomeKind.CONVERGED, 4), "done: no better held-out loss after step 4", None),
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
