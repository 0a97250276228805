"""Masks in files: found by the names of their images, matched plane by plane, or refused with a reason."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane, planes_of
from napari_uflow.image.region import NormalRegion
from napari_uflow.store.masks import MaskFolder, read_masks

SHAPE = (24, 32)


def drawn(n: int) -> np.ndarray:
    """A mask with n rows, 0 and 255."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[:n] = 255
    return mask


def stack(*sizes: int) -> np.ndarray:
    """Masks of 0, 1, 2 ... rows."""
    return np.stack([drawn(n) for n in range(int(np.prod(sizes)))]).reshape(*sizes, *SHAPE)


def planes(axes: str, *sizes: int) -> list[Plane]:
    return planes_of(np.zeros((*sizes, *SHAPE), np.uint8), axes, name="image")


def write(path, mask, axes=None):
    if path.suffix.lower() in (".tif", ".tiff"):
        options = {"imagej": True, "metadata": {"axes": axes}} if axes else {}
        tifffile.imwrite(path, mask, photometric="minisblack", **options)
    else:
        Image.fromarray(mask).save(path)
    return path


def rows_of(masks) -> list[float]:
    """Return the rows of each mask."""
    return [np.asarray(mask).sum() / SHAPE[1] for mask in masks]


# Names


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.tif", "a.tif"),
        ("a.tif", "a_mask.tif"),
        ("a.tif", "a_mask.PNG"),
        ("a.tif", "A_Mask.png"),
        ("a.tif", "a.BMP"),
        ("a.png", "a_mask.jpg"),
        ("a.png", "a_mask.JPEG"),
        ("a.tif", "a.TIF"),
        ("a.ome.tif", "a.tif"),
        ("a.ome.tif", "a.ome.tif"),
        ("a.ome.tif", "a.ome_mask.tiff"),
        ("a.ome.tif", "a_mask.png"),
        ("a.OME.TIFF", "a_mask.ome.tif"),
        ("a.tif", "a_mask.ome.tif"),
        ("dir/a.b.c.jpg", "a.b.c_mask.png"),
        ("a.ome.zarr", "a.png"),
    ],
)
def test_a_mask_is_found_by_the_name_of_its_image(tmp_path, image, mask):
    for other in ("b.tif", "ab.png", "a_labels.tif", "a_mask.txt", ".a.png", "mask.png", mask):
        (tmp_path / other).touch()
    assert MaskFolder(tmp_path).find(image) == tmp_path / mask


def test_the_name_with_mask_comes_first_and_an_image_is_not_its_own_mask(tmp_path):
    for name in ("a.png", "a_mask.png", "b.png"):
        (tmp_path / name).touch()
    masks = MaskFolder(tmp_path)
    assert masks.find(tmp_path / "a.png") == tmp_path / "a_mask.png"
    assert masks.find(tmp_path / "b.png") is None
    assert masks.find("c.png") is None


def test_names_that_differ_in_capitals_only_are_told_apart(tmp_path):
    for name in ("s1.png", "S1.png"):
        (tmp_path / name).touch()
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell them apart")
    assert [MaskFolder(tmp_path).find(name).name for name in ("s1.tif", "S1.tif")] == ["s1.png", "S1.png"]


def test_several_masks_and_no_folder_are_refused(tmp_path):
    for name in ("a_mask.png", "a_mask.tif"):
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match=r"'a.tif' has several masks .*'a_mask.png' and 'a_mask.tif'"):
        MaskFolder(tmp_path).find("a.tif")
    with pytest.raises(ImageError, match="there is no folder of masks"):
        MaskFolder(tmp_path / "nowhere")


# Planes


@pytest.mark.parametrize(
    ("own", "of_image"),
    [
        (("ZYX", (4,)), ("ZYX", (4,))),
        (("ZYX", (4,)), ("TYX", (4,))),
        (("TZYX", (2, 3)), ("TZYX", (2, 3))),
        (("TYX", (6,)), ("TZYX", (2, 3))),
    ],
)
def test_each_plane_of_a_stack_has_its_own_mask(tmp_path, own, of_image):
    path = write(tmp_path / "a.tif", stack(*own[1]), own[0])
    found = read_masks(path, planes(of_image[0], *of_image[1]))
    assert rows_of(found) == list(range(int(np.prod(own[1]))))


def test_planes_are_matched_by_the_names_of_the_axes(tmp_path):
    path = write(tmp_path / "a.tif", stack(2, 3), "TZYX")
    of_image = planes("ZTYX", 3, 2)
    assert rows_of(read_masks(path, of_image)) == [3 * plane.index["T"] + plane.index["Z"] for plane in of_image]


