from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane, planes_of

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


class Recorder:
    """An array that notes what is asked of it."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.keys = data, []

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        assert all(isinstance(k, (int, slice)) for k in key)
        self.keys.append(key)
        return self.data[key]


def numbers(shape: tuple[int, ...], dtype: Any = np.uint16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@settings(deadline=None)
@given(shapes, st.integers(-40, 40), st.integers(-40, 40), st.integers(0, 40), st.integers(0, 40))
def test_what_sticks_out_is_the_mirror_image(
    shape: tuple[int, int], row: int, col: int, height: int, width: int
) -> None:
    image = numbers(shape)
    # 100 pixels on each side: more than any window here reaches.
    padded = np.pad(image, 100, mode="symmetric")
    expected = padded[row + 100 : row + 100 + height, col + 100 : col + 100 + width]
    values = Plane(data=image).read(Window(row, col, height, width))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected[None])


def test_only_the_needed_part_is_read() -> None:
    recorder = Recorder(numbers((5, 100, 90)))
    plane = Plane(data=recorder, axes="TYX", index={"T": 2})
    plane.read(Window(-3, 80, 8, 20))
    assert recorder.keys == [(2, slice(0, 5), slice(80, 90))]


@pytest.mark.parametrize("channels", [(0,), (3, 1), (0, 1, 3), (2, 0, 1), (3, 3)])
def test_only_the_chosen_channels_are_read(channels: tuple[int, ...]) -> None:
    recorder = Recorder(numbers((4, 6, 5)))
    plane = Plane(data=recorder, axes="CYX", channels=channels)
    np.testing.assert_array_equal(plane.read(), recorder.data[list(channels)])
    read = [c for key in recorder.keys for c in range(4)[key[0]]]
    assert sorted(read) == sorted(set(channels))


@settings(deadline=None)
@given(st.permutations("TCSYX"), st.data())
def test_axes_may_come_in_any_order(order: list[str], data: st.DataObject) -> None:
    sizes = {"T": 2, "C": 3, "S": 2, "Y": 4, "X": 5}
    standard = numbers(tuple(sizes[a] for a in "TCSYX"))
    axes = "".join(order)
    channels = tuple(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)))
    image = standard.transpose(["TCSYX".index(a) for a in axes])
    planes = planes_of(image, axes, channels=channels)
    assert len(planes) == 2
    for t, plane in enumerate(planes):
        assert (plane.shape, plane.n_channels, plane.index) == ((4, 5), len(channels), {"T": t})
        np.testing.assert_array_equal(plane.read(), standard[t].reshape(6, 4, 5)[list(channels)])


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">u2", ">f4", "<u2"]
)
def test_every_type_of_number_becomes_float32(dtype: str) -> None:
    image = np.array([[0, 1], [1, 1]]).astype(dtype)
    values = Plane(data=image).read()
    assert values.dtype == np.float32
    assert values.dtype.isnative
    np.testing.assert_array_equal(values[0], [[0, 1], [1, 1]])
    assert not np.shares_memory(values, image)


def test_read_returns_a_copy_of_float32_too() -> None:
    image = numbers((4, 4), np.float32)
    Plane(data=image).read()[:] = -1
    assert image[0, 1] == 1


def test_signed_and_large_values_survive() -> None:
    np.testing.assert_array_equal(Plane(data=np.array([[-5, 2**20]], dtype=np.int32)).read()[0], [[-5, 2**20]])
    np.testing.assert_array_equal(Plane(data=np.array([[1e300, 1.0]])).read()[0], [[np.inf, 1]])


@pytest.mark.parametrize(
    ("dtype", "advice"), [("c8", "numpy.abs"), ("U3", "float32"), ("M8[s]", "float32"), ("O", "float32")]
)
def test_other_types_are_refused_with_advice(dtype: str, advice: str) -> None:
    with pytest.raises(ImageError, match=advice):
        planes_of(np.zeros((4, 4), dtype=dtype))
    with pytest.raises(ImageError, match=advice):
        Plane(data=np.zeros((4, 4), dtype=dtype))


def test_nan_and_infinity_stay_and_are_not_valid() -> None:
    image = numbers((2, 3, 3), np.float64)
    image[0, 0, 1], image[1, 2, 2] = np.nan, np.inf
    plane = Plane(data=image, axes="CYX")
    assert np.isnan(plane.read()[0, 0, 1])
    assert np.isinf(plane.read()[1, 2, 2])
    np.testing.assert_array_equal(plane.read_valid(), [[1, 0, 1], [1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(plane.read_valid(Window(-1, 0, 2, 2)), [[1, 0], [1, 0]])


def test_integers_are_valid_without_being_read() -> None:
    recorder = Recorder(numbers((3, 3)))
    assert Plane(data=recorder).read_valid(Window(-1, -1, 6, 7)).shape == (6, 7)
    assert Plane(data=recorder).read_valid().shape == (3, 3)
    assert recorder.keys == []


def test_one_pixel_and_a_strip() -> None:
    assert (Plane(data=np.full((1, 1), 7, np.uint8)).read(Window(-16, -16, 32, 32)) == 7).all()
    strip = numbers((110, 2048), np.uint32)
    np.testing.assert_array_equal(
        Plane(data=strip).read(Window(0, 0, 112, 2048))[0], np.pad(strip, ((0, 2), (0, 0)), mode="symmetric")
    )


@pytest.mark.parametrize("kind", ["dask", "zarr", "memmap"])
def test_lazy_arrays_read_like_numpy(kind: str, tmp_path: Any) -> None:
    image = numbers((2, 3, 4, 20, 30))
    if kind == "dask":
        lazy = da.from_array(image, chunks=(1, 1, 2, 8, 8))
    elif kind == "zarr":
        lazy = zarr.create_array({}, shape=image.shape, chunks=(1, 1, 2, 8, 8), dtype=image.dtype)
        lazy[:] = image
    else:
        lazy = np.memmap(tmp_path / "image", dtype=image.dtype, mode="w+", shape=image.shape)
        lazy[:] = image
    planes = planes_of(lazy, "TZCYX", channels=[3, 0])
    assert [p.label for p in planes] == ["t=0,z=0", "t=0,z=1", "t=0,z=2", "t=1,z=0", "t=1,z=1", "t=1,z=2"]
    for plane, expected in zip(planes, image.reshape(-1, 4, 20, 30), strict=True):
        values = plane.read(Window(-2, 10, 14, 24))
        assert type(values) is np.ndarray
        padded = np.pad(expected[[3, 0]], ((0, 0), (2, 0), (0, 4)), mode="symmetric")
        np.testing.assert_array_equal(values, padded[:, :14, 10:])


@pytest.mark.parametrize(
    ("shape", "dtype", "n_planes", "image", "n_channels"),
    [
        ((5, 6), "u1", 1, (5, 6), 1),
        ((1, 5, 6), "i4", 1, (5, 6), 1),
        ((50, 60, 3), "u1", 1, (50, 60), 3),
        ((50, 60, 4), "u2", 1, (50, 60), 3),
        ((50, 60, 3), "f4", 50, (60, 3), 1),
        ((50, 60, 2), "u1", 50, (60, 2), 1),
        ((3, 50, 60), "u1", 3, (50, 60), 1),
        ((2, 4, 3), "u1", 2, (4, 3), 1),
    ],
)
def test_axes_are_guessed_in_clear_cases_only(
    shape: tuple[int, ...], dtype: str, n_planes: int, image: tuple[int, int], n_channels: int
) -> None:
    planes = planes_of(np.zeros(shape, dtype=dtype))
    assert len(planes) == n_planes
    assert {(p.shape, p.n_channels) for p in planes} == {(image, n_channels)}


def test_labels_name_only_what_varies() -> None:
    assert [p.label for p in planes_of(np.zeros((1, 4, 4)))] == [""]
    assert [p.label for p in planes_of(np.zeros((2, 1, 4, 4)), "TZYX")] == ["t=0", "t=1"]
    assert planes_of(np.zeros((4, 4)))[0].label == ""


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 4, 4), (1, 1, 1, 4, 4)])
def test_other_shapes_need_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"axes|rows and columns"):
        planes_of(np.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 64, 64), (3, 0, 64)])
def test_an_array_without_pixels_is_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="is empty: its shape is"):
        planes_of(np.zeros(shape), "ZYX")


@pytest.mark.parametrize("axes", ["YX", "CYXS", "CZX", "YYX"])
def test_wrong_axes_are_named(axes: str) -> None:
    with pytest.raises(ImageError, match=axes):
        planes_of(np.zeros((2, 4, 4)), axes)


def test_alpha_is_dropped() -> None:
    image = numbers((9, 8, 4), np.uint8)
    (plane,) = planes_of(image)
    np.testing.assert_array_equal(plane.read(), image[..., :3].transpose(2, 0, 1))
    (plane,) = planes_of(image, channels="alpha")
    np.testing.assert_array_equal(plane.read(), image[None, ..., 3])


def test_two_and_three_channels_are_used_as_they_are() -> None:
    assert planes_of(np.zeros((2, 4, 4)), "CYX")[0].n_channels == 2
    assert planes_of(np.zeros((3, 4, 4)), "CYX")[0].n_channels == 3


def test_more_channels_must_be_chosen() -> None:
    image = numbers((4, 5, 6))
    names = ["DAPI", "GFP", "Cy5", "BF"]
    with pytest.raises(ImageError, match=r"4 channels \(DAPI, GFP, Cy5, BF\); choose 1 to 3"):
        planes_of(image, "CYX", channel_names=names)
    for choice in ([2, 0], ["Cy5", "DAPI"], ["cy5", 0], (np.int64(2), "dapi")):
        (plane,) = planes_of(image, "CYX", channels=choice, channel_names=names)
        np.testing.assert_array_equal(plane.read(), image[[2, 0]])
    for choice in (1, "GFP", np.int64(1)):
        (plane,) = planes_of(image, "CYX", channels=choice, channel_names=names)
        np.testing.assert_array_equal(plane.read(), image[[1]])


def test_channels_of_colour_images_have_names() -> None:
    image = numbers((2, 5, 6, 3))
    with pytest.raises(ImageError, match="A red, A green, A blue, B red"):
        planes_of(image, "CYXS", channel_names=["A", "B"])
    (plane,) = planes_of(image, "CYXS", channels=["B green"], channel_names=["A", "B"])
    np.testing.assert_array_equal(plane.read()[0], image[1, ..., 1])


@pytest.mark.parametrize("channels", [[4], [-1], ["YFP"], [0, 0], [0, 1, 2, 3], []])
def test_channels_that_cannot_be_chosen_are_named(channels: list) -> None:
    with pytest.raises(ImageError, match="channel"):
        planes_of(np.zeros((4, 4, 4)), "CYX", channels=channels)


def test_number_of_channel_names_must_fit() -> None:
    with pytest.raises(ImageError, match="2 channels but 3 channel names: a, b, c"):
        planes_of(np.zeros((2, 4, 4)), "CYX", channel_names=["a", "b", "c"])


def test_what_is_known_of_the_image_is_kept() -> None:
    planes = planes_of(np.zeros((2, 4, 4)), "TYX", name="a", pixel_size=(0.5, 0.25), unit="um", source="a.tif")
    assert {(p.name, p.pixel_size, p.unit, p.source) for p in planes} == {("a", (0.5, 0.25), "um", "a.tif")}
    planes = planes_of(np.zeros((2, 4, 4)), "TYX", z_spacing=1.5, frame_interval=60)
    assert {(p.z_spacing, p.frame_interval) for p in planes} == {(1.5, 60)}


@pytest.mark.parametrize(
    "attributes",
    [
        {"data": np.zeros((0, 4))},
        {"data": np.zeros((2, 4, 4)), "axes": "TYX"},
        {"data": np.zeros((2, 4, 4)), "axes": "TYX", "index": {"T": 2}},
        {"data": np.zeros((2, 4, 4)), "axes": "TYX", "index": {"Z": 0}},
        {"data": np.zeros((0, 4, 4)), "axes": "CYX"},
        {"data": np.zeros((2, 4, 4)), "axes": "CYX", "channels": (2,)},
        {"data": np.zeros((2, 4, 4)), "axes": "CYX", "channels": ()},
        {"data": np.zeros((4, 4)), "pixel_size": (0, 1)},
        {"data": np.zeros((4, 4)), "pixel_size": (1, np.nan)},
        {"data": np.zeros((4, 4)), "pixel_size": (1,)},
        {"data": np.zeros((4, 4)), "z_spacing": 0},
        {"data": np.zeros((4, 4)), "frame_interval": np.inf},
    ],
)
def test_planes_that_cannot_be_are_refused(attributes: dict) -> None:
    with pytest.raises(ImageError):
        Plane(**attributes)


def test_not_an_array() -> None:
    with pytest.raises(ImageError, match="must be an array, not a list"):
        planes_of([[1, 2], [3, 4]])
