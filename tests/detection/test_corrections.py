"""A region that is normal leaves the result for good, can come back, and is something to train on."""

import os

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.corrections import mark_normal, undo_mark_normal
from napari_uflow.detection.detect import detect, resegment
from napari_uflow.errors import ConfigError
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import sample_windows
from napari_uflow.samples.fibres import fibre_field

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")


@pytest.fixture(scope="module")
def plane():
    """Noise in two places of a large field of fibres, far enough apart for the blur of the features."""
    image = fibre_field(11, shape=(384, 448)).image.copy()
    rng = np.random.default_rng(0)
    image[:48, :48] = rng.integers(0, 256, (48, 48))
    image[288:336, 352:400] = rng.integers(0, 256, (48, 48))
    return Plane(data=image, name="two odd squares")


@pytest.fixture(scope="module")
def found(tiny_model, plane):
    detection = detect(tiny_model, plane, DetectionConfig(), device=DEVICE)
    assert len(detection.regions) >= 2
    return detection


def test_the_region_leaves_the_result_and_stays_out(found, plane):
    inside = found.labels == 1
    less, _ = mark_normal(found, 1, plane, side=64)
    assert len(less.regions) == len(found.regions) - 1
    np.testing.assert_array_equal(less.labels > 0, (found.labels > 0) & ~inside)
    np.testing.assert_array_equal(less.score, found.score)
    np.testing.assert_array_equal(less.regions.log10_nfa, found.regions.log10_nfa[1:])
    for false_alarms in (1e-6, 10.0):
        assert not resegment(less, false_alarms).labels[inside].any()
    assert less.n_marked_normal == 1
    assert len(found.regions) == found.labels.max()  # the one before is as it was


def test_it_can_be_taken_back_at_another_threshold(found, plane):
    less, correction = mark_normal(found, 2, plane, side=64)
    other = resegment(less, 0.5)
    again = undo_mark_normal(other, correction)
    np.testing.assert_array_equal(again.labels, resegment(found, 0.5).labels)
    np.testing.assert_array_equal(again.log10_nfa, found.log10_nfa)
    assert again.false_alarms == 0.5
    assert again.n_marked_normal == 0


@pytest.mark.parametrize("label", [1, 2])
def test_what_is_trained_on_holds_the_region_and_no_other(found, plane, label):
    _, correction = mark_normal(found, label, plane, side=64, specimen="slide 1")
    normal = correction.normal
    assert normal.specimen == "slide 1"
    mask = normal.normal()
    assert mask[found.labels == label].all()
    assert not mask[(found.labels > 0) & (found.labels != label)].any()
    rows, cols = np.nonzero(mask)
    assert rows.max() - rows.min() < max(64, np.ptp(np.nonzero(found.labels == label)[0]) + 1)
    assert cols.max() - cols.min() < max(64, np.ptp(np.nonzero(found.labels == label)[1]) + 1)
    assert sample_windows(normal, 64)  # enough of it for a tile


def test_what_is_not_there_is_refused(found, plane):
    for label in (0, -1, 99):
        with pytest.raises(ConfigError, match=f"has no region {label}; its regions are 1 to "):
            mark_normal(found, label, plane, side=64)
    with pytest.raises(ConfigError, match="has"):
        mark_normal(found, 1, Plane(data=np.zeros((8, 8), np.uint8)), side=64)
