"""Images of different types of pixels are not trained on together without a word."""

import numpy as np
import pytest

from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.training.pixel_types import messages_about_pixel_types


def regions(*dtypes: str) -> list[NormalRegion]:
    return [NormalRegion(Plane(data=np.zeros((8, 8), dtype), name=f"{i} {dtype}")) for i, dtype in enumerate(dtypes)]


def test_8_and_16_bits_are_counted() -> None:
    (message,) = messages_about_pixel_types(regions("uint8", "uint16", "uint16", ">u2"))
    assert message.warning
    assert "1 image of uint8 ('0 uint8'), 3 images of uint16 ('1 uint16')" in message.text


@pytest.mark.parametrize("dtypes", [("uint8",), ("uint16", ">u2"), ("float32", "float64", "float16")])
def test_images_of_one_type_need_no_message(dtypes: tuple[str, ...]) -> None:
    assert not list(messages_about_pixel_types(regions(*dtypes)))


@pytest.mark.parametrize("dtypes", [("uint8", "bool"), ("uint16", "float32"), ("int16", "uint16")])
def test_other_types(dtypes: tuple[str, ...]) -> None:
    assert len(list(messages_about_pixel_types(regions(*dtypes)))) == 1


def test_regions_of_one_image_count_once() -> None:
    (one, other) = regions("uint8", "uint16")
    (message,) = messages_about_pixel_types([one, one, other, NormalRegion(one.plane)])
    assert "1 image of uint8" in message.text
