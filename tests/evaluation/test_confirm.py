"""Images to confirm as normal: as many as are needed, drawn at random among new specimens."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from napari_uflow.config import TrainingConfig
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.evaluation.confirm import confirm_next
from napari_uflow.image.specimen import hold_out_specimens
from napari_uflow.model.record import TrainingRecord


def model(n_specimens=20, n_held_out=5, pattern="", date="2026-11-24"):
    names = [f"train {i}" for i in range(n_specimens)]
    record = TrainingRecord(specimens=tuple(names[n_held_out:]), holdout_specimens=tuple(names[:n_held_out]), date=date)
    return SimpleNamespace(record=record, training=TrainingConfig(specimen_pattern=pattern))


def guarantee(false_alarms=0.1, n_specimens=5, **options):
    return Guarantee(false_alarms=false_alarms, n_specimens=n_specimens, **options)


def images(n, prefix="new"):
    return [(f"{prefix} {i}", None) for i in range(n)]


@pytest.mark.parametrize(
    "options",
    [{"n_specimens": 9}, {"calibration": "tails"}, {"calibration": "none"}, {"nfa": "paper"}, {"n_specimens": None}],
)
def test_nothing_to_confirm(options):
    assert confirm_next(model(), guarantee(**options), images(10)) is None


def test_four_images_for_a_tenth():
    plan = confirm_next(model(), guarantee(), images(12))
    assert plan.n_needed == 4
    assert len(plan.images) == 12
    assert plan.smallest == pytest.approx(0.1)
    assert plan.holdout == 0.38
    asked = ", ".join(f"'{name}'" for name in plan.images[:4])
    assert plan.text() == (
        f"0.1 can be guaranteed with 4 more normal specimens: look at {asked} (drawn at random, whatever was found in "
        f"them; for one that is not normal take '{plan.images[4]}', and so on), and train again with holdout 0.38 and "
        "the normal ones added"
    )


def test_a_large_image_is_allowed_less():
    wanted = replace(guarantee(0.1, 10), n_areas=9.0)
    plan = confirm_next(model(10, 10), wanted, images(1))
    assert plan.smallest == pytest.approx(9 * 1 / 12)


@pytest.mark.parametrize("n_specimens", [5, 10, 20, 60, 200])
@pytest.mark.parametrize("false_alarms", [0.02, 0.1, 0.3, 1.0])
def test_the_next_training_holds_out_enough(n_specimens, false_alarms):
    n_held_out = max(1, n_specimens // 10)
    wanted = guarantee(false_alarms, n_held_out)
    plan = confirm_next(model(n_specimens, n_held_out), wanted, images(500))
    if plan is None:
        assert wanted.is_guaranteed
        return
    assert plan.holdout <= 0.5
    names = [f"train {i}" for i in range(n_specimens)] + list(plan.images[: plan.n_needed])
    n_next = len(hold_out_specimens(names, plan.holdout, 0))
    assert guarantee(false_alarms, n_next).is_guaranteed
    assert plan.smallest <= false_alarms * 1.001
    # with one fewer there are too few, whatever the fraction
    if plan.n_needed > 1:
        missing = n_held_out + plan.n_needed - 1 < wanted.n_specimens_needed
        too_many = 0.5 * (len(names) - 1) < wanted.n_specimens_needed
        assert missing or too_many


def test_every_specimen_held_out_in_turn_needs_no_fraction():
    plan = confirm_next(model(5, 5), guarantee(), images(6))
    assert (plan.n_needed, plan.holdout) == (4, None)
    assert "holdout" not in plan.text()


def test_every_specimen_of_a_condition_held_out_in_turn_needs_no_fraction():
    """The guarantee is that of 5 of 12 specimens; the others are of another condition."""
    of = model(12, 3)
    of.record = replace(of.record, folds=(of.record.holdout_specimens, of.record.specimens))
    plan = confirm_next(of, guarantee(), images(6))
    assert (plan.n_needed, plan.holdout) == (4, None)


def test_the_choice_does_not_depend_on_the_order_or_on_results():
    plan = confirm_next(model(), guarantee(), images(30))
    assert plan.images == confirm_next(model(), guarantee(), images(30)[::-1]).images
    assert plan.images != tuple(name for name, _ in images(30))
    assert plan.images != confirm_next(model(date="2026-11-25"), guarantee(), images(30)).images


def test_specimens_of_the_training_and_tiles_of_one_specimen():
    files = [(f"slide_x{i:03}_y000", f"/a/slide_x{i:03}_y000.tif") for i in range(5)]
    plan = confirm_next(model(), guarantee(), [*images(3, "train"), *files, ("other", "/a/other.tif")])
    assert sorted(plan.images) == ["other.tif", "slide_x000_y000.tif"]
    assert plan.text().endswith("train again with holdout 0.38 and the normal ones added; these alone allow 0.12")


def test_a_pattern():
    names = [(f"{i} mouse{i // 2}", None) for i in range(6)]
    plan = confirm_next(model(pattern="(mouse[0-9])"), guarantee(), names)
    assert len(plan.images) == 3


def test_no_new_specimen():
    plan = confirm_next(model(), guarantee(), images(3, "train"))
    assert plan.images == ()
    assert plan.text().endswith("inspect images of specimens that had no part in the training")


def test_a_long_list_is_cut():
    plan = confirm_next(model(), guarantee(0.01), images(100))
    assert len(plan.images) == 100
    assert " and " in plan.text()
    assert len(plan.text()) < 400