def test_one_mask_is_that_of_every_plane(tmp_path):
    path = write(tmp_path / "a.png", drawn(5))
    assert rows_of(read_masks(path, planes("TZYX", 2, 2))) == [5] * 4


@pytest.mark.parametrize(
    ("own", "of_image", "said"),
    [
        (("ZYX", (3,)), ("ZYX", (4,)), r"is a stack of 3 planes, but its image has 4;"),
        (("ZYX", (3,)), ("YX", ()), r"is a stack of 3 planes, but its image has 1;"),
        (("TZYX", (3, 2)), ("TZYX", (2, 3)), r"is a stack of 3 x 2 planes, but its image has 2 x 3;"),
        (("ZYX", (3,)), ("TZYX", (2, 3)), r"is a stack of 3 planes, but its image has 2 x 3;"),
        (("CYX", (2,)), ("ZYX", (2,)), r"has 2 channels, but its image is a stack of 2 planes;"),
        (("CYX", (4,)), ("ZYX", (4,)), r"the mask .* cannot be used: .*4 channels"),
    ],
)
def test_another_number_of_planes_is_refused(tmp_path, own, of_image, said):
    path = write(tmp_path / "a.tif", stack(*own[1]), own[0])
    with pytest.raises(ImageError, match=said):
        read_masks(path, planes(of_image[0], *of_image[1]))


def test_another_size_is_refused_before_a_pixel_is_read(tmp_path):
    path = write(tmp_path / "a.png", np.zeros((24, 30), np.uint8))
    with pytest.raises(ImageError, match=r"a.png' has 24 x 30 pixels, but its image has 24 x 32;"):
        read_masks(path, planes("YX"))


def test_axes_that_were_given_are_those_of_the_mask_if_it_has_as_many(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(stack(3), 0, -1), photometric="rgb")
    of_image = planes_of(np.zeros((*SHAPE, 3), np.uint8), "YXZ", name="image")
    assert rows_of(read_masks(tmp_path / "a.tif", of_image, axes="YXZ")) == [0, 1, 2]
    write(tmp_path / "b.png", drawn(3))
    assert rows_of(read_masks(tmp_path / "b.png", of_image, axes="YXZ")) == [3, 3, 3]


# Values


def palette(mask):
    image = Image.fromarray((mask > 0).astype(np.uint8) * 2, mode=None)
    image = image.convert("P")
    image.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    return image


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("boolean.png", lambda mask: Image.fromarray(mask > 0)),
        ("palette.png", palette),
        ("rgb.png", lambda mask: Image.fromarray(np.dstack([0 * mask, mask, 0 * mask]))),
        ("rgba.png", lambda mask: Image.fromarray(np.dstack([mask, mask, mask, 0 * mask + 255]))),
        ("grey.bmp", Image.fromarray),
        ("grey.jpg", Image.fromarray),
        ("labels.png", lambda mask: Image.fromarray((mask > 0).astype(np.uint8) * 3)),
        ("sixteen.png", lambda mask: Image.fromarray((mask > 0).astype(np.uint16) * 700)),
        ("float.tif", lambda mask: np.where(mask > 0, 0.25, np.nan).astype(np.float32)),
        ("signed.tif", lambda mask: np.where(mask > 0, 3, -1).astype(np.int16)),
        ("boolean.tif", lambda mask: mask > 0),
        ("rgb.tif", lambda mask: np.dstack([mask, 0 * mask, 0 * mask])),
    ],
)
def test_pixels_above_zero_count_in_every_kind_of_file(tmp_path, name, made):
    image = made(drawn(8))
    if isinstance(image, np.ndarray):
        tifffile.imwrite(tmp_path / name, image, photometric="rgb" if image.ndim == 3 else None)
    else:
        image.save(tmp_path / name)
    (mask,) = read_masks(tmp_path / name, planes("YX"))
    np.testing.assert_array_equal(np.asarray(mask), drawn(8) > 0)
    region = NormalRegion(planes("YX")[0], mask)
    np.testing.assert_array_equal(region.normal(), drawn(8) > 0)
    np.testing.assert_array_equal(mask[2:9, 30:40], (drawn(8) > 0)[2:9, 30:40])


def test_a_file_that_is_damaged_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(ImageError, match=r"the mask .*a.png' cannot be used"):
        read_masks(tmp_path / "a.png", planes("YX"))
