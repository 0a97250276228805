import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage.io import imsave

from napari_uflow.errors import ConfigError, ImageError, UFlowError
from napari_uflow.image.grid import Window
from napari_uflow.store.images import find_images, read_planes
from napari_uflow.store.raw import RawPixels
from napari_uflow.store.segments import TiffSegments
from napari_uflow.store.tiff_writer import write_tiff, write_tiff_tiles
from napari_uflow.store.units import normal_unit


def numbers(shape: tuple[int, ...], dtype: Any = np.uint16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def info_of(path: Path) -> Any:
    """Return the description as another program reads it."""
    with tifffile.TiffFile(path) as tif:
        if tif.is_ome:
            return json.loads(tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Description"])
        return json.loads(tif.imagej_metadata["Info"])


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", ">u2", "?", "i4", "i8", "f8"])
def test_what_is_written_is_read(name: str, dtype: str, tmp_path: Path) -> None:
    values = (numbers((2, 3, 11, 13)) % 2).astype(dtype)
    path = tmp_path / name
    write_tiff(path, values, "ZCYX", pixel_size=(0.5, 0.325), unit="um", description={"µ": [1, "<a>"]})
    planes = read_planes(path)
    assert [p.label for p in planes] == ["z=0", "z=1"]
    for plane, expected in zip(planes, values, strict=True):
        np.testing.assert_array_equal(plane.read(), expected)
        assert (plane.name, plane.source, plane.unit) == ("a", str(path), "um")
        assert plane.pixel_size == pytest.approx((0.5, 0.325), rel=1e-6)
    assert info_of(path) == {"µ": [1, "<a>"]}
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].axes == "ZCYX"
        assert tif.is_ome == name.endswith(".ome.tif")
        assert tif.is_imagej != tif.is_ome
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations("TZCYX"),
    used=st.sets(st.sampled_from("TZC")),
    name=st.sampled_from(["a.tif", "a.ome.tif"]),
)
def test_axes_keep_their_meaning(order: list[str], used: set[str], name: str, tmp_path: Path) -> None:
    axes = "".join(a for a in order if a in used or a in "YX")
    sizes = {"T": 2, "Z": 3, "C": 2, "Y": 4, "X": 5}
    standard_axes = "".join(a for a in "TZCYX" if a in axes)
    standard = numbers(tuple(sizes[a] for a in standard_axes))
    write_tiff(tmp_path / name, standard.transpose([standard_axes.index(a) for a in axes]), axes)
    planes = read_planes(tmp_path / name)
    expected = standard.reshape(-1, sizes["C"] if "C" in axes else 1, 4, 5)
    assert len(planes) == len(expected)
    for plane, values in zip(planes, expected, strict=True):
        np.testing.assert_array_equal(plane.read(), values)


@pytest.mark.parametrize("shape", [(1, 1), (110, 2048), (1, 30), (30, 1)])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_odd_shapes(shape: tuple[int, int], name: str, tmp_path: Path) -> None:
    for values in (numbers(shape, np.float32), numbers(shape, np.int32) % 9):
        write_tiff(tmp_path / name, values, "YX")
        (plane,) = read_planes(tmp_path / name)
        np.testing.assert_array_equal(plane.read()[0], values)


def test_files_beyond_4_gb_are_big_tiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_uflow.store.tiff_writer._IMAGEJ_LIMIT", 1000)
    write_tiff(tmp_path / "a.tif", numbers((40, 50)), "YX", pixel_size=(2, 3), unit="inch")
    write_tiff_tiles(tmp_path / "b.tif", [numbers((40, 50))], (40, 50), "uint16", tile=(48, 64))
    for name in ("a.tif", "b.tif"):
        with tifffile.TiffFile(tmp_path / name) as tif:
            assert tif.is_bigtiff
        np.testing.assert_array_equal(read_planes(tmp_path / name)[0].read()[0], numbers((40, 50)))
    assert read_planes(tmp_path / "a.tif")[0].unit == "inch"


