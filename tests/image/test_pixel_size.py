"""Tests of pixel sizes: across units, and the middle one."""

import numpy as np
import pytest

from napari_uflow.image.pixel_size import PixelSize, median_pixel_size
from napari_uflow.image.plane import Plane


def plane_of(size, unit="um"):
    pixel_size = size if size is None or isinstance(size, tuple) else (size, size)
    return Plane(data=np.zeros((4, 4), np.uint8), pixel_size=pixel_size, unit=unit)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0.2, "um"), (0.1, "um"), 2.0),
        ((200, "nm"), (0.1, "um"), 2.0),
        ((0.1, "µm"), (0.2, "um"), 0.5),
        ((1, "inch"), (25.4, "mm"), 1.0),
        ((3, "furlong"), (2, "furlong"), 1.5),
        ((3, None), (2, None), 1.5),
        ((3, None), (2, "um"), None),
        ((3, "furlong"), (2, "um"), None),
        ((3, "furlong"), (2, "parsec"), None),
    ],
)
def test_sizes_are_compared_in_one_unit(one, other, expected):
    ratios = PixelSize(one[0], 2 * one[0], one[1]).over(PixelSize(other[0], other[0], other[1]))
    assert ratios == (None if expected is None else pytest.approx((expected, 2 * expected)))


def test_the_side_is_that_of_a_square():
    assert PixelSize(4, 1, "um").side == pytest.approx(PixelSize(2000, 2000, "nm").side)


@pytest.mark.parametrize(
    ("planes", "expected"),
    [
        ([], None),
        ([(None, None)], None),
        ([(0.2, "um"), (0.1, "um"), (0.3, "um"), (None, None)], "0.2 um"),
        ([(0.2, "um"), (0.1, "um")], "0.1 um"),  # one of the images, and the detail of the other one stays
        ([(0.3, "um"), (100, "nm"), (0.2, "um")], "0.2 um"),
        ([(150, "nm"), (0.1, "um"), (0.2, "um")], "150 nm"),
        ([(7, "furlong"), (0.2, "um"), (0.1, "um")], "0.1 um"),
        ([((0.2, 0.4), "um")], "0.2 x 0.4 um"),
    ],
)
def test_the_median_is_the_size_of_an_image(planes, expected):
    found = median_pixel_size(plane_of(*each) for each in planes)
    assert (None if found is None else found.text()) == expected
