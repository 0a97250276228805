"""Readers, writers and menu commands: open a model, save a layer, read it as Fiji does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels

from napari_uflow._napari.contributions import io
from napari_uflow._napari.parts import dialogs
from napari_uflow.errors import ImageError
from napari_uflow.store.images import read_planes


def saved(layer, path, writer=None):
    data, meta, kind = layer.as_layer_data_tuple()
    (name,) = (writer or {"image": io.write_image, "labels": io.write_labels}[kind])(str(path), data, meta)
    return name


def labels(shape=(4, 30, 40)):
    values = np.zeros(shape, np.int32)
    values[0, 2:9, 3:11] = 1
    values[-1, 20:25, 30:38] = 2
    return values


CALIBRATED = {"scale": (2, 0.5, 0.25), "units": ("um", "um", "um"), "axis_labels": ("z", "y", "x")}


@pytest.mark.slow
def test_labels_keep_pixel_size_unit_axes_and_provenance(tmp_path):
    known = {"napari_uflow": {"model": "fibres", "sizes": (1, 2), "path": tmp_path}}
    layer = Labels(labels(), name="found", metadata=known, **CALIBRATED)
    name = saved(layer, tmp_path / "found.tif")
    planes = read_planes(name)
    assert len(planes) == 4
    assert planes[0].unit == "um"
    assert planes[0].pixel_size == pytest.approx((0.5, 0.25))
    np.testing.assert_array_equal([plane.read()[0] for plane in planes], layer.data)
    with tifffile.TiffFile(name) as file:
        assert file.series[0].axes == "ZYX"
        assert file.imagej_metadata["spacing"] == 2
        assert file.imagej_metadata["unit"] == "um"
        info = json.loads(file.imagej_metadata["Info"])
    assert info == {"napari_uflow": {"model": "fibres", "sizes": [1, 2], "path": str(tmp_path)}}


def test_many_labels_keep_their_numbers_and_their_spacing(tmp_path):
    layer = Labels(labels() * 70_000, **CALIBRATED)
    name = saved(layer, tmp_path / "found.tif")
    with tifffile.TiffFile(name) as file:
        np.testing.assert_array_equal(file.asarray(), layer.data)
        assert 'PhysicalSizeZ="2.0"' in file.ome_metadata


@pytest.mark.parametrize(
    ("units", "spacing", "interval"),
    [
        (("s", "um", "um", "um"), 2.0, 0.5),
        (("ms", "nm", "um", "um"), 0.002, 0.0005),
        (("pixel", "pixel", "um", "um"), None, None),
    ],
)
def test_the_steps_of_slices_and_frames_are_kept_in_any_unit(units, spacing, interval, tmp_path):
    options = {"scale": (0.5, 2, 0.5, 0.25), "units": units, "axis_labels": ("t", "z", "y", "x")}
    name = saved(Labels(labels((3, 4, 30, 40)), **options), tmp_path / "found.tif")
    with tifffile.TiffFile(name) as file:
        found = file.imagej_metadata
    assert found.get("spacing") == (None if spacing is None else pytest.approx(spacing))
    assert found.get("finterval") == (None if interval is None else pytest.approx(interval))


def test_a_heatmap_with_gaps(tmp_path):
    values = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
    values[2, 3] = np.nan
    name = saved(Image(values, scale=(0.5, 0.5), units=("um", "um")), tmp_path / "heatmap")
    assert name.endswith("heatmap.tif")
    (plane,) = read_planes(name)
    np.testing.assert_array_equal(plane.read()[0], values)
    assert (plane.pixel_size, plane.unit) == (pytest.approx((0.5, 0.5)), "um")


def test_a_mask_is_0_and_255(tmp_path):
    layer = Labels(labels(), **CALIBRATED)
    name = saved(layer, tmp_path / "mask.tif", io.write_mask)
    with tifffile.TiffFile(name) as file:
        assert file.series[0].dtype == np.uint8
        np.testing.assert_array_equal(file.asarray(), np.where(layer.data > 0, 255, 0))
    assert read_planes(name)[0].pixel_size == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize(
    ("shape", "names", "expected"),
    [
        ((3, 5, 7), ("t", "y", "x"), "TYX"),
        ((3, 5, 7), ("field", "y", "x"), "ZYX"),
        ((3, 5, 7), None, "ZYX"),
        ((2, 3, 5, 7), ("field", "z", "y", "x"), "TZYX"),
        ((2, 3, 5, 7), ("channel", "frame", "y", "x"), "TCYX"),
        ((2, 1, 3, 5, 7), ("well", "c", "z", "y", "x"), "TZYX"),
        ((1, 5, 7), ("z", "y", "x"), "YX"),
    ],
)
def test_axes_of_stacks(shape, names, expected, tmp_path):
    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    options = {} if names is None else {"axis_labels": names}
    name = saved(Image(values, **options), tmp_path / "stack.tif")
    with tifffile.TiffFile(name) as file:
        assert file.series[0].axes == expected
        written = file.asarray()
    order = [1, 0, 2, 3] if expected == "TCYX" else range(len(shape))
    np.testing.assert_array_equal(written, values.transpose(order).squeeze())


def test_pyramids_and_colours_and_pixels_without_a_size(tmp_path):
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    name = saved(Image([pixels, pixels[::2, ::2]], rgb=True), tmp_path / "colours.tif")
    with tifffile.TiffFile(name) as file:
        np.testing.assert_array_equal(file.asarray(), pixels)
    assert read_planes(name)[0].pixel_size is None
    pyramid = [labels()[0], labels()[0][::2, ::2]]
    name = saved(Labels(pyramid), tmp_path / "mask.tif", io.write_mask)
    assert tifffile.imread(name).shape == (30, 40)


def test_more_axes_than_a_file_can_name(tmp_path):
    with pytest.raises(ImageError, match="6 axes"):
        saved(Image(np.zeros((2, 2, 2, 2, 4, 4), np.uint8)), tmp_path / "many.tif")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "is_mask"), [("found.tif", False), ("found.mask.tif", True)])
def test_napari_saves_with_these_writers(viewer, tmp_path, name, is_mask):
    layer = viewer.add_labels(labels(), **CALIBRATED)
    viewer.layers.save(str(tmp_path / name), plugin="napari-uflow")
    assert read_planes(tmp_path / name)[0].pixel_size == pytest.approx((0.5, 0.25))
    written = tifffile.imread(tmp_path / name)
    np.testing.assert_array_equal(written, np.where(layer.data > 0, 255, 0) if is_mask else layer.data)


@pytest.mark.slow
def test_menu_entries_save_the_selected_layer(viewer, tmp_path, monkeypatch):
    asked = []

    def answer(title, name, kinds, parent=None):
        asked.append((title, name))
        return str(tmp_path / f"{len(asked)}.tif")

    monkeypatch.setattr(dialogs, "ask_to_save", answer)
    with pytest.raises(ImageError, match="select an image or labels layer"):
        io.save_as_tiff(viewer)
    layer = viewer.add_labels(labels(), name="found", **CALIBRATED)
    io.save_as_tiff(viewer)
    io.save_as_mask(viewer)
    assert asked == [("Save as calibrated TIFF", "found.tif"), ("Save as mask", "found mask.tif")]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "1.tif"), layer.data)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "2.tif"), np.where(layer.data > 0, 255, 0))
    viewer.add_image(np.zeros((4, 4)))
    with pytest.raises(ImageError, match="select a labels layer"):
        io.save_as_mask(viewer)
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args: "")
    io.save_as_tiff(viewer)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_napari_gives_the_menu_entries_its_viewer(viewer, tmp_path, monkeypatch):
    from napari._app_model import get_app_model

    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: str(tmp_path / "a.tif"))
    viewer.add_labels(labels())
    get_app_model().commands.execute_command("napari-uflow.save_as_mask").result()
    assert tifffile.imread(tmp_path / "a.tif").max() == 255


@pytest.mark.slow
def test_a_dropped_model_becomes_the_active_one(viewer, tiny_model_file):
    from napari_uflow._napari.session.session import session_of

    viewer.open(str(tiny_model_file), plugin="napari-uflow")
    assert list(viewer.layers) == []
    assert session_of(viewer).model is not None
    assert session_of(viewer).model_name == "tiny"


@pytest.mark.slow
def test_a_model_from_the_menu(viewer, tiny_model_file, monkeypatch):
    from napari_uflow._napari.session.session import session_of

    monkeypatch.setattr(dialogs, "ask_to_open", lambda *args: "")
    io.open_model(viewer)
    assert session_of(viewer).model is None
    monkeypatch.setattr(dialogs, "ask_to_open", lambda *args: str(tiny_model_file))
    io.open_model(viewer)
    assert session_of(viewer).model is not None


def test_other_files_are_not_read():
    assert io.model_reader("model.safetensors") is not None
    assert io.model_reader("model.pt") is None
    assert io.model_reader(["a.safetensors", "b.safetensors"]) is None


def test_saving_a_layer_does_not_wait_for_torch(tmp_path):
    code = f"""
import sys
import numpy as np
from napari_uflow._napari.contributions.io import write_labels
write_labels({str(tmp_path / "a.tif")!r}, np.ones((4, 5), int), {{"name": "a", "scale": (1, 1)}})
print("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
    assert tifffile.imread(tmp_path / "a.tif").sum() == 20
