"""Lazy views give what the same operation on the whole array gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from napari_uflow.image.grid import Window
from napari_uflow.store.images import read_planes
from napari_uflow.store.views import Flipped, Recoloured, oriented

SHAPE = (3, 5, 7)
VALUES = np.arange(np.prod(SHAPE)).reshape(SHAPE)


def keys(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    def part(n: int) -> st.SearchStrategy[Any]:
        steps = st.builds(slice, st.integers(0, n), st.integers(0, n), st.integers(1, 3))
        return st.one_of(st.integers(0, n - 1), steps)

    return st.tuples(*map(part, shape))


@given(keys(SHAPE), st.frozensets(st.integers(0, 2)))
def test_flipped_axes(key: Any, flipped: frozenset[int]) -> None:
    expected = np.flip(VALUES, tuple(flipped))
    lazy = Flipped(VALUES, flipped)
    assert lazy.shape == expected.shape
    np.testing.assert_array_equal(lazy[key], expected[key])


@given(keys((3, 5, 7, 3)))
def test_new_samples(key: Any) -> None:
    lazy = Recoloured(VALUES, lambda v: np.stack([v, v + 1, -v], axis=-1), VALUES.dtype, 3)
    np.testing.assert_array_equal(lazy[key], np.stack([VALUES, VALUES + 1, -VALUES], axis=-1)[key])


@pytest.mark.parametrize("axis", [0, 1, 2])
@given(data=st.data())
def test_other_samples(axis: int, data: Any) -> None:
    lazy = Recoloured(VALUES, lambda v: v[..., 1:] * 2, VALUES.dtype, SHAPE[axis] - 1, axis)
    expected = np.delete(VALUES, 0, axis) * 2
    assert lazy.shape == expected.shape
    key = data.draw(keys(expected.shape))
    np.testing.assert_array_equal(lazy[key], expected[key])


@pytest.mark.parametrize("orientation", range(10))
def test_an_orientation_means_what_it_means_to_others(orientation: int) -> None:
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(stored)
    image.getexif()[0x112] = orientation
    data, axes = oriented(stored, "YX", orientation)
    shown = data[:, :] if axes == "YX" else data[:, :].T
    np.testing.assert_array_equal(shown, np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_is_read_as_it_is_shown(orientation: int, compression: str | None, tmp_path: Path) -> None:
    stored = np.arange(2 * 20 * 30 * 3, dtype=np.uint16).reshape(2, 20, 30, 3)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored,
        photometric="rgb",
        compression=compression,
        resolution=(20000, 10000),
        resolutionunit="CENTIMETER",
        extratags=[(274, 3, 1, orientation, True)],
        metadata={"axes": "ZYXS"},
    )
    for plane, values in zip(read_planes(tmp_path / "a.tif"), stored, strict=True):
        image = [Image.fromarray(values[..., c].astype(np.int32)) for c in range(3)]
        for channel in image:
            channel.getexif()[0x112] = orientation
        expected = np.stack([np.asarray(ImageOps.exif_transpose(channel)) for channel in image])
        np.testing.assert_array_equal(plane.read(), expected)
        np.testing.assert_array_equal(plane.read(Window(3, 2, 9, 11)), expected[:, 3:12, 2:13])
        assert plane.pixel_size == pytest.approx((0.5, 1) if orientation >= 5 else (1, 0.5))
    (plane, _) = read_planes(tmp_path / "a.tif", axes="TYXC")
    assert plane.shape == ((30, 20) if orientation >= 5 else (20, 30))
