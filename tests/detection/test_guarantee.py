"""Basis of a number of false alarms: kind, specimens needed, caveats and the sentence for the user."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.detection.guarantee import Caveat, Guarantee, GuaranteeKind

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
            "on average, at most 1 false alarm per normal image like the 20 held-out specimens",
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
    assert enough.holds is not any(caveat.is_voiding for caveat in caveats)
    assert not replace(guarantee, n_specimens=guarantee.n_specimens_needed - 1).holds
    assert all(caveat.value in enough.text() for caveat in caveats)


def test_drift_voids_the_guarantee_and_names_the_image():
    guarantee = Guarantee(false_alarms=1.0, n_specimens=20, caveats=(Caveat.DRIFT,))
    assert guarantee.is_guaranteed
    assert not guarantee.holds
    assert guarantee.text().endswith("; does not apply: recent images are no longer like the held-out ones")
    named = replace(guarantee, drift_since="'a' (24 Nov 2026)")
    assert named.text().endswith(
        "; does not apply: since 'a' (24 Nov 2026), images are no longer like the held-out ones"
    )