def test_nan_survives(tmp_path: Path) -> None:
    values = numbers((4, 5), np.float32)
    values[1, 2] = np.nan
    write_tiff(tmp_path / "a.tif", values, "YX")
    np.testing.assert_array_equal(read_planes(tmp_path / "a.tif")[0].read()[0], values)


@pytest.mark.parametrize(("n_labels", "dtype", "is_ome"), [(65535, np.uint16, False), (65536, np.uint32, True)])
def test_labels_get_the_type_they_need(n_labels: int, dtype: type, is_ome: bool, tmp_path: Path) -> None:
    labels = np.zeros((300, 300), np.int32)
    labels[10:20, 10:20] = n_labels
    write_tiff(tmp_path / "a.tif", labels, "YX", pixel_size=(2, 3), unit="nm")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert (tif.series[0].dtype, tif.is_ome) == (dtype, is_ome)
        np.testing.assert_array_equal(tif.asarray(), labels)
    (plane,) = read_planes(tmp_path / "a.tif")
    assert plane.pixel_size == pytest.approx((2, 3))
    assert plane.unit == "nm"
    assert (tmp_path / "a.tif").stat().st_size < labels.nbytes / 20


@pytest.mark.parametrize(
    ("dtype", "low", "high", "written"),
    [
        ("int8", -128, 127, "int8"),
        ("int16", -389, 306, "int16"),
        ("int16", 0, 306, "uint16"),
        ("int32", -(2**31), 2**31 - 1, "int32"),
        ("int64", -1, 40000, "int32"),
    ],
)
def test_whole_numbers_below_0_are_kept(dtype: str, low: int, high: int, written: str, tmp_path: Path) -> None:
    values = np.array([[low, high], [0, 5]], dtype)
    write_tiff(tmp_path / "a.tif", values, "YX", pixel_size=(0.5, 0.25), unit="um")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.series[0].dtype == written
        np.testing.assert_array_equal(tif.asarray(), values)
    assert read_planes(tmp_path / "a.tif")[0].pixel_size == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
@pytest.mark.parametrize("unit", ["Å", "Ω·m", "line\nbreak"])
def test_a_unit_of_any_letters_is_written(unit: str, name: str, tmp_path: Path) -> None:
    write_tiff(tmp_path / name, np.ones((4, 5), np.uint8), "YX", pixel_size=(4.2, 4.2), unit=unit)
    with tifffile.TiffFile(tmp_path / name) as tif:
        if tif.is_ome:
            pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
            assert pixels["PhysicalSizeX"] == 4.2
            assert pixels["PhysicalSizeXUnit"].split() == unit.split()  # XML makes a space of a line break
        else:
            escaped = tif.imagej_metadata["unit"]  # as Java reads a file of properties
            assert escaped.isascii()
            assert normal_unit(escaped.encode().decode("unicode_escape")) == normal_unit(unit)
    (plane,) = read_planes(tmp_path / name)
    assert plane.pixel_size == pytest.approx((4.2, 4.2))
    assert "".join(plane.unit.split()) == "".join(normal_unit(unit).split())


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("n_samples", [3, 4])
def test_colours(name: str, dtype: type, n_samples: int, tmp_path: Path) -> None:
    values = numbers((9, 8, n_samples), dtype)
    write_tiff(tmp_path / name, values, "YXS", pixel_size=(1.5, 1.5), unit="µm")
    (plane,) = read_planes(tmp_path / name)
    np.testing.assert_array_equal(plane.read(), values.transpose(2, 0, 1)[:3])
    assert plane.unit == "um"


@pytest.mark.parametrize("unit", ["um", "µm", "μm", "\\u00B5m", "micron", "micrometer", "Microns"])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_a_micrometre_has_one_name(unit: str, name: str, tmp_path: Path) -> None:
    write_tiff(tmp_path / name, numbers((4, 4)), "YX", pixel_size=(0.1, 0.2), unit=unit)
    (plane,) = read_planes(tmp_path / name)
    assert plane.unit == "um"
    assert plane.pixel_size == pytest.approx((0.1, 0.2))


