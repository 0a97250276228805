"""Tests of planes and regions at another magnification."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane, planes_of
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.scaled import scaled_plane, scaled_regions

RNG = np.random.default_rng(0)


def plane_of(shape=(37, 53), **options):
    return Plane(data=RNG.integers(0, 255, shape).astype(np.uint8), **options)


def test_a_magnification_of_1_changes_nothing():
    plane = plane_of()
    assert scaled_plane(plane, 1.0) is plane
    regions = [NormalRegion(plane)]
    assert scaled_regions(regions, 1.0) == regions


@pytest.mark.parametrize("magnification", [0.3, 0.5, 0.9, 1.5, 2.0, 3.7])
def test_a_ramp_stays_a_ramp(magnification):
    rows, cols = np.mgrid[:60, :80].astype(np.float32)
    scaled = scaled_plane(Plane(data=2 * rows + cols), magnification).read()[0]
    expected_rows, expected_cols = ((np.arange(n) + 0.5) / magnification - 0.5 for n in scaled.shape)
    expected = 2 * expected_rows[:, None] + expected_cols
    edge = int(np.ceil(4 * max(magnification, 1)))
    inner = (slice(edge, -edge), slice(edge, -edge))
    # a sampled triangle is not quite symmetric about a centre between two pixels
    assert np.allclose(scaled[inner], expected[inner], atol=1e-3 if magnification > 1 else 0.3)


@pytest.mark.parametrize("magnification", [0.3, 1.7, 2.0])
def test_a_constant_image_stays_constant_up_to_its_border(magnification):
    scaled = scaled_plane(Plane(data=np.full((20, 30), 7, np.uint16)), magnification)
    assert np.allclose(scaled.read(Window(-16, -16, 64, 96)), 7, atol=1e-4)


def test_the_result_covers_the_image():
    assert scaled_plane(plane_of((10, 21)), 1.5).shape == (15, 32)
    assert scaled_plane(plane_of((10, 21)), 0.5).shape == (5, 11)
    assert scaled_plane(plane_of((1, 1)), 0.125).shape == (1, 1)


@given(
    magnification=st.sampled_from([0.25, 0.4, 1.25, 2.0, 3.0]),
    row=st.integers(-20, 30),
    col=st.integers(-20, 30),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_window_has_the_values_of_the_whole(magnification, row, col, size):
    plane = scaled_plane(Plane(data=np.random.default_rng(1).normal(size=(33, 41)).astype(np.float32)), magnification)
    whole = plane.read(Window(-20, -20, 120, 120))
    window = Window(row, col, *size)
    inside = window.shifted(20, 20)
    assert np.allclose(plane.read(window), whole[:, *inside.slices()], atol=1e-5)


def test_fine_stripes_are_averaged_not_aliased():
    stripes = np.zeros((64, 64), np.float32)
    stripes[:, ::2] = 1
    assert np.allclose(scaled_plane(Plane(data=stripes), 0.25).read()[0, :, 2:-2], 0.5, atol=0.02)


def test_channels_pixel_size_and_title_are_kept():
    data = np.broadcast_to(np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1), (2, 3, 20, 30))
    plane = planes_of(data, "ZCYX", channels=[2, 0], name="cells", pixel_size=(0.5, 0.5), unit="um")[1]
    scaled = scaled_plane(plane, 2.0)
    assert (scaled.n_channels, scaled.pixel_size, scaled.unit, scaled.title) == (2, (0.25, 0.25), "um", "cells z=1")
    assert np.allclose(scaled.read(), np.array([5, 3])[:, None, None], atol=1e-4)


def test_pixels_that_were_not_measured_stay_so():
    data = np.zeros((20, 20), np.float32)
    data[10, 10] = np.nan
    missing = ~scaled_plane(Plane(data=data), 2.0).read_valid()
    assert missing[20:22, 20:22].all()
    assert missing.sum() <= 64


def test_masks_follow_their_images():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:20] = True
    (region,) = scaled_regions([NormalRegion(plane_of((20, 30)), mask, "a")], 2.0)
    assert region.specimen == "a"
    expected = mask.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(region.normal(), expected)
    assert np.array_equal(region.normal(Window(8, 16, 16, 32)), expected[8:24, 16:48])


def test_regions_of_one_image_and_repetitions_stay_what_they_were():
    plane = plane_of()
    half = np.zeros(plane.shape, bool)
    half[:10] = True
    first, marked = NormalRegion(plane), NormalRegion(plane, half, is_marked_normal=True)
    scaled = scaled_regions([first, marked, marked], 2.0)
    assert scaled[1] is scaled[2]
    assert scaled[0].plane.is_same_image(scaled[1].plane)
    assert scaled[1].is_marked_normal
    assert not scaled[0].without([scaled[1]]).normal()[:20].any()
