"""Basis of a number of false alarms: kind, specimens needed, caveats and the sentence for the user."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.detection.guarantee import Caveat, Guarantee, GuaranteeKind
from napari_uflow.nfa.conformal import ConformalOffset, HeldOutSpecimen

GUARANTEED, EXTRAPOLATED = GuaranteeKind.GUARANTEED, GuaranteeKind.EXTRAPOLATED
TAILS, NOMINAL = GuaranteeKind.TAILS, GuaranteeKind.NOMINAL


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"n_specimens": 9, "false_alarms": 0.1},
            GUARANTEED,
            "on average, at most 10 % of normal images like the 9 held-out specimens contain a false alarm",
        ),
        (
            {"n_specimens": 20},
            GUARANTEED,
            "on average, at most 1 false alarm per normal image like the 20 held-out specimens, where more than 4.58 "
            "in an image count as 4.58",
        ),
        (
            {"n_specimens": 8, "false_alarms": 0.1},
            EXTRAPOLATED,
            "0.1 false alarms per image: extrapolated from 8 held-out specimens; a guarantee needs 9 held-out",
        ),
        (
            {"n_specimens": 0},
            EXTRAPOLATED,
            "1 false alarm per image: extrapolated from a single specimen or the training images; a guarantee needs 3 "
            "held-out specimens",
        ),
        (
            {"n_specimens": 2, "calibration": "tails"},
            TAILS,
            "1 false alarm per image: estimated from the tails fitted to 2 held-out specimens",
        ),
        ({"n_specimens": 50, "calibration": "none"}, NOMINAL, "not calibrated"),
        ({"n_specimens": None}, NOMINAL, "not calibrated"),
        ({"n_specimens": 50, "nfa": "paper"}, NOMINAL, "method 'paper' is not calibrated"),
    ],
)
def test_kind_and_text(options, kind, text):
    guarantee = Guarantee(**{"false_alarms": 1.0, **options})
    assert guarantee.kind is kind
    assert text in guarantee.text()
    assert str(guarantee) == guarantee.text()


def test_a_stack_needs_more_specimens():
    stack = Guarantee(false_alarms=1.0, n_images=10, n_specimens=3)
    assert replace(stack, n_images=1).is_guaranteed
    assert stack.kind is EXTRAPOLATED
    assert stack.n_specimens_needed == 9
    # each share is below 1 / 3: images with any false alarm were counted
    enough = replace(stack, n_specimens=9)
    assert enough.text() == (
        "on average, at most 1 image per normal stack of 10 images like the 9 held-out specimens contain a false alarm"
    )
    assert "at most 5 false alarms per normal stack of 10 images" in replace(enough, false_alarms=5.0).text()
    assert replace(stack, n_specimens=99, false_alarms=0.1).text() == (
        "on average, at most 10 % of normal stacks of 10 images like the 99 held-out specimens contain a false alarm"
    )


@given(
    false_alarms=st.floats(1e-3, 10), n_images=st.integers(1, 20), caveats=st.sets(st.sampled_from(Caveat)).map(tuple)
)
def test_the_specimens_needed_are_enough_and_a_voiding_caveat_excludes_the_image(false_alarms, n_images, caveats):
    guarantee = Guarantee(false_alarms=false_alarms, n_images=n_images, caveats=caveats)
    enough = replace(guarantee, n_specimens=guarantee.n_specimens_needed)
    assert enough.is_guaranteed
    assert enough.holds is not bool(caveats)
    assert not replace(guarantee, n_specimens=guarantee.n_specimens_needed - 1).holds
    assert all(caveat.value.removeprefix("does not apply here: ") in enough.text() for caveat in caveats)


def offset(n, *values, images=1):
    """Held-out specimens, of which the first ones have a region at each of some values."""
    return ConformalOffset(
        tuple(HeldOutSpecimen(str(i), ((values[i : i + 1]),) * images, (1.0,) * images) for i in range(n))
    )


def test_a_voided_guarantee_does_not_promise_first():
    guarantee = Guarantee(false_alarms=0.1, n_specimens=9, caveats=(Caveat.BRIGHTNESS, Caveat.TOO_SMALL))
    text = guarantee.text()
    assert text.startswith(
        "the guarantee does not apply here: the brightness differs from that of the normal images and the image is too "
        "small; for images without this difference: on average, at most 10 %"
    )
    assert guarantee.at_all_numbers(3) == ""
    assert "voids" not in guarantee.details()
    assert replace(guarantee, n_specimens=3).text().startswith("the number does not apply here: the brightness")


def test_a_larger_image_needs_more_specimens():
    one = Guarantee(false_alarms=1.0, n_specimens=20, area="0.26 mm^2")
    large = replace(one, n_areas=14.2)
    assert large.is_guaranteed
    assert large.text() == (
        "on average, at most 1 calibrated area per normal image of 14.2 calibrated areas (0.26 mm^2 each) like the 20 "
        "held-out specimens contain a false alarm"
    )
    some = replace(large, false_alarms=0.1)
    assert some.kind is EXTRAPOLATED
    assert some.n_specimens_needed == 141
    assert "per image of 14.2 calibrated areas (0.26 mm^2 each): extrapolated from 20" in some.text()
    assert "where more than 5.39 in one of them count as 5.39" in replace(large, n_areas=1.7, false_alarms=2.0).text()
    stack = replace(large, n_images=3)
    assert stack.n_specimens_needed == 42
    assert "stack of 3 images of 14.2 calibrated areas" in stack.text()
    assert "counted on 0.26 mm^2 per image" in one.details()
    assert "counted on" not in large.details()


def test_the_long_form_says_with_which_confidence():
    held_out = offset(9)
    guarantee = Guarantee(false_alarms=0.1, n_specimens=9).at(0.1, held_out)
    assert guarantee.details() == (
        "on average, at most 10 % of normal images like the 9 held-out specimens contain a false alarm; with 90 % "
        "confidence over the choice of these specimens, at most 23 % of such images contain any; 9 of 10 normal images "
        "have no false alarm, even if the number is chosen after a look at the regions; another kind of specimen, "
        "stain, exposure or magnification voids the guarantee"
    )
    # another number has other bounds
    other = guarantee.at(0.01, held_out)
    assert (other.any_part, other.most_false) == (None, 0)
    assert replace(guarantee, n_specimens=20).at(0.1, offset(20, -2.0)).any_part == pytest.approx(0.181, abs=0.001)
    tails = replace(guarantee, calibration="tails").at(0.1, held_out)
    assert (tails.any_part, tails.most_false, tails.at_all_numbers(4)) == (None, None, "")


@pytest.mark.parametrize(
    ("most", "n_regions", "text"),
    [
        (3, 14, "of these 14 regions at most 3 are false alarms, with 90 % confidence, whatever number is chosen"),
        (1, 2, "of these 2 regions at most 1 is a false alarm,"),
        (0, 2, "none of these 2 regions is a false alarm,"),
        (9, 5, "of these 5 regions at most 5 are"),
        (0, 1, "this region is no false alarm,"),
        (2, 1, "this region may be a false alarm,"),
        (3, 0, "9 of 10 normal images have at most 3 false alarms, even"),
        (None, 14, "a statement for all numbers at once needs 9 held-out specimens"),
    ],
)
def test_the_sentence_under_the_slider(most, n_regions, text):
    assert text in Guarantee(false_alarms=1.0, n_specimens=20, most_false=most).at_all_numbers(n_regions)


def test_drift_voids_the_guarantee_and_names_the_image():
    guarantee = Guarantee(false_alarms=1.0, n_specimens=20, caveats=(Caveat.DRIFT,))
    assert guarantee.is_guaranteed
    assert not guarantee.holds
    assert guarantee.text().startswith(
        "the guarantee does not apply here: recent images are no longer like the held-out"
    )
    named = replace(guarantee, drift_since="'a' (24 Nov 2026)")
    assert named.text().startswith(
        "the guarantee does not apply here: since 'a' (24 Nov 2026), images are no longer like the held-out ones; for"
    )
