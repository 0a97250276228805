"""Channels by name or by number: a name comes first, and what has two readings is refused with both."""

import numpy as np
import pytest

from napari_uflow.errors import ImageError
from napari_uflow.image.channels import channels_in, chosen_channels
from napari_uflow.image.plane import planes_of


@pytest.mark.parametrize(
    ("wanted", "names", "chosen"),
    [
        (["488"], ["405", "488", "561"], (1,)),
        ([488], ["405", "488", "561"], (1,)),
        (["561", 405], ["405", "488", "561"], (2, 0)),
        (["0", 2], ["405", "488", "561"], (0, 2)),
        (["1"], ["0", "1", "2"], (1,)),
        (["3"], ["1", "2", "3"], (2,)),
        (["0"], ["1", "2", "3"], (0,)),
        (["007"], ["007", "7"], (0,)),
        (["gfp"], ["DAPI", "GFP"], (1,)),
        (["gfp"], ["GFP", "gfp"], (1,)),
        (["name:1"], ["1", "2"], (0,)),
        (["number:1"], ["1", "2"], (1,)),
        (["name:1"], ["0", "name:1"], (1,)),
        ([np.int64(1)], ["a", "b"], (1,)),
    ],
)
def test_a_channel_is_chosen_by_its_name_or_its_number(wanted, names, chosen):
    assert chosen_channels(wanted, names, "image") == chosen


@pytest.mark.parametrize(
    ("wanted", "names", "said"),
    [
        (
            "1",
            ["1", "2"],
            r"'1' is the name of channel 0 of 'image' and the number of another one, '2': write",
        ),
        (1, ["1", "2"], r"write name:1 or number:1"),
        (0, ["1", "0"], r"0 is the name of channel 1 of 'image' and the number of another one, '1'"),
        ("a", ["a", "b", "a"], r"several channels called 'a': choose number:0 and number:2"),
        ("gfp", ["GFP", "Gfp"], r"several channels called 'gfp'"),
        ("488", ["a", "b"], r"no channel '488'; it has: 0 a, 1 b"),
        (-1, ["a", "b"], r"no channel -1; it"),
        ("name:0", ["a", "b"], r"no channel 'name:0'"),
        ("number:a", ["a", "b"], r"no channel 'number:a'"),
        ("\u00b2", ["a", "b", "c"], r"no channel"),
        ("9" * 5000, ["a", "b"], r"no channel"),
    ],
)
def test_what_has_no_reading_or_two_is_refused(wanted, names, said):
    with pytest.raises(ImageError, match=said):
        chosen_channels([wanted], names, "image")


def test_a_text_of_channels_keeps_names_that_are_numbers_with_zeros():
    assert channels_in(" 0, DAPI ,488,007,, \u00b2") == [0, "DAPI", 488, "007", "\u00b2"]
    assert channels_in("") == []


@pytest.mark.parametrize("channels", [488, "488", ["488"], [488]])
def test_planes_have_the_channel_that_is_called_so(channels):
    data = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((3, 4, 4), np.uint8)
    (plane,) = planes_of(data, "CYX", channels=channels, channel_names=["405", "488", "561"])
    assert plane.channels == (1,)
