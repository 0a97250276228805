"""The guarantee in a panel leads with what excludes the image from it."""

from napari_uflow._napari.parts.guarantee import in_sentences
from napari_uflow.detection.guarantee import Caveat, Guarantee


def guarantee(*caveats, **options):
    return Guarantee(**{"false_alarms": 0.1, "n_specimens": 20, "caveats": caveats, **options})


def test_a_guarantee_that_holds():
    holds = guarantee()
    assert in_sentences([holds]) == holds.text().capitalize() + "."


def test_a_voided_guarantee_says_so_first():
    text = in_sentences([guarantee(Caveat.BRIGHTNESS)])
    assert text.startswith(f"⚠ The guarantee {Caveat.BRIGHTNESS.value}. For images like the normal ones: on average")
    assert text.count("does not apply here") == 1


def test_planes_that_differ_are_counted():
    text = in_sentences([guarantee(), guarantee(Caveat.TOO_SMALL), guarantee(Caveat.TOO_SMALL, Caveat.BRIGHTNESS)])
    assert f"The guarantee {Caveat.TOO_SMALL.value} (2 of 3 planes). " in text
    assert f"The guarantee {Caveat.BRIGHTNESS.value} (1 of 3 planes). " in text


def test_a_number_without_guarantee_is_not_called_one():
    text = in_sentences([guarantee(Caveat.BRIGHTNESS, n_specimens=3)])
    assert text.startswith("⚠ The number does not apply here")
