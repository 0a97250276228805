"""Folders that zarr wrote are read as their metadata say, window by window, in both of zarr's formats."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.store.images import find_images, read_planes
from napari_uflow.store.tiff_writer import write_tiff

UM = "micrometer"


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def zarr_format(request: pytest.FixtureRequest) -> int:
    return request.param


def numbers(shape: tuple[int, ...], dtype: Any = np.uint16) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


def group(path: Path, attributes: dict[str, Any], zarr_format: int) -> zarr.Group:
    """Make a group with attributes where the version of OME-Zarr that goes with the format has them."""
    made = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    if attributes:
        made.attrs.update(attributes if zarr_format == 2 else {"ome": {"version": "0.5", **attributes}})
    return made


def add_array(parent: zarr.Group, name: str, data: np.ndarray, chunk: int = 16) -> None:
    chunks = tuple(min(chunk, n) for n in data.shape[-2:])
    encoding = {"name": "v2", "separator": "/"} if parent.metadata.zarr_format == 2 else None
    parent.create_array(name, data=data, chunks=(1,) * (data.ndim - 2) + chunks, chunk_key_encoding=encoding)


def metadata(
    axes: str = "yx",
    unit: str | None = UM,
    scale: list[float] | None = None,
    outer: list[float] | None = None,
    labels: list[str | None] | None = None,
) -> dict[str, Any]:
    """Return metadata of OME-Zarr 0.4 for an image with two levels of resolution."""
    kinds = {"t": "time", "c": "channel"}
    described: list[dict[str, Any]] = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for axis in described:
        if unit is not None and axis["type"] == "space":
            axis["unit"] = unit
    scale = [1.0] * len(axes) if scale is None else scale
    datasets = [
        {"path": f"level/{i}", "coordinateTransformations": [{"type": "scale", "scale": [s * 2**i for s in scale]}]}
        for i in range(2)
    ]
    datasets[0]["coordinateTransformations"].append({"type": "translation", "translation": [5.0] * len(axes)})
    multiscale: dict[str, Any] = {"version": "0.4", "axes": described, "datasets": datasets}
    if outer is not None:
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": outer}]
    found: dict[str, Any] = {"multiscales": [multiscale]}
    if labels is not None:
        found["omero"] = {"channels": [{} if label is None else {"label": label} for label in labels]}
    return found


def write_image_file(path: Path, data: np.ndarray, zarr_format: int, found: dict[str, Any]) -> None:
    made = group(path, found, zarr_format)
    add_array(made, "level/0", data)
    add_array(made, "level/1", data[..., ::2, ::2])


def edit(path: Path, zarr_format: int, change: Any) -> None:
    """Change the OME metadata of a group in place."""
    file = path / (".zattrs" if zarr_format == 2 else "zarr.json")
    whole = json.loads(file.read_text())
    change(whole if zarr_format == 2 else whole["attributes"]["ome"])
    file.write_text(json.dumps(whole))


# What is read


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i4", "f4", "?"])
def test_the_finest_level_is_read(zarr_format: int, dtype: str, tmp_path: Path) -> None:
    data = (numbers((40, 50)) % 251).astype(dtype)
    path = tmp_path / "cells.ome.zarr"
    write_image_file(path, data, zarr_format, metadata(scale=[0.5, 0.25]))
    (plane,) = read_planes(path)
    np.testing.assert_array_equal(plane.read()[0], data.astype(np.float32))
    assert (plane.name, plane.source, plane.label) == ("cells", str(path), "")
    assert (plane.pixel_size, plane.unit) == ((0.5, 0.25), "um")


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["tczyx", "xyzct", "zyx", "cyx", "tyx"])
def test_axes_keep_their_meaning(zarr_format: int, axes: str, tmp_path: Path) -> None:
    sizes = {"t": 2, "z": 3, "c": 2, "y": 7, "x": 9}
    data = numbers(tuple(sizes[a] for a in axes))
    scales = {"t": 9.0, "z": 8.0, "c": 7.0, "y": 0.5, "x": 0.25}
    write_image_file(tmp_path / "a.zarr", data, zarr_format, metadata(axes, scale=[scales[a] for a in axes]))
    planes = read_planes(tmp_path / "a.zarr")
    kept = [a for a in axes if a in "tz"]
    assert len(planes) == np.prod([sizes[a] for a in kept], dtype=int)
    for plane in planes:
        expected = data[tuple(plane.index[a.upper()] if a in "tz" else slice(None) for a in axes)]
        rest = [a for a in axes if a not in "tz"]
        expected = expected.transpose([rest.index(a) for a in "cyx" if a in rest])
        np.testing.assert_array_equal(plane.read(), expected.reshape(-1, 7, 9))
        assert plane.pixel_size == (0.5, 0.25)
    assert planes[-1].label == ",".join(f"{a}={sizes[a] - 1}" for a in kept)


def test_channels_have_the_names_of_their_labels(zarr_format: int, tmp_path: Path) -> None:
    data = numbers((4, 20, 30))
    path = tmp_path / "a.zarr"
    write_image_file(path, data, zarr_format, metadata("cyx", labels=["DAPI", "GFP", "RFP", "Cy5"]))
    (plane,) = read_planes(path, channels=["rfp", "DAPI"])
    np.testing.assert_array_equal(plane.read(), data[[2, 0]])
    with pytest.raises(ImageError, match=r"4 channels \(DAPI, GFP, RFP, Cy5\); choose 1 to 3"):
        read_planes(path)


@pytest.mark.parametrize("labels", [["DAPI", "DAPI"], ["DAPI"], ["DAPI", None], ["DAPI", ""], [], None])
def test_labels_that_name_no_channel_are_left_out(zarr_format: int, labels: Any, tmp_path: Path) -> None:
    write_image_file(tmp_path / "a.zarr", numbers((2, 20, 30)), zarr_format, metadata("cyx", labels=labels))
    assert read_planes(tmp_path / "a.zarr")[0].n_channels == 2
    with pytest.raises(ImageError, match=r"no channel 'DAPI'; it has: 0, 1"):
        read_planes(tmp_path / "a.zarr", channels="DAPI")


@pytest.mark.parametrize(
    ("options", "pixel_size", "unit"),
    [
        ({"scale": [3, 0.5, 0.25], "outer": [7, 2, 4]}, (1, 1), "um"),
        ({"scale": [3, 0.5, 0.25], "unit": "nanometer"}, (0.5, 0.25), "nm"),
        ({"scale": [3, 0.5, 0.25], "unit": "angstrom"}, (0.5, 0.25), "angstrom"),
        ({"scale": [3, 0.5, 0.25], "unit": None}, None, None),
        ({"scale": [3, 0.5, 0.25], "unit": "pixel"}, None, None),
        ({"scale": [0.5, 0.25]}, None, None),
        ({"scale": [3, 0, 0.25]}, None, None),
        ({"scale": [3, 0.5, -0.25]}, None, None),
        ({"scale": [3, 0.5, 0.25], "outer": [2, 4]}, None, None),
    ],
)
def test_the_pixel_size_is_the_product_of_all_scales(
    zarr_format: int, options: Any, pixel_size: Any, unit: Any, tmp_path: Path
) -> None:
    write_image_file(tmp_path / "a.zarr", numbers((1, 20, 30)), zarr_format, metadata("zyx", **options))
    (plane,) = read_planes(tmp_path / "a.zarr")
    assert plane.pixel_size == (None if pixel_size is None else pytest.approx(pixel_size))
    assert plane.unit == unit


def test_lengths_in_different_units_get_that_of_the_rows(zarr_format: int, tmp_path: Path) -> None:
    found = metadata("tzyx", scale=[500, 0.002, 0.5, 0.25])
    for axis, unit in ((0, "millisecond"), (1, "millimeter"), (3, "millimeter")):
        found["multiscales"][0]["axes"][axis]["unit"] = unit
    write_image_file(tmp_path / "a.zarr", numbers((1, 1, 20, 30)), zarr_format, found)
    (plane,) = read_planes(tmp_path / "a.zarr")
    assert (plane.pixel_size, plane.unit) == ((0.5, 250), "um")
    assert (plane.z_spacing, plane.frame_interval) == (2, 0.5)


@pytest.mark.parametrize("transformations", [None, [], [{"type": "identity"}], [{"type": "scale", "path": "scales"}]])
def test_without_a_scale_there_is_no_calibration(transformations: Any, zarr_format: int, tmp_path: Path) -> None:
    found = metadata()
    found["multiscales"][0]["datasets"][0]["coordinateTransformations"] = transformations
    write_image_file(tmp_path / "a.zarr", numbers((20, 30)), zarr_format, found)
    (plane,) = read_planes(tmp_path / "a.zarr")
    assert (plane.pixel_size, plane.unit) == (None, None)


def test_axes_that_are_given_win(zarr_format: int, tmp_path: Path) -> None:
    data = numbers((2, 20, 30))
    write_image_file(tmp_path / "a.zarr", data, zarr_format, metadata("zyx", scale=[4, 0.5, 0.25], labels=["A", "B"]))
    (plane,) = read_planes(tmp_path / "a.zarr", axes="cxy", channels="B")
    np.testing.assert_array_equal(plane.read(), data[1:].transpose(0, 2, 1))
    assert plane.pixel_size == (0.25, 0.5)
    with pytest.raises(ImageError, match="axes of 'a' must be 3 letters"):
        read_planes(tmp_path / "a.zarr", axes="yx")


def test_axes_of_other_names(zarr_format: int, tmp_path: Path) -> None:
    found = metadata("tcyx")
    axes = found["multiscales"][0]["axes"]
    axes[0]["name"], axes[1]["name"], axes[2]["name"] = "frame", "dye", "Y"
    data = numbers((2, 3, 20, 30))
    write_image_file(tmp_path / "a.zarr", data, zarr_format, found)
    planes = read_planes(tmp_path / "a.zarr")
    assert [plane.label for plane in planes] == ["t=0", "t=1"]
    np.testing.assert_array_equal(planes[1].read(), data[1])
    axes[0].update(name="angle", type="space")
    write_image_file(tmp_path / "b.zarr", data, zarr_format, found)
    with pytest.raises(ImageError, match=r"b\.zarr' has unknown axes \(angle\); .* axes='QCYX'"):
        read_planes(tmp_path / "b.zarr")
    assert [plane.label for plane in read_planes(tmp_path / "b.zarr", axes="acyx")] == ["a=0", "a=1"]


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_old_versions(version: str, tmp_path: Path) -> None:
    data = numbers((2, 3, 2, 20, 30))
    found: dict[str, Any] = {"multiscales": [{"version": version, "datasets": [{"path": "0"}, {"path": "1"}]}]}
    if version == "0.3":
        found["multiscales"][0]["axes"] = list("tczyx")
    made = group(tmp_path / "a.zarr", found, 2)
    add_array(made, "0", data)
    planes = read_planes(tmp_path / "a.zarr")
    assert [plane.label for plane in planes[:3]] == ["t=0,z=0", "t=0,z=1", "t=1,z=0"]
    np.testing.assert_array_equal(planes[2].read(), data[1, :, 0])
    assert (planes[0].pixel_size, planes[0].unit) == (None, None)


def test_five_axes_that_a_later_version_does_not_name_are_not_guessed(zarr_format: int, tmp_path: Path) -> None:
    found = metadata("tczyx")
    del found["multiscales"][0]["axes"]
    found["multiscales"][0]["version"] = "0.6"
    write_image_file(tmp_path / "a.zarr", numbers((1, 1, 1, 20, 30)), zarr_format, found)
    with pytest.raises(ImageError, match=r"5 axes .* name them with axes="):
        read_planes(tmp_path / "a.zarr")


# Arrays without OME metadata, and several images


def test_a_plain_array(zarr_format: int, tmp_path: Path) -> None:
    data = numbers((5, 20, 30))
    for name, values in (("a.zarr", data[0]), ("b.zarr", data), ("c", data[None])):
        zarr.create_array(
            tmp_path / name, data=values, chunks=(1,) * (values.ndim - 2) + (8, 8), zarr_format=zarr_format
        )
    (plane,) = read_planes(tmp_path / "a.zarr")
    np.testing.assert_array_equal(plane.read()[0], data[0])
    assert (plane.name, plane.pixel_size, plane.unit) == ("a", None, None)
    assert [p.label for p in read_planes(tmp_path / "b.zarr")] == [f"z={i}" for i in range(5)]
    (plane,) = read_planes(tmp_path / "b.zarr", axes="cyx", channels=[4, 0])
    np.testing.assert_array_equal(plane.read(), data[[4, 0]])
    with pytest.raises(ImageError, match=r"'c' has 4 axes .* name them with axes="):
        read_planes(tmp_path / "c")
    assert len(read_planes(tmp_path / "c", axes="TZYX")) == 5


def test_an_array_may_name_its_axes(tmp_path: Path) -> None:
    data = numbers((2, 20, 30))
    for name, names in (("a", ["c", "y", "x"]), ("b", ["depth", "y", "x"]), ("c", ["c", None, "x"])):
        zarr.create_array(tmp_path / name, data=data, dimension_names=names, zarr_format=3)
    (plane,) = read_planes(tmp_path / "a")
    np.testing.assert_array_equal(plane.read(), data)
    for name in "bc":
        assert [p.label for p in read_planes(tmp_path / name)] == ["z=0", "z=1"]


@pytest.mark.parametrize("order", [None, ["1", "0"]], ids=["numbered", "listed"])
def test_all_images_of_bioformats2raw(zarr_format: int, order: Any, tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    group(path, {"bioformats2raw.layout": 3}, zarr_format)
    data = [numbers((2, 20, 30)), numbers((2, 24, 16)) + 7]
    for i, values in enumerate(data):
        write_image_file(path / str(i), values, zarr_format, metadata("zyx", scale=[1, i + 1, i + 2]))
    if order is not None:
        group(path / "OME", {"series": order}, zarr_format)
    planes = read_planes(path)
    expected = [0, 0, 1, 1] if order is None else [1, 1, 0, 0]
    assert [plane.title for plane in planes] == [f"scan {i} z={z}" for i, z in zip(expected, (0, 1, 0, 1), strict=True)]
    for plane, i in zip(planes, expected, strict=True):
        np.testing.assert_array_equal(plane.read()[0], data[i][plane.index["Z"]])
        assert (plane.pixel_size, plane.source) == ((i + 1, i + 2), str(path))
    if order is None:
        shutil.rmtree(path / "1")
        assert [plane.title for plane in read_planes(path)] == ["scan z=0", "scan z=1"]
        shutil.rmtree(path / "0")
        with pytest.raises(ImageError, match=r"scan\.zarr' contains no image"):
            read_planes(path)
    else:
        shutil.rmtree(path / "1")
        with pytest.raises(ImageError, match=r"1' has no zarr metadata .* again"):
            read_planes(path)


def test_a_plate_names_one_of_its_fields(zarr_format: int, tmp_path: Path) -> None:
    path = tmp_path / "plate.zarr"
    group(path, {"plate": {"wells": [{"path": "B/3"}, {"path": "C/1"}]}}, zarr_format)
    group(path / "B", {}, zarr_format)
    group(path / "B" / "3", {"well": {"images": [{"path": "0"}]}}, zarr_format)
    data = numbers((20, 30))
    write_image_file(path / "B" / "3" / "0", data, zarr_format, metadata())
    field = str(path / "B" / "3" / "0")
    for place, said in ((path, "is a plate"), (path / "B" / "3", "is a well")):
        with pytest.raises(ImageError, match=said) as error:
            read_planes(place)
        assert f"'{field}'" in str(error.value)
    with pytest.raises(ImageError, match=r"no OME metadata .* give one of the images in it \(3\)"):
        read_planes(path / "B")
    (plane,) = read_planes(field)
    np.testing.assert_array_equal(plane.read()[0], data)
    assert plane.name == "0"
    edit(path, zarr_format, lambda ome: ome.update(plate={}))
    with pytest.raises(ImageError, match=r"such as .*A.1.0'"):
        read_planes(path)


# Lazily


def chunk_files(path: Path) -> dict[tuple[int, ...], Path]:
    """Return the files of an array's chunks."""
    files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr.json"))]
    return {tuple(int(n) for n in p.relative_to(path).parts if n.isdigit()): p for p in files}


