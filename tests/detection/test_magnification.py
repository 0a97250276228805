"""Tests of the magnification of an image."""

from dataclasses import replace

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect
from napari_uflow.detection.magnification import magnification_of
from napari_uflow.image.plane import Plane
from napari_uflow.image.scaled import scaled_plane
from napari_uflow.model.record import TrainingRecord


def with_pixels_of(model, size, magnification=1.0):
    config = model.config.replace(magnification=magnification)
    return replace(model, config=config, record=TrainingRecord(pixel_size=(size, size), unit="um"))


@pytest.mark.parametrize(
    ("pixel_size", "unit", "expected"),
    [
        ((1.0, 1.0), "um", 4.0),
        ((0.25, 0.25), "um", 1.0),
        ((0.51, 0.51), "um", 2.0),  # the same size
        ((1.0, 0.5), "um", 2.0),  # not square
        ((4.0, 4.0), "um", 2.0),  # too different: warned of
        ((1000.0, 1000.0), "nm", 4.0),
        ((1.0, 1.0), "nm", 2.0),  # too different
        ((1.0, 1.0), "furlong", 2.0),
        (None, None, 2.0),
    ],
)
def test_an_image_is_brought_to_the_pixel_size_of_training(tiny_model, pixel_size, unit, expected):
    plane = Plane(data=np.zeros((64, 64), np.uint8), pixel_size=pixel_size, unit=unit)
    assert magnification_of(with_pixels_of(tiny_model, 0.5, 2.0), plane) == pytest.approx(expected)


@pytest.mark.parametrize("heatmap", ["rarity", "published"])
def test_a_magnified_image_has_maps_of_its_own_size(tiny_model, odd_plane, heatmap):
    model = with_pixels_of(tiny_model, 0.5)
    coarse = Plane(data=odd_plane.data, pixel_size=(1.0, 1.0), unit="um")
    found = detect(model, coarse, DetectionConfig(heatmap=heatmap))
    magnified = detect(model, scaled_plane(coarse, 2.0), DetectionConfig(heatmap=heatmap))
    assert found.score.shape == found.labels.shape == odd_plane.shape
    assert found.strides == (4.0,)
    assert magnified.strides == (8,)
    # every other pixel of the magnified image, between whose pixels those of the image lie
    means = magnified.score.reshape(odd_plane.shape[0], 2, odd_plane.shape[1], 2).mean(axis=(1, 3))
    assert np.allclose(found.score, means, atol=0.1)
    assert np.array_equal(np.unique(found.log10_nfa), np.unique(magnified.log10_nfa))


@pytest.mark.parametrize("nfa", ["paper", "binomial"])
def test_other_tests_work_at_another_magnification(tiny_model, odd_plane, nfa):
    model = with_pixels_of(tiny_model, 0.5, 1.5)
    found = detect(model, odd_plane, DetectionConfig(nfa=nfa))
    assert found.log10_nfa.shape == odd_plane.shape


def test_pixels_that_were_not_measured_are_missing_at_any_magnification(tiny_model, odd_plane):
    data = odd_plane.data.astype(np.float32)
    data[30:50, 60:90] = np.nan
    found = detect(with_pixels_of(tiny_model, 0.5, 1.5), Plane(data=data))
    assert np.isnan(found.score[30:50, 60:90]).all()
    assert np.isfinite(found.score[:16, :32]).all()
