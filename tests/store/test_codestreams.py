"""The header of a compressed image says its size before the decoder allocates it."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.errors import ImageError
from napari_uflow.store.codestreams import declared_pixels
from napari_uflow.store.images import read_planes

ENCODERS = {
    "jpeg": imagecodecs.jpeg8_encode,
    "jpeg2000": lambda values: imagecodecs.jpeg2k_encode(values, codecformat="j2k"),
    "jp2": lambda values: imagecodecs.jpeg2k_encode(values, codecformat="jp2"),
    "jpegxl": imagecodecs.jpegxl_encode,
    "jpegxr": imagecodecs.jpegxr_encode,
    "png": imagecodecs.png_encode,
}


@pytest.mark.parametrize("shape", [(64, 64), (300, 1000), (64, 128), (777, 513, 3)])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_size_of_an_image(name: str, shape: tuple[int, ...]) -> None:
    assert declared_pixels(ENCODERS[name](np.zeros(shape, np.uint8))) == shape[0] * shape[1]


def test_a_container_of_jpeg_xl() -> None:
    values = np.zeros((300, 200), np.uint8)
    assert declared_pixels(imagecodecs.jpegxl_encode(values, usecontainer=True)) == 60000


@given(st.sampled_from(list(ENCODERS)), st.integers(0, 60), st.binary(max_size=20))
def test_damage_is_left_to_the_decoder(name: str, n_kept: int, rest: bytes) -> None:
    data = ENCODERS[name](np.zeros((16, 16), np.uint8))
    assert declared_pixels(data[:n_kept] + rest) >= 0


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "jp2"])
def test_a_tile_that_declares_more_than_it_is(name: str, tmp_path: Path) -> None:
    data = bytes(ENCODERS[name](np.zeros((600, 600), np.uint8)))
    tifffile.imwrite(
        tmp_path / "a.tif",
        iter([data]),
        shape=(64, 64),
        dtype="u1",
        tile=(64, 64),
        compression=name,
        photometric="minisblack",
    )
    (plane,) = read_planes(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="declares 360,000 pixels"):
        plane.read()