def test_only_the_chunks_of_a_window_are_read(zarr_format: int, tmp_path: Path) -> None:
    data = numbers((2, 3, 64, 64))
    path = tmp_path / "a.zarr"
    write_image_file(path, data, zarr_format, metadata("zcyx"))
    files = chunk_files(path / "level" / "0")
    assert set(files) == set(np.ndindex(2, 3, 4, 4))
    for place, file in files.items():
        if place not in {(1, c, row, col) for c in (0, 2) for row in (1, 2) for col in (3,)}:
            file.write_bytes(b"damaged")
    _, plane = read_planes(path, channels=[0, 2])
    np.testing.assert_array_equal(plane.read(Window(20, 50, 20, 14)), data[1, ::2, 20:40, 50:64])
    with pytest.raises(ImageError, match=r"level.0' cannot be read; a chunk is damaged"):
        plane.read(Window(20, 40, 20, 20))


def test_missing_chunks_are_the_fill_value(zarr_format: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    data = numbers((32, 32))
    zarr.create_array(path, data=data, chunks=(16, 16), fill_value=5, zarr_format=zarr_format)
    (file,) = (p for p in path.rglob("*") if str(p.relative_to(path)).removeprefix("c" + os.sep) in ("1.1", "1/1"))
    file.unlink()
    data[16:, 16:] = 5
    np.testing.assert_array_equal(read_planes(path)[0].read()[0], data)


# Damage


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ome: ome.update(multiscales=[]), "OME metadata of .* are damaged"),
        (lambda ome: ome.update(multiscales=7), "OME metadata of .* are damaged"),
        (lambda ome: ome["multiscales"][0].update(datasets=[]), "OME metadata of .* are damaged"),
        (lambda ome: ome["multiscales"][0].update(datasets=[{}]), "OME metadata of .* are damaged"),
        (lambda ome: ome["multiscales"][0].update(axes=3), "OME metadata of .* are damaged"),
        (lambda ome: ome["multiscales"][0]["axes"].pop(), "axes of 'a' must be 2 letters .* not 'Y'"),
        (lambda ome: ome["multiscales"][0].update(coordinateTransformations=["scale"]), "are damaged"),
        (lambda ome: ome.update(omero=[1]), "OME metadata of .* are damaged"),
        (lambda ome: ome["multiscales"][0]["datasets"][0].update(path="9"), r"a\.zarr.9', .* is missing; copy"),
        (lambda ome: ome["multiscales"][0]["datasets"][0].update(path="level"), r"level' cannot be read"),
        (lambda ome: ome.pop("multiscales"), r"no OME metadata .* \(level\), such as '.*level'"),
    ],
)
def test_damaged_metadata(zarr_format: int, change: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_image_file(path, numbers((20, 30)), zarr_format, metadata(labels=["A"]))
    read_planes(path)
    edit(path, zarr_format, change)
    with pytest.raises(ImageError, match=said):
        read_planes(path)


@pytest.mark.parametrize("text", ["", '{"multiscales": [', "[1, 2]", "\x00"])
@pytest.mark.parametrize("part", ["", "level/0"], ids=["group", "array"])
def test_files_of_metadata_that_cannot_be_parsed(zarr_format: int, part: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_image_file(path, numbers((20, 30)), zarr_format, metadata())
    name = "zarr.json" if zarr_format == 3 else ".zarray" if part else ".zattrs"
    (path / part / name).write_text(text)
    with pytest.raises(ImageError, match=r"a\.zarr") as error:
        read_planes(path)
    assert "damaged" in str(error.value)


def test_metadata_that_are_missing(zarr_format: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_image_file(path, numbers((20, 30)), zarr_format, metadata())
    for mark in (".zgroup", "zarr.json"):
        (path / mark).unlink(missing_ok=True)
    assert find_images(tmp_path) == [path]  # rather an image that fails than one that is passed over
    with pytest.raises(ImageError, match=r"a\.zarr' has no zarr metadata .* again"):
        read_planes(path)
    path = path.rename(tmp_path / "a")
    with pytest.raises(ImageError, match="is a folder; give a file in it"):
        read_planes(path)


def test_pixels_that_are_no_numbers(zarr_format: int, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), dtype="complex64", zarr_format=zarr_format)
    with pytest.raises(ImageError, match="complex pixels"):
        read_planes(tmp_path / "a.zarr")


def test_an_empty_group(zarr_format: int, tmp_path: Path) -> None:
    group(tmp_path / "a.zarr", {}, zarr_format)
    with pytest.raises(ImageError, match="contains no image"):
        read_planes(tmp_path / "a.zarr")


def test_without_zarr_it_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image_file(tmp_path / "a.zarr", numbers((20, 30)), 3, metadata())
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImageError, match=r"pip install napari-uflow\[zarr\]"):
        read_planes(tmp_path / "a.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["v2", "v3"])
def test_an_old_zarr_is_refused(zarr_format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image_file(tmp_path / "a.zarr", numbers((20, 30)), zarr_format, metadata())
    monkeypatch.setattr(zarr, "__version__", "2.18.7")
    with pytest.raises(ImageError, match="requires zarr 3"):
        read_planes(tmp_path / "a.zarr")


def test_the_metadata_of_both_formats_side_by_side(tmp_path: Path) -> None:
    data = numbers((20, 30))
    write_image_file(tmp_path / "a.zarr", data, 3, metadata())
    write_image_file(tmp_path / "b.zarr", data, 2, metadata())
    shutil.copytree(tmp_path / "b.zarr", tmp_path / "a.zarr", dirs_exist_ok=True)
    (plane,) = read_planes(tmp_path / "a.zarr")
    np.testing.assert_array_equal(plane.read()[0], data)


# Finding


def test_a_folder_of_zarr_counts_as_one_image(
    zarr_format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = numbers((20, 30))
    a, b, c, d = (tmp_path / name for name in ("a.zarr", "b.ome.zarr", "c.tif", "d"))
    zarr.create_array(a, data=data, zarr_format=zarr_format)
    write_image_file(b, data, zarr_format, metadata())
    write_tiff(c, data, "YX")
    write_image_file(tmp_path / ".hidden.zarr", data, zarr_format, metadata())
    (tmp_path / "inside").mkdir()
    assert find_images(tmp_path) == [a, b, c]
    write_image_file(d, data, zarr_format, metadata())
    assert find_images(tmp_path) == [a, b, c, d]
    assert find_images(tmp_path / "*.zarr") == [a, b]
    assert find_images([f"{b}{os.sep}", c, tmp_path]) == [b, c, a, d]
    assert [p.name for path in find_images(tmp_path) for p in read_planes(path)] == ["a", "b", "c", "d"]
    (plane,) = read_planes(f"{b}{os.sep}")
    assert (plane.name, plane.source) == ("b", str(b))
    monkeypatch.chdir(b)
    assert find_images(".") == [b]
    assert read_planes(".")[0].name == "b"
    monkeypatch.chdir(b / "level")
    assert find_images("..") == [b]
    assert read_planes("..")[0].name == "b"


# The command line


@pytest.mark.slow
def test_detect_on_the_command_line(
    zarr_format: int, tiny_model_file: Path, odd_plane: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from napari_uflow.cli import main

    path = tmp_path / "odd.ome.zarr"
    write_image_file(path, odd_plane.data[None], zarr_format, metadata("cyx", scale=[1, 0.5, 0.25]))
    write_tiff(tmp_path / "same.tif", odd_plane.data, "YX", pixel_size=(0.5, 0.25), unit="um")
    output = tmp_path / "found"
    code = main(["detect", str(tiny_model_file), f"{path}{os.sep}", str(tmp_path / "same.tif"), "-o", str(output)])
    assert code == 0, capsys.readouterr().err
    maps = {f"{stem}_{kind}.tif" for stem in ("odd", "same") for kind in ("heatmap", "labels", "log10_nfa")}
    assert {p.name for p in output.iterdir()} == maps | {"overview.png", "regions.csv", "summary.csv"}
    for kind in ("heatmap", "labels", "log10_nfa"):
        (found,), (same,) = (read_planes(output / f"{stem}_{kind}.tif") for stem in ("odd", "same"))
        np.testing.assert_array_equal(found.read(), same.read())
        assert (found.pixel_size, found.unit) == (pytest.approx((0.5, 0.25)), "um")
    assert read_planes(output / "odd_labels.tif")[0].read().max() > 0
