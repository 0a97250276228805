"""Of a file with several images the main ones are read, or the one that was chosen."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from tests.store.test_calibration import slide

from napari_uflow.errors import ImageError
from napari_uflow.store.images import read_planes
from napari_uflow.store.series import chosen_series


def test_labels_and_overviews_of_a_slide_are_left_out() -> None:
    names = ["cells", "label image", "Macro", "overview", "THUMBNAIL", "", "labels", "macrophages"]
    assert chosen_series(names, names, None, Path("a")) == [0, 5, 6, 7]
    assert chosen_series(["label", "macro"], ["", ""], None, Path("a")) == [0, 1]


def test_one_image_is_chosen_by_name_or_number() -> None:
    names = ["a", "b", "0", "", "b"]
    for wanted, number in (
        ("a", 0),
        (1, 1),
        ("1", 1),
        ("0", None),
        ("3", 3),
        (2, 2),
        ("b", None),
        (5, None),
        (-1, None),
    ):
        if number is None:
            with pytest.raises(ImageError, match=r"it has: 0 'a' \(size 0\), 1 'b' \(size 1\), 2 '0'"):
                chosen_series(names, [f"size {i}" for i in range(5)], wanted, Path("x"))
        else:
            assert chosen_series(names, names, wanted, Path("x")) == [number]


def test_the_main_image_of_slides(tmp_path: Path) -> None:
    slide(tmp_path / "a.svs")
    values = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    with tifffile.TiffWriter(tmp_path / "b.ome.tif", ome=True) as writer:
        writer.write(values[:20, :20], metadata={"Name": "label image"})
        writer.write(values, metadata={"Name": "section 1"})
        writer.write(values[:30, :20], metadata={"Name": "macro image"})
    for name, shape in (("a.svs", (256, 320)), ("b.ome.tif", (64, 80))):
        (plane,) = read_planes(tmp_path / name)
        assert (plane.shape, plane.name) == (shape, name[0])
    assert [p.shape for p in read_planes(tmp_path / "a.svs", series="Label")] == [(90, 70)]
    assert [p.shape for p in read_planes(tmp_path / "b.ome.tif", series="2")] == [(30, 20)]
    with pytest.raises(ImageError, match=r"no series 'x'; it has: 0 'label image' \(20 x 20 pixels\), 1 'section 1'"):
        read_planes(tmp_path / "b.ome.tif", series="x")


def test_a_file_of_one_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6), np.uint8))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((5, 6), np.uint8), imagej=True)
    from skimage.io import imsave

    imsave(tmp_path / "c.png", np.zeros((5, 6), np.uint8), check_contrast=False)
    for name in ("a.tif", "b.tif", "c.png"):
        assert read_planes(tmp_path / name, series=0)[0].shape == (5, 6)
        with pytest.raises(ImageError, match="no series 1; it has: 0"):
            read_planes(tmp_path / name, series=1)