def test_units_of_other_writers(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for unit, expected in [("micron", "um"), ("\\u00B5m", "um"), ("mm", "mm"), ("pixel", None), ("", None)]:
        tifffile.imwrite(path, numbers((4, 4)), imagej=True, resolution=(4, 2), metadata={"unit": unit})
        (plane,) = read_planes(path)
        assert plane.unit == expected
        assert plane.pixel_size == (None if expected is None else (0.5, 0.25))


@pytest.mark.parametrize(
    ("resolution", "unit", "pixel_size"),
    [
        ((20000, 10000), "CENTIMETER", (1.0, 0.5)),
        ((25400, 25400), "INCH", (1.0, 1.0)),
        ((300, 300), "INCH", None),
        ((72, 72), "INCH", None),
        ((118.11, 118.11), "CENTIMETER", None),
        ((1, 1), "CENTIMETER", None),
        ((5, 5), "NONE", None),
    ],
)
def test_resolution_of_plain_files(resolution: Any, unit: str, pixel_size: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers((4, 4)), resolution=resolution, resolutionunit=unit, metadata=None)
    (plane,) = read_planes(path)
    assert plane.pixel_size == (pixel_size if pixel_size is None else pytest.approx(pixel_size))
    assert plane.unit == (None if pixel_size is None else "um")


@pytest.mark.parametrize("size", [1e-12, 1.5e-5, 0.065, 123.456, 9.9e4, 1e12])
def test_tiny_and_huge_pixels(size: float, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", numbers((4, 4)), "YX", pixel_size=(size, size), unit="um")
    assert read_planes(tmp_path / "a.tif")[0].pixel_size == pytest.approx((size, size), rel=1e-6)


def test_a_size_in_pixels_is_no_calibration(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", numbers((4, 4)), "YX", pixel_size=(1, 1), unit="pixel")
    (plane,) = read_planes(tmp_path / "a.tif")
    assert (plane.pixel_size, plane.unit) == (None, None)


def test_channels_by_name(tmp_path: Path) -> None:
    values = numbers((4, 5, 6))
    names = ["DAPI", "GFP", "Cy5", "BF"]
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata={"axes": "CYX", "Channel": {"Name": names}})
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, metadata={"axes": "CYX", "Labels": names})
    for name in ("a.ome.tif", "a.tif"):
        (plane,) = read_planes(tmp_path / name, channels=["Cy5", "DAPI"])
        np.testing.assert_array_equal(plane.read(), values[[2, 0]])
        with pytest.raises(ImageError, match="DAPI, GFP, Cy5, BF"):
            read_planes(tmp_path / name)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_files_are_read_lazily(compression: str | None, tile: Any, tmp_path: Path) -> None:
    values = numbers((3, 50, 70))
    tifffile.imwrite(
        tmp_path / "a.tif",
        values,
        compression=compression,
        tile=tile,
        photometric="minisblack",
        metadata={"axes": "TYX"},
    )
    planes = read_planes(tmp_path / "a.tif")
    assert isinstance(planes[0].data, RawPixels if compression is None and tile is None else TiffSegments)
    padded = np.pad(values, ((0, 0), (8, 8), (8, 8)), mode="symmetric")
    for plane, expected in zip(planes, padded, strict=True):
        np.testing.assert_array_equal(plane.read(Window(40, -8, 18, 32))[0], expected[48:66, :32])


def test_pages_without_names_and_images_of_several_sizes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i in range(3):
            writer.write(numbers((4, 5)) + i, contiguous=False, metadata=None)
    planes = read_planes(tmp_path / "a.tif")
    assert [p.read()[0, 0, 0] for p in planes] == [0, 1, 2]
    with tifffile.TiffWriter(tmp_path / "b.ome.tif") as writer:
        writer.write(numbers((4, 5)), metadata={"Name": "one", "PhysicalSizeX": 1, "PhysicalSizeY": 1})
        writer.write(numbers((6, 5)), metadata={"Name": "two", "PhysicalSizeX": 2, "PhysicalSizeY": 2})
    planes = read_planes(tmp_path / "b.ome.tif")
    assert [(p.name, p.shape, p.pixel_size) for p in planes] == [("b one", (4, 5), (1, 1)), ("b two", (6, 5), (2, 2))]


def test_of_a_pyramid_the_largest(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(numbers((64, 64)), subifds=1, tile=(16, 16), metadata={"axes": "YX"})
        writer.write(numbers((32, 32)), subfiletype=1, tile=(16, 16))
    (plane,) = read_planes(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(plane.read()[0], numbers((64, 64)))


def test_own_axes(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", numbers((2, 4, 5)), "ZYX")
    (plane,) = read_planes(tmp_path / "a.tif", axes="CYX")
    assert plane.n_channels == 2
    with pytest.raises(ImageError, match="axes"):
        read_planes(tmp_path / "a.tif", axes="YX")


@pytest.mark.parametrize("ending", ["png", "bmp"])
@pytest.mark.parametrize("shape", [(6, 7), (2, 2, 3), (6, 7, 3)])
def test_other_formats(ending: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    values = numbers(shape, np.uint8)
    path = tmp_path / f"a.{ending}"
    imsave(path, values, check_contrast=False)
    (plane,) = read_planes(path)
    np.testing.assert_array_equal(plane.read(), np.atleast_3d(values).transpose(2, 0, 1))
    assert (plane.name, plane.pixel_size) == ("a", None)


def test_png_with_alpha_and_16_bits_and_jpeg(tmp_path: Path) -> None:
    for n_samples, n_channels in ((2, 1), (4, 3)):
        values = numbers((6, 7, n_samples), np.uint8)
        imsave(tmp_path / "a.png", values, check_contrast=False)
        (plane,) = read_planes(tmp_path / "a.png")
        np.testing.assert_array_equal(plane.read(), values[..., :n_channels].transpose(2, 0, 1))
    imsave(tmp_path / "a.png", numbers((60, 70)), check_contrast=False)
    np.testing.assert_array_equal(read_planes(tmp_path / "a.png")[0].read()[0], numbers((60, 70)))
    imsave(tmp_path / "a.JPG", np.full((16, 16), 99, np.uint8), check_contrast=False)
    np.testing.assert_allclose(read_planes(tmp_path / "a.JPG")[0].read(), 99, atol=2)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_files_that_cannot_be_read_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(ImageError, match=r"a\....' does not exist"):
        read_planes(path)
    path.touch()
    with pytest.raises(ImageError, match=r"a\....' is empty"):
        read_planes(path)
    path.write_bytes(b"this is not an image at all" * 10)
    with pytest.raises(ImageError, match=r"a\....' cannot be read"):
        read_planes(path)
    with pytest.raises(ImageError, match="is a folder"):
        read_planes(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ImageError, match="save it as TIFF"):
        read_planes(tmp_path / "a.txt")


@pytest.mark.parametrize("n_kept", [6, 20, 300, 5000])
def test_a_file_that_ends_early_is_an_error(n_kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, numbers((90, 90)), "YX")
    path.write_bytes(path.read_bytes()[:n_kept])
    with pytest.raises(ImageError, match=r"a\.tif'"):
        read_planes(path)


def test_find_images(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    for name in ("b.tif", "a.PNG", "c.jpeg", "notes.txt", "._b.tif", "inside/d.tif"):
        (tmp_path / name).touch()
    a, b, c = (tmp_path / n for n in ("a.PNG", "b.tif", "c.jpeg"))
    assert find_images(tmp_path) == [a, b, c]
    assert find_images(str(tmp_path / "*.tif")) == [b]
    assert find_images(b) == [b]
    assert find_images([c, tmp_path]) == [c, a, b]
    for path in (tmp_path / "e.tif", str(tmp_path / "*.bmp")):
        with pytest.raises(ImageError, match="no image found at"):
            find_images(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="contains no images"):
        find_images(tmp_path / "empty")
    with pytest.raises(ImageError, match="no image given"):
        find_images([])


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    tile=st.sampled_from([(16, 16), (32, 16), (256, 256)]),
    is_full=st.booleans(),
    dtype=st.sampled_from(["uint8", "uint16", "uint32", "int32", "float32"]),
)
def test_tiles_make_the_image(shape: Any, tile: Any, is_full: bool, dtype: str, tmp_path: Path) -> None:
    values = numbers(shape, dtype)
    padded = np.pad(values, [(0, -n % t) for n, t in zip(shape, tile, strict=True)])
    source = padded if is_full else values
    tiles = (
        source[r : r + tile[0], c : c + tile[1]]
        for r in range(0, shape[0], tile[0])
        for c in range(0, shape[1], tile[1])
    )
    path = tmp_path / "a.tif"
    write_tiff_tiles(path, tiles, shape, dtype, tile=tile, pixel_size=(2, 3), unit="um", description={"a": 1})
    (plane,) = read_planes(path)
    np.testing.assert_array_equal(plane.read()[0], values)
    assert (plane.pixel_size, plane.unit) == ((2, 3), "um")
    assert info_of(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("n_tiles", [0, 1, 3, 5, 6])
def test_a_wrong_number_of_tiles_leaves_the_previous_file(n_tiles: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("old")
    with pytest.raises(ImageError, match="tiles"):
        write_tiff_tiles(path, (np.zeros((16, 16)) for _ in range(n_tiles)), (32, 32), "uint8", tile=(16, 16))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_tiles_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("old")

    def tiles() -> Any:
        yield np.zeros((16, 16))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_tiff_tiles(path, tiles(), (32, 32), "uint8", tile=(16, 16))
    with pytest.raises(ImageError, match=r"tile 0 must have the shape \(16, 16\), not \(3, 3\)"):
        write_tiff_tiles(path, [np.zeros((3, 3))], (32, 32), "uint8", tile=(16, 16))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_write_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, numbers((4, 4)), "YX")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", fail)
    with pytest.raises(UFlowError, match="No space left"):
        write_tiff(path, numbers((5, 5)), "YX")
    monkeypatch.undo()
    assert read_planes(path)[0].shape == (4, 4)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("values", "axes"),
    [
        (np.zeros((4, 4)), "Y"),
        (np.zeros((4, 4)), "YY"),
        (np.zeros((4, 4)), "CX"),
        (np.zeros((2, 4, 4)), "QYX"),
        (np.zeros((4, 4, 2)), "YXS"),
        (np.zeros((0, 4)), "YX"),
        (np.zeros((4, 4), complex), "YX"),
        (np.full((4, 4), -(2**31) - 1), "YX"),
        (np.full((4, 4), 2**32), "YX"),
        (np.array([[-1, 2**31]]), "YX"),
    ],
)
def test_what_cannot_be_written_is_refused(values: np.ndarray, axes: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        write_tiff(tmp_path / "a.tif", values, axes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [{"pixel_size": (0, 1), "unit": "um"}, {"pixel_size": (1, 1)}, {"pixel_size": (1, float("inf")), "unit": "um"}],
)
def test_calibrations_that_cannot_be(options: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_tiff(tmp_path / "a.tif", np.zeros((4, 4)), "YX", **options)
    with pytest.raises(ConfigError):
        write_tiff_tiles(tmp_path / "a.tif", [], (4, 4), "uint8", **options)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_the_distance_of_planes_is_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_tiff(path, numbers((3, 4, 5)), "ZYX", pixel_size=(0.5, 0.5), unit="um", z_spacing=2.5)
    with tifffile.TiffFile(path) as tif:
        if tif.is_ome:
            pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
            assert (pixels["PhysicalSizeZ"], pixels["PhysicalSizeZUnit"]) == (2.5, "µm")
        else:
            assert tif.imagej_metadata["spacing"] == 2.5
    for options in ({}, {"pixel_size": (0.5, 0.5), "unit": "pixel"}):
        write_tiff(tmp_path / "b.tif", numbers((3, 4, 5)), "ZYX", z_spacing=2.5, **options)
        with tifffile.TiffFile(tmp_path / "b.tif") as tif:
            assert "spacing" not in tif.imagej_metadata
    with pytest.raises(ConfigError, match="z_spacing"):
        write_tiff(tmp_path / "b.tif", numbers((3, 4, 5)), "ZYX", z_spacing=0.0)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
@pytest.mark.parametrize("options", [{}, {"pixel_size": (0.5, 0.5), "unit": "um"}])
def test_the_interval_of_frames_is_written(name: str, options: dict, tmp_path: Path) -> None:
    write_tiff(tmp_path / name, numbers((3, 4, 5)), "TYX", frame_interval=0.5, **options)
    with tifffile.TiffFile(tmp_path / name) as tif:
        if tif.is_ome:
            pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
            assert (pixels["TimeIncrement"], pixels["TimeIncrementUnit"]) == (0.5, "s")
        else:
            assert (tif.imagej_metadata["finterval"], tif.imagej_metadata["tunit"]) == (0.5, "s")
    with pytest.raises(ConfigError, match="frame_interval"):
        write_tiff(tmp_path / "b.tif", numbers((3, 4, 5)), "TYX", frame_interval=-1)


@pytest.mark.parametrize("options", [{"shape": (0, 4)}, {"dtype": "float64"}, {"tile": (15, 16)}, {"tile": (0, 16)}])
def test_tile_options_that_cannot_be(options: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_tiff_tiles(tmp_path / "a.tif", [], **{"shape": (4, 4), "dtype": "uint8", **options})


@pytest.mark.parametrize("n_pages", [1, 3, 200])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_in_a_circle_are_refused(n_pages: int, bigtiff: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for _ in range(n_pages):
            writer.write(numbers((4, 5)), contiguous=False, metadata=None)
    assert len(read_planes(path)) == n_pages
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        layout, first = tif.tiff, tif.pages.first.offset
        last = tif.pages[-1].offset
        place = last + layout.tagnosize + len(tif.pages[-1].tags) * layout.tagsize
    data[place : place + layout.offsetsize] = struct.pack(layout.offsetformat, first)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.tif' cannot be read; it is damaged, its pages form a circle"):
        read_planes(path)


def test_more_pages_than_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_uflow.store.reading.MAX_PLANES", 5)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for _ in range(6):
            writer.write(numbers((4, 5)), contiguous=False, metadata=None)
    with pytest.raises(ImageError, match="6 planes, more than 5"):
        read_planes(tmp_path / "a.tif")


def test_a_page_with_many_numbers_for_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers((64, 64)), compression="zlib", tile=(16, 16))
    data = bytearray(path.read_bytes())
    place = (
        data.index(struct.pack("<HH", 322, 4))
        if struct.pack("<HH", 322, 4) in data
        else data.index(struct.pack("<HH", 322, 3))
    )
    data[place + 4 : place + 8] = struct.pack("<I", 30)
    data[place + 8 : place + 12] = struct.pack("<I", 8)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.tif'"):
        read_planes(path)[0].read()


def test_a_transparency_mask_is_no_second_image(tmp_path):
    path = tmp_path / "masked.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(numbers((6, 7)), metadata=None)
        writer.write(numbers((6, 7)) > 3, subfiletype=4, photometric="mask", metadata=None)
    (plane,) = read_planes(path)
    np.testing.assert_array_equal(plane.read()[0], numbers((6, 7)))


@pytest.mark.parametrize(("kind", "value"), [(11, struct.pack("<f", 8.0)), (9, struct.pack("<i", -8))])
def test_a_place_of_pixels_that_is_no_whole_number(tmp_path, kind, value):
    """The type of a tag is that of the file: a place may be a fraction, or negative."""
    path = tmp_path / "odd.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8))
    data = bytearray(path.read_bytes())
    place = data.index(struct.pack("<HH", 273, 4))
    data[place + 2 : place + 4] = struct.pack("<H", kind)
    data[place + 8 : place + 12] = value
    path.write_bytes(data)
    with pytest.raises(ImageError, match="odd"):
        read_planes(path)[0].read()
