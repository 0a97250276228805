"""Every shape of image goes in, and what comes out lies on it."""

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.layers import Image, Labels, Shapes

from napari_uflow._napari.layers.areas import normal_regions
from napari_uflow._napari.layers.axes import axis_letters, frame_of
from napari_uflow._napari.layers.planes import current_plane, planes_of_layer, visible_part
from napari_uflow._napari.layers.transform import output_transform
from napari_uflow.errors import ImageError

RGB = np.zeros((4, 20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("layer", "letters", "shape", "n_planes", "n_channels"),
    [
        (Image(np.zeros((110, 2048))), "YX", (110, 2048), 1, 1),
        (Image(np.zeros((1, 20, 30))), "ZYX", (1, 20, 30), 1, 1),
        (Image(np.zeros((2, 3, 20, 30), np.uint16)), "TZYX", (2, 3, 20, 30), 6, 1),
        (Image(RGB[0], rgb=True), "YXS", (20, 30), 1, 3),
        (Image(RGB, rgb=True), "ZYXS", (4, 20, 30), 4, 3),
        (Image(np.zeros((20, 30, 4), np.uint8), rgb=True), "YXS", (20, 30), 1, 3),
        (Image(np.zeros((2, 20, 30)), axis_labels=("c", "y", "x")), "CYX", (20, 30), 1, 2),
        (Image(np.zeros((2, 20, 30)), axis_labels=("field", "y", "x")), "ZYX", (2, 20, 30), 2, 1),
        (Image(np.zeros((5, 2, 20, 30)), axis_labels=("t", "channel", "y", "x")), "TCYX", (5, 1, 20, 30), 5, 2),
        (Image(da.zeros((3, 20, 30), chunks=10)), "ZYX", (3, 20, 30), 3, 1),
        (Image(zarr.zeros((3, 20, 30), chunks=(1, 10, 10))), "ZYX", (3, 20, 30), 3, 1),
        (Image([np.zeros((3, 40, 60)), np.zeros((3, 20, 30))], multiscale=True), "ZYX", (3, 40, 60), 3, 1),
    ],
    ids=str,
)
def test_every_shape(layer, letters, shape, n_planes, n_channels):
    assert axis_letters(layer) == letters
    frame = frame_of(layer)
    assert frame.shape == shape
    planes = planes_of_layer(layer)
    assert len(planes) == n_planes
    assert {plane.n_channels for plane in planes} == {n_channels}
    assert {plane.shape for plane in planes} == {shape[-2:]}
    result = frame.empty(np.int32)
    for i, plane in enumerate(planes):
        assert result[frame.index_of(plane)].shape == plane.shape
        result[frame.index_of(plane)] = i + 1
    assert set(np.unique(result)) == set(range(1, n_planes + 1))


def test_a_channel_axis_without_a_name():
    layer = Image(np.zeros((2, 20, 30)))
    assert axis_letters(layer, 0) == "CYX"
    (plane,) = planes_of_layer(layer, channel_axis=0, channels=[1])
    assert plane.n_channels == 1
    with pytest.raises(ImageError, match="last axes"):
        axis_letters(layer, 2)
    with pytest.raises(ImageError, match="has no axis 3"):
        axis_letters(layer, 3)


def test_numbers_are_no_names():
    layer = Image(np.zeros((2, 20, 30)), axis_labels=("0", "1", "2"))
    assert axis_letters(layer) == "ZYX"


@pytest.mark.parametrize(
    ("options", "pixel_size", "unit"),
    [
        ({}, None, None),
        ({"scale": (2, 0.5, 0.25)}, (0.5, 0.25), None),
        ({"scale": (2, 0.5, 0.25), "units": "um"}, (0.5, 0.25), "um"),
        ({"scale": (2, 500, 0.25), "units": ("pixel", "nm", "um")}, (0.5, 0.25), "um"),
        ({"units": ("pixel", "mm", "mm")}, (1, 1), "mm"),
    ],
)
def test_pixel_size_and_unit(options, pixel_size, unit):
    plane = planes_of_layer(Image(np.zeros((2, 20, 30)), **options))[0]
    assert plane.pixel_size == pytest.approx(pixel_size) if pixel_size else plane.pixel_size is None
    assert plane.unit == unit


def random_transform(n, rng):
    rotation, _ = np.linalg.qr(rng.normal(size=(2, 2)))
    rotate = np.eye(n)
    rotate[-2:, -2:] = rotation * np.sign(np.linalg.det(rotation))
    shear = np.zeros(n * (n - 1) // 2)
    shear[-1] = 0.3
    affine = np.eye(n + 1)
    affine[-3:-1, -3:-1] = [[1, 0.2], [0, 1.5]]
    affine[:n, n] = rng.normal(size=n)
    scale, translate = rng.uniform(0.1, 3, n), rng.normal(size=n)
    return {"scale": scale, "translate": translate, "rotate": rotate, "shear": shear, "affine": affine}


@pytest.mark.parametrize("index", [(), (3,)], ids=["whole", "plane"])
@pytest.mark.parametrize("offset", [(0, 0), (4, 7)], ids=str)
@pytest.mark.parametrize("labels", [("z", "y", "x"), ("c", "y", "x"), ("t", "c", "y", "x")], ids=str)
def test_outputs_land_on_the_image(labels, offset, index):
    n = len(labels)
    layer = Image(
        np.zeros((5,) * (n - 2) + (20, 30)),
        axis_labels=labels,
        units=("pixel",) * (n - 2) + ("um", "um"),
        **random_transform(n, np.random.default_rng(n)),
    )
    frame = frame_of(layer)
    index = (index + (0,) * n)[: len(frame.shape) - 2] if index else ()
    transform = output_transform(layer, offset=offset, index=index)
    assert set(transform) == {"scale", "translate", "rotate", "shear", "affine", "units", "axis_labels"}
    output = Labels(np.zeros((1,) * (len(frame.shape) - 2) + (8, 9), int), **transform)
    assert output.axis_labels == tuple(layer.axis_labels[axis] for axis in frame.axes)
    assert output.units == tuple(layer.units[axis] for axis in frame.axes)
    place = np.array([*(0,) * (len(frame.shape) - 2), 2, 3])
    of_image = np.zeros(n)
    of_image[list(frame.axes)] = place + np.array([*(index or (0,) * (len(frame.shape) - 2)), *offset])
    kept = [i for i, axis in enumerate(frame.axes) if axis != frame.channel]
    there = np.array(output.data_to_world(place))[kept]
    assert np.allclose(there, np.array(layer.data_to_world(of_image))[list(frame.axes)][kept])


def test_a_result_is_seen_with_each_channel():
    layer = Image(np.zeros((2, 4, 20, 30)), axis_labels=("t", "c", "y", "x"), scale=(1, 2, 1, 1))
    output = Labels(frame_of(layer).empty(int), **output_transform(layer))
    for channel in range(4):
        world = layer.data_to_world((1, channel, 5, 6))
        assert tuple(np.round(output.world_to_data(world)).astype(int)) == (1, 0, 5, 6)


def test_the_plane_where_the_sliders_stand():
    layer = Image(np.zeros((2, 5, 20, 30)), scale=(1, 2, 1, 1), translate=(0, 10, 0, 0))
    assert current_plane(layer, (1, 16, 0, 0)).index == {"T": 1, "Z": 3}
    assert current_plane(layer, (0, 1, 16, 0, 0)).index == {"T": 1, "Z": 3}
    assert current_plane(layer, (9, 99, 0, 0)).index == {"T": 1, "Z": 4}


def test_the_visible_field():
    values = np.arange(3 * 20 * 30, dtype=np.float32).reshape(3, 20, 30)
    layer = Image(values)
    layer.corner_pixels = np.array([[0, 4, 6], [0, 13, 25]])
    view = visible_part(layer, (2, 0, 0))
    assert view.index == (2,)
    assert view.window.slices() == (slice(4, 14), slice(6, 26))
    assert np.array_equal(view.plane.read()[0], values[2, 4:14, 6:26])


def test_the_visible_field_of_a_pyramid_is_of_its_finest_level():
    layer = Image([np.zeros((40, 60)), np.zeros((20, 30))], multiscale=True)
    layer.data_level = 1
    layer.corner_pixels = np.array([[2, 3], [9, 12]])
    assert visible_part(layer, (0, 0)).window.slices() == (slice(4, 20), slice(6, 26))


def test_nothing_in_view():
    layer = Image(np.zeros((20, 30)))
    layer.corner_pixels = np.zeros((2, 2), int)
    with pytest.raises(ImageError, match=r"no part of .* is visible"):
        visible_part(layer, (0, 0))


def masks(regions):
    return {region.plane.index.get("Z"): region.mask for region in regions}


def test_everything_is_normal():
    regions = normal_regions(Image(np.zeros((3, 20, 30))))
    assert masks(regions) == {0: None, 1: None, 2: None}


def test_a_labels_layer_of_the_same_shape():
    painted = np.zeros((3, 20, 30), np.uint8)
    painted[1, 2:5, 3:9] = 2
    layer = Labels(painted)
    regions = normal_regions(Image(np.zeros((3, 20, 30))), layer)
    assert list(masks(regions)) == [1]
    layer.data[:] = 0  # painting on does not reach what was taken
    assert np.array_equal(regions[0].mask, np.pad(np.ones((3, 6), bool), ((2, 15), (3, 21))))


def test_a_flat_labels_layer_holds_for_all_planes():
    painted = np.zeros((20, 30), np.uint8)
    painted[2:5, 3:9] = 1
    regions = normal_regions(Image(np.zeros((3, 20, 30))), Labels(painted))
    assert [mask.sum() for mask in masks(regions).values()] == [18, 18, 18]


def test_labels_are_found_through_the_world():
    image = Image(np.zeros((20, 30)), scale=(0.5, 0.5), translate=(10, 10))
    painted = np.zeros((10, 15), np.uint8)
    painted[2:4, 3:5] = 1  # twice as coarse
    (region,) = normal_regions(image, Labels(painted, scale=(1, 1), translate=(10.25, 10.25)))
    assert region.mask.sum() == 16
    assert region.mask[4:8, 6:10].all()


def test_labels_of_an_image_with_channels():
    image = Image(np.zeros((5, 2, 20, 30)), axis_labels=("t", "c", "y", "x"))
    painted = frame_of(image).empty(np.uint8)
    painted[3, 0, :4, :4] = 1
    (region,) = normal_regions(image, Labels(painted, **output_transform(image)))
    assert region.plane.index == {"T": 3}
    assert region.mask.sum() == 16
    (region,) = normal_regions(image, Labels(painted[:, 0]))
    assert region.plane.index == {"T": 3}


def test_shapes_are_drawn_in_the_image():
    image = Image(np.zeros((3, 20, 30)), scale=(1, 0.5, 0.5), translate=(0, 10, 10))
    corners = np.array([[1, 10, 10], [1, 10, 14], [1, 12, 14], [1, 12, 10]])
    (region,) = normal_regions(image, Shapes([corners], shape_type="rectangle"))
    assert region.plane.index == {"Z": 1}
    assert region.mask[1:4, 1:8].all()
    assert not region.mask[6:].any()
    assert not region.mask[:, 10:].any()


def test_an_ellipse_is_no_rectangle():
    box = np.array([[0, 0], [0, 28], [18, 28], [18, 0]])
    (region,) = normal_regions(Image(np.zeros((20, 30))), Shapes([box], shape_type="ellipse"))
    assert region.mask.sum() == pytest.approx(np.pi * 9 * 14, rel=0.05)
    assert not region.mask[0, 0]


def test_what_is_ignored_is_not_normal():
    image = Image(np.zeros((20, 30)))
    dirt = np.zeros((20, 30), np.uint8)
    dirt[:, :10] = 7
    (region,) = normal_regions(image, None, Labels(dirt))
    assert region.mask.sum() == 400
    painted = np.ones((20, 30), np.uint8)
    painted[10:] = 0
    (region,) = normal_regions(image, Labels(painted), Labels(dirt))
    assert region.mask.sum() == 200


def test_nothing_is_normal():
    image, nothing = Image(np.zeros((20, 30)), name="cells"), Labels(np.zeros((20, 30), int), name="mine")
    with pytest.raises(ImageError, match=r"'mine' leaves nothing normal in 'cells'"):
        normal_regions(image, nothing)
    assert normal_regions(image, nothing, may_be_empty=True) == []
    with pytest.raises(ImageError, match=r"has 3 axes, but 'cells' has 2"):
        normal_regions(image, Labels(np.ones((2, 20, 30), int)))


@pytest.mark.parametrize(
    ("name", "rule", "n_specimens"), [("field", "names", 3), ("z", "names", 1), ("z", "each", 3), ("field", "one", 1)]
)
def test_specimens(name, rule, n_specimens):
    layer = Image(np.zeros((3, 20, 30)), axis_labels=(name, "y", "x"), name="cells")
    specimens = [region.specimen for region in normal_regions(layer, specimens=rule)]
    assert len(set(specimens)) == n_specimens
    assert all(specimen.startswith("cells") for specimen in specimens)
